"""Graded judgements of the cascade: the file and its faults, whose texts and images they are of, and the figures."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from listed_records import with_ids

from wenlan_jax.applications import cascade, graded
from wenlan_jax.config import sections
from wenlan_jax.data import loader, records
from wenlan_jax.evaluation import graded_ranking
from wenlan_jax.tasks.two_tower import embedded_split

TEXTS = ("a dog", "a cat", "a dog", "a tree")
IDS = ("p0", "p1", "p2", "p3", "p4", "p1")
HOW = graded_ranking.GradedProtocol(k=3, gain="exp", ideal="pool", relevant_from=3, empty="zero")


def _write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join([json.dumps(row) for row in rows] + ["", ""]))
    return path


def test_judgements_are_read_by_text_and_image(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "judged",
        {"text": "a dog", "image": "p0", "grade": 6, "annotator": "all"},
        {"text": "a tree", "image": "p0", "grade": 0},
        {"text": "a dog", "image": "p3", "grade": 2},
        {"text": "a dog", "image": "p3", "grade": 2},
    )
    assert graded.read(file) == {"a dog": {"p0": 6, "p3": 2}, "a tree": {"p0": 0}}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no judgement"),
        ([{"text": "t", "image": "p", "grade": -1}], "line 1: grades begin at 0, got -1"),
        ([{"text": "t", "image": "p", "grade": 1.5}], "line 1: 'grade' must be a whole number"),
        ([{"text": "t", "image": "p", "grade": True}], "line 1: 'grade' must be a whole number"),
        ([{"text": "t", "image": 7, "grade": 1}], "line 1: 'image' must be the id of a record, a string"),
        ([{"image": "p", "grade": 1}], "line 1: 'text' must be a string"),
        ([{"text": "t", "image": "p", "grade": g} for g in (1, 2)], "line 2: image 'p' has grade 1 for this text"),
    ],
)
def test_a_faulty_file_is_named_with_its_line(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(graded.JudgementsError, match=message):
        graded.read(_write(tmp_path / "judged", *rows))


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(graded.JudgementsError, match="nothing"):
        graded.read(tmp_path / "nothing")
    (tmp_path / "judged").write_text("grades\n")
    with pytest.raises(graded.JudgementsError, match="line 1: Expecting value"):
        graded.read(tmp_path / "judged")
    (tmp_path / "judged").write_text("[1]\n")
    with pytest.raises(graded.JudgementsError, match="line 1: 'text' must be a string"):
        graded.read(tmp_path / "judged")


def test_judgements_belong_to_the_first_text_and_the_row_of_the_image(capsys: pytest.CaptureFixture[str]) -> None:
    judged = {"a dog": {"p0": 6, "p3": 2}, "a tree": {"p4": 1}, "a house": {"p9": 3}}
    assert graded.of_split(judged, TEXTS, with_ids(IDS)) == {0: {0: 6, 3: 2}, 3: {4: 1}}
    assert "1 of 3 judged texts are none of things/test; left out" in capsys.readouterr().out
    assert graded.of_split({"a house": {"p9": 3}}, TEXTS, with_ids(IDS)) == {}


@pytest.mark.parametrize(("image", "times"), [("p9", 0), ("p1", 2)])
def test_a_judged_image_must_be_one_record(image: str, times: int) -> None:
    with pytest.raises(graded.JudgementsError, match=f"{times} records have the id '{image}', which was judged"):
        graded.of_split({"a dog": {image: 3}}, TEXTS, with_ids(IDS))


def _measured() -> cascade.MeasuredWay:
    """Two towers that rank images by row for every text, and a single tower that turns the best four around."""
    texts = [loader.RecordText(row, records.Text("descriptive", "en", said)) for row, said in enumerate(TEXTS)]
    images = np.linspace(6, 1, 6, dtype=np.float32)[:, None]
    embedded = embedded_split.Embedded(with_ids(IDS), texts, images, np.ones((4, 1), np.float32))
    way = dataclasses.replace(cascade.ways(embedded, 6)[0], orders=np.tile(np.arange(6), (4, 1)))
    return cascade.measure(way, [2, 4], (1,), lambda _, rows: rows.astype(np.float32), 8, lambda: 0.0)


def test_figures_are_those_of_each_depth_by_hand() -> None:
    judged = {0: {0: 0, 1: 1, 3: 6}, 3: {2: 3, 5: 4}}
    found = graded.figures(_measured(), judged, HOW)
    discount = [1 / math.log2(rank + 1) for rank in (1, 2, 3)]
    # Orders: 0 1 2 3 4 5, then 1 0 2 3 4 5, then 3 2 1 0 4 5.
    first = {0: 1 * discount[1], 2: 1 * discount[0], 4: 63 * discount[0] + 1 * discount[2]}
    second = {0: 7 * discount[2], 2: 7 * discount[2], 4: 7 * discount[1]}
    ideal = (63 * discount[0] + 1 * discount[1], 15 * discount[0] + 7 * discount[1])
    for depth in (0, 2, 4):
        at = f"graded/top_{depth}"
        assert found[f"{at}/ndcg"] == pytest.approx((first[depth] / ideal[0] + second[depth] / ideal[1]) / 2)
        assert found[f"{at}/queries"] == 2
    # Relevant from 3: one image of the first text, two of the second, of which the first three hold one.
    assert [found[f"graded/top_{depth}/map"] for depth in (0, 2, 4)] == pytest.approx(
        [(0 + 1 / 6) / 2, (0 + 1 / 6) / 2, (1 + 1 / 4) / 2]
    )
    assert [found[f"graded/top_{depth}/judged"] for depth in (0, 2, 4)] == pytest.approx([3 / 6, 3 / 6, 3 / 6])
    lines = graded.table(found, [2, 4], HOW).splitlines()
    assert "2 texts, gain exp, relevant from grade 3" in lines[0]
    assert [line.split()[-3:] for line in lines[1:]] == [
        ["NDCG@3", "MAP@3", "judged"],
        *([f"{found[f'graded/top_{d}/ndcg']:.4f}", f"{found[f'graded/top_{d}/map']:.4f}", "50.0%"] for d in (0, 2, 4)),
    ]


def test_judgements_that_cannot_count_are_refused_before_anything_is_scored() -> None:
    skip = dataclasses.replace(HOW, empty="skip")
    graded.check({0: {0: 3}, 1: {0: 0}}, skip)
    graded.check({0: {0: 0}}, HOW)
    with pytest.raises(graded_ranking.RankingError, match="no query has anything relevant"):
        graded.check({0: {0: 0}}, skip)


@pytest.mark.parametrize(
    "changes", [{"gain": "linear"}, {"ideal": "judged-list"}, {"empty": "skip"}, {"k": 7}, {"relevant_from": 1}]
)
def test_every_field_reaches_the_protocol(changes: dict[str, Any]) -> None:
    usual = graded.protocol(sections.GradedConfig())
    changed = graded.protocol(dataclasses.replace(sections.GradedConfig(), **changes))
    assert changed == dataclasses.replace(usual, **changes) != usual
