"""Regions as arrays: which boxes, what stands for them, classes; records that lack something are named."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from wenlan_jax.data import images, loader, records
from wenlan_jax.models import regions as model_regions
from wenlan_jax.tasks.single_tower.input import regions as single_regions
from wenlan_jax.tasks.single_tower.input.regions import RegionReader, RegionReadError

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8)
PNG = cv2.imencode(".png", PIXELS[..., ::-1])[1].tobytes()


def _write(options: RegionReader, record: records.Record, length: int, with_classes: bool = False) -> dict[str, Any]:
    """The fields of `record` as the second of three rows; the others must stay padding."""
    batch = options.empty(3, length, with_classes)
    options.write(Named(), 4, record, batch, 1)
    assert not any(array[[0, 2]].any() for array in batch.values())
    return {name: array[1] for name, array in batch.items()}


class Named:
    name = "shop/train"


def _record(toy: SimpleNamespace, row: int = 3, **changes: Any) -> records.Record:
    return dataclasses.replace(toy.Gallery()[row], **{"image": PNG, **changes})


def test_stored_features_with_their_boxes(toy: SimpleNamespace) -> None:
    fields = _write(toy.regions(), _record(toy), length=6, with_classes=True)
    kinds = {name: (array.dtype.name, array.shape) for name, array in fields.items()}
    assert kinds == {
        "region_features": ("float16", (6, 6)),
        "region_boxes": ("float32", (6, 4)),
        "region_mask": ("bool", (6,)),
        "region_classes": ("float16", (6, 5)),
    }
    assert fields["region_mask"].tolist() == [True] * 4 + [False] * 2
    assert fields["region_features"][:4, :2].tolist() == [[3, 0], [3, 1], [3, 2], [3, 3]]
    assert fields["region_boxes"][1].tolist() == pytest.approx([1 / 20, 0, 5 / 20, 0.5])
    assert fields["region_classes"][:4].argmax(1).tolist() == [3, 4, 0, 1]
    assert not any(fields[name][4:].any() for name in fields)


@pytest.mark.parametrize(("limit", "length"), [(2, 6), (4, 2)])
def test_the_first_regions_are_kept(toy: SimpleNamespace, limit: int, length: int) -> None:
    fields = _write(toy.regions(limit=limit), _record(toy), length)
    assert fields["region_mask"].sum() == 2
    assert fields["region_features"][:2, 1].tolist() == [0, 1]


def test_features_stay_with_their_boxes_where_one_has_no_area(toy: SimpleNamespace) -> None:
    boxes = ((0, 0, 5, 5), (5, 0, 5, 5), (-4, 0, 10, 5), (25, 0, 30, 5))
    fields = _write(toy.regions(), _record(toy, regions=tuple(map(records.Region, boxes))), 4, with_classes=True)
    assert fields["region_features"][:, 1].tolist() == [0, 2, 0, 0]
    assert fields["region_boxes"][:2].tolist() == [[0, 0, 0.25, 0.5], [0, 0, 0.5, 0.5]]
    assert fields["region_classes"][:2].argmax(1).tolist() == [3, 0]
    assert fields["region_mask"].tolist() == [True, True, False, False]


@pytest.mark.parametrize("cells", [1, 2, 6])
def test_the_grid_is_that_of_the_model(cells: int) -> None:
    assert np.array_equal(single_regions.grid_boxes(cells), model_regions.grid_boxes((cells,), whole_image=True))


def test_pixels_of_a_grid_are_the_means_of_its_cells(toy: SimpleNamespace) -> None:
    options = toy.regions(features="pixels", boxes="grid", grid=2, width=12, limit=1)
    fields = _write(options, _record(toy), length=5)
    assert fields["region_mask"].all()
    assert np.array_equal(fields["region_boxes"], single_regions.grid_boxes(2))
    halves = PIXELS.astype(np.float64).reshape(2, 5, 2, 10, 3)
    cell = halves[1, :, 0]  # box 1: left, below; crop 2 x 2 of 5 x 10 pixels, the middle row shared
    rows = np.stack([(cell[0] + cell[1] + cell[2] / 2) / 2.5, (cell[2] / 2 + cell[3] + cell[4]) / 2.5])
    expected = rows.reshape(2, 2, 5, 3).mean(axis=2) / 127.5 - 1
    assert np.allclose(fields["region_features"][1].reshape(2, 2, 3), expected, atol=0.6 / 127.5 + 1e-3)
    whole = PIXELS.astype(np.float64).reshape(2, 5, 2, 10, 3).mean(axis=(1, 3)) / 127.5 - 1
    assert np.allclose(fields["region_features"][4].reshape(2, 2, 3), whole, atol=0.6 / 127.5 + 1e-3)


def test_pixels_of_stored_boxes(toy: SimpleNamespace) -> None:
    boxes = ((14.0, 2.0, 16.0, 4.0), (4.0, 2.0, 6.0, 4.0))  # as large as the crop; 14 / 20 is less as a float32
    record = _record(toy, regions=tuple(map(records.Region, boxes)), region_features=None)
    fields = _write(toy.regions(features="pixels", width=12), record, length=2)
    for row, left in enumerate((14, 4)):
        found = fields["region_features"][row].reshape(2, 2, 3)
        assert np.allclose(found, PIXELS[2:4, left : left + 2] / 127.5 - 1, atol=1e-3)


@pytest.mark.parametrize(
    ("box", "pixel"),
    [
        ((19.2, 9.1, 19.6, 9.4), (9, 19)),
        ((5.0, 7.0, 5.0005, 7.0005), (7, 5)),
        ((19.9995, 9.9995, 20.0, 10.0), (9, 19)),
    ],
)
def test_pixels_of_a_box_within_one_pixel(
    toy: SimpleNamespace, box: tuple[float, float, float, float], pixel: tuple[int, int]
) -> None:
    record = _record(toy, regions=(records.Region(box),), region_features=None)
    fields = _write(toy.regions(features="pixels", width=12), record, length=1)
    assert np.allclose(fields["region_features"].reshape(4, 3), PIXELS[pixel] / 127.5 - 1, atol=1e-3)


def test_a_map_gets_the_image(toy: SimpleNamespace) -> None:
    options = toy.regions(features="map", images=loader.ImageReader(8, True, "exact", 0, True))
    fields = _write(options, _record(toy), length=4)
    assert set(fields) == {"image", "region_boxes", "region_mask"}
    assert np.array_equal(fields["image"], images.resize(PIXELS, 8, True))
    assert fields["region_mask"].sum() == 4


def test_classes_of_labels(toy: SimpleNamespace) -> None:
    options = toy.regions(features="pixels", width=12, labels=("a", "b", "d"), classes=4)
    named = tuple(records.Region((0, 0, 5, 5), label) for label in ("b", "", "d", "a"))
    record = _record(toy, regions=named, region_features=None, region_classes=None)
    assert _write(options, record, 4, with_classes=True)["region_classes"].tolist() == [
        [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({}, {"region_features": None}, "no region_features"),
        ({"width": 7}, {}, "region_features of 6 numbers, not 7"),
        ({}, {"regions": ()}, "no region with an area"),
        ({"classes": 6}, {}, "region_classes of 5 columns, not 6"),
        ({}, {"region_classes": None}, "neither region_classes nor `labels`"),
        ({"labels": ("a", "b", "c", "x")}, {"region_classes": None}, r"labelled \['d'\]"),
        ({"features": "pixels", "width": 12}, {"image": PNG[:-9]}, "truncated PNG"),
        ({"features": "map", "images": loader.ImageReader(8, True, "fast", 0, True)}, {"image": b""}, "empty file"),
    ],
)
def test_records_that_lack_something_are_named(
    toy: SimpleNamespace, options: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(loader.BadRecord, match=rf"shop/train row 4 \(id 'id3'\): .*{message}"):
        _write(toy.regions(**options), _record(toy, **changes), 4, with_classes=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boxes": "grid"}, "a grid has no stored features"),
        ({"features": "pixels"}, "12 numbers, not 6"),
        ({"features": "map"}, "images"),
        ({"images": loader.ImageReader(8, True, "fast", 0, True)}, "images"),
        ({"labels": ("a",)}, "1 labels and the background are not 5"),
    ],
)
def test_options_that_do_not_fit_are_refused(toy: SimpleNamespace, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RegionReadError, match=message):
        toy.regions(**options)


def test_classes_need_a_detector(toy: SimpleNamespace) -> None:
    toy.regions().require_classes()
    for options in ({"classes": 0}, {"features": "pixels", "width": 12, "boxes": "grid"}):
        with pytest.raises(RegionReadError, match="'mrc'"):
            toy.regions(**options).empty(1, 4, with_classes=True)
