"""The whole road once: a detector trained on scenes, exported to ONNX, run by the command, its regions read back."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone names it
from torch import nn

from wenlan_jax.commands import regions as command
from wenlan_jax.data import images, sources
from wenlan_jax.data.records import Record
from wenlan_jax.prepare import tfds_files
from wenlan_jax.prepare.regions import boxes, job
from wenlan_jax.synthetic import compose
from wenlan_jax.synthetic.world import CLOSE, SHAPES

SIDE, STRIDE, WIDTH, FOUND = 64, 4, 2048, 16
TRAIN, TEST, STEPS, BATCH = 1500, 300, 500, 16
SEED = 2021


class Detector(nn.Module):
    """Whether there is a thing and how far its sides are, for every cell; features and class of the best cells."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 48, 48, 48)
        strides = (2, 2, 1, 1, 1)
        self.body = nn.Sequential(
            *(
                layer
                for before, after, stride in zip(widths, widths[1:], strides, strict=False)
                for layer in (nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
            )
        )
        self.dense = nn.Conv2d(widths[-1], 5, 1)
        self.features = nn.Linear(widths[-1], WIDTH)
        self.classes = nn.Linear(WIDTH, len(SHAPES) + 1)  # the background comes first
        centres = torch.arange(SIDE // STRIDE) * STRIDE + STRIDE / 2
        grid = torch.cartesian_prod(centres, centres).flip(-1)
        self.register_buffer("centres", grid.float())

    def cells(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits `(batch, cells)`, boxes `(batch, cells, 4)` and hidden states of all cells."""
        hidden = self.body(pixels)
        dense = self.dense(hidden).flatten(2).transpose(1, 2)
        sides = 12 * F.softplus(dense[..., 1:] + 0.5413)
        found = torch.cat([self.centres - sides[..., :2], self.centres + sides[..., 2:]], -1)
        return dense[..., 0], found, hidden.flatten(2).transpose(1, 2)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits, found, hidden = self.cells(pixels)
        scores, best = logits.topk(FOUND, dim=1)
        states = F.relu(self.features(hidden.gather(1, best[..., None].expand(-1, -1, hidden.shape[2]))))
        chosen = found.gather(1, best[..., None].expand(-1, -1, 4))
        return chosen, scores.sigmoid(), self.classes(states).softmax(-1), states


def _pixels(records: Sequence[Record]) -> torch.Tensor:
    decoded = np.stack([images.decode(record.image) for record in records])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).float() / 255 - 0.5


def _targets(records: Sequence[Record], centres: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """For every cell the class, 0 for none, and the box of the thing that the cell is in the middle of."""
    labels = np.zeros((len(records), len(centres)), np.int64)
    given = np.zeros((len(records), len(centres), 4), np.float32)
    for row, record in enumerate(records):
        for region in record.regions:
            box = np.array(region.box)
            middle, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
            inside = (np.abs(centres - middle) <= np.maximum(0.25 * size, STRIDE / 2)).all(axis=1)
            labels[row, inside] = SHAPES.index(region.label) + 1
            given[row, inside] = box
    return torch.from_numpy(labels), torch.from_numpy(given)


def _overlap(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    shared = (torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])).clamp(0).prod(1)
    areas = (one[:, 2:] - one[:, :2]).prod(1) + (other[:, 2:] - other[:, :2]).prod(1)
    return shared / (areas - shared)


def _loss(model: Detector, pixels: torch.Tensor, labels: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    logits, found, hidden = model.cells(pixels)
    things = labels > 0
    present = F.binary_cross_entropy_with_logits(logits, things.float(), pos_weight=torch.tensor(3.0))
    placed = 1 - _overlap(found[things], given[things]).mean()
    named = things | (torch.rand(things.shape) < 0.05)
    classes = model.classes(F.relu(model.features(hidden[named])))
    return present + placed + F.cross_entropy(classes, labels[named])


def _train(records: Sequence[Record]) -> Detector:
    torch.manual_seed(0)
    model = Detector()
    pixels = _pixels(records)
    labels, given = _targets(records, model.centres.numpy())
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, STEPS)
    order = torch.cat([torch.randperm(len(records)) for _ in range(STEPS * BATCH // len(records) + 1)])
    for step in range(STEPS):
        rows = order[step * BATCH : (step + 1) * BATCH]
        optimizer.zero_grad()
        _loss(model, pixels[rows], labels[rows], given[rows]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@contextlib.contextmanager
def _quiet_export() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        yield
        logging.disable(logging.NOTSET)


def _export(model: Detector, place: Path) -> None:
    names = ("boxes", "scores", "classes", "features")
    with _quiet_export():
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, SIDE, SIDE),),
            str(place),
            input_names=["pixels"],
            output_names=list(names),
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    content = {
        "input": {"name": "pixels", "height": SIDE, "width": SIDE, "mean": [0.5, 0.5, 0.5]},
        "outputs": {name: name for name in names},
        "class_names": list(SHAPES),
        "background": 0,
        "threshold": 0.5,
        "nms": 0.4,
    }
    place.with_suffix(".json").write_text(json.dumps(content))


def _scenes(split: str, count: int) -> list[Record]:
    return [compose.compose(SEED, split, index, SIDE, CLOSE) for index in range(count)]


@pytest.mark.slow
def test_a_trained_detector_finds_the_things_of_scenes(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.monotonic()
    model = _train(_scenes("train", TRAIN))
    print(f"trained in {time.monotonic() - started:.0f} s")
    torch.set_num_threads(threads)
    _export(model, tmp_path / "scenes.onnx")
    truth = _scenes("test", TEST)
    (tmp_path / "packed").mkdir()
    output = tfds_files.PartWriter(tmp_path / "packed", 0)
    for record in truth:
        output.add("test", record)
    tfds_files.assemble(tmp_path / "packed", [output.close()], "scenes")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    places = [str(tmp_path / "packed"), f"--out={tmp_path / 'out'}", f"--detector={tmp_path / 'scenes.onnx'}"]
    assert command.run(parser.parse_args([*places, "--min-boxes=0"]), []) == 0

    source = sources.TfdsSource(tmp_path / "out", "test", "out")
    found = [source[row] for row in range(len(source))]
    assert [record.id for record in found] == [record.id for record in truth]
    overlaps, right, extra = [], [], 0
    for given, got in zip(truth, found, strict=True):
        pairs = boxes.overlap(
            np.array([region.box for region in given.regions]),
            np.array([region.box for region in got.regions]).reshape(-1, 4),
        )
        extra += max(0, len(got.regions) - len(given.regions))
        overlaps.extend(pairs.max(axis=1, initial=0.0).tolist())
        right.extend(
            bool(row.size) and got.regions[int(row.argmax())].label == region.label
            for row, region in zip(pairs, given.regions, strict=True)
        )
        assert got.region_features is None or got.region_features.shape == (len(got.regions), WIDTH)
    print(
        f"{len(overlaps)} things: mean IoU {np.mean(overlaps):.3f}, above 0.5 {np.mean(np.array(overlaps) > 0.5):.3f}, "
        f"label right {np.mean(right):.3f}, extra boxes {extra}"
    )
    assert np.mean(overlaps) > 0.75  # measured 0.847, 1.000 and 0.934
    assert np.mean(np.array(overlaps) > 0.5) > 0.95
    assert np.mean(right) > 0.8

    with torch.inference_mode():  # the features in the record are those of the model at that box
        chosen, _, classes, states = (values[0].numpy() for values in model(_pixels(truth[:1])))
    best = found[0]
    assert best.region_features is not None and best.region_classes is not None
    row = int(boxes.overlap(np.array([best.regions[0].box]), chosen.clip(0, SIDE)).argmax())
    np.testing.assert_allclose(best.region_features[0], states[row], atol=5e-3, rtol=5e-3)
    np.testing.assert_allclose(best.region_classes[0], classes[row], atol=2e-3)
    report = json.loads((tmp_path / "out" / job.REPORT_NAME).read_text())["report"]
    assert report["features"] == {str(WIDTH): report["found"] - sum(not record.regions for record in found)}
