"""What the PyTorch reference needs to take the same step: a check of the configuration, weights, sizes, batch; and our
side of the comparison."""

from __future__ import annotations

import importlib.util
from typing import Any

import jax
import numpy as np

from wenlan_jax.bench.torch_worker import StepJob, TorchError
from wenlan_jax.convert.bert import bert_description
from wenlan_jax.convert.brivl import OFFICIAL_BACKBONE, brivl_table, with_batch_counters
from wenlan_jax.convert.rules import to_torch
from wenlan_jax.core.state import TrainState
from wenlan_jax.models.efficientnet import EfficientNet
from wenlan_jax.models.regions import grid_boxes
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.two_tower import towers


def require(option: str = "--against=torch") -> None:
    """Checks that PyTorch and transformers are installed.

    Args:
        option: what needs them, for the message.

    Raises:
        TorchError: names what is missing and how to install it.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise TorchError(f"{option} needs {' and '.join(missing)}; install the extra: pip install 'wenlan_jax[torch]'")


def check(config: experiment.Config) -> None:
    """Checks that the PyTorch reference can follow a configuration.

    Args:
        config: the configuration.

    Raises:
        TorchError: names the fields that it cannot follow.
    """
    image, contrast = config.model.image, config.contrast
    faults = [
        fault
        for holds, fault in (
            (image.architecture == OFFICIAL_BACKBONE, f"model.image.architecture must be {OFFICIAL_BACKBONE!r}"),
            (config.model.dtype == "float32", "model.dtype must be 'float32'"),
            (config.train.accumulation == 1, "train.accumulation must be 1"),
            (image.batch_norm.mode != "frozen", "model.image.batch_norm.mode must not be 'frozen'"),
            (
                image.batch_norm.mode == "batch" or image.batch_norm.group_size == config.train.batch_size,
                "model.image.batch_norm.group_size must be the batch size",
            ),
            (image.regions.kind == "grid", "model.image.regions.kind must be 'grid'"),
            (image.regions.coordinates == "official", "model.image.regions.coordinates must be 'official'"),
            (
                image.regions.project and image.regions.whole_image,
                "regions.project and .whole_image must be on",
            ),
            (image.encoder == config.model.text.encoder, "both encoders must be alike"),
            (config.model.embedding == _map_width(config), "model.embedding must be the backbone's width"),
            (not config.model.freeze, "model.freeze must be empty"),
            (contrast.bank_size % config.train.batch_size == 0, "the batch must divide contrast.bank_size"),
            (contrast.bank_start == "random", "contrast.bank_start must be 'random'"),
            (
                not (contrast.in_batch_negatives or contrast.mask_false_negatives or contrast.multi_label_top_k),
                "in_batch_negatives, mask_false_negatives and multi_label_top_k must be off",
            ),
            (config.optimizer.name == "adam", "optimizer.name must be 'adam'"),
        )
        if not holds
    ]
    if faults:
        raise TorchError("the PyTorch reference does not cover this configuration:\n  " + "\n  ".join(faults))


def _map_width(config: experiment.Config) -> int:
    return towers.image_backbone(config.model).channels


def job(config: experiment.Config, state: TrainState, batch: dict[str, np.ndarray]) -> StepJob:
    """Makes what the reference is started with. Images are normalised beforehand, which spares PyTorch that work.

    Args:
        config: the configuration.
        state: gives the weights.
        batch: gives the pairs.

    Returns:
        Sizes, weights, batch and options.
    """
    tree = {
        "image": {"params": state.params["image"], "batch_stats": state.batch_stats["image"]},
        "text": {"params": state.params["text"]},
    }
    return StepJob(
        sizes=_sizes(config),
        bert=bert_description(config.model.text.bert),
        weights=with_batch_counters(to_torch(jax.tree.map(np.asarray, tree), brivl_table())),
        batch=_batch(config, batch),
        learning_rate=config.optimizer.learning_rate,
        weight_decay=config.optimizer.weight_decay,
    )


def _batch(config: experiment.Config, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    scaled = batch["image"].astype(np.float32) / 255
    mean, std = (np.asarray(channels, np.float32) for channels in (config.augment.mean, config.augment.std))
    images = (scaled - mean) / std
    regions, size = config.model.image.regions, len(images)
    boxes = np.asarray(grid_boxes(regions.grid, regions.whole_image), np.float32) * config.data.image_size
    return {
        "images": np.ascontiguousarray(images.transpose(0, 3, 1, 2)),
        "ids": batch["token_ids"].astype(np.int64),
        "token_mask": batch["token_mask"],
        "boxes": np.tile(boxes, (size, 1, 1)),
        "box_mask": np.ones((size, len(boxes)), bool),
    }


def _sizes(config: experiment.Config) -> dict[str, Any]:
    backbone, encoder = towers.image_backbone(config.model), config.model.text.encoder
    assert isinstance(backbone, EfficientNet), "`check` lets no other through"
    return {
        "stem_width": backbone.stem_width,
        "stages": tuple(tuple(stage) for stage in backbone.stages),
        "head_width": backbone.head_width,
        "image_size": config.data.image_size,
        "mask_text_backbone": config.model.text.bert.attention_mask,
        "encoder_layers": encoder.layers,
        "encoder_heads": encoder.heads,
        "encoder_mlp_width": encoder.feed_forward,
        "dropout": encoder.dropout,
        "queue_size": config.contrast.bank_size,
        "momentum": config.contrast.momentum,
        "temperature": config.contrast.temperature,
        "frozen": (),
        "freeze_batch_norm": False,
    }


def said(current: Run, state: TrainState, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Computes the embeddings of the batch in evaluation mode."""
    both = towers.Towers(current.config, current.mesh)

    def embed(params: Any, stats: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        image = both.image_embeddings(params, stats, batch)
        return {"image": image, "text": both.text_embeddings(params, stats, batch)}

    found: dict[str, jax.Array] = jax.jit(embed)(state.params, state.batch_stats, batch)
    return found
