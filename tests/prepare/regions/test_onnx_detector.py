"""Detectors as ONNX graphs: what reaches the graph, what comes back, and contracts that are not kept."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from annotations import unchecked
from onnx import TensorProto, helper, numpy_helper

from wenlan_jax.commands import regions as command
from wenlan_jax.data import images
from wenlan_jax.data.records import Record
from wenlan_jax.prepare.regions import contract, detector, job
from wenlan_jax.prepare.regions.contract import DetectorError
from wenlan_jax.prepare.regions.detector import UserDetector

BOXES = np.array([[0, 0, 8, 4], [0, 0, 8, 4.5], [4, 2, 12, 6], [0, 0, 0, 0]], np.float32)  # of an input of 16 x 8
PROBABILITIES = np.array([[0.1, 0.7, 0.2], [0.2, 0.8, 0.0], [0.4, 0.0, 0.6], [1, 0, 0]], np.float32)
NAMES = ["cat", "dog"]


def _graph(place: Path, batch: int | str = "batch") -> Path:
    """Gives every image BOXES and PROBABILITIES, and as the features of each box the image's mean colour."""
    count = len(BOXES)
    shape = helper.make_node("Shape", ["pixels"], ["first"], start=0, end=1)
    nodes = [shape]
    constants = {"box_values": BOXES[None], "class_values": PROBABILITIES[None]}
    for name, tail in (("boxes", [count, 4]), ("probabilities", [count, 3]), ("pooled", [count, 3])):
        constants[f"{name}_tail"] = np.array(tail, np.int64)
        nodes.append(helper.make_node("Concat", ["first", f"{name}_tail"], [f"{name}_shape"], axis=0))
    constants["axes"] = np.array([2, 3], np.int64)
    constants["one"] = np.array([1], np.int64)
    nodes += [
        helper.make_node("Expand", ["box_values", "boxes_shape"], ["boxes"]),
        helper.make_node("Expand", ["class_values", "probabilities_shape"], ["probabilities"]),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("Unsqueeze", ["colour", "one"], ["colour_row"]),
        helper.make_node("Expand", ["colour_row", "pooled_shape"], ["pooled"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, 8, 16])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, count, width])
            for name, width in (("boxes", 4), ("probabilities", 3), ("pooled", 3))
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(place))
    return place


def _contract(**changes: Any) -> dict[str, Any]:
    entry = {"name": "pixels", "height": 8, "width": 16, "mean": [0.5, 0.25, 0.125], "std": [0.5, 0.5, 0.25]}
    usual = {
        "input": {**entry, **changes.pop("input", {})},
        "outputs": {"boxes": "boxes", "classes": "probabilities", "features": "pooled"},
        "class_names": NAMES,
        "background": 0,
    }
    return {**usual, **changes}


@pytest.fixture
def packed(
    tmp_path: Path, make_record: Callable[..., Record], pack_records: Callable[[Path, list[Record]], Path]
) -> Path:
    records = [make_record(f"{n}.png", 64, 32, n) for n in range(3)] + [make_record("tall.png", 16, 32, 4)]
    broken = make_record("broken.png", 64, 32, 5)
    object.__setattr__(broken, "image", broken.image[:-20])
    return pack_records(tmp_path / "packed", [*records, broken])


def _run(tmp_path: Path, packed: Path, *options: str, out: str = "out") -> job.RegionReport:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = parser.parse_args(
        [str(packed), f"--out={tmp_path / out}", f"--detector={tmp_path / 'toy.onnx'}", "--min-boxes=0", *options]
    )
    detector._opened.cache_clear()
    assert command.run(arguments, []) == 0
    content = json.loads((tmp_path / out / job.REPORT_NAME).read_text())["report"]
    content.pop("feature_norm")
    return job.RegionReport(**content)


def _write(tmp_path: Path, batch: int | str = "batch", **changes: Any) -> None:
    _graph(tmp_path / "toy.onnx", batch)
    (tmp_path / "toy.json").write_text(json.dumps(_contract(**changes)))


@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_what_a_graph_finds_becomes_regions(
    batch: int | str, tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    _write(tmp_path, batch)
    report = _run(tmp_path, packed, "--batch-size=4")
    assert (report.found, report.missing, report.faulty) == (4, 0, 1)
    assert report.arrays == {"class_names": NAMES, "features": "pooled"}
    before, after = read_records(packed), read_records(tmp_path / "out")
    assert after[4] == before[4]
    fault = json.loads((tmp_path / "out" / job.FAULTS_NAME).read_text())
    assert fault["id"] == "broken.png" and "truncated PNG" in fault["fault"]
    for record in after[:4]:
        scale = np.array([record.width / 16, record.height / 8] * 2)
        assert [region.label for region in record.regions] == ["cat", "cat", "dog"]
        np.testing.assert_allclose([region.box for region in record.regions], BOXES[[1, 0, 2]] * scale, rtol=1e-6)
        np.testing.assert_allclose([region.score for region in record.regions], [0.8, 0.7, 0.6], rtol=1e-6)
        np.testing.assert_array_equal(record.region_classes, PROBABILITIES[[1, 0, 2]].astype(np.float16))
        mean = images.decode(record.image).reshape(-1, 3).mean(axis=0) / 255
        colour = (mean - (0.5, 0.25, 0.125)) / (0.5, 0.5, 0.25)
        assert record.region_features is not None
        np.testing.assert_allclose(record.region_features[0], colour, atol=0.02)


def test_a_letterboxed_image_keeps_its_shape(
    tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    _write(tmp_path, input={"resize": "letterbox"})
    _run(tmp_path, packed)
    tall = read_records(tmp_path / "out")[3]  # 16 x 32: a quarter of it fills 4 x 8 of the input
    expected = (BOXES[[1, 0]] * 4).clip(0, (16, 32, 16, 32))
    np.testing.assert_allclose([region.box for region in tall.regions], expected, rtol=1e-6)
    entry = contract.Input("pixels", 8, 16, "letterbox", (0.5, 0.25, 0.125), (0.5, 0.5, 0.25), "bgr")
    white = np.full((32, 16, 3), (255, 255, 0), np.uint8)
    from wenlan_jax.prepare.regions import onnx_detector

    filled = onnx_detector.prepare(white, entry)
    np.testing.assert_allclose(filled[:, 0, 0], ((0 - 0.5) / 0.5, 1.5, 3.5))
    assert (filled[:, :, :4] != 0).all() and not filled[:, :, 4:].any()


def test_processes_with_a_detector_each_give_what_one_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    monkeypatch.setattr(job, "UNIT_RECORDS", 2)
    _write(tmp_path)
    _run(tmp_path, packed, out="one")
    report = _run(tmp_path, packed, "--workers=2", "--threads=1", out="two")
    assert read_records(tmp_path / "one") == read_records(tmp_path / "two")
    assert (report.found, report.faulty, report.counts["box_kept"]) == (4, 1, 12)


def test_suppression_and_threshold_of_contract_and_command(tmp_path: Path, packed: Path) -> None:
    _write(tmp_path, nms=0.5, threshold=0.65)
    assert _run(tmp_path, packed).counts["box_kept"] == 4
    assert _run(tmp_path, packed, "--threshold=0.1").counts["box_kept"] == 8
    assert _run(tmp_path, packed, "--threshold=0.1", "--nms=1").counts["box_kept"] == 12
    assert _run(tmp_path, packed, "--threshold=0.65", "--min-boxes=3").counts["box_kept"] == 8
    assert _run(tmp_path, packed, "--max-boxes=1", "--min-boxes=0").counts["box_kept"] == 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input": {"name": "image"}}, "has no input 'image'; it has pixels"),
        ({"outputs": {"boxes": "bbox", "classes": "probabilities"}}, "no output 'bbox' for boxes"),
        ({"outputs": {"boxes": "probabilities", "classes": "probabilities"}}, r"boxes .*\(1, 4, 3\).*\(1, 4, 4\)"),
        ({"outputs": {"boxes": "boxes"}}, "outputs must name scores, classes or both"),
        ({"background": None}, r"classes .*\(1, 4, 3\).*\(1, 4, 2\)"),
        ({"background": 3}, "background is column 3 of 3"),
        ({"input": {"height": 9}}, "failed on a batch"),
        ({"input": {"height": "9"}}, "input.height is '9', not of type int"),
        ({"input": {"std": [1, 1, 0]}}, "input.std"),
        ({"input": {"resize": "crop"}}, "input.resize is 'crop', not one of stretch, letterbox"),
        ({"box_format": "yxyx"}, "box_format"),
        ({"nms": 2}, "nms is 2"),
        ({"classes": []}, "classes is unknown; fields are input, outputs"),
        ({"class_names": []}, "class_names must say"),
        ({"input": []}, "input"),
    ],
)
def test_a_contract_that_is_not_kept_is_told(
    changes: dict[str, Any], told: str, tmp_path: Path, make_record: Callable[..., Record]
) -> None:
    _graph(tmp_path / "toy.onnx")
    content = _contract(**changes) if changes.get("input") != [] else {**_contract(), **changes}
    (tmp_path / "toy.json").write_text(json.dumps(content))
    supplied = UserDetector(tmp_path / "toy.onnx", "onnx")
    detector._opened.cache_clear()
    with pytest.raises(DetectorError, match=told):
        supplied.check()
        supplied.find_all([make_record("a", 20, 20, 0)])


def test_a_store_needs_its_format(tmp_path: Path, packed: Path) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(job.RegionJobError, match="--stored needs --format"):
        command.run(parser.parse_args([str(packed), f"--out={tmp_path / 'out'}", "--stored=x.tsv"]), [])
    with pytest.raises(job.RegionJobError, match="is also the source"):
        command.run(
            parser.parse_args([str(packed), f"--out={tmp_path / 'packed'}", "--stored=x", "--format=brivl_npz"]), []
        )
    with pytest.raises(SystemExit):
        parser.parse_args([str(packed), "--out=out"])
    parser.format_help()  # descriptions with a stray % or brace fail here


def test_missing_and_damaged_detectors_are_told(tmp_path: Path, packed: Path) -> None:
    with unchecked(), pytest.raises(DetectorError, match="no such detector"):
        _run(tmp_path, packed)
    _write(tmp_path)
    with pytest.raises(SystemExit):
        _run(tmp_path, packed, "--batch-size=0")
    (tmp_path / "toy.onnx").write_bytes(b"nothing")
    with pytest.raises(DetectorError, match="not an ONNX file"):
        _run(tmp_path, packed)
    (tmp_path / "toy.json").write_text("{")
    with unchecked(), pytest.raises(DetectorError, match=r"toy\.json: not JSON"):
        _run(tmp_path, packed)
    (tmp_path / "toy.json").unlink()
    with unchecked(), pytest.raises(DetectorError, match=r"toy\.json: cannot be read"):
        _run(tmp_path, packed)
    assert not (tmp_path / "out").exists()


def test_the_example_of_the_documentation_is_a_contract(tmp_path: Path) -> None:
    text = contract.__doc__ or ""
    (tmp_path / "model.json").write_text(text[text.index("{") : text.rindex("}") + 1])
    assert contract.read(tmp_path / "model.onnx").class_names == ("person", "dog")
