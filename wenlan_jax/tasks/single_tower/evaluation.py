"""The single tower on held-out data: its objectives, retrieval by scoring every pair, answers to questions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, PyTree

from wenlan_jax.data import loader, sources
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.evaluation import language_table, metric_names, retrieval, retrieval_report, true_pairs, vqa
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks import experiment, shared_data
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.shared_data import data_dir
from wenlan_jax.tasks.single_tower import baselines, data, objectives
from wenlan_jax.tasks.single_tower.batch import FIELDS, of_batch
from wenlan_jax.tasks.single_tower.input.batches import FixedBatches
from wenlan_jax.tasks.single_tower.input.questions import Asked, Questions
from wenlan_jax.tasks.single_tower.pair_scorer import PairScorer
from wenlan_jax.tasks.single_tower.tower import Tower
from wenlan_jax.tasks.two_tower import embedded_split

ALL = "all"
"""The languages together."""


class MeasuredObjective(NamedTuple):
    """An objective in one language.

    Attributes:
        sums: of its metrics by name.
        weight: what the sums are divided by.
    """

    sums: dict[str, float]
    weight: float


class Pretraining:
    """Measures loss and accuracy of each objective and language, beside the best constant guess of the same batches.

    Args:
        run: the run.
        tokenizer: its tokenizer.
    """

    what = "the objectives"

    def __init__(self, run: Run, tokenizer: Tokenizer) -> None:
        self._run, self._tokenizer = run, tokenizer
        self._tower = Tower(run.config, run.mesh)
        self._jitted = jax.jit(self._sums, out_shardings=meshes.replicated(run.mesh))

    def score(self, params: PyTree, batch_stats: PyTree, split: str) -> tuple[dict[str, float], None]:
        """Measures a split.

        Args:
            params: the parameters of the tower.
            batch_stats: the running statistics of an image backbone, if there is one.
            split: the name of a split.

        Returns:
            `pretrain/<split>/<objective>/<metric>`, and with the language before the metric where there are several.
            `mismatched_loss` is the loss with the other side of another pair, see `objectives.mismatched`. There are no
            pages.
        """
        config, mesh = self._run.config, self._run.mesh
        source = sources.open_source(config.data.source, split, data_dir(config))
        share = meshes.share(mesh, config.eval.batch_size)
        makers = data.held_out(config, self._tokenizer, source, config.eval.languages, share)
        found: dict[str, float] = {}
        for name in dict.fromkeys(objective for objective, _ in makers):
            constant = baselines.of(name)
            parts = {
                language: self._measure(params, batch_stats, maker, constant)
                for (objective, language), maker in makers.items()
                if objective == name
            }
            place = f"pretrain/{split}/{name}"
            found |= _means(place, list(parts.values()))
            if len(parts) > 1:
                for language, part in parts.items():
                    found |= _means(f"{place}/{language}", [part])
            found |= _of_constant(place, constant, objectives.elements(config, name))
        return found, None

    def _measure(
        self, params: PyTree, batch_stats: PyTree, maker: FixedBatches, constant: baselines.Constant | None
    ) -> MeasuredObjective:
        config, mesh = self._run.config, self._run.mesh
        sums: dict[str, float] = {}
        count = len(maker) if not config.eval.batches else min(config.eval.batches, len(maker))
        with loader.Batches(maker, 0, count, config.data.workers, config.data.prefetch) as batches:
            for _, batch in batches:
                on_devices = meshes.to_devices(mesh, batch)
                if constant is not None:
                    constant.add({name: meshes.to_host(value) for name, value in on_devices.items()})
                for name, value in jax.device_get(self._jitted(params, batch_stats, on_devices)).items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        return MeasuredObjective(sums, sums.pop("weight"))

    def _sums(self, params: PyTree, batch_stats: PyTree, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        config = self._run.config
        name = of_batch(batch)
        objective = objectives.OBJECTIVES[name]
        given = objectives.Given(config, self._tower, params, batch_stats, batch, None)
        sums = objective.sums(given)
        found = {**sums.metrics, "loss": sums.loss, "weight": jnp.sum(objective.weights(config, batch))}
        if name in objectives.OTHER_SIDE:
            found["mismatched_loss"] = objective.sums(given._replace(batch=objectives.mismatched(name, batch))).loss
        return found

    def one_line(self, scores: Mapping[str, float], split: str) -> str:
        """Writes loss and accuracy of each objective."""
        parts = []
        for name in _objectives_in(scores, split):
            at = f"pretrain/{split}/{name}"
            accuracy = f", {scores[f'{at}/accuracy']:.1%}" if f"{at}/accuracy" in scores else ""
            parts.append(f"{name} {scores[f'{at}/loss']:.4g}{accuracy}")
        return f"{split}: " + "; ".join(parts)

    def table(self, scores: Mapping[str, float], splits: Sequence[str]) -> str:
        """Writes each objective's loss and accuracy, beside those of a constant guess and of mismatched pairs."""
        lines = []
        for split in splits:
            lines.append(f"{split:<12}{'loss':>10}{'constant':>10}{'mismatch':>10}{'accuracy':>10}{'constant':>10}")
            for name in _objectives_in(scores, split):
                at = f"pretrain/{split}/{name}"
                losses = ("loss", "constant_loss", "mismatched_loss")
                cells = [_cell(scores, f"{at}/{metric}", "{:.4f}") for metric in losses]
                cells += [_cell(scores, f"{at}/{metric}", "{:.1%}") for metric in ("accuracy", "constant_accuracy")]
                lines.append(f"{name:<12}" + "".join(f"{cell:>10}" for cell in cells))
        return "\n".join(lines)

    def write_pages(self, out: Path, found: Sequence[None]) -> None:
        """Writes nothing: `wenlan attention` draws what the tower looks at."""


def _objectives_in(scores: Mapping[str, float], split: str) -> list[str]:
    return [name for name in FIELDS if f"pretrain/{split}/{name}/loss" in scores]


def _cell(scores: Mapping[str, float], name: str, form: str) -> str:
    return form.format(scores[name]) if name in scores else ""


def _means(place: str, parts: Sequence[MeasuredObjective]) -> dict[str, float]:
    weight = sum(part.weight for part in parts)
    return {f"{place}/{name}": sum(part.sums[name] for part in parts) / weight for name in parts[0].sums}


def _of_constant(place: str, constant: baselines.Constant | None, scale: float) -> dict[str, float]:
    if constant is None:
        return {}
    accuracy = constant.accuracy()
    found = {f"{place}/constant_loss": constant.loss() / scale}
    return found if accuracy is None else found | {f"{place}/constant_accuracy": accuracy}


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

    def _official(self, asked: Sequence[Asked], chosen: np.ndarray) -> dict[str, float]:
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
