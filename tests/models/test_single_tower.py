"""The single tower against an independent PyTorch UNITER and against transformers, losses and gradients included."""

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
from flax import linen as nn
from single_towers import (
    LAYOUTS,
    REAL,
    REGION_MASK,
    TOKEN_MASK,
    UC2,
    UNITER,
    Sides,
    arrays,
    encoder,
    inputs,
    make_sides,
    params_of,
    reader,
    shapes,
    table,
    template,
    torch_inputs,
    torch_model,
    tower,
)
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from wenlan_jax.convert.reference.torch_single import Uniter
from wenlan_jax.convert.rules import flatten, to_torch, unflatten
from wenlan_jax.convert.single_tower import xlm_roberta_table
from wenlan_jax.losses import masked as masked_losses
from wenlan_jax.losses import matching
from wenlan_jax.models.single_tower import SingleTower, at_places, attention

TINY = 1e-4
OBJECTIVES = ("itm", "mlm", "mrfr", "mrc", "mrc_hard")
MATCH = np.array([1, 0, 0, 1])
PLACES = np.array([[1, 5], [2, 0], [1, 0], [3, 1]])
PLACE_VALID = np.array([[1, 1], [1, 0], [1, 0], [1, 1]], bool)
CLASSES = np.random.default_rng(5).dirichlet(np.full(UNITER.classes, 0.3), REGION_MASK.shape).astype(np.float32)
CLASSES[..., 3] = 0.0


@pytest.fixture(scope="module", params=LAYOUTS)
def sides(request: pytest.FixtureRequest) -> Sides:
    return make_sides(request.param)


def torch_heads(model: Uniter, batch: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        text, regions, pooled = model.encode(torch_inputs(batch))
        said = {
            "itm_logits": model.itm_output(pooled),
            "word_logits": model.words(text),
            "features_at": model.feat_regress(regions),
            "class_logits": model.region_classifier(regions),
            "rank_score": model.rank_output(pooled)[:, 0],
            "answer_logits": model.vqa_output(pooled),
        }
    return {name: value.numpy() for name, value in said.items()}


def test_hidden_states_equal_those_of_the_reference(sides: Sides):
    with torch.no_grad():
        theirs = [x.numpy() for x in sides.model.encode(torch_inputs(sides.batch))]
    ours = encoder(sides.net)(sides.params, *sides.batch)
    for mine, other, real in zip(ours, theirs, (TOKEN_MASK, REGION_MASK, ...), strict=True):
        np.testing.assert_allclose(np.asarray(mine)[real], other[real], atol=1e-5)


def test_every_head_equals_that_of_the_reference(sides: Sides):
    ours, theirs = reader(sides.net)(sides.params, *sides.batch), torch_heads(sides.model, sides.batch)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        real = REAL.get(name, ...)
        np.testing.assert_allclose(np.asarray(ours[name])[real], value[real], atol=1e-5, err_msg=name)


def summed_losses(net: SingleTower, params: Any, batch: tuple[np.ndarray, ...]) -> dict[str, masked_losses.WeightedSum]:
    def call(method: str, *values: Any, **options: Any) -> Any:
        return net.apply({"params": params}, *values, **options, method=method)

    hidden = call("encode", *batch, train=False)
    masked, features = batch[-1], batch[2]
    ids = np.take_along_axis(batch[0], PLACES, axis=1)
    classes = call("class_logits", hidden.regions)
    return {
        "itm": matching.match_cross_entropy(call("itm_logits", hidden.pooled), MATCH),
        "mlm": masked_losses.word_cross_entropy(
            call("word_logits", at_places(hidden.text, jnp.asarray(PLACES))), ids, PLACE_VALID
        ),
        "mrfr": masked_losses.feature_squared_error(call("features_at", hidden.regions), features, masked),
        "mrc": masked_losses.class_divergence(classes, CLASSES, masked, "elementwise"),
        "mrc_hard": masked_losses.class_cross_entropy(classes, CLASSES, masked),
    }


@pytest.fixture(scope="module")
def gradients(sides: Sides) -> tuple[dict[str, float], dict[str, dict[str, np.ndarray]]]:
    """The mean of every objective, and its gradients under the names of the reference."""

    @jax.jit
    def run(params: Any, chosen: dict[str, float]) -> Any:
        def loss(params: Any) -> Any:
            sums = summed_losses(sides.net, params, sides.batch)
            means = {name: summed.total / summed.weight for name, summed in sums.items()}
            return sum(chosen[name] * mean for name, mean in means.items()), means

        return jax.grad(loss, has_aux=True)(params)

    rules, values, found = table(sides.model.sizes).table, {}, {}
    for name in OBJECTIVES:
        tree, values = run(sides.params, {other: float(name == other) for other in OBJECTIVES})
        found[name] = to_torch({"single": {"params": tree}}, rules)
    return values, found


def torch_loss(model: Uniter, batch: tuple[np.ndarray, ...], objective: str) -> torch.Tensor:
    given = torch_inputs(batch)
    if objective == "itm":
        return model.itm_loss(given, torch.tensor(MATCH))
    if objective == "mlm":
        labels = np.full(TOKEN_MASK.shape, -1)
        for row, places in enumerate(PLACES):
            chosen = places[PLACE_VALID[row]]
            labels[row, chosen] = batch[0][row, chosen]
        return model.mlm_loss(given, torch.tensor(labels))
    if objective == "mrfr":
        return model.mrfr_loss(given)
    return model.mrc_loss(given, torch.tensor(CLASSES), "hard" if objective == "mrc_hard" else "kl")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_and_their_gradients_equal_those_of_the_reference(sides: Sides, gradients: Any, objective: str):
    values, ours = gradients
    sides.model.zero_grad(set_to_none=True)
    loss = torch_loss(sides.model, sides.batch, objective)
    loss.backward()
    np.testing.assert_allclose(values[objective], loss.item(), atol=1e-5)
    for name, parameter in sides.model.named_parameters():
        expected = np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.numpy()
        np.testing.assert_allclose(ours[objective][name], expected, atol=1e-5, err_msg=name)


XLM_R: dict[str, Any] = {
    "vocab_size": UC2.vocab_size,
    "hidden_size": UC2.width,
    "num_hidden_layers": UC2.layers,
    "num_attention_heads": UC2.heads,
    "intermediate_size": UC2.feed_forward,
    "max_position_embeddings": UC2.positions,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-5,
}


def test_a_text_alone_is_that_of_xlm_roberta_with_its_head_and_attention():
    theirs = XLMRobertaForMaskedLM(XLMRobertaConfig(**XLM_R, attn_implementation="eager")).eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.2 * torch.tensor(rng.normal(size=parameter.shape).astype(np.float32))
    net = tower(UC2, eps=1e-5)
    ids, token_mask, *_ = inputs(UC2)
    none = (np.zeros((4, 0, UC2.features), np.float32), np.zeros((4, 0, 4), np.float32), np.zeros((4, 0), bool))
    with torch.no_grad():
        said = theirs(
            torch.tensor(ids), torch.tensor(token_mask).long(), output_hidden_states=True, output_attentions=True
        )
    taken = xlm_roberta_table(uc2_compat=False).of_torch(arrays(theirs), template(net)).leaves
    fresh = flatten({"single": {"params": jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes(net))}})
    params = unflatten({**fresh, **taken})["single"]["params"]
    hidden = encoder(net)(params, ids, token_mask, *none)
    words = net.apply({"params": params}, hidden.text, method="word_logits")
    weights = attention(net, params, ids, token_mask, *none)
    np.testing.assert_allclose(
        np.asarray(hidden.text)[token_mask], said.hidden_states[-1].numpy()[token_mask], atol=1e-5
    )
    np.testing.assert_allclose(np.asarray(words)[token_mask], said.logits.numpy()[token_mask], atol=1e-5)
    for layer, expected in zip(weights, said.attentions, strict=True):
        rows = np.broadcast_to(token_mask[:, None], layer.shape[:3])
        np.testing.assert_allclose(np.asarray(layer)[rows], expected.numpy()[rows], atol=1e-6)


def test_epsilons_are_the_stated_ones(sides: Sides):
    found: dict[str, float] = {}

    def note(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.LayerNorm):
            found["/".join(context.module.path)] = context.module.epsilon
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(
            lambda p: sides.net.apply({"params": p}, *sides.batch, train=False, method="everything"), sides.params
        )
    textual = {"embeddings/norm", "word_head/transform/norm", "answer_head/transform/norm"}
    layers = {f"layers_{i}/norm{j}" for i in range(UNITER.layers) for j in (1, 2)}
    visual = {"regions/features_norm", "regions/boxes_norm", "regions/norm"}
    heads = {"feature_head/transform/norm", "class_head/transform/norm"}
    expected = dict.fromkeys(textual, sides.model.sizes.text_eps) | dict.fromkeys(layers | visual | heads, 1e-12)
    assert found == expected


def test_small_inputs_of_every_norm_show_its_epsilon(sides: Sides):
    """With inputs of 1e-4 a variance is 1e-8: between the two epsilons, so that either is seen."""
    model = torch_model(sides.model.sizes)
    layers = dict(model.named_modules())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            layer = layers[name.rpartition(".")[0]]
            table_or_norm = isinstance(layer, torch.nn.LayerNorm | torch.nn.Embedding)
            if table_or_norm or parameter.ndim == 1 or "img_linear" in name or "pos_linear" in name:
                parameter *= TINY
    ours = reader(sides.net)(params_of(model, sides.net), *sides.batch)
    for name, value in torch_heads(model, sides.batch).items():
        real = REAL.get(name, ...)
        np.testing.assert_allclose(
            np.asarray(ours[name])[real], value[real], atol=1e-4 * np.abs(value[real]).max(), err_msg=name
        )
