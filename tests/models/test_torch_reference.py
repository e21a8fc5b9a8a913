"""The PyTorch reference against the official code: four training steps, queues, frozen layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from official_brivl import arrays, facts

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import BertConfig

from wenlan_jax.convert.reference.torch_brivl import Batch, BriVL, BriVLSizes

FROZEN = (
    r"imgencoder\.backbone\.(conv_stem|bn1|blocks\.[012]|conv_head|bn2|classifier)\.",
    r"textencoder\.backbone\.bert\.(embeddings|pooler|encoder\.layer\.[0-7]\.)",
)


def model(config: dict[str, Any], sizes: Any, freeze_batch_norm: bool) -> BriVL:
    text = BertConfig(**config["text"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    reference = BriVL(
        BriVLSizes(
            stem_width=sizes.stem_width,
            stages=sizes.stages,
            head_width=sizes.head_width,
            image_size=config["image_size"],
            text=text,
            mask_text_backbone=False,
            encoder_layers=4,
            encoder_heads=4,
            encoder_mlp_width=2048,
            dropout=0.0,
            queue_size=config["queue_size"],
            momentum=config["momentum"],
            temperature=config["temperature"],
            frozen=FROZEN,
            freeze_batch_norm=freeze_batch_norm,
        )
    )
    weights = {key: torch.tensor(value) for key, value in arrays("weights").items()}
    missing, unexpected = reference.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("_mom." in key or "classifier" in key for key in missing)
    reference.synchronize()
    return reference.train()


@pytest.fixture
def config() -> dict[str, Any]:
    return facts()


def training_batch(data: dict[str, np.ndarray]) -> Batch:
    fields = [torch.tensor(data[name]) for name in ("images", "ids", "tmask", "boxes", "imask")]
    return Batch(fields[0], fields[1], fields[2] == 1, fields[3], fields[4] == 1)


def test_four_steps_equal_the_official_code(config: dict[str, Any], fixture_sizes: Any):
    reference, data = model(config, fixture_sizes, freeze_batch_norm=False), arrays("training")
    trained = {name: p for name, p in reference.named_parameters() if p.requires_grad}
    assert set(trained) == set(config["trainable"])
    reference.image_queue.copy_(torch.tensor(data["image_queue_0"]))
    reference.text_queue.copy_(torch.tensor(data["text_queue_0"]))
    optimizer, batch = torch.optim.SGD(trained.values(), lr=0.05), training_batch(data)
    losses = []
    for step in range(4):
        losses.append(reference.training_step(batch, optimizer))
        if step == 0:
            norms = {name: float(p.grad.norm()) for name, p in trained.items()}
            for name, norm in config["gradient_norms_step_0"].items():
                np.testing.assert_allclose(norms[name], norm, rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(losses, data["losses"], rtol=1e-4)
    np.testing.assert_allclose(reference.image_queue, data["image_queue_4"], atol=1e-4)
    np.testing.assert_allclose(reference.text_queue, data["text_queue_4"], atol=1e-4)


def test_frozen_batch_norm_keeps_its_statistics_and_the_trained_ones_move(config: dict[str, Any], fixture_sizes: Any):
    reference = model(config, fixture_sizes, freeze_batch_norm=True)
    before = {name: value.clone() for name, value in reference.state_dict().items() if "running_" in name}
    reference(training_batch(arrays("training")))
    for name, value in reference.state_dict().items():
        if "running_" in name:
            frozen = any(part in name for part in (".backbone.bn", "blocks.0", "blocks.1.", "blocks.2."))
            assert torch.equal(value, before[name]) == frozen, name
