"""The PyTorch reference with a run's own weights and batch, for a comparison in one process (extra `[torch]`)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from wenlan_jax import schema
from wenlan_jax.convert.brivl import brivl_table, with_batch_counters
from wenlan_jax.convert.rules import to_torch
from wenlan_jax.models.regions import grid_boxes
from wenlan_jax.state import TrainState
from wenlan_jax.tasks import towers

if TYPE_CHECKING:
    from wenlan_jax.reference import torch_brivl


class TorchError(RuntimeError):
    """PyTorch is not installed, or the configuration has what the reference lacks."""


def load_reference() -> Any:
    """The module of the reference. Raises TorchError with the remedy where PyTorch is missing."""
    try:
        from wenlan_jax.reference import torch_brivl
    except ImportError as error:
        raise TorchError(f"--against=torch: {error}; install the extra: pip install 'wenlan_jax[torch]'") from error
    return torch_brivl


def check(config: schema.Config) -> None:
    """Raises TorchError naming the fields that the reference cannot follow."""
    image, contrast = config.model.image, config.contrast
    faults = [
        fault
        for holds, fault in (
            (config.task == "brivl", "task must be 'brivl'"),
            (config.model.dtype == "float32", "model.dtype must be 'float32'"),
            (config.train.accumulation == 1, "train.accumulation must be 1"),
            (image.batch_norm.mode != "frozen", "model.image.batch_norm.mode must not be 'frozen'"),
            (
                image.batch_norm.mode == "batch" or image.batch_norm.group_size == config.train.batch_size,
                "model.image.batch_norm.group_size must be the batch size",
            ),
            (image.regions.kind == "grid", "model.image.regions.kind must be 'grid'"),
            (image.regions.coordinates == "official", "model.image.regions.coordinates must be 'official'"),
            (image.regions.project and image.regions.whole_image, "regions.project and .whole_image must be on"),
            (image.encoder == config.model.text.encoder, "both encoders must be alike"),
            (config.model.embedding == _head_width(config), "model.embedding must be the backbone's width"),
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


def _head_width(config: schema.Config) -> int:
    return towers.image_tower(config.model).backbone.head_width


class TorchStep:
    """The reference's training step on the same weights, batch and number of threads."""

    def __init__(self, config: schema.Config, state: TrainState, batch: dict[str, np.ndarray]) -> None:
        reference = load_reference()
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
        self.torch = torch
        self.model = reference.BriVL(_sizes(reference, config)).train()
        tree = {
            "image": {"params": state.params["image"], "batch_stats": state.batch_stats["image"]},
            "text": {"params": state.params["text"]},
        }
        flat = with_batch_counters(to_torch(jax.tree.map(np.asarray, tree), brivl_table()))
        missing, unexpected = self.model.load_state_dict(
            {name: torch.from_numpy(np.array(value)) for name, value in flat.items()}, strict=False
        )
        strangers = [name for name in missing if not any(part in name for part in ("_mom.", ".pooler.", ".classifier."))]
        if strangers or unexpected:
            raise TorchError(f"weights do not fit the reference: {strangers[:3]} missing, {unexpected[:3]} unknown")
        self.model.synchronize()
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.optimizer.learning_rate, weight_decay=config.optimizer.weight_decay
        )
        self.batch = self._batch(reference, config, batch)

    def _batch(self, reference: Any, config: schema.Config, batch: dict[str, np.ndarray]) -> torch_brivl.Batch:
        """The same pairs; pictures are normalised beforehand and not jittered, which spares PyTorch that work."""
        scaled = batch["image"].astype(np.float32) / 255
        images = (scaled - np.float32(config.augment.mean)) / np.float32(config.augment.std)
        regions, size = config.model.image.regions, len(images)
        boxes = np.asarray(grid_boxes(regions.grid, regions.whole_image), np.float32) * config.data.image_size
        tensor = self.torch.from_numpy
        return reference.Batch(
            tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
            tensor(batch["token_ids"].astype(np.int64)),
            tensor(batch["token_mask"]),
            tensor(np.tile(boxes, (size, 1, 1))),
            tensor(np.ones((size, len(boxes)), bool)),
        )

    def __call__(self) -> float:
        """One training step; returns its loss."""
        return float(self.model.training_step(self.batch, self.optimizer))

    def embeddings(self) -> dict[str, np.ndarray]:
        """Embeddings of the batch in evaluation mode."""
        self.model.eval()
        with self.torch.no_grad():
            image, text = self.model.embed(self.batch)
        self.model.train()
        return {"image": image.numpy(), "text": text.numpy()}


def _sizes(reference: Any, config: schema.Config) -> Any:
    from transformers import BertConfig

    backbone, bert, encoder = towers.image_tower(config.model).backbone, config.model.text.bert, config.model.text.encoder
    return reference.BriVLSizes(
        stem_width=backbone.stem_width,
        stages=tuple(tuple(stage) for stage in backbone.stages),
        head_width=backbone.head_width,
        image_size=config.data.image_size,
        text=BertConfig(
            vocab_size=bert.vocab_size,
            hidden_size=bert.width,
            num_hidden_layers=bert.layers,
            num_attention_heads=bert.heads,
            intermediate_size=bert.feed_forward,
            max_position_embeddings=bert.positions,
            type_vocab_size=bert.types,
            hidden_dropout_prob=bert.dropout,
            attention_probs_dropout_prob=bert.dropout,
            layer_norm_eps=bert.eps,
        ),
        mask_text_backbone=bert.attention_mask,
        encoder_layers=encoder.layers,
        encoder_heads=encoder.heads,
        encoder_mlp_width=encoder.feed_forward,
        dropout=encoder.dropout,
        queue_size=config.contrast.bank_size,
        momentum=config.contrast.momentum,
        temperature=config.contrast.temperature,
        frozen=(),
        freeze_batch_norm=False,
    )
