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
        """Metrics of `split` by name, the split in the name, and what the pages show of it."""
        ...

    def one_line(self, scores: Mapping[str, float], split: str) -> str:
        """The metrics of a split for the log."""
        ...

    def table(self, scores: Mapping[str, float], splits: Sequence[str]) -> str:
        """The metrics of several splits for the end."""
        ...

    def write_pages(self, out: Path, found: Sequence[Any]) -> None:
        """Writes what a person would rather look at into `out`; `found` is what `score` gave with the metrics."""
        ...
