"""Both towers end to end against the PyTorch model, their invariances, and their parameter counts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import BertConfig

from wenlan_jax.convert.brivl import brivl_table
from wenlan_jax.convert.reference.torch_brivl import Batch, BriVL, BriVLSizes
from wenlan_jax.convert.rules import to_torch
from wenlan_jax.models.efficientnet import COMPOUND_COEFFICIENTS, efficientnet_sizes
from wenlan_jax.models.regions import grid_boxes
from wenlan_jax.models.two_tower import ImageTower, TextTower

BATCH, SIDE, TEXT = 4, 24, 9


def reference(mask_text_backbone: bool) -> BriVL:
    """The PyTorch model of the sizes of conftest's towers, with every parameter away from its start."""
    torch.manual_seed(0)
    text = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    text |= {"intermediate_size": 40, "max_position_embeddings": 24, "type_vocab_size": 2}
    sizes = BriVLSizes(
        stem_width=8,
        stages=((3, 1, 1, 8, 1), (5, 2, 4, 16, 2)),
        head_width=32,
        image_size=SIDE,
        text=BertConfig(**text, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        mask_text_backbone=mask_text_backbone,
        encoder_layers=2,
        encoder_heads=4,
        encoder_mlp_width=24,
        dropout=0.0,
        queue_size=8,
        momentum=0.99,
        temperature=0.07,
        frozen=(),
        freeze_batch_norm=False,
    )
    model = BriVL(sizes)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.synchronize()
    return model.train()


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(size=(BATCH, 5, 2, 2)), axis=2)
    return {
        "images": rng.normal(size=(BATCH, SIDE, SIDE, 3)).astype(np.float32),
        "boxes": corners.reshape(BATCH, 5, 4).astype(np.float32),
        "box_mask": np.arange(5) < np.array([[5], [3], [1], [4]]),
        "ids": rng.integers(1, 50, (BATCH, TEXT)),
        "token_mask": np.arange(TEXT) < np.array([[9], [5], [2], [7]]),
    }


def torch_batch(arrays: dict[str, np.ndarray]) -> Batch:
    names = ("ids", "token_mask")
    rest = [torch.tensor(arrays[name]) for name in names]
    images = torch.tensor(arrays["images"].transpose(0, 3, 1, 2).copy())
    return Batch(images, *rest, torch.tensor(arrays["boxes"] * SIDE), torch.tensor(arrays["box_mask"]))


@pytest.mark.parametrize("masked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_loss_and_gradients_equal_torch(
    make_image_tower: Callable, make_text_tower: Callable, load_towers: Callable, masked: bool
):
    theirs, arrays = reference(masked), inputs()
    image = make_image_tower(grid=(), whole_image=False)
    text = make_text_tower(mask_backbone=masked)
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    variables = jax.tree.map(np.array, load_towers(state, image, text, SIDE))
    text_bank, image_bank = theirs.text_queue.numpy().copy(), theirs.image_queue.numpy().copy()
    expected = theirs(torch_batch(arrays))
    expected.backward()

    def loss(params):
        stats = variables["image"]["batch_stats"]
        boxes, mask = arrays["boxes"], arrays["box_mask"]
        seen, _ = image.apply(
            {"params": params["image"], "batch_stats": stats},
            *(arrays["images"], boxes, mask),
            train=True,
            mutable=["batch_stats"],
        )
        read = text.apply({"params": params["text"]}, arrays["ids"], arrays["token_mask"], train=True)
        return contrastive_loss(seen.embedding, read.embedding, image_bank, text_bank, 0.07)

    params = {tower: variables[tower]["params"] for tower in ("image", "text")}
    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    ours = to_torch({tower: {"params": gradients[tower]} for tower in gradients}, brivl_table())
    for name, parameter in theirs.named_parameters():
        if name in ours:
            scale = max(1.0, float(parameter.grad.abs().max()))
            np.testing.assert_allclose(ours[name], parameter.grad, atol=1e-4 * scale, err_msg=name)


def contrastive_loss(image: Any, text: Any, image_bank: Any, text_bank: Any, temperature: float) -> Any:
    """The first loss of a run: the key encoders equal the query towers, so keys are constant queries."""
    image_keys, text_keys = jax.lax.stop_gradient((image, text))

    def direction(queries: Any, keys: Any, bank: Any) -> Any:
        logits = jnp.concatenate([jnp.sum(queries * keys, 1, keepdims=True), queries @ bank.T], 1) / temperature
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])

    return direction(image, text_keys, text_bank) + direction(text, image_keys, image_bank)


def run_text(tower: TextTower, variables: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.asarray(tower.apply(variables, ids, mask, train=False).embedding)


def test_text_embedding_does_not_depend_on_padding(make_text_tower: Callable, randomize: Callable):
    arrays, tower = inputs(), make_text_tower()
    ids, mask = arrays["ids"] * arrays["token_mask"], arrays["token_mask"]
    variables = randomize(jax.eval_shape(lambda: tower.init(jax.random.key(0), ids, mask, train=False)), 0)
    wide_ids, wide_mask = np.pad(ids, ((0, 0), (0, 6))), np.pad(mask, ((0, 0), (0, 6)))
    expected = run_text(tower, variables, ids, mask)
    np.testing.assert_allclose(run_text(tower, variables, wide_ids, wide_mask), expected, atol=1e-6)
    released = make_text_tower(mask_backbone=False)
    assert (
        np.abs(run_text(released, variables, wide_ids, wide_mask) - run_text(released, variables, ids, mask)).max()
        > 1e-3
    )


def test_image_embedding_does_not_depend_on_absent_boxes_or_box_order(make_image_tower: Callable, randomize: Callable):
    arrays, tower = inputs(), make_image_tower(grid=())
    images, boxes, mask = arrays["images"], arrays["boxes"], arrays["box_mask"]
    variables = randomize(jax.eval_shape(lambda: tower.init(jax.random.key(0), images, boxes, mask, train=False)), 0)
    run = jax.jit(lambda boxes, mask: tower.apply(variables, images, boxes, mask, train=False).embedding)
    expected = run(boxes, mask)
    np.testing.assert_allclose(run(np.where(mask[..., None], boxes, 0.0), mask), expected, atol=1e-6)
    np.testing.assert_allclose(run(boxes[:, ::-1], mask[:, ::-1]), expected, atol=1e-6)
    assert np.abs(run(boxes[:, ::-1], mask) - expected).max() > 1e-4
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1.0, rtol=1e-6)


def test_outputs_hold_the_intermediate_values(make_image_tower: Callable):
    tower = make_image_tower(grid=(2,))
    out = jax.eval_shape(lambda: tower.init_with_output(jax.random.key(0), jnp.zeros((2, 24, 24, 3)), train=False)[0])
    assert out.features.shape == (2, 6, 6, 32)
    assert out.inputs.shape == out.tokens.shape == (2, len(grid_boxes((2,), True)), 32)
    assert (out.embedding.shape, out.mask.shape) == ((2, 32), (2, 5))


PAPER_TEXT = {
    "base": {"width": 768, "depth": 12, "heads": 12, "mlp_width": 3072},
    "large": {"width": 1024, "depth": 24, "heads": 16, "mlp_width": 4096},
}
FROZEN_IMAGE = r"(conv_stem|bn1|blocks_[012]_\d+|conv_head|bn2)"
CLASSES = 1000


def abstract_params(tower: ImageTower | TextTower, *arrays: Any) -> Any:
    return jax.eval_shape(lambda: tower.init(jax.random.key(0), *arrays, train=False))["params"]


def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("network", "text", "official_image", "trained_image", "official_text", "trained_text"),
    [
        ("b5", "base", 143_724_056, 140_163_280, 130_094_848, 56_178_688),
        ("b7", "large", 232_917_432, 227_730_644, 368_302_080, 93_164_544),
    ],
)
def test_parameter_counts_are_the_official_ones(
    make_backbone: Callable,
    make_bert: Callable,
    make_image_tower: Callable,
    make_text_tower: Callable,
    network: str,
    text: str,
    official_image: int,
    trained_image: int,
    official_text: int,
    trained_text: int,
):
    """The official counts include the unused ImageNet classifier and BERT pooler; our trees do not."""
    sizes, released = efficientnet_sizes(*COMPOUND_COEFFICIENTS[network]), {"depth": 4, "mlp_width": 2048}
    width, shape = sizes.head_width, PAPER_TEXT[text]
    image = make_image_tower(make_backbone(**sizes._asdict()), encoder=released, grid=(6,))
    params = abstract_params(image, jnp.zeros((1, 64, 64, 3)))
    frozen = {name: leaf for name, leaf in params["backbone"].items() if re.fullmatch(FROZEN_IMAGE, name)}
    assert count(params) + (width + 1) * CLASSES == official_image
    assert count(params) - count(frozen) == trained_image

    bert = make_bert(vocab_size=21128, max_positions=512, **shape)
    ids = jnp.zeros((1, 4), jnp.int32)
    params = abstract_params(make_text_tower(bert, encoder=released, width=width), ids, ids == 0)
    last = {f"layers_{i}" for i in range(shape["depth"] - 4, shape["depth"])}
    frozen = {name: leaf for name, leaf in params["backbone"].items() if name not in last}
    assert count(params) + (shape["width"] + 1) * shape["width"] == official_text
    assert count(params) - count(frozen) == trained_text
