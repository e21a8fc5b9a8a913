"""Several evaluations of one task, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from wenlan_jax.core.evaluation import Evaluation


class CompositeEvaluation:
    """Several evaluations as one `Evaluation`, run one after the other.

    Args:
        parts: the evaluations; their metrics must have different names.

    Attributes:
        what: what all parts measure, for the log.
    """

    def __init__(self, parts: Sequence[Evaluation]) -> None:
        self._parts = tuple(parts)
        self.what = " and ".join(part.what for part in parts)

    def score(self, params: PyTree, batch_stats: PyTree, split: str) -> tuple[dict[str, float], tuple[Any, ...]]:
        """Measures a split with every part.

        Args:
            params: the trained parameters.
            batch_stats: the running statistics.
            split: the split to measure.

        Returns:
            The metrics of all parts by name, and what each part found for its pages.
        """
        done = [part.score(params, batch_stats, split) for part in self._parts]
        return {name: value for scores, _ in done for name, value in scores.items()}, tuple(found for _, found in done)

    def one_line(self, scores: Mapping[str, float], split: str) -> str:
        """The lines of all parts in one."""
        return "; ".join(part.one_line(scores, split) for part in self._parts)

    def table(self, scores: Mapping[str, float], splits: Sequence[str]) -> str:
        """The tables of all parts."""
        return "\n".join(part.table(scores, splits) for part in self._parts)

    def write_pages(self, out: Path, found: Sequence[tuple[Any, ...]]) -> None:
        """The pages of all parts."""
        for number, part in enumerate(self._parts):
            part.write_pages(out, [of_split[number] for of_split in found])
