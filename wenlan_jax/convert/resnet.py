"""Rules for ResNets with bottlenecks: the key layouts of torchvision, which timm shares, and of Hugging Face.

Stages are numbered from 1 here and in torchvision, and from 0 in Hugging Face's `ResNetModel`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wenlan_jax.convert import backbone_weights, bert, weights
from wenlan_jax.convert.layer_rules import batch_norm, convolution, params, pointwise
from wenlan_jax.convert.rules import ConversionError, Ignore, WeightRule, WeightTable
from wenlan_jax.models.resnet import EXPANSION, ResNet
from wenlan_jax.tasks import experiment

if TYPE_CHECKING:  # that module imports torch, which is optional
    from wenlan_jax.convert import torch_modules

SECTION = "model.image.resnet"

EPS = 1e-5
"""Of batch normalisation in all published weights of these layouts."""

_STEMS = {"torchvision": "layer1.0.conv1.weight", "huggingface": "encoder.stages.0.layers.0.layer.0.convolution.weight"}
"""A key by which a layout is known, after the prefix."""

_LAST = {"torchvision": "layer1.0.conv3.weight", "huggingface": "encoder.stages.0.layers.0.layer.2.convolution.weight"}
"""The last convolution of a bottleneck, which other blocks do not have."""

_FIRST = {"torchvision": "conv1.weight", "huggingface": "embedder.embedder.convolution.weight"}

_NAME = r"[a-z_]*resne[a-z]*\d+[a-z0-9_]*"
_PLAIN = re.compile(r"(tv_|ssl_|swsl_|gluon_)?resnet\d+(_v1b)?([._-].*)?")
"""Names of timm whose networks are torchvision's. Others differ in what no shape tells, such as how they pool."""

_COMPUTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("resnet",),
    "hidden_act": ("relu",),
    "layer_type": ("bottleneck",),
    "num_channels": (3,),
    "downsample_in_first_stage": (False,),
    "downsample_in_bottleneck": (False,),
}
"""Fields of transformers' `ResNetConfig` that change what is computed, and the values for which ours does it."""

UNCHECKED = "which ResNet this is, and normalisation of images: no name says it; taken for torchvision's"

_HUGGING_FACE = {
    "conv1": "layer.0.convolution",
    "bn1": "layer.0.normalization",
    "conv2": "layer.1.convolution",
    "bn2": "layer.1.normalization",
    "conv3": "layer.2.convolution",
    "bn3": "layer.2.normalization",
    "downsample_conv": "shortcut.convolution",
    "downsample_bn": "shortcut.normalization",
}
_TORCHVISION = {name: name for name in _HUGGING_FACE} | {
    "downsample_conv": "downsample.0",
    "downsample_bn": "downsample.1",
}
"""The names of a block's layers, by ours."""


class KeyLayout(NamedTuple):
    """Whose names the keys have.

    Attributes:
        family: `torchvision` (and timm) or `huggingface`.
        prefix: what stands before all keys, such as `resnet.`.
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
        ConversionError: if they hold no ResNet with bottlenecks, or several.
    """
    names = set(keys)
    layout = KeyLayout(*backbone_weights.sole_prefix(names, _STEMS, "a ResNet of torchvision, timm or Hugging Face"))
    for key in (layout.prefix + _LAST[layout.family], layout.prefix + _FIRST[layout.family]):
        if key not in names:
            raise ConversionError(
                f"a ResNet without {key}: one of other blocks than bottlenecks, such as ResNet-18 and 34, or of "
                "another stem; give one such as ResNet-50"
            )
    return layout


def resnet_table(layout: KeyLayout, stages: int) -> WeightTable:
    """Makes the rules of a layout, for both directions.

    Args:
        layout: of the keys.
        stages: number of stages.

    Returns:
        The rules.
    """
    scope, prefix = backbone_weights.SCOPE, layout.prefix
    made = rules(prefix, scope) if layout.family == "torchvision" else _huggingface_rules(prefix, scope, stages)
    ignored = (
        Ignore(r".*\.num_batches_tracked", "BN's batch counter; unused with a fixed momentum"),
        Ignore(rf"({re.escape(prefix)})?(fc|classifier)\..*", "classifier; the towers use the feature map"),
    )
    return WeightTable(tuple(made), ignored)


def rules(prefix: str, scope: str) -> list[WeightRule]:
    """Makes the rules of torchvision's layout, which our own exports have.

    Args:
        prefix: of the keys.
        scope: of the Flax paths, with `{collection}` for the name of the collection.

    Returns:
        The rules.
    """
    made = _stem(prefix + "conv1", prefix + "bn1", scope)
    return made + _block(prefix + "layer{s}.{i}.", scope + "stage_{s}_{i}/", _TORCHVISION)


def _huggingface_rules(prefix: str, scope: str, stages: int) -> list[WeightRule]:
    stem = f"{prefix}embedder.embedder."
    made = _stem(stem + "convolution", stem + "normalization", scope)
    for stage in range(stages):
        torch, flax = f"{prefix}encoder.stages.{stage}.layers.{{i}}.", f"{scope}stage_{stage + 1}_{{i}}/"
        made += _block(torch, flax, _HUGGING_FACE)
    return made


def _stem(conv: str, norm: str, scope: str) -> list[WeightRule]:
    return [convolution(conv, params(scope + "stem_conv")), *batch_norm(norm, scope + "stem_bn")]


def _block(torch: str, flax: str, names: Mapping[str, str]) -> list[WeightRule]:
    made = [convolution(torch + names["conv2"], params(flax + "conv2"))]
    made += [pointwise(torch + names[name], params(flax + name)) for name in ("conv1", "conv3", "downsample_conv")]
    return made + [r for n in ("bn1", "bn2", "bn3", "downsample_bn") for r in batch_norm(torch + names[n], flax + n)]


def _fields(state: weights.StateDict, layout: KeyLayout) -> dict[str, Any]:
    """The fields of `model.image.resnet`."""
    before = {"torchvision": ("layer", ".", 1), "huggingface": ("encoder.stages.", ".layers.", 0)}[layout.family]
    start, after, first = before
    blocks: list[int] = []
    while found := backbone_weights.count(state, f"{layout.prefix}{start}{len(blocks) + first}{after}"):
        blocks.append(found)
    return {"blocks": tuple(blocks), "width": backbone_weights.rows(state, layout.prefix + _FIRST[layout.family])}


def read(state: weights.StateDict, config: experiment.Config, source: Path) -> backbone_weights.BackboneWeights:
    """Prepares a ResNet for a configuration, see `Conversion`."""
    layout, eps = detect(state), config.model.image.batch_norm.eps
    description = bert.read_description(source)
    name = backbone_weights.called(description, weights.metadata(source), source, _NAME)
    faults = backbone_weights.size_faults(config.model.image.resnet, SECTION, _fields(state, layout))
    if eps != EPS:
        faults.append(f"these weights have a BN epsilon of {EPS:g}; set model.image.batch_norm.eps={EPS:g}")
    if layout.family == "huggingface":
        faults += backbone_weights.said_otherwise(description, _COMPUTED, "the ResNet")
    elif name and not _PLAIN.fullmatch(name):
        faults.append(f"its name says {name}; the ResNet computes what torchvision's resnet50 and its kin do")
    faults += backbone_weights.normalisation_faults(source, config)
    if faults:
        raise ConversionError("\n  ".join(faults))
    told = description if layout.family == "huggingface" else name
    table = resnet_table(layout, len(config.model.image.resnet.blocks))
    return backbone_weights.BackboneWeights(state, table, (), "" if told else UNCHECKED)


def sizes(state: weights.StateDict, source: Path, base: experiment.Config) -> backbone_weights.Fields:
    """Finds the fields that weights settle, see `Conversion`."""
    found = _fields(state, detect(state))
    return {f"{SECTION}.{name}": value for name, value in found.items()} | {"model.image.batch_norm.eps": EPS}


def architecture(backbone: ResNet) -> torch_modules.ResNetSizes:
    """Returns the sizes of a module, ready for JSON."""
    return {
        "architecture": "resnet",
        "width": backbone.width,
        "expansion": EXPANSION,
        "blocks": list(backbone.blocks),
        "norm_eps": backbone.batch_norm.eps,
        "norm_momentum": backbone.batch_norm.momentum,
    }


CONVERSION = backbone_weights.Conversion(detect, read, sizes, rules, architecture)
