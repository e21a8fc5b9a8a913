"""Evaluations of the single tower on known scores: folds and languages of retrieval, the two accuracies of answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
import pytest
from saved_models import SINGLE, save

from wenlan_jax.data import records
from wenlan_jax.evaluation import retrieval, true_pairs
from wenlan_jax.tasks import experiment, run_evaluations
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.single_tower import data, pair_scorer
from wenlan_jax.tasks.single_tower.evaluations import answering, ranking
from wenlan_jax.tasks.single_tower.input import questions
from wenlan_jax.tasks.single_tower.tower import Tower
from wenlan_jax.tasks.two_tower import embedded_split
from wenlan_jax.training import setup
from wenlan_jax.training import tokenizer as run_tokenizer

FOLDS = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluated")


@pytest.fixture
def set_up(root: Path, tiny: Callable[..., experiment.Config]) -> Callable[..., tuple[Run, Any]]:
    """A run on one device with changes, and a tokenizer of the scenes."""

    def make(**changes: Any) -> tuple[Run, Any]:
        config = tiny(**{**SINGLE, "mesh__data": 1, "data__dir": str(root / "data"), **changes})
        workdir = save(tiny(**SINGLE, data__dir=str(root / "data")), root / "single")
        tokenizer = run_tokenizer.saved(config, workdir)
        assert tokenizer is not None
        return setup.set_up(setup.with_vocabulary(config, tokenizer), jax.devices()[:1]), tokenizer

    return make


def _known_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of pairs drawn once, instead of the tower's."""

    def matrix(self: Any, params: Any, stats: Any, source: Any, texts: Any, images: int) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((len(texts), images)).astype(np.float32)

    monkeypatch.setattr(ranking.Ranking, "_matrix", matrix)


def _ranking(**changes: Any) -> dict[str, Any]:
    return {"task": "rank", "eval__languages": ("zh", "en"), "eval__one_text_per_image": False, **changes}


def test_folds_are_ranked_alone_and_told_beside_the_whole(
    set_up: Callable[..., tuple[Run, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _known_scores(monkeypatch)
    current, tokenizer = set_up(**_ranking(eval__folds=FOLDS, data__languages=("en",)))
    evaluation = ranking.Ranking(current, tokenizer)
    found, _ = evaluation.score(None, None, "test")
    scorer = ranking.sources.open_source("wenlan_scenes/tiny", "test", Path(current.config.data.dir))
    texts = embedded_split.wanted_texts(current.config, scorer)
    pairs, languages = true_pairs.of_texts(texts, 16), np.array([text.text.language for text in texts])
    assert len(pairs.text) > pairs.texts, "a text of several images occurs"
    scores = evaluation._matrix(None, None, scorer, texts, 16)
    for name, chosen in (("", languages != ""), ("en/", languages == "en"), ("zh/", languages == "zh")):
        of = np.flatnonzero(chosen)
        whole = retrieval.from_scores(scores[of], pairs.of_texts(of))
        folds = []
        for start in range(0, 16, 16 // FOLDS):
            images = slice(start, start + 16 // FOLDS)
            part, within = pairs.of_texts(of).within(images)
            folds.append(retrieval.from_scores(scores[of[part], images], within))
        for metric, value in whole.items():
            assert found[f"retrieval/test/{name}{metric}"] == value
            mean = np.mean([fold[metric] for fold in folds])
            assert found[f"retrieval/test/folds/{name}{metric}"] == pytest.approx(mean)
        averages = [retrieval.average_recall(fold) for fold in folds]
        assert found[f"retrieval/test/folds/{name}average_recall"] == pytest.approx(np.mean(averages))
    shown = [line.split() for line in evaluation.table(found, ["test"]).splitlines()]
    percent = {of: f"{100 * found[f'retrieval/test/{of}/average_recall']:.1f}" for of in ("en", "zh")}
    row = next(line for line in shown if line[:3] == ["trained", "on", "en"])
    assert row[3:5] == [percent["en"], percent["zh"]]
    assert next(line for line in shown if line[:4] == ["mean", "of", "4", "folds"])
    zh = next(line for line in shown if line[:1] == ["zh"])
    assert len(zh) == 1 + 2 * 3 + 1 and zh[-1] == percent["zh"]


def test_without_folds_there_is_the_whole_alone(
    set_up: Callable[..., tuple[Run, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _known_scores(monkeypatch)
    evaluation = ranking.Ranking(*set_up(**_ranking(data__languages=())))
    found, _ = evaluation.score(None, None, "test")
    assert not [name for name in found if "/folds/" in name]
    shown = evaluation.table(found, ["test"])
    assert "trained on all" in shown and "folds" not in shown


def test_images_that_do_not_divide_are_refused_before_a_training(
    set_up: Callable[..., tuple[Run, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a split that is evaluated while training, before any of its pairs is scored."""
    with pytest.raises(retrieval.RetrievalError, match="16 images cannot be split into 3 equal folds"):
        ranking.Ranking(*set_up(**_ranking(eval__folds=3)))
    evaluation = ranking.Ranking(*set_up(**_ranking(eval__folds=3, eval__final_splits=("test[:9]",))))
    monkeypatch.setattr(ranking.Ranking, "_matrix", None)
    with pytest.raises(retrieval.RetrievalError, match="16 images cannot be split into 3 equal folds"):
        evaluation.score(None, None, "test")


def test_a_pretrained_tower_ranks_by_the_logit_of_a_match(set_up: Callable[..., tuple[Run, Any]]) -> None:
    """Without fine-tuning, beside its objectives; all pairs of the first four images with one text each."""
    changes = {"eval__zero_shot": True, "eval__rank_images": 4, "eval__kinds": ("descriptive",), "eval__batches": 1}
    current, tokenizer = set_up(**changes, eval__languages=("en",))
    evaluation, state = run_evaluations.create(current, tokenizer), setup.fresh_state(current)
    found, what = evaluation.score(state.params, state.batch_stats, "test")
    source = ranking.sources.open_source("wenlan_scenes/tiny", "test", Path(current.config.data.dir))
    texts = [text.text.text for text in embedded_split.wanted_texts(current.config, source) if text.row < 4]
    scorer, logits = pair_scorer.PairScorer(current, tokenizer, 4), np.empty((4, 4), np.float32)
    for text, image in np.ndindex(4, 4):
        batch = {**scorer.texts([texts[text]]), **scorer.images(source, [image])}
        hidden = Tower(current.config).encode(state.params, batch, batch["region_features"], None)
        logits[text, image] = Tower(current.config).call(state.params, "itm_logits", hidden.pooled)[0, 1]
    for name, value in retrieval.from_scores(logits, np.arange(4)).items():
        assert found[f"retrieval/test/{name}"] == pytest.approx(value)
    assert {"pretrain/test/itm/loss", "pretrain/test/mlm/loss", "retrieval/test/en/average_recall"} <= found.keys()
    shown = evaluation.table(found, ["test"])
    assert "constant" in shown and "average recall" in shown and len(what) == 2
    assert "itm" in evaluation.one_line(found, "test") and "recall" in evaluation.one_line(found, "test")


def test_a_tower_that_was_not_taught_to_match_ranks_nothing(tiny: Callable[..., experiment.Config]) -> None:
    changes = {**SINGLE, "pretrain__objectives": ("mlm",), "pretrain__weights": (1.0,)}
    tiny(**changes)
    with pytest.raises(experiment.ConfigError, match="eval.zero_shot: pairs are ranked by what 'itm' teaches"):
        tiny(**changes, eval__zero_shot=True)


ANNOTATED = {
    ("en", "what is it"): ["dog"] * 6 + ["a dog!"] * 3 + ["cat"],
    ("en", "how many"): ["two"] * 2 + ["2"] + ["three"] * 7,
    ("en", "alone"): ["cat"],
    ("ja", "何ですか"): ["犬"] * 3,
    ("ja", "何匹ですか"): ["一"],
}
"""Questions with the answers of their annotators; "一" has no column."""

LABELS = ("A dog", "2", "犬", "cat", "3")
"""The first is not in the form in which answers are compared, so no target fills its column."""


class _Questions:
    name = "asked/test"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, row: int, /) -> records.Record:
        asked = [records.Question(*said, answer) for said, answers in ANNOTATED.items() for answer in answers]
        pixels = np.zeros((8, 8, 3), np.uint8)
        box = records.Region((0.0, 0.0, 8.0, 8.0), "", score=1.0)
        image = cv2.imencode(".png", pixels)[1].tobytes()
        return records.Record("one", image, 8, 8, texts=(), regions=(box,), questions=tuple(asked))


def test_answers_have_the_official_accuracy_where_several_annotators_answered_in_english(
    root: Path, set_up: Callable[..., tuple[Run, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question gets the answer whose number it has: A dog, 2, 犬, cat, 3."""
    (root / "labels.json").write_text(json.dumps(LABELS))
    changes = {"task": "vqa", "vqa__answers": len(LABELS), "vqa__answers_file": str(root / "labels.json")}
    current, tokenizer = set_up(**changes, eval__batch_size=len(ANNOTATED))
    asked = questions.list_questions(_Questions(), ())
    monkeypatch.setattr(data, "open_questions", lambda *of: asked)
    monkeypatch.setattr(answering.Answering, "_logits", lambda *of: jax.numpy.eye(len(ANNOTATED)))
    evaluation = answering.Answering(current, tokenizer)
    found, _ = evaluation.score(None, None, "test")
    # A dog has no target; 2 has 3 of 10 annotators; 犬 is not what was asked alone; cat and 3 are wrong, too.
    assert found["vqa/test/en/accuracy"] == pytest.approx((0 + 0.9 + 0) / 3)
    assert found["vqa/test/en/official"] == pytest.approx((1 + 0.9) / 2)
    assert found["vqa/test/ja/accuracy"] == 0
    assert "vqa/test/ja/official" not in found and "vqa/test/all/official" not in found
    lines = [line.split() for line in evaluation.table(found, ["test"]).splitlines()]
    assert lines[1][:4] == ["language", "questions", "accuracy", "official"]
    assert next(line for line in lines if line[0] == "en")[:4] == ["en", "3", "30.0%", "95.0%"]
