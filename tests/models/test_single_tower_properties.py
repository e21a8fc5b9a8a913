"""What the single tower owes to its inputs: padding, masks, order, types, ties, attention; and its options."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from single_towers import (
    MASKED,
    REAL,
    REGION_MASK,
    REGIONS,
    TOKEN_MASK,
    TOKENS,
    UC2,
    UNITER,
    Sides,
    encoder,
    inputs,
    make_sides,
    params_of,
    reader,
    shapes,
    torch_model,
    tower,
)

from wenlan_jax.convert.rules import flatten
from wenlan_jax.losses import masked as masked_losses
from wenlan_jax.models.bert import token_places
from wenlan_jax.models.single_tower import SingleTower, attention, locations, rank_from_itm

PLACES = np.array([[1, 5], [2, 0], [1, 0], [3, 1]])
PLACE_VALID = np.array([[1, 1], [1, 0], [1, 0], [1, 1]], bool)


@pytest.fixture(scope="module")
def uc2() -> Sides:
    return make_sides("uc2")


def test_words_have_type_row_0_and_regions_row_1():
    net = tower(UNITER, depth=0)
    params, batch = params_of(torch_model(UNITER), tower(UNITER)), inputs(UNITER)
    params = {name: leaf for name, leaf in params.items() if not name.startswith("layers_")}

    def gradient(side: str) -> np.ndarray:
        def loss(params: Any) -> jax.Array:
            hidden = net.apply({"params": params}, *batch, train=False, method="encode")
            return jnp.sum(jnp.sin(getattr(hidden, side)))

        return np.abs(jax.grad(loss)(params)["embeddings"]["type"]["embedding"]).max(axis=1)

    words, regions = gradient("text"), gradient("regions")
    assert words[0] > 0.1 and words[1] == 0
    assert regions[1] > 0.1 and regions[0] == 0


def test_padding_has_the_position_before_the_first():
    ids = np.array([[0, 5, 6, 2, 1, 1]])
    np.testing.assert_array_equal(token_places(jnp.asarray(ids != 1), 2), [[2, 3, 4, 5, 1, 1]])


def test_padding_tokens_take_their_row_of_the_position_table(uc2: Sides):
    net, batch = tower(UC2, depth=0), uc2.batch
    params = {name: leaf for name, leaf in uc2.params.items() if not name.startswith("layers_")}

    def loss(params: Any) -> jax.Array:
        hidden = net.apply({"params": params}, *batch, train=False, method="encode")
        return jnp.sum(jnp.where(TOKEN_MASK[..., None], 0.0, jnp.sin(hidden.text)))

    used = np.abs(jax.grad(loss)(params)["embeddings"]["position"]["embedding"]).max(axis=1) > 0
    assert np.flatnonzero(used).tolist() == [1]


def test_locations_are_corners_sides_and_area():
    boxes = jnp.array([[0.25, 0.5, 0.75, 0.625], [0, 0, 1, 1]])
    np.testing.assert_array_equal(
        locations(boxes), [[0.25, 0.5, 0.75, 0.625, 0.5, 0.125, 0.0625], [0, 0, 1, 1, 1, 1, 1]]
    )


def test_a_pair_does_not_depend_on_its_padding_nor_on_its_batch(uc2: Sides):
    together = encoder(uc2.net)(uc2.params, *uc2.batch)
    for row in range(2):
        words, regions = int(TOKEN_MASK[row].sum()), int(REGION_MASK[row].sum())
        ids, token_mask, features, boxes, region_mask, masked = (x[row : row + 1] for x in uc2.batch)
        texts = (ids[:, :words], token_mask[:, :words])
        images = (x[:, :regions] for x in (features, boxes, region_mask, masked))
        alone = encoder(uc2.net)(uc2.params, *texts, *images)
        np.testing.assert_allclose(alone.text[0], together.text[row, :words], atol=2e-6)
        np.testing.assert_allclose(alone.regions[0], together.regions[row, :regions], atol=2e-6)
        np.testing.assert_allclose(alone.pooled[0], together.pooled[row], atol=2e-6)


def test_what_stands_in_padding_changes_nothing(uc2: Sides):
    ids, token_mask, features, boxes, region_mask, masked = uc2.batch
    other = (
        np.where(token_mask, ids, 33),
        token_mask,
        np.where(region_mask[..., None], features, 1e3),
        np.where(region_mask[..., None], boxes, 0.5),
        region_mask,
        masked | ~region_mask,
    )
    first, second = (encoder(uc2.net)(uc2.params, *batch) for batch in (uc2.batch, other))
    for mine, changed, real in zip(first, second, (TOKEN_MASK, REGION_MASK, ...), strict=True):
        np.testing.assert_array_equal(np.asarray(mine)[real], np.asarray(changed)[real])


def test_more_room_for_regions_changes_nothing(uc2: Sides):
    ids, token_mask, *images = uc2.batch
    wider = [np.pad(x, [(0, 0), (0, 3)] + [(0, 0)] * (x.ndim - 2)) for x in images]
    first, second = (encoder(uc2.net)(uc2.params, *batch) for batch in (uc2.batch, (ids, token_mask, *wider)))
    np.testing.assert_allclose(first.regions[REGION_MASK], second.regions[:, :REGIONS][REGION_MASK], atol=2e-6)
    np.testing.assert_allclose(first.text[TOKEN_MASK], second.text[TOKEN_MASK], atol=2e-6)


def test_regions_have_no_order(uc2: Sides):
    order = np.random.default_rng(2).permutation(REGIONS)
    ids, token_mask, *images = uc2.batch
    first = encoder(uc2.net)(uc2.params, *uc2.batch)
    second = encoder(uc2.net)(uc2.params, ids, token_mask, *(x[:, order] for x in images))
    np.testing.assert_allclose(
        first.regions[:, order][REGION_MASK[:, order]], second.regions[REGION_MASK[:, order]], atol=2e-6
    )
    np.testing.assert_allclose(first.text[TOKEN_MASK], second.text[TOKEN_MASK], atol=2e-6)
    assert np.abs(first.regions[:, order] - first.regions).max() > 0.1


def test_masked_features_reach_no_output_and_are_the_targets(uc2: Sides):
    ids, token_mask, features, *rest = uc2.batch
    changed = np.where(MASKED[..., None], features + 5.0, features)
    first, second = (reader(uc2.net)(uc2.params, ids, token_mask, x, *rest) for x in (features, changed))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    error = masked_losses.feature_squared_error(first["features_at"], features, MASKED)
    far = masked_losses.feature_squared_error(first["features_at"], changed, MASKED)
    shift = 5.0 * np.sum((10.0 * (features - first["features_at"]) + 25.0)[MASKED]) / 5.0
    np.testing.assert_allclose(far.total - error.total, shift, rtol=1e-4)
    seen = reader(uc2.net)(uc2.params, ids, token_mask, changed, *rest[:-1], np.zeros_like(MASKED))
    assert np.abs(seen["itm_logits"] - first["itm_logits"]).max() > 1e-3


def test_without_masks_none_are_masked(uc2: Sides):
    unmasked = (*uc2.batch[:-1], np.zeros_like(MASKED))
    first, second = (encoder(uc2.net)(uc2.params, *batch) for batch in (uc2.batch[:-1], unmasked))
    np.testing.assert_allclose(first.pooled, second.pooled, atol=1e-6)


def test_tied_tables_learn_through_their_heads_alone(uc2: Sides):
    """The heads read constants here, so what reaches the tables did not come through the encoder."""
    rng = np.random.default_rng(4)
    regions = rng.normal(size=(4, REGIONS, UC2.width)).astype(np.float32)
    words = rng.normal(size=(4, 2, UC2.width)).astype(np.float32)

    def loss(params: Any) -> jax.Array:
        said = uc2.net.apply({"params": params}, words, method="word_logits")
        mlm = masked_losses.word_cross_entropy(said, PLACES, PLACE_VALID)
        features = uc2.net.apply({"params": params}, regions, method="features_at")
        return mlm.total + masked_losses.feature_squared_error(features, uc2.batch[2], MASKED).total

    found = jax.jit(jax.grad(loss))(uc2.params)
    assert np.abs(found["regions"]["features"]["kernel"]).min() > 0
    assert np.all(np.abs(found["embeddings"]["word"]["embedding"]).max(axis=1) > 0)
    assert not np.any(found["regions"]["features"]["bias"])


def stacked(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a plain tower of three layers for segments of two and one."""
    rest = {name: leaf for name, leaf in params.items() if not name.startswith("layers_")}
    pair = jax.tree.map(lambda *leaves: np.stack(leaves), params["layers_0"], params["layers_1"])
    return {**rest, "layers_0_1": pair, "layers_2_2": jax.tree.map(lambda leaf: leaf[None], params["layers_2"])}


@pytest.mark.parametrize("remat", [False, True])
def test_scanned_layers_give_the_same_states_and_attention(uc2: Sides, remat: bool):
    scanned = tower(UC2, scan_segments=(2, 1), remat=remat)
    params = stacked(uc2.params)
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes(scanned))
    first, second = encoder(uc2.net)(uc2.params, *uc2.batch), encoder(scanned)(params, *uc2.batch)
    for mine, other in zip(first, second, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)  # states of size 2 after three layers
    plain = attention(uc2.net, uc2.params, *uc2.batch)
    np.testing.assert_allclose(attention(scanned, params, *uc2.batch), plain, atol=1e-6)


def test_attention_rows_sum_to_one_and_leave_padding_out(uc2: Sides):
    weights = np.asarray(attention(uc2.net, uc2.params, *uc2.batch))
    length = TOKENS + REGIONS
    assert weights.shape == (UC2.layers, 4, UC2.heads, length, length) and weights.dtype == np.float32
    real = np.concatenate([TOKEN_MASK, REGION_MASK], axis=1)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
    hidden = np.broadcast_to(~real[None, :, None, None, :], weights.shape)
    assert np.all(weights[hidden] == 0) and np.all(weights[~hidden] > 0)


def test_attention_is_kept_for_those_who_ask_only(uc2: Sides):
    _, kept = uc2.net.apply({"params": uc2.params}, *uc2.batch, train=False, method="encode", mutable=["batch_stats"])
    assert not kept
    assert set(
        jax.eval_shape(lambda: uc2.net.init(jax.random.key(0), *uc2.batch, train=False, method="everything"))
    ) == {"params"}


def test_the_rank_head_starts_as_the_logit_of_a_match(uc2: Sides):
    ranked = rank_from_itm(uc2.params)
    assert ranked["rank_head"]["kernel"].shape == (UC2.width, 1) and ranked["rank_head"]["bias"].shape == (1,)
    said = reader(uc2.net)(ranked, *uc2.batch)
    np.testing.assert_allclose(said["rank_score"], said["itm_logits"][:, 1], atol=1e-6)
    before = reader(uc2.net)(uc2.params, *uc2.batch)["rank_score"]
    assert np.abs(before - said["rank_score"]).max() > 1e-2
    fresh = {name: leaf for name, leaf in uc2.params.items() if name != "rank_head"}
    assert set(rank_from_itm(fresh)) == set(uc2.params) and "rank_head" not in fresh


def test_bfloat16_computes_in_it_and_speaks_in_float32(uc2: Sides):
    net = tower(UC2, dtype=jnp.bfloat16)
    hidden = jax.eval_shape(encoder(net), uc2.params, *uc2.batch)
    assert {x.dtype for x in hidden} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(net))} == {jnp.dtype(jnp.float32)}
    ours, exact = reader(net)(uc2.params, *uc2.batch), reader(uc2.net)(uc2.params, *uc2.batch)
    for name, value in ours.items():
        assert value.dtype == jnp.float32, name
        real = REAL.get(name, ...)
        np.testing.assert_allclose(np.asarray(value)[real], np.asarray(exact[name])[real], atol=0.15, err_msg=name)


def test_dropout_follows_the_key_in_training_only(uc2: Sides):
    net = tower(UC2, dropout=0.3)
    train = jax.jit(
        lambda key: (
            net.apply({"params": uc2.params}, *uc2.batch, train=True, method="encode", rngs={"dropout": key}).pooled
        )
    )
    assert not np.allclose(train(jax.random.key(1)), train(jax.random.key(2)))
    np.testing.assert_array_equal(train(jax.random.key(1)), train(jax.random.key(1)))
    np.testing.assert_array_equal(
        encoder(net)(uc2.params, *uc2.batch).pooled, encoder(uc2.net)(uc2.params, *uc2.batch).pooled
    )


def fresh(net: SingleTower, batch: tuple[np.ndarray, ...]) -> dict[str, Any]:
    return jax.jit(lambda key: net.init(key, *batch, train=False, method="everything"))(jax.random.key(0))["params"]


def test_fresh_parameters_are_those_of_bert():
    net, batch = tower(UC2, width=32, depth=1), inputs(UC2)
    found = flatten(fresh(net, batch))
    for name, leaf in found.items():
        if name.endswith("scale"):
            np.testing.assert_array_equal(leaf, 1.0, err_msg=name)
        elif name.endswith("bias"):
            np.testing.assert_array_equal(leaf, 0.0, err_msg=name)
        else:
            assert 0.0 < np.abs(leaf).max() < 0.12, name
    kernel = np.asarray(found["layers_0/linear1/kernel"])
    np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.1)


def test_heads_that_were_not_built_have_no_parameters_and_say_so(uc2: Sides):
    net = tower(UC2, classes=0, answers=0, rank=False)
    assert set(shapes(uc2.net)) - set(shapes(net)) == {"class_head", "answer_head", "rank_head"}
    hidden = encoder(uc2.net)(uc2.params, *uc2.batch)
    for method, field in (("class_logits", "classes"), ("answer_logits", "answers"), ("rank_score", "rank")):
        given = hidden.regions if method == "class_logits" else hidden.pooled
        with pytest.raises(ValueError, match=f"{method} needs a head .* `{field}`"):
            net.apply({"params": uc2.params}, given, method=method)


def test_features_of_another_width_and_texts_too_long_are_refused(uc2: Sides):
    ids, token_mask, features, *rest = uc2.batch
    with pytest.raises(ValueError, match="have 11 numbers, and the tower takes 12"):
        encoder(uc2.net)(uc2.params, ids, token_mask, features[..., :-1], *rest)
    long = np.ones((4, UC2.positions - 1), np.int32)
    with pytest.raises(ValueError, match="texts of 23 tokens from position 2 do not fit"):
        encoder(uc2.net)(uc2.params, long, long == 1, features, *rest)


def test_padding_of_zeros_under_fresh_parameters_adds_nothing_to_gradients():
    """Its features, places and first biases are 0: LayerNorms see a variance of exactly 0 and divide by 1e-6."""
    net, (ids, token_mask, features, boxes, *rest) = tower(UNITER, depth=1), inputs(UNITER)
    params = fresh(net, (ids, token_mask, features, boxes, *rest))

    @jax.jit
    def gradient(features: jax.Array, boxes: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            hidden = net.apply(
                {"params": params}, ids, token_mask, features, boxes, *rest, train=False, method="encode"
            )
            sides = ((hidden.text, TOKEN_MASK), (hidden.regions, REGION_MASK))
            return sum(jnp.sum(jnp.where(mask[..., None], jnp.sin(x), 0)) for x, mask in sides)

        return jax.grad(loss)(params)

    zeros = (np.where(REGION_MASK[..., None], x, 0) for x in (features, boxes))
    expected = flatten(gradient(features, boxes))
    for name, leaf in flatten(gradient(*zeros)).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-4, atol=1e-3, err_msg=name)
