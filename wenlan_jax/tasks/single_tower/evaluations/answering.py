"""The single tower's answers to questions on held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from wenlan_jax.data import loader
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.evaluation import vqa
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.single_tower import data
from wenlan_jax.tasks.single_tower.input.questions import ImageQuestion, Questions
from wenlan_jax.tasks.single_tower.tower import Tower

ALL = "all"
"""The languages together."""


class Answering:
    """Measures the accuracy of answers by language, beside the commonest answer and that of each kind of question.

    Args:
        run: the run.
        tokenizer: its tokenizer.
    """

    what = "answers"

    def __init__(self, run: Run, tokenizer: Tokenizer) -> None:
        self._run, self._tokenizer = run, tokenizer
        self._tower = Tower(run.config, run.mesh)
        self._jitted = jax.jit(self._logits, out_shardings=meshes.batch_sharding(run.mesh))
        self._answers = data.answers(run.config)
        self._majority: vqa.Majority | None = None

    def score(self, params: PyTree, batch_stats: PyTree, split: str) -> tuple[dict[str, float], None]:
        """Measures a split.

        Args:
            params: the parameters of the tower.
            batch_stats: the running statistics of an image backbone, if there is one.
            split: the name of a split.

        Returns:
            `vqa/<split>/<language>/<name>`; the language `all` is all of them. `accuracy` is the mean soft score of the
            answers given; of questions with one answer, the share met exactly. There are no pages.
        """
        config, mesh = self._run.config, self._run.mesh
        questions = data.open_questions(config, split, config.eval.languages)
        share = meshes.share(mesh, config.eval.batch_size)
        maker = data.held_out_questions(config, self._tokenizer, questions, share)
        chosen, targets = [], []
        with loader.Batches(maker, 0, len(maker), config.data.workers, config.data.prefetch) as batches:
            for _, batch in batches:
                on_devices = meshes.to_devices(mesh, batch)
                valid = meshes.to_host(on_devices.pop("valid"))
                logits = meshes.to_host(self._jitted(params, batch_stats, on_devices))
                chosen.append(logits[valid, : len(self._answers)].argmax(axis=1))
                targets.append(meshes.to_host(on_devices["answers"])[valid])
        found = self._accuracies(questions, np.concatenate(chosen), np.concatenate(targets))
        return {f"vqa/{split}/{name}": value for name, value in found.items()}, None

    def _accuracies(self, questions: Questions, chosen: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        asked = list(questions)
        groups = [vqa.question_group(item.question, item.language) for item in asked]
        majority = self._fitted()
        guesses = {
            "accuracy": chosen,
            "question_alone": majority.columns(groups),
            "majority": majority.constant(len(asked)),
        }
        scores = {name: vqa.scores_at(targets, columns) for name, columns in guesses.items()}
        scores["best_possible"] = targets.max(axis=1)
        return vqa.by_language([item.language for item in asked], scores) | self._official(asked, chosen)

    def _official(self, asked: Sequence[ImageQuestion], chosen: np.ndarray) -> dict[str, float]:
        """`en/official`: VQA 2.0's evaluation of the answers as texts, on the questions it is made for, if any."""
        given = zip(asked, chosen.tolist(), strict=True)
        scores = [
            vqa.official_accuracy(self._answers.texts[column], item.answers)
            for item, column in given
            if item.language == "en" and len(item.answers) > 1
        ]
        return {"en/official": float(np.mean(scores))} if scores else {}

    def _fitted(self) -> vqa.Majority:
        if self._majority is None:
            config = self._run.config
            training = data.open_questions(config, config.data.train_split, config.vqa.languages)
            scored = (
                (vqa.question_group(q.question, q.language), vqa.soft_scores(q.answers, q.language)) for q in training
            )
            self._majority = vqa.Majority.fit(scored, self._answers)
        return self._majority

    def _logits(self, params: PyTree, batch_stats: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
        hidden = self._tower.encode(params, batch, self._tower.features(params, batch_stats, batch), None)
        logits: jax.Array = self._tower.call(params, "answer_logits", hidden.pooled)
        return logits

    def one_line(self, scores: Mapping[str, float], split: str) -> str:
        """Writes the accuracy over all questions, and that of the commonest answer."""
        at = f"vqa/{split}/{ALL}"
        return f"{split}: accuracy {scores[f'{at}/accuracy']:.1%}, commonest answer {scores[f'{at}/majority']:.1%}"

    def table(self, scores: Mapping[str, float], splits: Sequence[str]) -> str:
        """See `vqa.table`."""
        blocks = []
        for split in splits:
            start = f"vqa/{split}/"
            figures = {name[len(start) :]: value for name, value in scores.items() if name.startswith(start)}
            names = ["accuracy", "official", "question_alone", "majority", "best_possible"]
            blocks.append(f"{split}\n" + vqa.table(figures, names))
        return "\n".join(blocks)

    def write_pages(self, out: Path, found: Sequence[None]) -> None:
        """Writes nothing."""
