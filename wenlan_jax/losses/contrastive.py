"""The contrastive losses of BriVL: InfoNCE of queries against their own key and many negatives.

n   queries at hand (a micro-batch)         m   keys of the whole batch
s b slots and rows of a bank                d   width of the embedding
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from wenlan_jax import bank as ring
from wenlan_jax.bank import Bank

NONE = -jnp.inf
"""Logit of an entry that does not count."""


class InfoNCE(struct.PyTreeNode):
    """Sums over the queries of one direction. `correct`: queries whose own key beats every negative."""

    loss: Float[Array, ""]
    correct: Float[Array, ""]
    masked: Float[Array, ""]
    extra_positives: Float[Array, ""]


def similarities(queries: Float[Array, "n d"], keys: Float[Array, "*m d"]) -> Float[Array, n * m]:
    """Cosine similarities of unit rows. Full float32 products: bfloat16 ones are worth .1 in a logit at tau = .07."""
    return jnp.tensordot(queries, keys, axes=(-1, -1), precision=jax.lax.Precision.HIGHEST)


def mutual_top_k(
    image_keys: Float[Array, "n d"], text_keys: Float[Array, "n d"], image_bank: Bank, text_bank: Bank, k: int
) -> Bool[Array, "n s b"]:
    """Bank entries among the top `k` of both key-key similarities: the `multi_label` positives of BriVL [C]."""

    def top(keys: Float[Array, "n d"], bank: Bank) -> Bool[Array, "n s b"]:
        scores = jnp.where(ring.valid(bank)[None], similarities(keys, bank.keys), NONE).reshape(keys.shape[0], -1)
        # A bank that holds fewer than k keys has -inf among its top k; those are no positives.
        values, indices = jax.lax.top_k(scores, k)
        rows = jnp.arange(keys.shape[0])[:, None]
        return jnp.zeros(scores.shape, bool).at[rows, indices].set(values > NONE).reshape(-1, *bank.ids.shape)

    return top(image_keys, image_bank) & top(text_keys, text_bank)


def info_nce(
    queries: Float[Array, "n d"],
    own_keys: Float[Array, "n d"],
    ids: Int[Array, " n"],
    scale: Float[Array, ""],
    *,
    bank: Bank | None = None,
    batch_keys: Float[Array, "m d"] | None = None,
    batch_ids: Int[Array, " m"] | None = None,
    own_rows: Int[Array, " n"] | None = None,
    positives: Bool[Array, "n s b"] | None = None,
    mask_false_negatives: bool,
) -> InfoNCE:
    """One direction of the loss, summed over the queries; `scale` is 1 / tau.

    Each query is told from its own key among the negatives: the valid entries of `bank`, and, if `batch_keys` is
    given, the keys of the batch except row `own_rows` of each query. Negatives of the query's own image (equal ids)
    are left out and counted if `mask_false_negatives`. Every entry in `positives` adds its own -log softmax, over
    the same denominator [C].
    """
    own = scale * jnp.einsum("nd,nd->n", queries, own_keys, precision=jax.lax.Precision.HIGHEST)
    others: list[Float[Array, "n negatives"]] = []
    masked = jnp.zeros((), jnp.int32)
    extra = jnp.zeros(own.shape, jnp.int32)
    extra_logits = jnp.zeros(own.shape)
    best = jnp.full_like(own, NONE)

    def allowed(counts: Bool[Array, n * m], same: Bool[Array, n * m]) -> Bool[Array, n * m]:
        return counts & ~same if mask_false_negatives else counts

    if bank is not None:
        counts = jnp.broadcast_to(ring.valid(bank), (queries.shape[0], *bank.ids.shape))
        same = counts & (bank.ids[None] == ids[:, None, None])
        if positives is not None:
            same &= ~positives
            extra = jnp.sum(positives, axis=(1, 2))
        logits = jnp.where(allowed(counts, same), scale * similarities(queries, bank.keys), NONE)
        masked += jnp.sum(counts & ~allowed(counts, same))
        best = jnp.max(logits if positives is None else jnp.where(positives, NONE, logits), axis=(1, 2))
        if positives is not None:
            extra_logits = jnp.sum(jnp.where(positives, logits, 0.0), axis=(1, 2))
        others.append(logits.reshape(queries.shape[0], -1))
    if batch_keys is not None:
        assert own_rows is not None and batch_ids is not None
        counts = jnp.arange(batch_keys.shape[0])[None] != own_rows[:, None]
        same = counts & (batch_ids[None] == ids[:, None])
        logits = jnp.where(allowed(counts, same), scale * similarities(queries, batch_keys), NONE)
        masked += jnp.sum(counts & ~allowed(counts, same))
        best = jnp.maximum(best, jnp.max(logits, axis=1))
        others.append(logits)
    total = _log_sum_exp(own, others)
    return InfoNCE(
        loss=jnp.sum((1 + extra) * total - own - extra_logits),
        correct=jnp.sum(own > best, dtype=jnp.float32),
        masked=masked.astype(jnp.float32),
        extra_positives=jnp.sum(extra, dtype=jnp.float32),
    )


def _log_sum_exp(own: Float[Array, " n"], others: list[Float[Array, "n _"]]) -> Float[Array, " n"]:
    """log(exp(own) + sum exp(others)): finite, with finite gradients, also where all the others are -inf."""
    peak = own
    for logits in others:
        peak = jnp.maximum(peak, jnp.max(logits, axis=1))
    peak = jax.lax.stop_gradient(peak)
    total = jnp.exp(own - peak)
    for logits in others:
        total += jnp.sum(jnp.exp(logits - peak[:, None]), axis=1)
    return peak + jnp.log(total)
