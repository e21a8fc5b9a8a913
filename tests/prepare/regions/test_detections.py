"""What detectors found as regions of a record: order, selection, units, and everything that must not get in."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from annotations import unchecked

from wenlan_jax.data import records, sources
from wenlan_jax.data.records import Record, Region
from wenlan_jax.prepare.regions import boxes, detections, heads
from wenlan_jax.prepare.regions.detections import UNIT, DetectionError, Detections, Selection

ALL = Selection(threshold=0.0, min_boxes=0, max_boxes=100)


def _found(count: int = 4, seed: int = 0) -> Detections:
    random = np.random.default_rng(seed)
    start = random.uniform(0, 0.5, (count, 2))
    return Detections(
        np.concatenate([start, start + random.uniform(0.1, 0.5, (count, 2))], axis=1),
        UNIT,
        random.permutation(count) / count + 0.1,
        tuple(f"class {row}" for row in range(count)),
        random.normal(size=(count, 7)).astype(np.float32),
        random.dirichlet(np.ones(5), count).astype(np.float32),
    )


def _fit(found: Detections, selection: Selection = ALL) -> tuple[detections.Fitted, dict[str, int]]:
    counts: collections.Counter[str] = collections.Counter()
    return detections.fit(found, 200, 100, selection, counts), {name: n for name, n in counts.items() if n}


def test_every_row_follows_its_box_in_order_of_the_score() -> None:
    found = _found(30)
    fitted, counts = _fit(found)
    assert found.scores is not None and found.features is not None and found.classes is not None
    order = sorted(range(30), key=lambda row: -found.scores[row])
    assert [region.label for region in fitted.regions] == [f"class {row}" for row in order]
    assert fitted.features is not None and fitted.features.dtype == np.float16
    np.testing.assert_array_equal(fitted.features, found.features[order].astype(np.float16))
    np.testing.assert_array_equal(fitted.classes, found.classes[order].astype(np.float16))
    got = np.array([region.box for region in fitted.regions])
    np.testing.assert_allclose(got, found.boxes[order] * (200, 100, 200, 100))
    assert not counts


def test_equal_scores_keep_their_order() -> None:
    found = dataclasses.replace(_found(20), scores=None)
    assert [region.label for region in _fit(found)[0].regions] == [f"class {row}" for row in range(20)]


@pytest.mark.parametrize(
    ("selection", "kept"),
    [
        (Selection(0.5, 0, 100), 3),
        (Selection(0.5, 5, 100), 5),
        (Selection(0.5, 50, 100), 6),
        (Selection(0.0, 0, 2), 2),
        (Selection(0.95, 0, 9), 0),
    ],
)
def test_the_best_are_kept_as_uniter_does(selection: Selection, kept: int) -> None:
    found = dataclasses.replace(_found(6), scores=np.array([0.1, 0.9, 0.5, 0.3, 0.7, 0.2]))
    fitted, counts = _fit(found, selection)
    assert [region.score for region in fitted.regions] == [0.9, 0.7, 0.5, 0.3, 0.2, 0.1][:kept]
    assert counts.get("box_beyond_selection_dropped", 0) == 6 - kept
    assert (fitted.features is None) == (kept == 0)


@pytest.mark.parametrize("field", ["boxes", "scores", "features", "classes"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_goes_whole(field: str, value: float) -> None:
    found = _found(4)
    array = getattr(found, field).copy()
    array[2] = value
    fitted, counts = _fit(dataclasses.replace(found, **{field: array}))
    assert counts == {"box_not_finite_dropped": 1}
    assert "class 2" not in {region.label for region in fitted.regions} and len(fitted.regions) == 3
    assert fitted.features is not None and np.isfinite(fitted.features).all() and len(fitted.features) == 3


def test_a_feature_too_large_for_float16_is_not_stored_as_infinity() -> None:
    found = _found(4)
    assert found.features is not None
    found.features[1, 3] = 1e5
    assert _fit(found)[1] == {"box_not_finite_dropped": 1}


def test_boxes_are_cut_to_the_image_and_those_without_area_dropped() -> None:
    given = np.array([[-0.1, 0.0, 0.5, 1.5], [0.4, 0.4, 0.4, 0.9], [1.2, 0.0, 1.5, 1.0]])
    fitted, counts = _fit(Detections(given, UNIT))
    assert [region.box for region in fitted.regions] == [(0.0, 0.0, 100.0, 100.0)]
    assert counts == {"box_degenerate_dropped": 2, "box_clipped": 1}


def test_boxes_of_a_larger_copy_are_scaled_and_those_of_another_image_refused() -> None:
    given = np.array([[40.0, 20.0, 400.0, 200.0]])
    assert _fit(Detections(given, (400.0, 200.0)))[0].regions[0].box == (20.0, 10.0, 200.0, 100.0)
    assert _fit(Detections(given, (403.0, 200.0)))[0].regions  # shrinking rounds to whole pixels
    assert _fit(Detections(given, None))[0].regions[0].box == (40.0, 20.0, 200.0, 100.0)
    with pytest.raises(DetectionError, match=r"image of 200 x 400 pixels.*200 x 100"):
        _fit(Detections(given, (200.0, 400.0)))
    with pytest.raises(DetectionError, match="0 x 200"):
        _fit(Detections(given, (0.0, 200.0)))


@pytest.mark.parametrize("field", ["scores", "features", "classes", "labels"])
def test_rows_must_be_as_many_as_boxes(field: str) -> None:
    found = _found(4)
    with unchecked(), pytest.raises(DetectionError, match=f"{field}.* 4 boxes"):
        _fit(dataclasses.replace(found, **{field: getattr(found, field)[:3]}))


def test_no_boxes_at_all_are_no_fault() -> None:
    empty = Detections(np.zeros((0, 4)), UNIT, np.zeros(0), (), np.zeros((0, 7)), np.zeros((0, 5)))
    assert _fit(empty) == (detections.Fitted((), None, None), {})


def test_senseless_selections_are_refused() -> None:
    for wrong in (Selection(min_boxes=5, max_boxes=4), Selection(max_boxes=0, min_boxes=0), Selection(threshold=1.5)):
        with pytest.raises(DetectionError):
            wrong.check()


def test_normalised_features_are_known_by_their_length() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 2048))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert detections.is_unit(unit.astype(np.float16))
    assert not detections.is_unit(rows.astype(np.float16))
    assert not detections.is_unit(np.concatenate([unit[:19], rows[:1]]).astype(np.float16))


def test_overlap_and_suppression() -> None:
    four = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [0, 0, 2, 2.0], [5, 5, 5, 5]], np.float64)
    expected = [[1, 1 / 3, 1, 0], [1 / 3, 1, 1 / 3, 0], [1, 1 / 3, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(boxes.overlap(four, four), expected)
    scores = np.array([0.5, 0.9, 0.8, 0.1])
    assert boxes.unsuppressed(four, scores, 0.5).tolist() == [1, 2, 3]
    assert boxes.unsuppressed(four, scores, 0.3).tolist() == [1, 3]
    assert boxes.unsuppressed(four[:0], scores[:0], 0.3).tolist() == []


def test_a_suppressed_box_suppresses_no_other() -> None:
    row = np.array([[0, 0, 10, 1], [4, 0, 14, 1], [8, 0, 18, 1]], np.float64)
    assert boxes.unsuppressed(row, np.array([0.9, 0.8, 0.7]), 0.3).tolist() == [0, 2]


@pytest.mark.parametrize("written", boxes.FORMATS)
def test_boxes_in_every_spelling(written: str) -> None:
    given = {"xyxy": [1, 2, 4, 8], "xywh": [1, 2, 3, 6], "cxcywh": [2.5, 5, 3, 6]}[written]
    np.testing.assert_array_equal(boxes.corners(np.array([given], np.float32), written), [[1, 2, 4, 8]])


def test_distributions_have_the_background_first_and_sum_to_one() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(6, 5)) * 40
    soft = heads.probabilities(logits, "softmax")
    classes, scores, best = heads.distribution(soft, 4)
    np.testing.assert_array_equal(classes, np.roll(soft, 1, axis=1))
    np.testing.assert_array_equal(best, soft[:, :4].argmax(axis=1))
    np.testing.assert_array_equal(scores, soft[:, :4].max(axis=1))
    free = heads.probabilities(logits, "sigmoid")
    np.testing.assert_allclose(free, 1 / (1 + np.exp(-logits)), atol=1e-12)
    classes, scores, best = heads.distribution(free, None)
    assert classes.shape == (6, 6)
    np.testing.assert_allclose(classes.sum(axis=1), 1.0)
    np.testing.assert_array_equal(scores, free.max(axis=1))
    np.testing.assert_array_equal(heads.distribution(np.array([[0.2, 0.5]]), None)[0], [[1 - 0.7, 0.2, 0.5]])


def _with_arrays(record: Record) -> Record:
    random = np.random.default_rng(3)
    return dataclasses.replace(
        record,
        regions=tuple(Region((0.0, 0.0, 1.0 + k, 2.0), "x", (), 0.5) for k in range(3)),
        region_features=random.normal(size=(3, 2048)).astype(np.float16),
        region_classes=np.zeros((3, 5), np.float16),  # zero bytes at the end must stay
    )


def test_arrays_of_a_record_are_stored_and_read_back(
    tmp_path: Path,
    make_record: Callable[..., Record],
    pack_records: Callable[..., Path],
    read_records: Callable[[Path], list[Record]],
) -> None:
    plain = make_record("a", 20, 30, 0)
    full = _with_arrays(make_record("b", 20, 30, 1))
    back = read_records(pack_records(tmp_path / "packed", [plain, full]))
    assert back == [plain, full]
    assert back[0].region_features is None and back[1].region_features.dtype == np.float16
    assert full.region_features is not None
    other = full.region_features.copy()
    other[2, 5] += 1
    assert back[1] != dataclasses.replace(full, region_features=other)
    assert back[1] != dataclasses.replace(full, region_classes=None)
    assert hash(back[1]) == hash(full)


def test_arrays_that_do_not_fit_their_record_are_not_stored(make_record: Callable[..., Record]) -> None:
    full = _with_arrays(make_record("b", 20, 30, 1))
    assert full.region_features is not None
    for wrong in (full.region_features[:2], full.region_features.astype(np.float32), full.region_features[0]):
        with (
            unchecked(),
            pytest.raises(records.RecordError, match=r"record b: region_features is .*not float16 of 3 rows"),
        ):
            records.to_example(dataclasses.replace(full, region_features=wrong))
    example = {**records.to_example(full), "regions": {"box": [], "label": [], "attributes": [], "score": []}}
    lists = {name: {key: [row[key] for row in example[name]] for key in example[name][0]} for name in ("texts",)}
    lists["questions"] = {"language": [], "question": [], "answer": []}
    with pytest.raises(records.RecordError, match="record b: .* bytes of region_features"):
        records.from_example({**example, **lists})


def test_directories_of_before_still_open(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_record: Callable[..., Record],
    pack_records: Callable[..., Path],
    read_records: Callable[[Path], list[Record]],
) -> None:
    record = make_record("a", 20, 30, 0)
    with monkeypatch.context() as before:
        before.setattr(records, "ARRAYS", ())
        place = pack_records(tmp_path / "packed", [record])
    assert "region_features" not in json.loads((place / "features.json").read_text())["featuresDict"]["features"]
    assert read_records(place) == [record]
    content = (place / "features.json").read_text().replace('"questions"', '"queries"')
    (place / "features.json").write_text(content)
    with pytest.raises(sources.SourceError, match="lacks questions"):
        read_records(place)
