"""What an export is proven by: our answers to a fixed batch beside the artefact's, for two towers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from wenlan_jax.convert import parity
from wenlan_jax.tasks import experiment

ReadTower = Callable[[str], dict[str, Any]]
"""Reads the variables of a tower by its name, see `model.ExportedModel.tower`."""


class ProofFindings(NamedTuple):
    """A comparison.

    Attributes:
        items: the rows compared.
        figures: for the report.
        differences: by what was compared; none may be above the tolerance.
        lines: to print.
    """

    items: int
    figures: dict[str, Any]
    differences: dict[str, float]
    lines: list[str]


@runtime_checkable
class Proof(Protocol):
    """Our side of a comparison, made before the artefact is written and asked once it is.

    Attributes:
        batch: what the artefact is run on; depends on the configuration alone.
    """

    batch: Any

    def tower(self, name: str) -> dict[str, Any]:
        """Reads a tower. Our side runs it on the way, so that none is read twice."""

    def compare(self, theirs: Any) -> ProofFindings:
        """Compares our answers with the artefact's.

        Args:
            theirs: what the artefact gave.

        Returns:
            The comparison.

        Raises:
            ValueError: where shapes differ.
        """


class TwoTowerProof:
    """Compares embeddings of images and of texts, and the ranking by their products.

    Args:
        config: the configuration.
        read: reads the variables of a tower.
        shapes: of `image` and `text`, as `read` will give them; compiling for them goes on in the background.
    """

    def __init__(self, config: experiment.Config, read: ReadTower, shapes: Mapping[str, Any]) -> None:
        """shapes: of `image` and `text`, as `read` will give them; compiling for them goes on in the background."""
        self.batch = parity.fixed_batch(config)
        self._read = read
        # One thread: first the programs, and then the answers in the order in which towers are read.
        self._background = ThreadPoolExecutor(1, "proof")
        self._programs = {
            name: self._background.submit(parity.compiled_tower, config, name, shapes[name], self.batch)
            for name in reversed(parity.Embeddings._fields)  # the longest last
        }
        self._answers: dict[str, Future[np.ndarray]] = {}

    def tower(self, name: str) -> dict[str, Any]:
        """Reads a tower; a query tower is also run on the batch, in the background."""
        for program in self._programs.values():
            if program.done():
                program.result()  # raises what compiling did, before more is written
        wait(list(self._answers.values())[:-1])  # what is not answered yet is held: one tower more than the caller's
        variables = self._read(name)
        if name in self._programs and name not in self._answers:
            self._answers[name] = self._background.submit(self._answer, name, variables)
        return variables

    def _answer(self, name: str, variables: dict[str, Any]) -> np.ndarray:
        return self._programs[name].result()(variables)

    def compare(self, theirs: parity.Embeddings) -> ProofFindings:
        """Compares each side by largest difference and cosines. A tower that the writer did not ask for is read now."""
        for name in set(parity.Embeddings._fields) - set(self._answers):
            self.tower(name)
        ours = parity.Embeddings(**{name: answer.result() for name, answer in self._answers.items()})
        image, text, ranking = parity.compare(ours, theirs)
        sides = {"image": image, "text": text}
        lines = [
            f"{name}: largest difference {side.largest_difference:.1e}, least cosine {min(side.cosine):.7f}"
            for name, side in sides.items()
        ]
        return ProofFindings(
            items=len(ours.image),
            figures={name: dataclasses.asdict(side) for name, side in sides.items()} | {"ranking": ranking},
            differences={f"{name}s": side.largest_difference for name, side in sides.items()},
            lines=[*lines, f"ranking agreement {ranking:.4f}"],
        )
