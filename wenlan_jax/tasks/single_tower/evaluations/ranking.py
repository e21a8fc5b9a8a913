"""Retrieval by the single tower on held-out data: every pair of an image and a text is scored."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, PyTree

from wenlan_jax.data import sources
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.evaluation import language_table, metric_names, retrieval, retrieval_report, true_pairs
from wenlan_jax.tasks import experiment, shared_data
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.shared_data import data_dir
from wenlan_jax.tasks.single_tower.pair_scorer import PairScorer
from wenlan_jax.tasks.two_tower import embedded_split

ALL = "all"
"""The languages together."""


class Ranking:
    """Measures retrieval by scores of every pair of a split's texts and images, or of its first `eval.rank_images`.

    Args:
        run: the run.
        tokenizer: its tokenizer.

    Raises:
        RetrievalError: if `eval.folds` does not fit a split of `eval.final_splits`.
    """

    what = "retrieval, pair by pair,"

    def __init__(self, run: Run, tokenizer: Tokenizer) -> None:
        self._run = run
        self._scorer = PairScorer(run, tokenizer, run.config.eval.batch_size)
        if run.config.eval.folds > 1:  # before a training, not after it
            for split in run.config.eval.final_splits:
                self._open(split)

    def _open(self, split: str) -> tuple[sources.Source, int]:
        """A split, and how many of its images are ranked. Raises RetrievalError where these cannot be folded."""
        config = self._run.config
        source = sources.open_source(config.data.source, split, data_dir(config))
        images = min(config.eval.rank_images or len(source), len(source))
        retrieval.check_folds(images, config.eval.folds)
        return source, images

    def score(self, params: PyTree, batch_stats: PyTree, split: str) -> tuple[dict[str, float], None]:
        """Measures a split.

        Args:
            params: the parameters of the tower.
            batch_stats: the running statistics of an image backbone, if there is one.
            split: the name of a split.

        Returns:
            Metrics named as those of two towers, and `<language>/average_recall`, the papers' mean of six recalls; with
            `eval.folds` also `folds/<name>`, the means over folds of the same scores. There are no pages.

        Raises:
            RetrievalError: if the images cannot be divided into `eval.folds`.
        """
        config = self._run.config
        source, images = self._open(split)
        texts = [text for text in embedded_split.wanted_texts(config, source) if text.row < images]
        scores = self._matrix(params, batch_stats, source, texts, images)
        pairs, languages = true_pairs.of_texts(texts, images), [text.text.language for text in texts]
        found = self._figures(scores, pairs, languages)
        if config.eval.folds > 1:

            def of_fold(rows: np.ndarray, chosen: np.ndarray, within: true_pairs.Links) -> dict[str, float]:
                said = [languages[number] for number in chosen]
                return self._figures(scores[np.ix_(chosen, rows)], within, said)

            means = retrieval.over_folds(of_fold, pairs, images, config.eval.folds)
            found |= {f"{metric_names.FOLDS}/{name}": value for name, value in means.items()}
        return {f"retrieval/{split}/{name}": value for name, value in found.items()}, None

    def _figures(self, scores: np.ndarray, pairs: true_pairs.Links, languages: Sequence[str]) -> dict[str, float]:
        """Of all texts together, and of each language."""
        ks = self._run.config.eval.ks
        found = retrieval.from_scores(scores, pairs, ks) | retrieval.scores_by_language(scores, pairs, languages, ks)
        if set(retrieval.AVERAGED) <= set(ks):
            for prefix in ["", *(name.removesuffix("mean_recall") for name in found if name.endswith("/mean_recall"))]:
                found[f"{prefix}average_recall"] = retrieval.average_recall(found, prefix)
        return found

    def _matrix(
        self, params: PyTree, batch_stats: PyTree, source: sources.Source, texts: Sequence[Any], images: int
    ) -> Float32[np.ndarray, "texts images"]:
        fields = self._scorer.texts([text.text.text for text in texts])
        return self._scorer.matrix(params, batch_stats, fields, self._scorer.images(source, range(images)))

    def one_line(self, scores: Mapping[str, float], split: str) -> str:
        """See `retrieval_report.one_line`."""
        return retrieval_report.one_line(scores, split)

    def table(self, scores: Mapping[str, float], splits: Sequence[str]) -> str:
        """Writes recall beside chance, then that of each language, then the papers' row of averages."""
        config = self._run.config
        blocks = [retrieval_report.table(scores, splits, config.eval.ks)]
        for split in splits:
            start = f"retrieval/{split}/"
            figures = {name[len(start) :]: value for name, value in scores.items() if name.startswith(start)}
            if language_table.languages_in(figures):
                blocks.append(f"{split}, by language\n" + language_table.table(figures, config.eval.ks))
                averages = language_table.averages(figures, _trained_on(config), config.eval.folds)
                blocks.append(f"{split}, average recall\n" + averages)
        return "\n".join(blocks)

    def write_pages(self, out: Path, found: Sequence[None]) -> None:
        """Writes nothing: `wenlan rerank` writes a gallery."""


def _trained_on(config: experiment.Config) -> str:
    """The languages of the training texts."""
    parts = [part.languages for part in shared_data.parts(config.data)]
    return "+".join(sorted(set(itertools.chain.from_iterable(parts)))) if all(parts) else ALL
