"""Detectors as transformers directories: what the job writes is what transformers gives, image by image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from wenlan_jax.data import images
from wenlan_jax.data.records import Record
from wenlan_jax.prepare.regions import detector, job
from wenlan_jax.prepare.regions.contract import DetectorError
from wenlan_jax.prepare.regions.detector import UserDetector

LABELS = {0: "cat", 1: "dog", 2: "tree"}


def _yolos(place: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[32, 48],
        patch_size=16,
        num_detection_tokens=7,
        id2label=LABELS,
        initializer_range=0.5,
    )
    transformers.YolosForObjectDetection(config).save_pretrained(place)
    from transformers.models.yolos import image_processing_pil_yolos as processing

    size = {"shortest_edge": 32, "longest_edge": 48}
    processing.YolosImageProcessorPil(size=size).save_pretrained(place)
    return place


def _detr(place: Path) -> Path:
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=24,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=7,
        id2label=LABELS,
        init_std=0.5,
    )
    transformers.DetrForObjectDetection(config).save_pretrained(place)
    from transformers.models.detr import image_processing_pil_detr as processing

    processing.DetrImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 48}).save_pretrained(place)
    return place


@pytest.fixture(scope="module", params=[_yolos, _detr])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = request.param(tmp_path_factory.mktemp("detector") / "model")
    return made


@pytest.fixture
def packed(
    tmp_path: Path, make_record: Callable[..., Record], pack_records: Callable[[Path, list[Record]], Path]
) -> Path:
    sizes = [(60, 40), (40, 60), (60, 40), (50, 50), (3, 60)]
    return pack_records(tmp_path / "packed", [make_record(f"{n}.png", *size, n) for n, size in enumerate(sizes)])


def _directly(directory: Path, record: Record) -> dict[str, np.ndarray]:
    """One image through transformers alone."""
    processor = transformers.AutoImageProcessor.from_pretrained(str(directory))
    model = transformers.AutoModelForObjectDetection.from_pretrained(str(directory)).eval()
    entry = processor(images=images.decode(record.image), input_data_format="channels_last", return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=entry["pixel_values"])
    sizes = torch.tensor([[record.height, record.width]])
    found = processor.post_process_object_detection(output, threshold=0.0, target_sizes=sizes)[0]
    return {
        "boxes": found["boxes"].numpy(),
        "scores": found["scores"].numpy(),
        "labels": found["labels"].numpy(),
        "classes": torch.softmax(output.logits[0], -1).numpy(),
        "features": output.last_hidden_state[0, -7:].numpy(),
    }


def test_a_directory_gives_what_transformers_gives(
    directory: Path, tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    supplied = UserDetector(directory, "transformers", threshold=0.0, batch_size=4)
    report = job.run(packed, tmp_path / "out", supplied, workers=0)
    refused = int(report.arrays["features"].endswith("yolos"))  # whose processor cannot shrink 3 x 60 pixels
    assert (report.found, report.faulty) == (5 - refused, refused)
    assert (report.features, report.classes) == ({"24": 5 - refused}, {"4": 5 - refused})
    assert report.arrays["features"].startswith("last_hidden_state of the queries of ")
    assert ("refuses 3 x 60 pixels" in (tmp_path / "out" / job.FAULTS_NAME).read_text()) == refused
    for record in read_records(tmp_path / "out")[: 5 - refused]:
        expected = _directly(directory, record)
        size = (record.width, record.height) * 2
        boxes = expected["boxes"].clip(0, size)
        solid = (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
        order = np.argsort(-expected["scores"], kind="stable")
        order = order[solid[order]]
        assert len(order) == len(record.regions) > 0
        np.testing.assert_allclose([region.box for region in record.regions], boxes[order], atol=1e-3)
        np.testing.assert_allclose([region.score for region in record.regions], expected["scores"][order], atol=1e-5)
        assert [region.label for region in record.regions] == [LABELS[label] for label in expected["labels"][order]]
        np.testing.assert_allclose(record.region_features, expected["features"][order], atol=2e-3, rtol=2e-3)
        background_first = np.roll(expected["classes"], 1, axis=1)[order]
        np.testing.assert_allclose(record.region_classes, background_first, atol=1e-3)


def test_directories_of_something_else_are_told(directory: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    detector._opened.cache_clear()
    with pytest.raises(DetectorError, match=r"empty: has no config\.json"):
        UserDetector(empty, "transformers").check()
    (empty / "config.json").write_text((directory / "config.json").read_text())
    with pytest.raises(DetectorError, match="empty: not an object-detection model with its image processor"):
        UserDetector(empty, "transformers").check()


def test_independent_logits_are_told_from_those_with_a_background(
    directory: Path, make_record: Callable[..., Record]
) -> None:
    detector._opened.cache_clear()
    supplied = UserDetector(directory, "transformers")
    record = make_record("a", 60, 40, 0)
    opened = detector._opened(directory, "transformers", 0, None)
    opened._names = [*LABELS.values(), "sea"]  # as many labels as logits: none is the background
    found = supplied.find_all([record])[0]
    model = transformers.AutoModelForObjectDetection.from_pretrained(str(directory)).eval()
    entry = opened._prepared(images.decode(record.image))
    with torch.no_grad():
        logits = model(pixel_values=entry).logits[0]
    np.testing.assert_allclose(found.scores, torch.sigmoid(logits).amax(-1).numpy(), atol=1e-5)
    assert found.classes.shape == (7, 5)
    detector._opened.cache_clear()
