"""One configuration of real size, loops over layers and blocks included, goes through the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from repository import CONFIGS

CONFIG = CONFIGS / "brivl_2_released.py"
FIELDS = (
    "data.source=wenlan_scenes/tiny",
    "data.image_size=64",
    "train.batch_size=2",
    "train.steps=2",
    "train.log_every=1",
    "contrast.bank_size=8",
    "optimizer.name=sgd",  # without moments it fits beside other tests
    "contrast.bank_start=random",  # so that the first step has negatives
    "model.image.batch_norm.group_size=2",
    "model.dtype=float32",  # bfloat16 is emulated on most CPUs
    "model.random_frozen=true",
    "model.text.bert.vocab_size=0",
    "tokenizer.train_size=1000",
    "eval.final_splits=()",
    "checkpoint.keep=1",
)


@pytest.mark.slow
@pytest.mark.real_configuration
def test_the_released_configuration_trains(tmp_path: Path) -> None:
    """271 million parameters, small images and batches: what a version of JAX changes about loops shows here."""
    fields = [f"--config.{field}" for field in (*FIELDS, f"data.dir={tmp_path / 'data'}")]
    command = [sys.executable, "-m", "wenlan_jax.cli", "train", f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(
        [*command, *fields], env={**os.environ, "XLA_FLAGS": ""}, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # gigabytes
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert np.isfinite(line["train/loss"]) and line["train/grad_norm"] > 0
        assert line["train/model_flops_per_second"] > 0, "the loops were not counted"
