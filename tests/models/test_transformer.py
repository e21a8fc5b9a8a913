"""The transformer encoder and BERT against PyTorch; scanned and rematerialised stacks; masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import BertConfig, BertModel

from wenlan_jax.convert.bert import bert_rules
from wenlan_jax.convert.brivl import brivl_table
from wenlan_jax.convert.rules import Ignore, WeightTable, to_flax, to_torch, unflatten

WIDTH, TOKENS = 16, 7
MASK = np.arange(TOKENS) < np.array([[7], [4], [1]])
BERT_TABLE = WeightTable(tuple(bert_rules("", "bert/")), (Ignore(r"pooler\..*", "unused"),))


def tokens() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(MASK), TOKENS, WIDTH)).astype(np.float32)


def torch_encoder(mlp_width: int) -> torch.nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(WIDTH, 4, mlp_width, dropout=0.0, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train()
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder


def test_encoder_equals_torch_with_gradients(make_encoder: Callable):
    encoder, theirs, x = make_encoder(), torch_encoder(24), tokens()
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, MASK, False))
    template = {"text": {"params": {"encoder": shapes["params"]}}}
    table = brivl_table({"textencoder": "text"})
    prefix = "textencoder.learnable.textAtt."
    state = {prefix + name: value.numpy() for name, value in theirs.state_dict().items()}
    params = unflatten(to_flax(state, table, template).leaves)["text"]["params"]["encoder"]
    expected = theirs(torch.tensor(x), src_key_padding_mask=torch.tensor(~MASK))
    (expected * torch.tensor(MASK)[..., None]).square().sum().backward()

    def loss(params):
        y = encoder.apply({"params": params}, x, MASK, True)
        return jnp.sum(jnp.square(y * MASK[..., None])), y

    gradients, y = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(y, expected.detach(), atol=2e-6)
    ours = to_torch({"text": {"params": {"encoder": gradients}}}, table)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(ours[prefix + name], parameter.grad, rtol=1e-4, atol=1e-5, err_msg=name)


def unrolled_and_scanned(make: Callable, randomize: Callable, call: Callable, segments: tuple, remat: bool) -> tuple:
    """Output and gradients of the plain stack, and of the scanned one on the stacked parameters."""
    plain, scanned = make(), make(scan_segments=segments, remat=remat)
    params = randomize(jax.eval_shape(lambda: call(plain, None)), 0)["params"]
    stacked, start = {k: v for k, v in params.items() if not k.startswith("layers_")}, 0
    for length in segments:
        group = [params[f"layers_{i}"] for i in range(start, start + length)]
        stacked[f"layers_{start}_{start + length - 1}"] = jax.tree.map(lambda *leaves: np.stack(leaves), *group)
        start += length

    def run(model: Any, params: Any) -> Any:
        def loss(p):
            y = call(model, {"params": p})
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    return run(plain, params), run(scanned, stacked)


def assert_same_stack(plain: tuple, scanned: tuple) -> None:
    np.testing.assert_allclose(scanned[1], plain[1], atol=1e-5)
    for name, gradient in scanned[0].items():
        if not name.startswith("layers_"):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), gradient, plain[0][name])
            continue
        first, last = (int(part) for part in name.split("_")[1:])
        group = [plain[0][f"layers_{i}"] for i in range(first, last + 1)]
        expected = jax.tree.map(lambda *leaves: np.stack(leaves), *group)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), gradient, expected)


@pytest.mark.parametrize("remat", [False, True])
def test_scanned_encoder_equals_unrolled(make_encoder: Callable, randomize: Callable, remat: bool):
    x = tokens()

    def call(model: Any, variables: Any) -> Any:
        return (
            model.init(jax.random.key(0), x, MASK, False)
            if variables is None
            else model.apply(variables, x, MASK, True)
        )

    make = lambda **changes: make_encoder(depth=3, **changes)  # noqa: E731
    assert_same_stack(*unrolled_and_scanned(make, randomize, call, (2, 1), remat))


@pytest.mark.slow
def test_scanned_bert_equals_unrolled(make_bert: Callable, randomize: Callable):
    ids = np.random.default_rng(0).integers(1, 50, MASK.shape)

    def call(model: Any, variables: Any) -> Any:
        return (
            model.init(jax.random.key(0), ids, MASK, False)
            if variables is None
            else model.apply(variables, ids, MASK, True)
        )

    assert_same_stack(*unrolled_and_scanned(make_bert, randomize, call, (1, 2), True))


def test_dropout_in_scanned_layers_follows_the_key(make_encoder: Callable):
    encoder = make_encoder(dropout=0.5, scan_segments=(2,))
    x = jnp.asarray(tokens())
    variables = encoder.init(jax.random.key(0), x, MASK, False)
    apply = jax.jit(lambda key: encoder.apply(variables, x, MASK, True, rngs={"dropout": key}))
    assert not np.allclose(apply(jax.random.key(1)), apply(jax.random.key(2)))
    np.testing.assert_array_equal(apply(jax.random.key(1)), apply(jax.random.key(1)))


def test_a_row_without_valid_keys_is_finite_with_finite_gradients(make_encoder: Callable, randomize: Callable):
    encoder, x, mask = make_encoder(), tokens(), MASK & np.array([[True], [False], [True]])
    variables = randomize(jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, mask, False)), 0)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(encoder.apply(variables, x, mask, True)))(x)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_valid_tokens_do_not_see_masked_ones(make_encoder: Callable, randomize: Callable):
    encoder, x = make_encoder(), tokens()
    variables = randomize(jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, MASK, False)), 0)
    changed = np.where(MASK[..., None], x, 100.0)
    y, other = (encoder.apply(variables, inputs, MASK, False) for inputs in (x, changed))
    np.testing.assert_array_equal(np.asarray(y)[MASK], np.asarray(other)[MASK])


def test_wrong_segments_and_heads_are_refused(make_encoder: Callable):
    with pytest.raises(ValueError, match="add up to the depth, 2"):
        make_encoder(scan_segments=(2, 1)).init(jax.random.key(0), tokens(), MASK, False)
    with pytest.raises(ValueError, match="does not divide into 3 heads"):
        make_encoder(heads=3).init(jax.random.key(0), tokens(), MASK, False)


def torch_bert(eps: float) -> BertModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {
        "intermediate_size": 40,
        "max_position_embeddings": 24,
        "type_vocab_size": 2,
        "layer_norm_eps": eps,
    }
    model = BertModel(BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("masked", [True, False])
def test_bert_equals_transformers_with_gradients(make_bert: Callable, masked: bool):
    # No [PAD] among the ids: torch's Embedding drops the gradient of its padding row.
    model, theirs = make_bert(), torch_bert(1e-12)
    ids = np.random.default_rng(0).integers(1, 50, MASK.shape)
    attention = MASK if masked else np.ones_like(MASK)
    mask = torch.tensor(attention.astype(np.int64))
    expected = theirs(torch.tensor(ids), attention_mask=mask).last_hidden_state
    (expected * mask[..., None]).sin().sum().backward()
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, None, False))
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    params = unflatten(to_flax(state, BERT_TABLE, {"bert": shapes["params"]}).leaves)["bert"]

    def loss(params):
        y = model.apply({"params": params}, ids, MASK if masked else None, True)
        return jnp.sum(jnp.sin(y * attention[..., None])), y

    gradients, y = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(np.asarray(y)[attention], expected.detach().numpy()[attention], atol=1e-5)
    ours = to_torch({"bert": gradients}, BERT_TABLE)
    for name, parameter in theirs.named_parameters():
        if not name.startswith("pooler"):
            np.testing.assert_allclose(ours[name], parameter.grad, rtol=1e-3, atol=1e-4, err_msg=name)


def test_position_offset_shifts_the_position_table(make_bert: Callable, randomize: Callable):
    ids = np.random.default_rng(0).integers(1, 50, MASK.shape)
    plain, shifted = make_bert(), make_bert(position_offset=2)
    variables = randomize(jax.eval_shape(lambda: plain.init(jax.random.key(0), ids, None, False)), 0)
    moved = jax.tree.map(np.array, variables)
    table = moved["params"]["embeddings"]["position"]["embedding"]
    table[2:] = variables["params"]["embeddings"]["position"]["embedding"][:-2]
    np.testing.assert_allclose(
        shifted.apply(moved, ids, MASK, False), plain.apply(variables, ids, MASK, False), atol=1e-6
    )


def test_texts_longer_than_the_position_table_are_refused(make_bert: Callable):
    with pytest.raises(ValueError, match="do not fit max_positions 24"):
        jax.eval_shape(lambda: make_bert().init(jax.random.key(0), np.zeros((1, 25), int), None, False))
