"""`wenlan rerank`: two saved models in a row, what stays as the first one left it, the figures and the page."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import html
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import launch, without_devices
from listed_records import with_ids
from saved_models import SINGLE, TWO_TOWERS, save

from wenlan_jax.applications import cascade, evaluate, rerank_job, rerank_page
from wenlan_jax.applications.requests import RerankRequest
from wenlan_jax.checkpoints.store import CheckpointError
from wenlan_jax.commands import rerank as rerank_command
from wenlan_jax.data import loader, mixture, records, sources
from wenlan_jax.evaluation import retrieval, true_pairs
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.registry import TaskError
from wenlan_jax.tasks.single_tower import pair_scorer
from wenlan_jax.tasks.two_tower import embedded_split

DEPTHS = (3, 10)
KS = (1, 5, 10)
WAYS = (cascade.TEXT_TO_IMAGE, cascade.IMAGE_TO_TEXT)
FIELDS = ("--config.eval.languages=('en','zh')",)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reranked")


@pytest.fixture
def pair(root: Path, tiny: Callable[..., experiment.Config]) -> tuple[Path, Path]:
    """The work directories of two towers and of a single tower."""
    data = {"data__dir": str(root / "data")}
    two = tiny(**TWO_TOWERS, **data, eval__one_text_per_image=False, eval__gallery=3)
    return save(two, root / "two"), save(tiny(**SINGLE, **data), root / "single")


def _request(root: Path, pair: tuple[Path, Path], out: str, **changes: Any) -> RerankRequest:
    usual = RerankRequest(*pair, root / out, DEPTHS, None, None, 2, None, FIELDS)
    return dataclasses.replace(usual, **changes)


@functools.cache
def _reranked(root: Path, pair: tuple[Path, Path]) -> dict[str, float]:
    return rerank_job.run(_request(root, pair, "out"))


def test_the_command_line_says_what_is_asked_for(
    root: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RerankRequest] = []
    monkeypatch.setattr(rerank_job, "run", asked.append)
    parser = argparse.ArgumentParser()
    rerank_command.add_arguments(parser)
    places = [f"--workdir={pair[0]}", f"--single={pair[1]}", f"--out={root / 'out'}"]
    given = parser.parse_args([*places, "--top-k", "3", "10", "--speed-images=2"])
    assert rerank_command.run(given, FIELDS) == 0
    assert asked == [_request(root, pair, "out")]
    rerank_command.run(parser.parse_args([*places, "--step=4", "--single-step=7", "--judgements=judged"]), [])
    assert (asked[1].depths, asked[1].step, asked[1].single_step, asked[1].fields) == ((10, 30), 4, 7, ())
    assert asked[1].judgements == Path("judged")


def test_two_towers_alone_have_the_recall_of_an_evaluation(root: Path, pair: tuple[Path, Path]) -> None:
    """Although orders come from a sort here, and from counts of what scores as high there."""
    found = _reranked(root, pair)
    expected = evaluate.run_eval(pair[0], None, root / "evaluated", FIELDS)
    for way in WAYS:
        for k in KS:
            np.testing.assert_allclose(
                found[f"rerank/test/{way}/top_0/recall_at_{k}"], expected[f"retrieval/test/{way}/recall_at_{k}"]
            )
    for language in ("en", "zh"):
        of = f"{language}/text_to_image"
        assert found[f"rerank/test/{of}/top_0/recall_at_1"] == expected[f"retrieval/test/{of}/recall_at_1"]


def test_recall_from_the_depth_on_is_that_of_the_candidates(root: Path, pair: tuple[Path, Path]) -> None:
    found = _reranked(root, pair)
    for way in WAYS:
        at = f"rerank/test/{way}"
        for depth in DEPTHS:
            for k in KS:
                new, old = found[f"{at}/top_{depth}/recall_at_{k}"], found[f"{at}/top_0/recall_at_{k}"]
                assert new == old if k >= depth else new <= found[f"{at}/top_{depth}/bound"]
        assert found[f"{at}/top_10/bound"] == found[f"{at}/top_0/recall_at_10"]
    assert any(
        found[f"rerank/test/{way}/top_10/ndcg_at_10"] != found[f"rerank/test/{way}/top_0/ndcg_at_10"] for way in WAYS
    )


def test_languages_make_up_the_whole(root: Path, pair: tuple[Path, Path]) -> None:
    """Their figures come from remembered scores; the records have as many texts in both."""
    found = _reranked(root, pair)
    for depth in (0, *DEPTHS):
        for name in ("recall_at_1", "recall_at_5", "ndcg_at_10"):
            parts = [found[f"rerank/test/{of}/text_to_image/top_{depth}/{name}"] for of in ("en", "zh")]
            np.testing.assert_allclose(np.mean(parts), found[f"rerank/test/text_to_image/top_{depth}/{name}"])


def test_times_are_measured_and_pairs_are_counted(root: Path, pair: tuple[Path, Path]) -> None:
    found = {name.removeprefix("rerank/test/"): value for name, value in _reranked(root, pair).items()}
    for depth in DEPTHS:
        for way in WAYS:
            assert found[f"{way}/top_{depth}/seconds_per_query"] > 0
            assert found[f"{way}/top_{depth}/pairs_per_query"] == depth
        assert found[f"latency/top_{depth}/seconds"] > 0
    assert found["latency/top_0/seconds"] > 0
    assert found["speed/pairs"] == found["speed/images"] * found["speed/texts"] == 2 * 8
    seconds = found["speed/single_tower_seconds"], found["speed/two_towers_seconds"]
    np.testing.assert_allclose(found["speed/times"], seconds[0] / seconds[1])
    np.testing.assert_allclose(found["speed/pairs_per_second"] * seconds[0], found["speed/pairs"])


def test_judgements_of_the_true_pairs_give_the_ndcg_of_the_cascade(
    root: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Grade 1 for the image of each text is what recall and NDCG count without judgements."""
    source = sources.open_source("wenlan_scenes/tiny", "test", root / "data")
    described = [(text, row.id) for row in source for text in row.texts if text.kind == "descriptive"]
    said = [(text, id_) for text, id_ in described if text.language == "zh"]
    lines = {text.text: json.dumps({"text": text.text, "image": id_, "grade": 1}) for text, id_ in said}
    assert len(lines) == len(said), "texts are told apart by their words"
    file = root / "judged.jsonl"
    file.write_text("\n".join(lines.values()) + '\n{"text": "of another split", "image": "?", "grade": 3}\n')
    fields = [f"--config.eval.graded.{field}" for field in ("k=10", "gain=linear", "relevant_from=1")]
    fields = [*FIELDS, "--config.eval.kinds=('descriptive',)", *fields]
    found = rerank_job.run(_request(root, pair, "judged", judgements=file, fields=tuple(fields), speed_images=0))
    for depth in (0, *DEPTHS):
        at = f"rerank/test/graded/top_{depth}"
        expected = found[f"rerank/test/zh/text_to_image/top_{depth}/ndcg_at_10"]
        np.testing.assert_allclose(found[f"{at}/ndcg"], expected, rtol=1e-6)
        assert found[f"{at}/queries"] == len(said)
        assert 0 < found[f"{at}/map"] <= found[f"{at}/ndcg"] + 1e-9, "precision falls faster than the discount"
    printed = capsys.readouterr().out
    assert f"1 of {len(said) + 1} judged texts are none of wenlan_scenes/tiny/test; left out" in printed
    assert f"graded judgements of {len(said)} texts, gain linear, relevant from grade 1" in printed


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(root: Path, pair: tuple[Path, Path]) -> None:
    """But for times; process 0 alone writes."""
    expected = _reranked(root, pair)
    command = [sys.executable, "-m", "wenlan_jax.cli", "rerank", f"--workdir={pair[0]}", f"--single={pair[1]}"]
    options = [f"--out={root / 'by two'}", "--top-k", *map(str, DEPTHS), "--speed-images=2", *FIELDS]
    job = launch(root / "logs", *command, *options, environment=without_devices())
    assert job.status == 0, job.logs
    found = json.loads((root / "by two" / "rerank.json").read_text())
    measured = {name for name in expected if "seconds" in name or "per_second" in name or name.endswith("/times")}
    assert found.keys() == expected.keys()
    for name in expected.keys() - measured:
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name
    assert (root / "by two" / "rerank.html").read_text() == (root / "out" / "rerank.html").read_text()


def test_the_file_holds_the_figures_and_the_page_the_queries(root: Path, pair: tuple[Path, Path]) -> None:
    found = _reranked(root, pair)
    assert json.loads((root / "out" / "rerank.json").read_text()) == found
    page = (root / "out" / "rerank.html").read_text()
    source = sources.open_source("wenlan_scenes/tiny", "test", root / "data")
    texts = [text.text for record in source for text in record.texts if text.language in ("en", "zh")]
    assert html.escape(texts[0]) in page and html.escape(texts[-1]) in page
    # Three texts before and after, with five images each; one image before and after, with five texts.
    assert page.count("two towers: rank of the truth") == page.count("best 10 re-ranked: rank of the truth") == 3 + 1
    assert page.count("<figure") == 6 * 5


def test_a_single_tower_that_knows_the_truth_lifts_recall_to_its_bound(
    root: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each text meets the images it is asked about, both ways: rows of texts and images are not confused."""
    source = sources.open_source("wenlan_scenes/tiny", "test", root / "data")
    each = loader.list_texts(source, mixture.WantedTexts((), ("en", "zh")))
    links = [text.rows for text in true_pairs.distinct(each, each)]
    assert len(links) < len(each), "a text of several images occurs"

    def scores(*given: Any) -> np.ndarray:
        text_of_pair, image_of_pair = given[-2:]
        pairs = zip(text_of_pair.tolist(), image_of_pair.tolist(), strict=True)
        return np.array([image in links[text] for text, image in pairs], np.float32)

    monkeypatch.setattr(pair_scorer.PairScorer, "scores", scores)
    found = rerank_job.run(_request(root, pair, "oracle", speed_images=0))
    for way in WAYS:
        for depth in DEPTHS:
            at = f"rerank/test/{way}/top_{depth}"
            assert found[f"{at}/recall_at_1"] == found[f"{at}/bound"] > found[f"rerank/test/{way}/top_0/recall_at_1"]
    assert not [name for name in found if "/speed/" in name]


def test_a_truth_below_the_depth_keeps_its_rank_and_others_go_by_score() -> None:
    embedded = _embedded()
    scores = np.random.default_rng(1).standard_normal((len(embedded.texts), 9)).astype(np.float32)
    links = np.array([text.row for text in embedded.texts])
    image_ranks, text_ranks = retrieval.truth_ranks(embedded.image_embeddings, embedded.text_embeddings, links)
    kept: set[bool] = set()
    for way, ranks in zip(cascade.ways(embedded, 5), (text_ranks, image_ranks[image_ranks > 0]), strict=True):
        measured = cascade.measure(way, [2, 4], (1, 3), lambda texts, images: scores[texts, images], 5, _clock())
        for query, line in enumerate(way.orders):
            texts, images = way.sides(np.full(4, query), line[:4])
            np.testing.assert_allclose(measured.scores[query], scores[texts, images], atol=1e-5)
            before, after = rerank_page.before_and_after(embedded, measured, query)
            assert before.rank == ranks[query]
            shown = [hit.score for hit in after.hits]
            np.testing.assert_allclose(shown, np.sort(scores[texts, images])[::-1], atol=1e-5)
            truths = [place for place, hit in enumerate(after.hits, start=1) if hit.is_true]
            assert after.rank == (truths[0] if truths else before.rank)
            kept.add(not truths)
    assert kept == {True, False}, "both kinds of queries occur"


def _embedded() -> embedded_split.Embedded:
    """Nine images, of which the last has no text, and twelve texts, of which two are alike."""
    rng = np.random.default_rng(0)
    images, texts = (rng.standard_normal((rows, 6)).astype(np.float32) for rows in (9, 12))
    texts[3] = texts[7]
    rows = [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]
    said = [records.Text("title", "en" if number % 2 else "de", "") for number in range(12)]
    record_texts = [loader.RecordText(row, text) for row, text in zip(rows, said, strict=True)]
    return embedded_split.Embedded(with_ids(f"p{row}" for row in range(9)), record_texts, images, texts)


def _clock() -> Callable[[], float]:
    times = iter(range(10_000))
    return lambda: float(next(times))


def test_candidates_are_in_the_order_that_retrieval_ranks_by() -> None:
    embedded = _embedded()
    links = np.array([text.row for text in embedded.texts])
    image_ranks, text_ranks = retrieval.truth_ranks(embedded.image_embeddings, embedded.text_embeddings, links)
    for way, ranks in zip(cascade.ways(embedded, 99), (text_ranks, image_ranks[image_ranks > 0]), strict=True):
        best = [
            1 + min(line.tolist().index(row) for row in pool)
            for line, pool in zip(way.orders, way.judgements, strict=True)
        ]
        assert best == ranks.tolist()
        assert way.orders.shape == (len(way.queries), way.candidates)


def test_a_truth_stands_below_what_two_towers_score_as_high() -> None:
    embedded = _embedded()
    alike = dataclasses.replace(
        embedded,
        image_embeddings=np.ones_like(embedded.image_embeddings),
        text_embeddings=np.ones_like(embedded.text_embeddings),
    )
    for way in cascade.ways(alike, 99):
        for line, pool in zip(way.orders.tolist(), way.judgements, strict=True):
            assert set(line[-len(pool) :]) == set(pool)


def test_a_truth_stands_below_what_the_single_tower_scores_as_high() -> None:
    """Although the two towers, whose order stays among equals, have every truth first."""
    embedded = _embedded()
    images = np.eye(9, dtype=np.float32)
    known = dataclasses.replace(
        embedded, image_embeddings=images, text_embeddings=images[[text.row for text in embedded.texts]]
    )
    for way in cascade.ways(known, 99):
        measured = cascade.measure(way, [99], (1,), lambda texts, _: np.full(len(texts), -3, np.float32), 64, _clock())
        assert [row.recall[1] for row in measured.rows] == [1, 0]


@pytest.mark.parametrize("depths", [(), (0,), (-1, 5)])
def test_depths_begin_at_one(root: Path, depths: tuple[int, ...]) -> None:
    nowhere = (root / "nowhere", root / "nowhere")
    with pytest.raises(rerank_job.CascadeError, match="--top-k: numbers from 1 on"):
        rerank_job.run(_request(root, nowhere, "refused", depths=depths))


def test_models_in_each_others_place_are_named(root: Path, pair: tuple[Path, Path]) -> None:
    two, single = pair
    with pytest.raises(TaskError, match=r"--workdir: .*single is a single tower of task 'mlmm', and two towers are"):
        rerank_job.run(_request(root, (single, single), "refused"))
    with pytest.raises(TaskError, match=r"--single: .*two is two towers of task 'brivl', and a single tower is needed"):
        rerank_job.run(_request(root, (two, two), "refused"))


def test_a_model_without_its_tokenizer_is_named(root: Path, pair: tuple[Path, Path]) -> None:
    bare = root / "bare"
    shutil.copytree(pair[1], bare)
    (bare / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"bare: the file of the tokenizer .* is gone"):
        rerank_job.run(_request(root, (pair[0], bare), "refused"))


def test_models_of_other_data_are_refused_and_can_be_given_the_same(
    root: Path, pair: tuple[Path, Path], tiny: Callable[..., experiment.Config]
) -> None:
    data = {"data__dir": str(root / "data")}
    shutil.copytree(root / "data" / "wenlan_scenes" / "tiny", root / "data" / "copied")
    other = save(tiny(**{**SINGLE, **data, "data__source": "copied"}), root / "other")
    with pytest.raises(rerank_job.CascadeError, match=r"reads wenlan_scenes/tiny and .* reads copied; name the data"):
        rerank_job.run(_request(root, (pair[0], other), "refused"))
    request = _request(root, (pair[0], other), "same", fields=("--config.data.source=copied", *FIELDS))
    two, single = rerank_job._models(request)
    assert two.run.config.data.source == single.run.config.data.source == "copied"


def test_a_tower_that_was_never_taught_to_match_is_refused(
    root: Path, pair: tuple[Path, Path], tiny: Callable[..., experiment.Config]
) -> None:
    changes = {**SINGLE, "data__dir": str(root / "data"), "pretrain__objectives": ("mlm",), "pretrain__weights": (1.0,)}
    unmatched = save(tiny(**changes), root / "unmatched")
    with pytest.raises(rerank_job.CascadeError, match="a score of pairs is needed"):
        rerank_job.run(_request(root, (pair[0], unmatched), "refused"))
