"""What an export is proven by: our answers to a fixed batch beside the artefact's, for two towers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from wenlan_jax import host_memory, schema
from wenlan_jax.convert import parity

ReadTower = Callable[[str], dict[str, Any]]
"""Reads the variables of a tower by its name, see `exporting.Model.tower`."""


class Findings(NamedTuple):
    """A comparison: the rows compared, figures for the report, what the tolerance is for, and lines to print.

    differences: by what was compared; none may be above the tolerance.
    """

    items: int
    figures: dict[str, Any]
    differences: dict[str, float]
    lines: list[str]


class Proof(Protocol):
    """Our side of a comparison, made before the artefact is written and asked once it is.

    batch: what the artefact is run on; depends on the configuration alone.
    """

    batch: Any

    def tower(self, name: str) -> dict[str, Any]:
        """What reading a tower gives. Our side runs it on the way, so that none is read twice."""

    def compare(self, theirs: Any) -> Findings:
        """Our answers beside the artefact's. Raises ValueError where shapes differ."""


class TwoTowerProof:
    """Embeddings of pictures and of texts, and the ranking by their products."""

    def __init__(self, config: schema.Config, read: ReadTower) -> None:
        self.batch = parity.fixed_batch(config)
        self._config, self._read = config, read
        self._seen: dict[str, np.ndarray] = {}

    def tower(self, name: str) -> dict[str, Any]:
        """What reading a tower gives; a query tower is run on the batch."""
        variables = self._read(name)
        if name in parity.Embeddings._fields and name not in self._seen:
            self._seen[name] = parity.jax_embedding(self._config, name, variables, self.batch)
            host_memory.release_freed_memory()
        return variables

    def compare(self, theirs: parity.Embeddings) -> Findings:
        """Largest difference and cosines of each side. A tower that the writer did not ask for is read now."""
        for name in set(parity.Embeddings._fields) - set(self._seen):
            self.tower(name)
        image, text, ranking = parity.compare(parity.Embeddings(**self._seen), theirs)
        sides = {"image": image, "text": text}
        lines = [
            f"{name}: largest difference {side.largest_difference:.1e}, least cosine {min(side.cosine):.7f}"
            for name, side in sides.items()
        ]
        return Findings(
            items=len(self._seen["image"]),
            figures={name: dataclasses.asdict(side) for name, side in sides.items()} | {"ranking": ranking},
            differences={f"{name}s": side.largest_difference for name, side in sides.items()},
            lines=[*lines, f"ranking agreement {ranking:.4f}"],
        )
