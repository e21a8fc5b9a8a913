"""Rules of single layers, of which the tables of whole networks consist.

A scope of Flax paths with `{collection}` in it stands for `params` or `batch_stats`.
"""

from __future__ import annotations

from wenlan_jax.convert.rules import CONVOLUTION, LINEAR, POINTWISE, WeightRule, split_rows


def params(scope: str) -> str:
    """Returns the scope of the parameters."""
    return scope.replace("{collection}", "params")


def convolution(torch: str, flax: str) -> WeightRule:
    """Makes the rule of the kernel of a convolution, depthwise ones included."""
    return WeightRule(f"{torch}.weight", (f"{flax}/kernel",), CONVOLUTION)


def pointwise(torch: str, flax: str) -> WeightRule:
    """Makes the rule of the kernel of a 1x1 convolution, which is a matrix here."""
    return WeightRule(f"{torch}.weight", (f"{flax}/kernel",), POINTWISE)


def bias(torch: str, flax: str) -> WeightRule:
    """Makes the rule of a bias."""
    return WeightRule(f"{torch}.bias", (f"{flax}/bias",))


def linear(torch: str, flax: str) -> list[WeightRule]:
    """Makes the rules of a dense layer."""
    return [WeightRule(f"{torch}.weight", (f"{flax}/kernel",), LINEAR), bias(torch, flax)]


def joint_attention(weight: str, offset: str, flax: str) -> list[WeightRule]:
    """Makes the rules of one matrix and bias for queries, keys and values.

    Args:
        weight: the key of the matrix.
        offset: the key of the bias.
        flax: the path of the `Attention`.

    Returns:
        The rules.
    """
    parts = [f"{flax}/{name}/" for name in ("query", "key", "value")]
    return [
        WeightRule(weight, tuple(name + "kernel" for name in parts), split_rows(3)),
        WeightRule(offset, tuple(name + "bias" for name in parts), split_rows(3)),
    ]


def layer_norm(torch: str, flax: str) -> list[WeightRule]:
    """Makes the rules of a LayerNorm."""
    return [WeightRule(f"{torch}.weight", (f"{flax}/scale",)), bias(torch, flax)]


def batch_norm(torch: str, flax: str) -> list[WeightRule]:
    """Makes the rules of a batch normalisation and its statistics; `flax` has `{collection}` in it."""
    stats = flax.replace("{collection}", "batch_stats")
    running = [WeightRule(f"{torch}.running_{name}", (f"{stats}/{name}",)) for name in ("mean", "var")]
    return layer_norm(torch, params(flax)) + running
