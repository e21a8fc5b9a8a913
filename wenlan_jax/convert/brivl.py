"""Rules for the official BriVL checkpoints (configs/PAPERS.md, released files).

The Flax side is `<tower>/params/...` and `<tower>/batch_stats/...`, where a tower is one of the names given
to `brivl_table`. DeepSpeed's and other outer levels of the file are the caller's part.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wenlan_jax.convert.rules import (
    CONVOLUTION,
    LINEAR,
    POINTWISE,
    FlatTree,
    Ignore,
    WeightRule,
    WeightTable,
    split_rows,
)
from wenlan_jax.core.state import MOMENTUM

QUERY_TOWERS = {"imgencoder": "image", "textencoder": "text"}
MOMENTUM_TOWERS = {f"{prefix}_mom": tower + MOMENTUM for prefix, tower in QUERY_TOWERS.items()}

_BATCH_COUNTER = "num_batches_tracked"
_BERT_LAYER = {
    "attention.self.query": "attention/query",
    "attention.self.key": "attention/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/out",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
}
_BERT_NORMS = {"attention.output.LayerNorm": "norm1", "output.LayerNorm": "norm2"}


def brivl_table(towers: Mapping[str, str] = QUERY_TOWERS) -> WeightTable:
    """Makes the rules for some towers of an official checkpoint.

    Image and text towers are told apart by the prefix (`img...`, `text...`). The towers of the checkpoint that are not
    asked for are ignored.

    Args:
        towers: from the official prefix to the Flax name: QUERY_TOWERS, MOMENTUM_TOWERS or both merged.

    Returns:
        The rules.
    """
    rules: list[WeightRule] = []
    for prefix, name in towers.items():
        rules += image_rules(prefix, name) if prefix.startswith("img") else text_rules(prefix, name)
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


def image_rules(prefix: str, tower: str) -> list[WeightRule]:
    """Makes the rules of an image tower: EfficientNet, region projection, encoder, projection head.

    Args:
        prefix: of the official keys.
        tower: the Flax name.

    Returns:
        The rules.
    """
    torch, flax = f"{prefix}.backbone.", f"{tower}/{{collection}}/backbone/"
    rules = [_kernel(torch + "conv_stem", _params(flax + "conv_stem"), convolution=True)]
    rules += [_pointwise(torch + "conv_head", _params(flax + "conv_head"))]
    rules += _batch_norm(torch + "bn1", flax + "bn1") + _batch_norm(torch + "bn2", flax + "bn2")
    torch, flax = torch + "blocks.{s}.{i}.", flax + "blocks_{s}_{i}/"
    rules += [_kernel(torch + "conv_dw", _params(flax + "conv_dw"), convolution=True)]
    for name in ("conv_pw", "conv_pwl", "se.conv_reduce", "se.conv_expand"):
        rules.append(_pointwise(torch + name, _params(flax + name.replace(".", "/"))))
    for name in ("se.conv_reduce", "se.conv_expand"):
        rules.append(_bias(torch + name, _params(flax + name.replace(".", "/"))))
    for name in ("bn1", "bn2", "bn3"):
        rules += _batch_norm(torch + name, flax + name)
    head = f"{prefix}.learnable.max_pool.0"
    pooling = f"{tower}/params/regions/region_proj"
    rules += [_pointwise(head, pooling), _bias(head, pooling)]
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


def bert_rules(prefix: str, scope: str) -> list[WeightRule]:
    """Makes the rules of a Hugging Face BertModel.

    Args:
        prefix: of its keys, maybe empty.
        scope: of our encoder's paths.

    Returns:
        The rules.
    """
    embeddings = prefix + "embeddings."
    rules = [
        WeightRule(f"{embeddings}{kind}_embeddings.weight", (f"{scope}embeddings/{name}/embedding",))
        for kind, name in (("word", "word"), ("position", "position"), ("token_type", "type"))
    ]
    rules += _layer_norm(embeddings + "LayerNorm", scope + "embeddings/norm")
    torch, flax = prefix + "encoder.layer.{i}.", scope + "layers_{i}/"
    for theirs, ours in _BERT_LAYER.items():
        rules += _linear(torch + theirs, flax + ours)
    for theirs, ours in _BERT_NORMS.items():
        rules += _layer_norm(torch + theirs, flax + ours)
    return rules


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
    joint = [f"{ours}attention/{name}/" for name in ("query", "key", "value")]
    rules = [
        WeightRule(layer + "self_attn.in_proj_weight", tuple(name + "kernel" for name in joint), split_rows(3)),
        WeightRule(layer + "self_attn.in_proj_bias", tuple(name + "bias" for name in joint), split_rows(3)),
        *_linear(layer + "self_attn.out_proj", ours + "attention/out"),
    ]
    for name in ("linear1", "linear2"):
        rules += _linear(layer + name, ours + name)
    for name in ("norm1", "norm2"):
        rules += _layer_norm(layer + name, ours + name)
    for name in ("fc1", "fc2"):
        rules += _linear(f"{torch}FC.{name}", f"{flax}projection/{name}")
    return rules


def _params(scope: str) -> str:
    return scope.replace("{collection}", "params")


def _kernel(torch: str, flax: str, *, convolution: bool) -> WeightRule:
    return WeightRule(f"{torch}.weight", (f"{flax}/kernel",), CONVOLUTION if convolution else LINEAR)


def _pointwise(torch: str, flax: str) -> WeightRule:
    return WeightRule(f"{torch}.weight", (f"{flax}/kernel",), POINTWISE)


def _bias(torch: str, flax: str) -> WeightRule:
    return WeightRule(f"{torch}.bias", (f"{flax}/bias",))


def _linear(torch: str, flax: str) -> list[WeightRule]:
    return [_kernel(torch, flax, convolution=False), _bias(torch, flax)]


def _layer_norm(torch: str, flax: str) -> list[WeightRule]:
    return [WeightRule(f"{torch}.weight", (f"{flax}/scale",)), _bias(torch, flax)]


def _batch_norm(torch: str, flax: str) -> list[WeightRule]:
    stats = flax.replace("{collection}", "batch_stats")
    running = [WeightRule(f"{torch}.running_{name}", (f"{stats}/{name}",)) for name in ("mean", "var")]
    return _layer_norm(torch, _params(flax)) + running
