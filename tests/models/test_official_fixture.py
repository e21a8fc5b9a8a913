"""The official code's own numbers on a tiny model: inference, first training loss and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from official_brivl import arrays, facts

from wenlan_jax.convert.brivl import brivl_table
from wenlan_jax.convert.rules import to_torch


@pytest.fixture
def config() -> dict[str, Any]:
    return facts()


@pytest.fixture
def towers(
    config: dict[str, Any],
    make_backbone: Callable,
    make_bert: Callable,
    make_image_tower: Callable,
    make_text_tower: Callable,
    load_towers: Callable,
    fixture_sizes: Any,
) -> tuple[Any, Any, dict[str, Any]]:
    """Both towers as the released code builds them, and their converted variables."""
    sizes, released = config["text"], {"depth": 4, "mlp_width": 2048}
    bert = make_bert(
        vocab_size=sizes["vocab_size"],
        width=sizes["hidden_size"],
        depth=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        mlp_width=sizes["intermediate_size"],
        max_positions=sizes["max_position_embeddings"],
    )
    backbone = make_backbone(**fixture_sizes._asdict())
    image = make_image_tower(backbone, encoder=released, grid=(), whole_image=False)
    text = make_text_tower(bert, encoder=released, width=config["feature_dim"], mask_backbone=False)
    weights = {key: np.float32(value) for key, value in arrays("weights").items()}
    return image, text, load_towers(weights, image, text, config["image_size"])


def image_arguments(data: dict[str, np.ndarray], side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return data["images"].transpose(0, 2, 3, 1), data["boxes"] / np.float32(side), data["imask"] == 1


def test_inference(towers: tuple[Any, Any, dict[str, Any]], config: dict[str, Any]):
    image, text, variables = towers
    data = arrays("inference")
    seen = jax.jit(lambda v, *a: image.apply(v, *a, train=False))(
        variables["image"], *image_arguments(data, config["image_size"])
    )
    read = jax.jit(lambda v, *a: text.apply(v, *a, train=False))(variables["text"], data["ids"], data["tmask"] == 1)
    scale = np.abs(data["fmap"]).max()
    np.testing.assert_allclose(seen.features, data["fmap"], atol=2e-5 * scale)
    np.testing.assert_allclose(seen.inputs, data["region_tokens"], atol=2e-5 * np.abs(data["region_tokens"]).max())
    np.testing.assert_allclose(seen.embedding, data["image_embedding"], atol=2e-5)
    np.testing.assert_allclose(read.inputs, data["bert_hidden"], atol=2e-5)
    np.testing.assert_allclose(read.embedding, data["text_embedding"], atol=2e-5)


@pytest.mark.slow
def test_first_loss_and_gradients(towers: tuple[Any, Any, dict[str, Any]], config: dict[str, Any]):
    image, text, variables = towers
    data = arrays("training")
    arguments = image_arguments(data, config["image_size"])

    def direction(queries: Any, keys: Any, bank: np.ndarray) -> Any:
        own = jnp.sum(queries * jax.lax.stop_gradient(keys), 1, keepdims=True)
        logits = jnp.concatenate([own, queries @ bank.T], 1) / config["temperature"]
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])

    def loss(params: Any) -> Any:
        # The key encoders start equal to the query towers, so the keys are the queries themselves.
        stats = variables["image"]["batch_stats"]
        own = {"params": params["image"], "batch_stats": stats}
        seen, _ = image.apply(own, *arguments, train=True, mutable=["batch_stats"])
        read = text.apply({"params": params["text"]}, data["ids"], data["tmask"] == 1, train=True)
        i2t = direction(seen.embedding, read.embedding, data["text_queue_0"])
        t2i = direction(read.embedding, seen.embedding, data["image_queue_0"])
        return i2t + t2i, (seen.embedding, read.embedding)

    params = {tower: variables[tower]["params"] for tower in ("image", "text")}
    (value, keys), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(value, data["losses"][0], rtol=1e-5)
    for name, pushed in zip(("image", "text"), keys, strict=True):
        np.testing.assert_allclose(pushed, data[f"{name}_queue_1"][: len(pushed)], atol=1e-4)
    ours = to_torch({tower: {"params": gradients[tower]} for tower in gradients}, brivl_table())
    norms = config["gradient_norms_step_0"]
    assert set(norms) == set(config["trainable"])
    for key, norm in norms.items():
        # Nine leaves have a gradient of rounding only (fixture README), norms under 1e-7.
        np.testing.assert_allclose(np.linalg.norm(ours[key]), norm, rtol=1e-3, atol=2e-6, err_msg=key)
    for key in [name for name in data if name.startswith("grad_0/")]:
        expected = data[key]
        np.testing.assert_allclose(
            ours[key.removeprefix("grad_0/")], expected, atol=1e-3 * np.abs(expected).max(), err_msg=key
        )
