"""Checkpoints of tiny models as training leaves them, without training: random weights do for what commands do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections
from wenlan_jax.tasks import experiment
from wenlan_jax.training import setup
from wenlan_jax.training import tokenizer as run_tokenizer

EIGHT: dict[str, Any] = {"mesh__data": 8, "tokenizer__train_size": 1000}
"""Changes to the tiny configuration: the devices of the tests, and a vocabulary of the scenes' own."""

TWO_TOWERS: dict[str, Any] = {**EIGHT, "model__text__bert__vocab_size": 0}

SINGLE: dict[str, Any] = {
    **EIGHT,
    "task": "mlmm",
    "model__freeze": (),
    "single__vocab_size": 0,
    "single__positions": 12,
    "single__position_offset": 0,
    "single__width": 16,
    "single__layers": 1,
    "single__heads": 2,
    "single__feed_forward": 16,
    "single__regions__features": "pixels",
    "single__regions__crop": 2,
    "single__regions__width": 12,
    "single__regions__limit": 4,
    "single__regions__classes": 0,
    "pretrain__objectives": ("itm", "mlm"),
    "pretrain__weights": (1.0, 1.0),
    "pretrain__masked_words": 4,
    "pretrain__text_buckets": (12,),
    "pretrain__region_buckets": (4,),
}
"""Changes to the tiny configuration: a single tower that takes the pixels of the boxes in the records."""


def save(config: experiment.Config, workdir: Path) -> Path:
    """A checkpoint of a fresh state in `workdir`, made if absent, with a tokenizer trained on the texts."""
    if workdir.exists():
        return workdir
    workdir.mkdir(parents=True)
    tokenizer = run_tokenizer.prepare(config, workdir)
    current = setup.set_up(setup.with_vocabulary(config, tokenizer))
    with store.Checkpoints(workdir / "checkpoints", sections.CheckpointConfig()) as checkpoints:
        checkpoints.save(1, setup.fresh_state(current), current.config, tokenizer.fingerprint)
        checkpoints.wait()
    return workdir
