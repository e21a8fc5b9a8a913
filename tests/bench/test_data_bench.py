"""`wenlan bench --data`: its images, its sides, and that the figures are those of processes and their children."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from wenlan_jax.bench import data, data_images, data_sides, torch_loader
from wenlan_jax.data import images, sources, text
from wenlan_jax.tasks import experiment


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> data_sides.LoaderJob:
    folder = tmp_path_factory.mktemp("bench")
    data_images.write(folder / "small", 6, 60, 48, 0)
    data_images.write_vocabulary(folder / "vocab.txt")
    return data_sides.LoaderJob("ours", folder / "small", folder / "vocab.txt", 32, 4, 0, 2, 16, True, "fast", 0)


def test_both_forms_hold_the_same_images_and_captions(job: data_sides.LoaderJob) -> None:
    source = sources.open_source(str(job.folder / "records"), "train", job.folder)
    files = torch_loader.Files(job.folder / "files", 32, augment=False)
    assert len(source) == len(files) == 6
    for row in range(6):
        assert source[row].image == (job.folder / "files" / f"{row:06}.jpg").read_bytes()
        assert source[row].texts[0].text == files.captions[row]
        assert images.decode(source[row].image).shape == (48, 60, 3)


def test_the_other_loader_does_the_same_work(job: data_sides.LoaderJob) -> None:
    pytest.importorskip("torch")
    files = torch_loader.Files(job.folder / "files", 32, augment=False)
    words = text.load_tokenizer(job.vocabulary)
    collated, ids = torch_loader.collate([files[row] for row in range(6)], words, 16)
    assert collated.shape == (6, 3, 32, 32)
    for row in range(6):
        data = (job.folder / "files" / f"{row:06}.jpg").read_bytes()
        ours = images.resize(images.decode(data), 32, True)
        assert np.abs(collated[row].permute(1, 2, 0).numpy().astype(int) - ours).mean() < 4  # another filter
    assert np.array_equal(ids.numpy(), words.encode(files.captions, 16)[0])
    assert not (ids == 1).any()  # no unknown character


def test_an_image_costs_a_decoder_as_much_as_a_photograph() -> None:
    """Bits a pixel of photographs at this quality lie between 1.5 and 4."""
    pixels = data_images.image(468, 401, np.random.default_rng(0))
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, data_images.QUALITY])[1]
    assert 1.5 < 8 * data.nbytes / (468 * 401) < 4


def test_hue_turns_as_a_circle() -> None:
    red = Image.fromarray(np.full((2, 2, 3), (200, 0, 0), np.uint8))
    assert np.asarray(torch_loader.turn_hue(red, 1 / 3))[0, 0].tolist() == pytest.approx([0, 200, 0], abs=8)
    assert np.asarray(torch_loader.turn_hue(red, -1 / 3))[0, 0].tolist() == pytest.approx([0, 0, 200], abs=8)
    random = np.random.default_rng(0)
    changed = [torch_loader.jitter(red, random) != red for _ in range(200)]
    assert 0.7 < np.mean(changed) < 0.9


def test_usual_transforms_give_normalised_floats(job: data_sides.LoaderJob) -> None:
    pytest.importorskip("torch")
    image, _ = torch_loader.Files(job.folder / "files", 20, augment=True)[0]
    assert (image.dtype.is_floating_point, tuple(image.shape)) == (True, (3, 20, 20))
    grey = torch_loader.normalise(np.full((1, 1, 3), 124, np.uint8))
    assert np.allclose(grey, (124 / 255 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], atol=1e-6)


BURN = """
import subprocess, sys, time
def burn(seconds):
    while time.process_time() < seconds: pass
child = subprocess.Popen([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.4: pass\\ninput()"],
                         stdin=subprocess.PIPE)
burn(0.6)
print(flush=True)
input()
child.communicate(b"\\n")
"""


def test_cpu_seconds_are_those_of_a_process_and_its_children() -> None:
    process = subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    deadline = time.monotonic() + 10
    while (used := data_sides.cpu_seconds(process.pid)) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert 1 <= used < 1.6
    assert len(data_sides.family(process.pid)) == 2
    process.communicate(b"\n", timeout=20)


@pytest.mark.parametrize("kind", ["ours", "decoding alone", "decoding alone, memory kept"])
def test_a_side_takes_batches_and_ends(job: data_sides.LoaderJob, kind: data_sides.Kind) -> None:
    with data_sides.LoaderSide(dataclasses.replace(job, kind=kind)) as side:
        side.take(3)
        assert side.cpu_seconds_of(20) > 0
    assert side.process.exitcode == 0


def test_a_side_that_fails_says_why(job: data_sides.LoaderJob, tmp_path: Path) -> None:
    with (
        data_sides.LoaderSide(dataclasses.replace(job, folder=tmp_path)) as side,
        pytest.raises(data_sides.SideError, match="ours: SourceError: data set .* not found"),
    ):
        side.take(1)


def test_the_table_compares_round_by_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data, "SIZES", (16,))
    monkeypatch.setattr(data, "STORED", ((40, 30),))
    monkeypatch.setattr(data, "ROUNDS", 2)
    figures = data.run_data(experiment.parse(experiment.default()), 3, None, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == figures
    assert set(figures) == {
        "40x30/16/ours/records_per_cpu_second",
        "40x30/16/decoding alone/records_per_cpu_second",
        "40x30/16/decoding alone, memory kept/records_per_cpu_second",
        "40x30/16/ours over decoding alone",
        "40x30/16/ours over decoding alone, memory kept",
        "40x30/16/ours, not enlarged/records_per_cpu_second",
        "40x30/16/ours, not enlarged over decoding alone",
        "40x30/16/ours, not enlarged over decoding alone, memory kept",
    }
    assert "3 JPEGs of 40 x 30" in capsys.readouterr().out
    rates = {"ours": [10.0, 30.0, 60.0], "decoding alone": [20.0, 40.0, 80.0]}
    assert data._ratio(rates, "ours", "decoding alone") == 0.75  # type: ignore[arg-type]
    with pytest.raises(experiment.ConfigError, match="--data-records"):
        data.run_data(experiment.parse(experiment.default()), 0, None, None)
