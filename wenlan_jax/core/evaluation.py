"""The protocol of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import PyTree


@runtime_checkable
class Evaluation(Protocol):
    """How a task is measured on the splits of its data; compiles what it needs once."""

    what: str
    """In a word or two, for the log."""

    def score(self, params: PyTree, batch_stats: PyTree, split: str) -> tuple[dict[str, float], Any]:
        """Measures a split.

        Args:
            params: the parameters of the model.
            batch_stats: its running statistics.
            split: the name of a split of the task's data.

        Returns:
            Metrics by name, the split in the name, and what the pages show of the split.
        """
        ...

    def one_line(self, scores: Mapping[str, float], split: str) -> str:
        """Writes the metrics of one split as a line for the log."""
        ...

    def table(self, scores: Mapping[str, float], splits: Sequence[str]) -> str:
        """Writes the metrics of several splits as a table, for the end of a run."""
        ...

    def write_pages(self, out: Path, found: Sequence[Any]) -> None:
        """Writes the pages of an evaluation, such as examples with what the model says of them.

        Args:
            out: the folder for the pages.
            found: the second result of `score`, one of each split.
        """
        ...
