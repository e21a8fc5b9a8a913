"""The example of an export, run as its users run it: on image files and raw texts, in a process without our package.

What it makes of them is held against what the training makes of them, and its embeddings of the fixed batch against
those that the artefact has been proven with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wenlan_jax.convert import example, parity, sample_inputs
from wenlan_jax.convert.exported_model import ExportedModel, ExportError
from wenlan_jax.tasks import experiment

MEAN_LEVELS, MOST_LEVELS = 0.5, 4.0
"""Of 255: how far images may be from the training's on average and at most. Two decoders, and two resizings in whole
numbers, round apart; another orientation, cut, scale or order of channels is far beyond."""

PROGRAM = Path(__file__).with_name("run_example.py")


def check(model: ExportedModel, folder: Path, batch: parity.FixedBatch, proven: parity.Embeddings) -> dict[str, Any]:
    """Runs the example of an export and compares it with the training.

    Args:
        model: what is exported.
        folder: the export.
        batch: the fixed batch.
        proven: the embeddings of the batch that the artefact has been proven with.

    Returns:
        Figures for the report.

    Raises:
        ExportError: if it cannot be run, or if ids, images or embeddings are not those of the training.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = sample_inputs.write_images(Path(scratch), model.config.data.image_size)
        found = _run(folder, Path(scratch), files, _inputs_of(batch, model.config))
        wanted = sample_inputs.prepared(model.config, model.words, files)
    _check_texts(found, wanted)
    apart = np.abs(sample_inputs.levels(found["pixel_values"], model.config) - wanted.square)
    _check_images(apart, [file.name for file in files])
    _check_embeddings(found, proven)
    return {"files": len(files), "texts": len(wanted.ids), "largest_level_difference": float(apart.max())}


def _inputs_of(batch: parity.FixedBatch, config: experiment.Config) -> dict[str, np.ndarray]:
    """The fixed batch as what `embed` of an example takes."""
    mean, std = (np.asarray(values, np.float32) for values in (config.augment.mean, config.augment.std))
    pixels = (batch.image.astype(np.float32) / np.float32(255) - mean) / std
    inputs = {
        "pixel_values": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)),
        "input_ids": batch.token_ids.astype(np.int64),
        "attention_mask": batch.token_mask.astype(np.int64),
    }
    if batch.boxes is not None and batch.box_mask is not None:
        inputs |= {"boxes": batch.boxes, "box_mask": batch.box_mask.astype(np.int64)}
    return inputs


def _run(folder: Path, scratch: Path, files: list[Path], batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What the example's functions give: `inputs` of files and texts, and `embed` of the batch."""
    # Older versions of transformers make a Python package of the folder's name, which must not have dots.
    (scratch / "export").symlink_to(folder.resolve(), target_is_directory=True)
    np.savez(scratch / "batch.npz", **batch)
    job = {"files": [str(file) for file in files], "texts": sample_inputs.TEXTS}
    (scratch / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-P", str(PROGRAM), str(scratch / "export"), str(scratch)]
    offline = {"HF_MODULES_CACHE": str(scratch / "modules"), "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise ExportError(f"{example.FILE} of the exported folder cannot be run:\n{finished.stderr.strip()}")
    with np.load(scratch / "result.npz") as result:
        return dict(result)


def _check_texts(found: Mapping[str, np.ndarray], wanted: sample_inputs.SampleInputs) -> None:
    for name, ours in (("input_ids", wanted.ids), ("attention_mask", wanted.mask)):
        theirs = found[name]
        if theirs.shape != ours.shape:
            raise ExportError(f"{example.FILE} gives {name} of shape {theirs.shape}, and the training {ours.shape}")
        wrong = np.flatnonzero((theirs != ours).any(axis=1))
        if len(wrong):
            first = wrong[0]
            raise ExportError(
                f"{example.FILE} reads {len(wrong)} of {len(ours)} texts unlike the training; {name} of "
                f"{sample_inputs.TEXTS[first][:40]!r} are {theirs[first].tolist()}, "
                f"not {ours[first].astype(int).tolist()}"
            )


def _check_images(apart: np.ndarray, names: list[str]) -> None:
    for name, differences in zip(names, apart, strict=True):
        mean, most = float(differences.mean()), float(differences.max())
        if not (mean <= MEAN_LEVELS and most <= MOST_LEVELS):  # written so that NaN fails
            raise ExportError(
                f"{example.FILE} reads images unlike the training: {name} differs by {mean:.2f} of 255 levels on "
                f"average and {most:.0f} at most; {MEAN_LEVELS} and {MOST_LEVELS:.0f} are allowed"
            )


def _check_embeddings(found: Mapping[str, np.ndarray], proven: parity.Embeddings) -> None:
    for name, embeddings in proven._asdict().items():
        apart = float(np.abs(found[name] - embeddings).max())
        if not apart <= parity.TOLERANCES["float32"]:
            raise ExportError(f"{example.FILE} embeds a {name} unlike the exported tower: they differ by {apart:.2e}")
