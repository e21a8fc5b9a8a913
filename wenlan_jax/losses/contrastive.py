"""The contrastive losses of BriVL: InfoNCE of queries against their own key and many negatives.

n   queries at hand (a micro-batch)         m   keys of the whole batch
s b slots and rows of a bank                d   width of the embedding
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Int

from wenlan_jax.core import bank as ring
from wenlan_jax.core.bank import Bank
from wenlan_jax.models.arrays import Array, Tree
from wenlan_jax.parallel.mesh import BATCH_AXES

NONE = -jnp.inf
"""Logit of an entry that does not count."""


class InfoNCE(Tree):
    """Sums of the loss over the queries of one direction, float32 scalars.

    Attributes:
        loss: -log softmax of each query's own key, summed over the queries.
        correct: the number of queries whose own key beats every negative.
        masked: the number of negatives left out because they belong to the query's own image.
        extra_positives: the number of bank entries that counted as positives too.
    """

    loss: Float[Array, ""]
    correct: Float[Array, ""]
    masked: Float[Array, ""]
    extra_positives: Float[Array, ""]


def similarities(queries: Float[Array, "n d"], keys: Float[Array, "*m d"]) -> Float[Array, n * m]:
    """Computes the cosine similarities of unit vectors.

    The products are full float32: bfloat16 ones are worth .1 in a logit at tau = .07.

    Args:
        queries: unit vectors.
        keys: unit vectors with any number of leading axes.

    Returns:
        The similarity of every query with every key, in [-1, 1].
    """
    return jnp.tensordot(queries, keys, axes=(-1, -1), precision=jax.lax.Precision.HIGHEST)


def mutual_top_k(
    image_keys: Float[Array, "n d"], text_keys: Float[Array, "n d"], image_bank: Bank, text_bank: Bank, k: int
) -> Bool[Array, "n s b"]:
    """Finds the bank entries among the top `k` of both key-key similarities.

    These are the `multi_label` positives of BriVL [C].

    Args:
        image_keys: keys of the images, unit vectors.
        text_keys: keys of their texts, row for row.
        image_bank: the bank of image keys.
        text_bank: the bank of text keys; its entries belong to those of `image_bank`.
        k: how many entries of each bank a key is compared by.

    Returns:
        True where an entry is among the `k` nearest of the image and of the text; entries that are not valid never are.
    """

    def top(keys: Float[Array, "n d"], bank: Bank) -> Bool[Array, "n s b"]:
        scores = jnp.where(ring.valid(bank)[None], similarities(keys, bank.keys), NONE).reshape(keys.shape[0], -1)
        # A bank that holds fewer than k keys has -inf among its top k; those are no positives.
        values, indices = jax.lax.top_k(scores, k)
        rows = jnp.arange(keys.shape[0])[:, None]
        return jnp.zeros(scores.shape, bool).at[rows, indices].set(values > NONE).reshape(-1, *bank.ids.shape)

    return top(image_keys, image_bank) & top(text_keys, text_bank)


class Negatives(Tree):
    """What a set of negatives adds to the loss of each query: exp(`peak`) * `total` is the sum of its exponentials.

    Attributes:
        peak: the highest logit, or the lowest finite float32 where nothing counts.
        total: the sum of exp(logit - `peak`).
        best: the highest logit that does not count as a positive, -inf if there is none.
        masked: the number of entries left out.
        positives: the number of entries that are positives too.
        positive_logits: the sum of their logits.
    """

    peak: Float[Array, " n"]
    total: Float[Array, " n"]
    best: Float[Array, " n"]
    masked: Int[Array, " n"]
    positives: Int[Array, " n"]
    positive_logits: Float[Array, " n"]


def negatives(
    queries: Float[Array, "n d"],
    keys: Float[Array, "*m d"],
    scale: Float[Array, ""],
    counts: Bool[Array, n * m],
    same: Bool[Array, n * m],
    positives: Bool[Array, n * m] | None,
) -> Negatives:
    """Sums the exponentials of the negatives of each query.

    Args:
        queries: unit vectors.
        keys: unit vectors, the candidates.
        scale: 1 / tau.
        counts: which keys count for which query.
        same: which keys belong to the query's own image; they are left out unless they are positives.
        positives: which keys are positives too; None for none.

    Returns:
        The sums over the keys that count, one number a query.
    """
    axes = tuple(range(1, keys.ndim))
    left_out = counts & same
    if positives is not None:
        left_out &= ~positives
    logits = jnp.where(counts & ~left_out, scale * similarities(queries, keys), NONE)
    # Finite also where nothing counts: exp(-inf - finite) is 0, and so is its gradient.
    peak = jnp.maximum(jax.lax.stop_gradient(jnp.max(logits, axis=axes)), -jnp.finfo(logits.dtype).max)
    whole = jnp.zeros(queries.shape[0])
    return Negatives(
        peak=peak,
        total=jnp.sum(jnp.exp(logits - jnp.expand_dims(peak, axes)), axis=axes),
        best=jax.lax.stop_gradient(
            jnp.max(logits if positives is None else jnp.where(positives, NONE, logits), axis=axes)
        ),
        masked=jnp.sum(left_out, axis=axes),
        positives=whole.astype(jnp.int32) if positives is None else jnp.sum(positives, axis=axes),
        positive_logits=whole if positives is None else jnp.sum(jnp.where(positives, logits, 0.0), axis=axes),
    )


def bank_negatives(
    queries: Float[Array, "n d"],
    ids: Int[Array, " n"],
    scale: Float[Array, ""],
    bank: Bank,
    positives: Bool[Array, "n s b"] | None,
    mask_false_negatives: bool,
    mesh: Mesh | None,
) -> Negatives:
    """Takes the valid entries of a bank as negatives.

    On a mesh of several devices every device compares all queries with the keys that it holds, and the sums are added
    up: queries travel, which are fewer and smaller than a bank, and no device ever holds more of it.

    Args:
        queries: unit vectors.
        ids: the image id of each query.
        scale: 1 / tau.
        bank: the negatives.
        positives: which entries are positives too; None for none.
        mask_false_negatives: whether entries with the query's own image id are left out.
        mesh: the mesh that the bank lies on; None for one device.

    Returns:
        The sums over the bank, one number a query; on a mesh they are the same on every device.
    """

    def meet(
        queries: Float[Array, "n d"],
        ids: Int[Array, " n"],
        scale: Float[Array, ""],
        keys: Float[Array, "s b d"],
        key_ids: Int[Array, "s b"],
        valid: Bool[Array, "s b"],
        positives: Bool[Array, "n s b"] | None,
    ) -> Negatives:
        counts = jnp.broadcast_to(valid, (queries.shape[0], *valid.shape))
        same = key_ids[None] == ids[:, None, None] if mask_false_negatives else jnp.zeros_like(counts)
        return negatives(queries, keys, scale, counts, same, positives)

    arguments = (queries, ids, scale, bank.keys, bank.ids, ring.valid(bank), positives)
    if mesh is None or mesh.size == 1:
        return meet(*arguments)

    def meet_everywhere(queries: Float[Array, "local d"], ids: Int[Array, " local"], *rest: Any) -> Negatives:
        everyone = (jax.lax.all_gather(x, BATCH_AXES, tiled=True) for x in (queries, ids))
        return _across_devices(meet(*everyone, *rest))

    rows, slots = P(BATCH_AXES), P(None, BATCH_AXES)
    marked = None if positives is None else P(None, None, BATCH_AXES)
    return jax.shard_map(
        meet_everywhere, mesh=mesh, in_specs=(rows, rows, P(), slots, slots, slots, marked), out_specs=P()
    )(*arguments)


def _across_devices(part: Negatives) -> Negatives:
    """The parts of all devices as one, in every device."""
    peak = jax.lax.pmax(part.peak, BATCH_AXES)
    summed = jax.lax.psum(part.replace(total=part.total * jnp.exp(part.peak - peak), peak=0.0, best=0.0), BATCH_AXES)
    whole: Negatives = summed.replace(peak=peak, best=jax.lax.pmax(part.best, BATCH_AXES))
    return whole


def info_nce(
    queries: Float[Array, "n d"],
    positive_keys: Float[Array, "n d"],
    ids: Int[Array, " n"],
    scale: Float[Array, ""],
    *,
    bank: Bank | None = None,
    batch_keys: Float[Array, "m d"] | None = None,
    batch_ids: Int[Array, " m"] | None = None,
    positive_rows: Int[Array, " n"] | None = None,
    positives: Bool[Array, "n s b"] | None = None,
    mask_false_negatives: bool,
    mesh: Mesh | None = None,
) -> InfoNCE:
    """Computes one direction of the contrastive loss, summed over the queries (InfoNCE, van den Oord et al. 2018).

    Each query is told from its own key among the negatives: the valid entries of `bank`, and, if `batch_keys` is
    given, the keys of the batch except the query's own. Give at least one of the two.

    Args:
        queries: unit vectors.
        positive_keys: the key of each query, unit vectors.
        ids: the image id of each query.
        scale: 1 / tau.
        bank: a bank of negatives.
        batch_keys: the keys of the whole batch, as negatives of each other. Needs `batch_ids` and `positive_rows`.
        batch_ids: the image ids of `batch_keys`.
        positive_rows: the row of each query's own key in `batch_keys`.
        positives: bank entries that are positives too. Each adds its own -log softmax, over the same denominator [C].
        mask_false_negatives: whether negatives of the query's own image (equal ids) are left out and counted.
        mesh: the mesh of the bank, for a bank that lies on several devices.

    Returns:
        The sums; divide `loss` by the number of queries for the mean.
    """
    positive = scale * jnp.einsum("nd,nd->n", queries, positive_keys, precision=jax.lax.Precision.HIGHEST)
    parts: list[Negatives] = []
    if bank is not None:
        parts.append(bank_negatives(queries, ids, scale, bank, positives, mask_false_negatives, mesh))
    if batch_keys is not None:
        assert positive_rows is not None and batch_ids is not None
        counts = jnp.arange(batch_keys.shape[0])[None] != positive_rows[:, None]
        same = batch_ids[None] == ids[:, None] if mask_false_negatives else jnp.zeros_like(counts)
        parts.append(negatives(queries, batch_keys, scale, counts, same, None))
    extra = jnp.asarray(sum(part.positives for part in parts))
    extra_logits = jnp.asarray(sum(part.positive_logits for part in parts))
    beaten = [positive > part.best for part in parts]
    return InfoNCE(
        loss=jnp.sum((1 + extra) * _log_sum_exp(positive, parts) - positive - extra_logits),
        correct=jnp.sum(functools.reduce(jnp.logical_and, beaten), dtype=jnp.float32),
        masked=jnp.asarray(sum(jnp.sum(part.masked) for part in parts), jnp.float32),
        extra_positives=jnp.sum(extra, dtype=jnp.float32),
    )


def _log_sum_exp(positive: Float[Array, " n"], parts: Sequence[Negatives]) -> Float[Array, " n"]:
    """log(exp(positive) + sum exp(others)): finite, with finite gradients, also where all the others are -inf."""
    peak = jax.lax.stop_gradient(functools.reduce(jnp.maximum, [part.peak for part in parts], positive))
    total = jnp.exp(positive - peak)
    for part in parts:
        total += part.total * jnp.exp(part.peak - peak)
    return peak + jnp.log(total)
