"""How two towers are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import PyTree

from wenlan_jax.data.text import Tokenizer
from wenlan_jax.evaluation import query_ranks, retrieval_report
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.two_tower import embedded_split, gallery_queries


class Retrieval:
    """Measures two towers by retrieval, both ways.

    Args:
        run: the run.
        tokenizer: its tokenizer.
    """

    what = "retrieval"

    def __init__(self, run: Run, tokenizer: Tokenizer) -> None:
        self._config = run.config
        self._evaluator = embedded_split.Evaluator(run, tokenizer)

    def score(self, params: PyTree, batch_stats: PyTree, split: str) -> tuple[dict[str, float], embedded_split.Scored]:
        """See `Evaluator.score`."""
        return self._evaluator.score(params, batch_stats, split)

    def one_line(self, scores: Mapping[str, float], split: str) -> str:
        """See `retrieval_report.one_line`."""
        return retrieval_report.one_line(scores, split)

    def table(self, scores: Mapping[str, float], splits: Sequence[str]) -> str:
        """See `retrieval_report.table`."""
        return retrieval_report.table(scores, splits, self._config.eval.ks)

    def write_pages(self, out: Path, found: Sequence[embedded_split.Scored]) -> None:
        """Writes the ranks of all queries of each split, and the gallery of the first one."""
        for one in found:
            query_ranks.write(out, one.split, one.ranks)
        gallery_queries.write_gallery(out, self._config, [one.embedded for one in found])
