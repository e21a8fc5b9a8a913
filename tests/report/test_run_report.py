"""The page of a run: its figures are those of the run's files, its intervals those of theory, and all is escaped."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import report_runs
from conftest import tiny_dict
from report_runs import IMAGES, STEPS, Page

from wenlan_jax.commands import report as command
from wenlan_jax.evaluation import query_ranks, statistics
from wenlan_jax.report import evidence, page, results
from wenlan_jax.tasks import experiment
from wenlan_jax.util import html_page

SINGLE = {
    "pretrain/test/itm/loss": 0.5219,
    "pretrain/test/itm/constant_loss": 0.6931,
    "pretrain/test/itm/accuracy": 0.734,
    "pretrain/test/itm/constant_accuracy": 0.501,
    "pretrain/test/itm/cs/loss": 0.51,
    "pretrain/test/itm/cs/accuracy": 0.738,
    "pretrain/test/mrfr/loss": 0.2856,
    "pretrain/test/mrfr/constant_loss": 0.2851,
    "vqa/test/all/accuracy": 0.61,
    "vqa/test/all/majority": 0.25,
    "vqa/test/all/questions": 1200.0,
    "vqa/test/en/accuracy": 0.62,
    "vqa/test/en/official": 0.63,
    "vqa/test/en/questions": 600.0,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "run"
    root.mkdir()
    report_runs.make(root)
    return root


@pytest.fixture(scope="module")
def shown(finished: Path) -> Page:
    return read(finished)


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run, to be damaged; its intervals are drawn with fewer resamples."""
    monkeypatch.setattr(statistics, "RESAMPLES", 50)
    return Path(shutil.copytree(finished, tmp_path / "run"))


def read(workdir: Path) -> Page:
    return Page(page.write(workdir).read_text(encoding="utf-8"))


def shown_results(figures: Mapping[str, float], known: Mapping[str, query_ranks.Ranks]) -> Page:
    return Page("".join(results.parts(figures, known)))


def test_every_figure_of_the_result_is_on_the_page(finished: Path, shown: Page) -> None:
    figures = json.loads((finished / "result.json").read_text())
    rows = shown.table("name", "value")
    assert rows == {name: [f"{value:.6g}"] for name, value in figures.items()}
    recall = shown.table("", "queries", "of", "recall@1")
    for way, name in (("text to image", "text_to_image"), ("image to text", "image_to_text")):
        at = f"retrieval/test/{name}"
        counts, shares = recall[way][:2], [cell.split()[0] for cell in recall[way][2:5]]
        assert counts == [str(IMAGES)] * 2
        assert shares == [f"{figures[f'{at}/recall_at_{k}']:.1%}" for k in (1, 5, 10)]


def test_an_interval_is_that_of_a_mean_of_independent_hits(finished: Path) -> None:
    """With one text an image the hits are independent: the normal interval of a share, of 400 images."""
    of = query_ranks.read(finished, "test")
    figures = report_runs.figures_of(of)
    table = shown_results(figures, {"test": of}).table("", "queries", "of", "recall@1")
    for way, name in (("text to image", "text_to_image"), ("image to text", "image_to_text")):
        share = figures[f"retrieval/test/{name}/recall_at_1"]
        half = 1.96 * math.sqrt(share * (1 - share) / IMAGES)
        low, high = (float(bound) / 100 for bound in table[way][2].split(" ", 1)[1].strip("[]").split(", "))
        assert low == pytest.approx(share - half, abs=0.006)
        assert high == pytest.approx(share + half, abs=0.006)
        assert low < share < high


def test_texts_of_one_language_have_a_wider_interval(shown: Page, finished: Path) -> None:
    """There are half as many; what images find among them is another ranking and has none."""
    by_language = shown.table("", "text to image @1")
    assert sorted(by_language) == ["en", "zh"]
    whole = shown.table("", "queries", "of", "recall@1")["text to image"][2]
    assert width(by_language["en"][0]) == pytest.approx(width(whole) * math.sqrt(2), rel=0.1)
    given = {"retrieval/test/en/image_to_text/recall_at_1": 0.5}
    of_images = shown_results(given, {"test": query_ranks.read(finished, "test")}).table("", "image to text @1")
    assert of_images["en"] == ["50.0%"]


def width(cell: str) -> float:
    low, high = cell.split(" ", 1)[1].strip("[]").split(", ")
    return float(high) - float(low)


def test_ranks_of_another_evaluation_give_no_interval(finished: Path) -> None:
    figures = report_runs.figures_of(query_ranks.read(finished, "test"))
    other = shown_results(figures, {"test": report_runs.ranks_of(7)})
    assert "[" not in other.table("", "queries", "of", "recall@1")["text to image"][2]
    assert "ranks_test.npz is not of the evaluation that gave these figures" in other.text
    assert "ranks_test.npz, is not there" in shown_results(figures, {}).text


def test_the_single_tower_stands_beside_constant_guesses() -> None:
    found = shown_results(SINGLE, {})
    objectives = found.table("objective", "loss")
    assert objectives["itm"] == ["0.5219", "0.6931", "73.4%", "50.1%"]
    assert objectives["mrfr"] == ["0.2856", "0.2851", "", ""]
    assert found.table("", "loss", "accuracy") == {"itm cs": ["0.5100", "73.8%"]}
    answers = found.table("language", "questions", "accuracy")
    assert answers == {"all": ["1,200", "61.0%", "25.0%", ""], "en": ["600", "62.0%", "", "63.0%"]}


def test_the_page_says_what_the_run_is(shown: Page, finished: Path) -> None:
    note = json.loads((finished / "checkpoints" / str(STEPS) / "note" / "metadata").read_text())
    assert shown.said("task") == "brivl"
    assert shown.said("steps") == "6 of 6"
    assert shown.said("pairs seen") == "48 in batches of 8"
    assert shown.said("configuration") == note["fingerprint"]
    assert shown.said("began") == "2023-11-14 22:13 UTC"
    assert shown.said("took") == "2 min 10 s"
    assert shown.said("tokenizer") == "tokens:0123"
    assert shown.said("pairs per second") == "35.0"  # the median of 10, 20, ... 60
    assert shown.said("host memory at most") == "1.50 GiB"
    assert "Finished after 6 of 6 steps, 2023-11-14 22:15 UTC." in shown.text


def test_the_time_is_that_of_the_ledger(shown: Page) -> None:
    phases = shown.table("phase", "time", "share")
    assert phases["start"][:2] == ["10.0 s", "7.7%"]
    assert phases["steps"][:2] == ["2 min 0 s", "92.3%"]
    assert "goodput, the share in which steps were computed that count, 92.3%; restarts: 0." in shown.text


def test_restarts_are_counted_and_listed(run: Path) -> None:
    second = report_runs.snapshot(STEPS, "finished", start=1, began=report_runs.BEGAN + 200)
    report_runs.write_ledger(run, [report_runs.snapshot(0), report_runs.snapshot(2, "Stopped"), second])
    found = read(run)
    assert "restarts: 1." in found.text
    assert [row[-1] for row in found.rows("began", "from step")[1:]] == ["Stopped", "finished"]


def test_the_configuration_is_shown_by_its_differences_first(shown: Page) -> None:
    default, tiny = dict(leaves(experiment.default().to_dict())), dict(leaves(expected_config()))
    differing = {name for name, value in tiny.items() if default[name] != value}
    rows = shown.table("field", "value", "default", "meaning")
    assert rows.keys() == differing
    assert rows["train.steps"] == ["6", "100000", "optimiser steps of the whole run"]
    every = shown.tables[shown.tables.index(shown.rows("field", "value", "default")) + 1]
    assert {name: json.loads(value) for name, value in every[1:]} == {n: as_json(v) for n, v in tiny.items()}


def expected_config() -> dict[str, object]:
    values: dict[str, object] = tiny_dict(train__steps=STEPS, init_from="weights/<b>start</b>").to_dict()
    return values


def leaves(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def as_json(value: object) -> object:
    return json.loads(json.dumps(value))


def test_nothing_gets_onto_the_page_unescaped(finished: Path, tmp_path: Path) -> None:
    hostile = Path(shutil.copytree(finished, tmp_path / "<script>alert(1)</script>".replace("/", "_")))
    note = hostile / "checkpoints" / str(STEPS) / "note" / "metadata"
    note.write_text(note.read_text().replace("wenlan_scenes", "<script>alert(2)</script>"))
    result = json.loads((hostile / "result.json").read_text())
    result['retrieval/<img src="x" onerror="y">/text_to_image/recall_at_1'] = 0.5
    (hostile / "result.json").write_text(json.dumps(result))
    text = page.write(hostile).read_text()
    assert "<script" not in text
    assert '<img src="x"' not in text
    assert "&lt;script&gt;alert(2)" in text
    assert "weights/&lt;b&gt;start" in text


def test_the_page_loads_nothing(shown: Page) -> None:
    addresses = [
        value for _, given in shown.tags for name, value in given.items() if name in ("src", "href", "xlink:href")
    ]
    assert addresses  # the curves refer to their own glyphs
    assert [value for value in addresses if value and not value.startswith(("#", "data:"))] == []
    assert not {tag for tag, _ in shown.tags} & {"script", "link", "iframe", "object"}


def test_the_curves_and_the_gallery_are_inside(shown: Page) -> None:
    assert "svg" in {tag for tag, _ in shown.tags}
    assert "a < b" in shown.words
    assert shown.text.count("rank of the truth: 1") == 1


def test_a_run_half_done_says_so_and_shows_its_last_evaluation(run: Path) -> None:
    (run / "result.json").unlink()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    before = [line for line in lines if line["step"] <= 5]
    report_runs.write_lines(run / "metrics.jsonl", before)
    report_runs.write_ledger(run, [report_runs.snapshot(0), report_runs.snapshot(5)])
    shutil.rmtree(run / "checkpoints" / str(STEPS))
    found = read(run)
    assert "Not finished: 5 of 6 steps are done at its last line, 2023-11-14 22:15 UTC." in found.text
    assert "these are of an evaluation while training, after step 4" in found.text
    shares = report_runs.figures_of(report_runs.ranks_of(1), "validation")
    cells = found.table("", "queries", "of", "recall@1")["text to image"]
    assert cells[2] == f"{shares['retrieval/validation/text_to_image/recall_at_1']:.1%}"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("NonFiniteError", "Failed with NonFiniteError after 6 of 6 steps"),
        ("Stopped", "Not finished: stopped after 6 of 6 steps"),
    ],
)
def test_the_end_of_a_run_is_told(run: Path, state: str, said: str) -> None:
    report_runs.write_ledger(run, [report_runs.snapshot(0), report_runs.snapshot(STEPS, state)])
    assert said in read(run).text


def test_a_result_that_is_older_than_the_run_is_said_to_be(run: Path) -> None:
    report_runs.write_ledger(run, [report_runs.snapshot(STEPS, "finished"), report_runs.snapshot(9, start=1)])
    assert "result.json is of step 6; the run has gone on to step 9 since." in read(run).text


def test_the_command_writes_beside_the_run_or_where_it_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    for given, place in (
        ([], run / "report.html"),
        ([f"--out={tmp_path / 'new' / 'a.html'}"], tmp_path / "new" / "a.html"),
    ):
        assert command.run(parser.parse_args([str(run), *given]), []) == 0
        assert capsys.readouterr().out == f"{place} written\n"
        assert place.read_text().startswith("<!doctype html>")


def test_a_gallery_with_scripts_is_left_out(run: Path) -> None:
    (run / "gallery.html").write_text(html_page.document("Found", "", ["<script>alert(3)</script>"]))
    found = evidence.read(run)
    assert found.gallery is None
    assert any("gallery.html is not a whole gallery" in text for text in found.remarks)
    assert "alert(3)" not in page.render(found)


def test_ranks_of_images_without_a_text_do_not_count() -> None:
    of = report_runs.ranks_of(3)
    fewer = query_ranks.Ranks(np.append(of.image_to_text, 0), of.text_to_image, of.image, of.language, of.text)
    cells = [
        shown_results(report_runs.figures_of(one), {"test": one}).table("", "queries")["image to text"][2]
        for one in (of, fewer)
    ]
    assert cells[0] == cells[1]
    assert "[" in cells[0]
