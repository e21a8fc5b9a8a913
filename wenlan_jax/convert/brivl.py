"""Rules for the official BriVL checkpoints (configs/PAPERS.md, released files).

Our own exports have the same layout, with any image backbone in the place of EfficientNet.

The Flax side is `<tower>/params/...` and `<tower>/batch_stats/...`, where a tower is one of the names given
to `brivl_table`. DeepSpeed's and other outer levels of the file are the caller's part.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wenlan_jax.convert import backbone_weights
from wenlan_jax.convert.bert import bert_rules
from wenlan_jax.convert.layer_rules import bias, joint_attention, layer_norm, linear, pointwise
from wenlan_jax.convert.rules import FlatTree, Ignore, WeightRule, WeightTable
from wenlan_jax.core.state import MOMENTUM

QUERY_TOWERS = {"imgencoder": "image", "textencoder": "text"}
OFFICIAL_BACKBONE = "efficientnet"
"""The image backbone of the official models."""

MOMENTUM_TOWERS = {f"{prefix}_mom": tower + MOMENTUM for prefix, tower in QUERY_TOWERS.items()}

_BATCH_COUNTER = "num_batches_tracked"


def brivl_table(towers: Mapping[str, str] = QUERY_TOWERS, backbone: str = OFFICIAL_BACKBONE) -> WeightTable:
    """Makes the rules for some towers of an official checkpoint.

    Image and text towers are told apart by the prefix (`img...`, `text...`). The towers of the checkpoint that are not
    asked for are ignored.

    Args:
        towers: from the official prefix to the Flax name: QUERY_TOWERS, MOMENTUM_TOWERS or both merged.
        backbone: the image backbone, a value of `model.image.architecture`.

    Returns:
        The rules.
    """
    rules: list[WeightRule] = []
    for prefix, name in towers.items():
        rules += image_rules(prefix, name, backbone) if prefix.startswith("img") else text_rules(prefix, name)
    left_out = [p for p in (*QUERY_TOWERS, *MOMENTUM_TOWERS) if p not in towers]
    others = tuple(Ignore(rf"{prefix}\..*", "a tower that was not asked for") for prefix in left_out)
    return WeightTable(tuple(rules), (*_UNUSED, *others))


_UNUSED = (
    Ignore(r".*\.num_batches_tracked", "BN's batch counter; unused with a fixed momentum"),
    Ignore(r".*\.backbone\.classifier\.(weight|bias)", "ImageNet classifier; BriVL uses the feature map"),
    Ignore(r".*\.backbone\.bert\.pooler\.dense\.(weight|bias)", "BERT pooler; BriVL uses the hidden states"),
    Ignore(r".*\.backbone\.bert\.embeddings\.position_ids", "constant positions stored by older files"),
)


def is_unused_layer(key: str) -> bool:
    """Says whether the official modules have this layer without computing with it: strict loading needs its key."""
    return ".backbone.classifier." in key or ".bert.pooler." in key


def image_rules(prefix: str, tower: str, backbone: str) -> list[WeightRule]:
    """Makes the rules of an image tower: backbone, region projection, encoder, projection head.

    Args:
        prefix: of the official keys.
        tower: the Flax name.
        backbone: the image backbone, a value of `model.image.architecture`.

    Returns:
        The rules.
    """
    rules = backbone_weights.of(backbone).rules(f"{prefix}.backbone.", f"{tower}/{{collection}}/backbone/")
    head = f"{prefix}.learnable.max_pool.0"
    pooling = f"{tower}/params/regions/region_proj"
    rules += [pointwise(head, pooling), bias(head, pooling)]
    return rules + _head_rules(f"{prefix}.learnable.img", f"{tower}/params/")


def text_rules(prefix: str, tower: str) -> list[WeightRule]:
    """Makes the rules of a text tower: BERT, encoder, projection head.

    Args:
        prefix: of the official keys.
        tower: the Flax name.

    Returns:
        The rules.
    """
    rules = bert_rules(f"{prefix}.backbone.bert.", f"{tower}/params/backbone/")
    return rules + _head_rules(f"{prefix}.learnable.text", f"{tower}/params/")


def with_batch_counters(state: FlatTree) -> FlatTree:
    """Adds the zero `num_batches_tracked` that PyTorch's BN layers expect beside their running variance."""
    counters = {
        key.replace("running_var", _BATCH_COUNTER): np.zeros((), np.int64)
        for key in state
        if key.endswith(".running_var")
    }
    return {**state, **counters}


def _head_rules(torch: str, flax: str) -> list[WeightRule]:
    """What follows the backbone in both towers; `torch` ends in `learnable.img` or `learnable.text`."""
    layer, ours = torch + "Att.layers.{i}.", flax + "encoder/layers_{i}/"
    attention = layer + "self_attn."
    rules = joint_attention(f"{attention}in_proj_weight", f"{attention}in_proj_bias", ours + "attention")
    rules += linear(attention + "out_proj", ours + "attention/out")
    for name in ("linear1", "linear2"):
        rules += linear(layer + name, ours + name)
    for name in ("norm1", "norm2"):
        rules += layer_norm(layer + name, ours + name)
    for name in ("fc1", "fc2"):
        rules += linear(f"{torch}FC.{name}", f"{flax}projection/{name}")
    return rules
