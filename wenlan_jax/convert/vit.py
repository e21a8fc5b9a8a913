"""Rules for Vision Transformers: the key layouts of timm, of DINOv2's own code, and of Hugging Face.

timm and DINOv2's code name their leaves alike but for the register tokens. Hugging Face has `ViTModel`, `Dinov2Model`
and `Dinov2WithRegistersModel`, whose names in files differ from those in memory since transformers 5. In all of them
the position table may begin with rows for the class token and the registers; these are added to the tokens, see
`fold_positions`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wenlan_jax.convert import backbone_weights, bert, weights
from wenlan_jax.convert.layer_rules import bias as bias_rule
from wenlan_jax.convert.layer_rules import convolution, joint_attention, layer_norm, linear, params
from wenlan_jax.convert.rules import AxisLayout, ConversionError, Ignore, WeightRule, WeightTable
from wenlan_jax.models.vit import VisionTransformer
from wenlan_jax.tasks import experiment

if TYPE_CHECKING:  # that module imports torch, which is optional
    from wenlan_jax.convert import torch_modules

SECTION = "model.image.vit"

_STEMS = {"timm": "patch_embed.proj.weight", "huggingface": "embeddings.patch_embeddings.projection.weight"}
"""The key by which a layout is known, after the prefix."""

_NAME = r"(vit|deit3?|flexivit|dinov2)_[a-z0-9_.]+"

EPS = 1e-6
"""Of the LayerNorms of timm and of DINOv2."""

_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16, "vits": 6, "vitb": 12, "vitl": 16}
"""Attention heads by the size that a name has, of timm or of DINOv2 (Dosovitskiy et al. 2021, table 1; Touvron et al.
2021; Oquab et al. 2023)."""

_USUAL_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""The same by width."""

_EPSILONS = {"vit": 1e-12, "dinov2": EPS, "dinov2_with_registers": EPS}
"""What a config.json of transformers means when it leaves out `layer_norm_eps`, by `model_type`."""

_COMPUTED: dict[str, tuple[Any, ...]] = {
    "model_type": tuple(_EPSILONS),
    "hidden_act": ("gelu",),
    "num_channels": (3,),
    "use_swiglu_ffn": (False,),
    "apply_layernorm": (True,),
}
"""Fields of transformers' configurations that change what is computed, and the values for which ours does it."""

UNCHECKED = "attention heads, epsilon of LayerNorms, normalisation of images: neither config.json nor a name says them"

_ONE_TOKEN = AxisLayout(lambda a: [a[0]], lambda leaves: leaves[0][None])
"""(1, tokens, width) <-> (tokens, width)."""

_TIMM = {"position": "pos_embed", "class": "cls_token", "registers": ("reg_token", "register_tokens")}
_HUGGING_FACE = {
    "position": "embeddings.position_embeddings",
    "class": "embeddings.cls_token",
    "registers": ("embeddings.register_tokens",),
}
_KEYS: dict[str, dict[str, Any]] = {"timm": _TIMM, "huggingface": _HUGGING_FACE}


class KeyLayout(NamedTuple):
    """Whose names the keys have.

    Attributes:
        family: `timm` (and DINOv2's own code) or `huggingface`.
        prefix: what stands before all keys, such as `vit.`.
    """

    family: str
    prefix: str


def detect(keys: Iterable[str]) -> KeyLayout:
    """Finds the layout of a state dict's keys.

    Args:
        keys: of a state dict.

    Returns:
        The layout.

    Raises:
        ConversionError: if they hold no Vision Transformer with a class token, or several.
    """
    names = set(keys)
    layout = KeyLayout(
        *backbone_weights.sole_prefix(names, _STEMS, "a Vision Transformer of timm, DINOv2 or Hugging Face")
    )
    token = layout.prefix + _KEYS[layout.family]["class"]
    if token not in names:
        raise ConversionError(f"a network of patches without a class token ({token}), which is no ViT or DINOv2")
    return layout


def vit_table(layout: KeyLayout) -> WeightTable:
    """Makes the rules of a layout, for both directions; position tables have no rows for other tokens.

    Args:
        layout: of the keys.

    Returns:
        The rules.
    """
    scope, prefix = backbone_weights.SCOPE, layout.prefix
    made = rules(prefix, scope) if layout.family == "timm" else _huggingface_rules(prefix, scope)
    own = re.escape(prefix)
    ignored = (
        Ignore(rf"({own})?(head|head_dist|fc|classifier)\..*", "classifier; the towers use the patch tokens"),
        Ignore(rf"{own}(pooler|pre_logits)\..*", "pooler of the class token; the towers use the patch tokens"),
        Ignore(rf"{own}(embeddings\.)?mask_token", "mask token of the pretraining"),
    )
    return WeightTable(tuple(made), ignored)


def rules(prefix: str, scope: str) -> list[WeightRule]:
    """Makes the rules of timm's layout, which our own exports have.

    Args:
        prefix: of the keys.
        scope: of the Flax paths, with `{collection}` for the name of the collection.

    Returns:
        The rules.
    """
    flax = params(scope)
    made = _ends(prefix, flax, "patch_embed.proj", "norm", _TIMM)
    torch, layer = prefix + "blocks.{i}.", flax + "layers_{i}/"
    for name in ("norm1", "norm2"):
        made += layer_norm(torch + name, layer + name)
    made += joint_attention(f"{torch}attn.qkv.weight", f"{torch}attn.qkv.bias", layer + "attention")
    for theirs, ours in (("attn.proj", "attention/out"), ("mlp.fc1", "linear1"), ("mlp.fc2", "linear2")):
        made += linear(torch + theirs, layer + ours)
    return made + [WeightRule(f"{torch}ls{number}.gamma", (f"{layer}layer_scale{number}",)) for number in (1, 2)]


def _ends(prefix: str, flax: str, embedding: str, norm: str, keys: Mapping[str, Any]) -> list[WeightRule]:
    """The rules of what is before and after the layers."""
    made = [convolution(prefix + embedding, flax + "patch_embedding")]
    made += [bias_rule(prefix + embedding, flax + "patch_embedding"), *layer_norm(prefix + norm, flax + "norm")]
    tokens = [(keys["position"], "positions"), (keys["class"], "class_token")]
    tokens += [(key, "registers") for key in keys["registers"]]
    return made + [WeightRule(prefix + theirs, (flax + ours,), _ONE_TOKEN) for theirs, ours in tokens]


_LAYERS = ("encoder.layer.{i}.", "layers.{i}.")
"""Hugging Face's layers; the second as `ViTModel` has them in memory since transformers 5."""

_NORMS = {"layernorm_before": "norm1", "layernorm_after": "norm2", "norm1": "norm1", "norm2": "norm2"}
"""Those of ViT and of DINOv2."""

_DENSE = {
    "attention.attention.query": "attention/query",
    "attention.attention.key": "attention/key",
    "attention.attention.value": "attention/value",
    "attention.output.dense": "attention/out",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "attention.q_proj": "attention/query",
    "attention.k_proj": "attention/key",
    "attention.v_proj": "attention/value",
    "attention.o_proj": "attention/out",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
}
"""Those of files, and those in memory since transformers 5; a model has one name for each."""


def _huggingface_rules(prefix: str, scope: str) -> list[WeightRule]:
    flax = params(scope)
    made = _ends(prefix, flax, "embeddings.patch_embeddings.projection", "layernorm", _HUGGING_FACE)
    layer = flax + "layers_{i}/"
    for torch in (prefix + layers for layers in _LAYERS):
        for theirs, ours in _NORMS.items():
            made += layer_norm(torch + theirs, layer + ours)
        for theirs, ours in _DENSE.items():
            made += linear(torch + theirs, layer + ours)
        made += [WeightRule(f"{torch}layer_scale{n}.lambda1", (f"{layer}layer_scale{n}",)) for n in (1, 2)]
    return made


class _Shape(NamedTuple):
    """What the arrays tell.

    Attributes:
        fields: of `model.image.vit`, whose sizes arrays have.
        extra: rows of the position table before those of the patches.
    """

    fields: dict[str, Any]
    extra: int


def _shape(state: weights.StateDict, layout: KeyLayout) -> _Shape:
    if _is_gated(state):
        raise ConversionError("a feed-forward network with SwiGLU; the Vision Transformer computes GELU only")
    prefix, keys = layout.prefix, _KEYS[layout.family]
    stem = prefix + _STEMS[layout.family]
    places = backbone_weights.rows(state, prefix + keys["position"], 1)
    positions = math.isqrt(places)
    registers = next((state[prefix + key] for key in keys["registers"] if prefix + key in state), None)
    names = {key.removeprefix(prefix) for key in state if key.startswith(prefix)}
    blocks = {"timm": ("blocks.",), "huggingface": tuple(layer.partition("{")[0] for layer in _LAYERS)}[layout.family]
    hidden = next((key for key in sorted(names) if key.endswith((".mlp.fc1.weight", ".intermediate.dense.weight"))), "")
    fields = {
        "patch": backbone_weights.rows(state, stem, 3),
        "width": backbone_weights.rows(state, stem),
        "layers": max(backbone_weights.count(names, before) for before in blocks),
        "feed_forward": backbone_weights.rows(state, prefix + hidden),
        "registers": 0 if registers is None else registers.shape[-2],
        "positions": positions,
        "qkv_bias": any(name.endswith((".qkv.bias", ".query.bias", ".q_proj.bias")) for name in names),
    }
    return _Shape(fields, places - positions**2)


def _has_scales(state: weights.StateDict) -> bool:
    return any(key.endswith((".ls1.gamma", ".layer_scale1.lambda1")) for key in state)


def fold_positions(state: weights.StateDict, layout: KeyLayout, extra: int) -> weights.StateDict:
    """Adds the rows of the position table that are not of patches to the tokens that they are of.

    Args:
        state: the arrays by key.
        layout: of the keys.
        extra: rows before those of the patches: one for the class token, and one a register in some models.

    Returns:
        The arrays with a position table for patches alone.

    Raises:
        ConversionError: for rows of no token.
    """
    if not extra:
        return state
    keys = {name: layout.prefix + key for name, key in _KEYS[layout.family].items() if name != "registers"}
    registers = [layout.prefix + key for key in _KEYS[layout.family]["registers"] if layout.prefix + key in state]
    table, folded = state[keys["position"]], dict(state)
    first = 0
    for key in (keys["class"], *registers):
        tokens = state[key].shape[-2]
        if first + tokens <= extra:
            folded[key] = state[key].reshape(1, tokens, -1) + table[:, first : first + tokens]
            first += tokens
    if first != extra:
        raise ConversionError(
            f"{keys['position']} has {table.shape[1]} rows: no square of patches, with a row for the class token and "
            "the registers or without"
        )
    folded[keys["position"]] = np.ascontiguousarray(table[:, extra:])
    return folded


class _Said(NamedTuple):
    """What no shape tells; None where nothing says it."""

    heads: int | None
    eps: float | None
    interpolation: str


def _said(state: weights.StateDict, layout: KeyLayout, source: Path) -> _Said:
    description = bert.read_description(source)
    registers = any(f"{layout.prefix}{key}" in state for key in _KEYS[layout.family]["registers"])
    if layout.family == "huggingface":
        kind = description.get("model_type", "")
        eps = description.get("layer_norm_eps", _EPSILONS.get(kind))
        heads = description.get("num_attention_heads", 12) if description else None
        return _Said(heads, eps, "antialiased" if registers else "plain")
    name = backbone_weights.called(description, weights.metadata(source), source, _NAME)
    heads = next((heads for size, heads in _HEADS.items() if re.search(rf"_{size}(\d+)?_", f"{name}_")), None)
    # DINOv2's own files have a mask token; those of timm do not.
    own = f"{layout.prefix}mask_token" in state and not registers
    return _Said(heads, EPS, "offset" if own else "antialiased")


def read(state: weights.StateDict, config: experiment.Config, source: Path) -> backbone_weights.BackboneWeights:
    """Prepares a Vision Transformer for a configuration, see `Conversion`."""
    layout, vit = detect(state), config.model.image.vit
    shape, said = _shape(state, layout), _said(state, layout, source)
    known = {name: value for name, value in (("heads", said.heads), ("eps", said.eps)) if value is not None}
    faults = backbone_weights.size_faults(vit, SECTION, {**shape.fields, **known})
    faults += _scale_faults(_has_scales(state), vit.layer_scale)
    if not faults and config.data.image_size != vit.patch * vit.positions:
        faults += backbone_weights.size_faults(vit, SECTION, {"interpolation": said.interpolation})
    description = bert.read_description(source)
    faults += backbone_weights.normalisation_faults(source, config) + _computed_otherwise(layout, description, source)
    if faults:
        raise ConversionError("\n  ".join(faults))
    told = said.heads is not None and said.eps is not None
    folded = fold_positions(state, layout, shape.extra)
    return backbone_weights.BackboneWeights(folded, vit_table(layout), (), "" if told else UNCHECKED)


def _is_gated(state: weights.StateDict) -> bool:
    """Whether feed-forward networks are SwiGLU, by its own names, or by a first layer of both halves (timm)."""
    if any(".mlp.w12." in key or ".mlp.weights_in." in key for key in state):
        return True
    first = {key: len(array) for key, array in state.items() if key.endswith(".mlp.fc1.weight") and array.ndim == 2}
    inputs = {key: state.get(key.replace(".fc1.", ".fc2.")) for key in first}
    return any(array is not None and first[key] == 2 * array.shape[-1] for key, array in inputs.items())


def _scale_faults(has: bool, start: float) -> list[str]:
    if has and not start:
        return [f"these weights have LayerScale; set {SECTION}.layer_scale=1e-05, which is {start}"]
    if start and not has:
        return [f"these weights have no LayerScale; set {SECTION}.layer_scale=0.0, which is {start}"]
    return []


def _computed_otherwise(layout: KeyLayout, description: Mapping[str, Any], source: Path) -> list[str]:
    """What a description or a name asks for that is not computed here."""
    if layout.family == "huggingface":
        return backbone_weights.said_otherwise(description, _COMPUTED, "the Vision Transformer")
    name = backbone_weights.called(description, weights.metadata(source), source, _NAME)
    if "gelu" in name:
        return [f"its name says {name}; the Vision Transformer computes the exact GELU only"]
    return []


def sizes(state: weights.StateDict, source: Path, base: experiment.Config) -> backbone_weights.Fields:
    """Finds the fields that weights settle, see `Conversion`. Images that fit no patch get the size of the table."""
    layout = detect(state)
    shape, said = _shape(state, layout), _said(state, layout, source)
    width, patch = shape.fields["width"], shape.fields["patch"]
    found = {
        **shape.fields,
        "heads": said.heads or _USUAL_HEADS.get(width, max(1, width // 64)),
        "eps": said.eps or EPS,
        "layer_scale": 1e-5 if _has_scales(state) else 0.0,
        "interpolation": said.interpolation,
    }
    fields: backbone_weights.Fields = {f"{SECTION}.{name}": value for name, value in found.items()}
    if base.data.image_size % patch:
        fields["data.image_size"] = patch * shape.fields["positions"]
    return fields


def architecture(backbone: VisionTransformer) -> torch_modules.VisionTransformerSizes:
    """Returns the sizes of a module, ready for JSON."""
    return {
        "architecture": "vit",
        "patch": backbone.patch,
        "width": backbone.width,
        "layers": backbone.depth,
        "heads": backbone.heads,
        "feed_forward": backbone.mlp_width,
        "registers": backbone.registers,
        "positions": backbone.positions,
        "interpolation": backbone.interpolation,
        "qkv_bias": backbone.qkv_bias,
        "layer_scale": bool(backbone.layer_scale),
        "norm_eps": backbone.eps,
    }


CONVERSION = backbone_weights.Conversion(detect, read, sizes, rules, architecture)
