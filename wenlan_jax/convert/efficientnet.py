"""Rules for image backbones: the key layouts of timm and of Hugging Face's `EfficientNetModel`.

The Flax side is `image/params/backbone/...` and `image/batch_stats/backbone/...`. timm's layout is the one that
the official BriVL checkpoints embed, so its rules are theirs. Hugging Face numbers the blocks through all stages
and names the layers by their function, so its table needs the stages of the model.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from wenlan_jax.convert import backbone_weights, bert, weights
from wenlan_jax.convert.layer_rules import batch_norm, bias, convolution, params, pointwise
from wenlan_jax.convert.rules import ConversionError, Ignore, WeightRule, WeightTable
from wenlan_jax.models.efficientnet import COMPOUND_COEFFICIENTS, SQUEEZE_RATIO, EfficientNet, Stage, efficientnet_sizes
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower.towers import image_backbone

if TYPE_CHECKING:  # that module imports torch, which is optional
    from wenlan_jax.convert import torch_modules

Family = Literal["timm", "huggingface", "efficientnet_pytorch"]

TF_EPS = 1e-3
"""Of batch normalisation in weights that came from TensorFlow, the only ones whose padding `EfficientNet` has."""
_NAME = r"(tf_)?(efficientnet(v2)?_[a-z0-9]+)(_[a-z0-9_]+)?"
_PLAIN = re.compile(r"efficientnet_b\d")
_TF_NAME = re.compile(r"tf_efficientnet_(b|lite)\d(_[a-z0-9_]+)?([.-].*)?")

Normalisation = tuple[Sequence[float], Sequence[float]]
"""Mean and deviation by channel."""

UNCHECKED = (
    "padding, BN epsilon and normalisation of images: neither config.json, metadata nor a name says which "
    "EfficientNet this is; taken for timm's tf_efficientnet"
)

_STEMS: dict[Family, str] = {
    "timm": "conv_stem.weight",
    "huggingface": "embeddings.convolution.weight",
    "efficientnet_pytorch": "_conv_stem.weight",
}
"""The key by which a layout is known, after the prefix."""


class BlockNames(NamedTuple):
    """The layers of a family that numbers its blocks through all stages; timm's names come first.

    Attributes:
        ends: layers before and after the blocks.
        separable: layers of a block with `expand` 1, which is depthwise-separable.
        inverted: layers of any other block.
        block: the prefix of a block, with its number.
        head: the classifier, for what is left out.
    """

    ends: Mapping[str, str]
    separable: Mapping[str, str]
    inverted: Mapping[str, str]
    block: str
    head: str


def _block_names(
    expand: tuple[str, str], depthwise: tuple[str, str], project: tuple[str, str], squeeze: tuple[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The layers of both kinds of blocks, of (convolution, normalisation) each, and of (reduce, expand)."""
    common = {"se.conv_reduce": squeeze[0], "se.conv_expand": squeeze[1], "conv_dw": depthwise[0]}
    separable = {**common, "bn1": depthwise[1], "conv_pw": project[0], "bn2": project[1]}
    inverted = {
        **common,
        "conv_pw": expand[0],
        "bn1": expand[1],
        "bn2": depthwise[1],
        "conv_pwl": project[0],
        "bn3": project[1],
    }
    return separable, inverted


_NAMES: dict[Family, BlockNames] = {
    "huggingface": BlockNames(
        {
            "conv_stem": "embeddings.convolution",
            "bn1": "embeddings.batchnorm",
            "conv_head": "encoder.top_conv",
            "bn2": "encoder.top_bn",
        },
        *_block_names(
            ("expansion.expand_conv", "expansion.expand_bn"),
            ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
            ("projection.project_conv", "projection.project_bn"),
            ("squeeze_excite.reduce", "squeeze_excite.expand"),
        ),
        "encoder.blocks.{position}.",
        "classifier",
    ),
    "efficientnet_pytorch": BlockNames(
        {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"},
        *_block_names(
            ("_expand_conv", "_bn0"),
            ("_depthwise_conv", "_bn1"),
            ("_project_conv", "_bn2"),
            ("_se_reduce", "_se_expand"),
        ),
        "_blocks.{position}.",
        "_fc",
    ),
}

LITE_NORMALISATION = ((127 / 255,) * 3, (128 / 255,) * 3)
"""Of the images that the lite variants were trained on (tensorflow/tpu, models/official/efficientnet/lite)."""


class KeyLayout(NamedTuple):
    """Whose names the keys have.

    Attributes:
        family: `timm`, `huggingface`, or `efficientnet_pytorch` as in the packages of that name.
        prefix: what stands before all keys, such as `efficientnet.`.
    """

    family: Family
    prefix: str


def detect(keys: Iterable[str]) -> KeyLayout:
    """Finds the layout of a state dict's keys.

    Args:
        keys: of a state dict.

    Returns:
        The layout.

    Raises:
        ConversionError: if they hold no stem, or several.
    """
    return KeyLayout(
        *backbone_weights.sole_prefix(keys, _STEMS, "an EfficientNet of timm, Hugging Face or efficientnet_pytorch")
    )


def names_of(description: Mapping[str, Any], said: Mapping[str, str], source: Path) -> str:
    """Finds what a network is called: by its config.json, the metadata of its file, or the names of file and folder.

    Args:
        description: the fields of config.json.
        said: the metadata of the file.
        source: the file.

    Returns:
        The name; empty where none of them names an EfficientNet.
    """
    return backbone_weights.called(description, said, source, _NAME)


def differences(
    family: Family, name: str, description: Mapping[str, Any], eps: float, normalisation: Normalisation
) -> list[str]:
    """Lists what weights of this name and config.json would be computed with otherwise than `EfficientNet` does.

    Padding, eps and normalisation are in no weight's shape: with others than the model's, all would load and compute
    something else.

    Args:
        family: of the keys.
        name: see `names_of`.
        description: the fields of config.json.
        eps: `model.image.batch_norm.eps`.
        normalisation: `augment.mean` and `augment.std`.

    Returns:
        One message a fault.
    """
    faults = _of_timm(name, description, normalisation) if family == "timm" else []
    faults += _of_huggingface(description) if family == "huggingface" else []
    known = description.get("batch_norm_eps", TF_EPS)
    if known != eps:
        faults.append(f"these weights have a BN epsilon of {known:g}; set model.image.batch_norm.eps={known:g}")
    return faults


def _of_timm(name: str, description: Mapping[str, Any], normalisation: Normalisation) -> list[str]:
    called = str(description.get("architecture") or name)
    if called and not _TF_NAME.fullmatch(called):
        where = "config.json" if "architecture" in description else "its name"
        plain = _PLAIN.match(called)
        if plain is None:
            return [
                f"{where} says {called}; the image backbone computes tf_efficientnet_b0 to b8 and lite0 to lite4 only"
            ]
        return [
            f"{where} says {called}, not tf_{plain[0]}: other padding and BN epsilon (1e-5, not {TF_EPS:g}); take the "
            "weights that timm names with tf_"
        ]
    inner = description.get("pretrained_cfg")
    return [
        f"config.json says that images are normalised by {field}={tuple(inner[field])}; set augment.{field} so, "
        f"which is {tuple(ours)}"
        for field, ours in (("mean", normalisation[0]), ("std", normalisation[1]))
        if isinstance(inner, Mapping) and isinstance(inner.get(field), list) and inner[field] != list(ours)
    ]


def _of_huggingface(description: Mapping[str, Any]) -> list[str]:
    computed = {
        "model_type": ("efficientnet",),
        "hidden_act": ("swish", "silu"),
        "squeeze_expansion_ratio": (SQUEEZE_RATIO,),
        "num_channels": (3,),
    }
    return backbone_weights.said_otherwise(description, computed, "the image backbone")


def efficientnet_table(layout: KeyLayout, stages: Sequence[Stage]) -> WeightTable:
    """Makes the rules of a layout for both directions.

    Args:
        layout: of the keys.
        stages: those of the Flax `EfficientNet`.

    Returns:
        The rules.
    """
    names = _NAMES.get(layout.family)
    plain = rules("", backbone_weights.SCOPE) if names is None else _numbered_rules(names, stages)
    renamed = tuple(dataclasses.replace(rule, torch=layout.prefix + rule.torch) for rule in plain)
    # With Hugging Face the classifier stands beside the network, not in it.
    owner = rf"({re.escape(layout.prefix)})?"
    head = _NAMES[layout.family].head if layout.family in _NAMES else "classifier"
    ignored = (
        Ignore(r".*\.num_batches_tracked", "BN's batch counter; unused with a fixed momentum"),
        Ignore(rf"{owner}{head}\..*", "ImageNet classifier; BriVL uses the feature map"),
    )
    return WeightTable(renamed, ignored)


def rules(prefix: str, scope: str) -> list[WeightRule]:
    """Makes the rules of timm's layout, which the official image tower and our own exports have.

    Args:
        prefix: of the keys.
        scope: of the Flax paths, with `{collection}` for the name of the collection.

    Returns:
        The rules.
    """
    made = [convolution(prefix + "conv_stem", params(scope + "conv_stem"))]
    made += [pointwise(prefix + "conv_head", params(scope + "conv_head"))]
    made += batch_norm(prefix + "bn1", scope + "bn1") + batch_norm(prefix + "bn2", scope + "bn2")
    torch, flax = prefix + "blocks.{s}.{i}.", scope + "blocks_{s}_{i}/"
    made += [convolution(torch + "conv_dw", params(flax + "conv_dw"))]
    for name in ("conv_pw", "conv_pwl", "se.conv_reduce", "se.conv_expand"):
        made.append(pointwise(torch + name, params(flax + name.replace(".", "/"))))
    for name in ("se.conv_reduce", "se.conv_expand"):
        made.append(bias(torch + name, params(flax + name.replace(".", "/"))))
    for name in ("bn1", "bn2", "bn3"):
        made += batch_norm(torch + name, flax + name)
    return made


def _numbered_rules(names: BlockNames, stages: Sequence[Stage]) -> list[WeightRule]:
    """timm's rules with the names of another family, block by block."""
    block = "blocks.{s}.{i}."
    timm = rules("", backbone_weights.SCOPE)
    inside = [rule for rule in timm if rule.torch.startswith(block)]
    made = [_renamed(rule, rule.torch, names.ends) for rule in timm if rule not in inside]
    blocks = [(number, index, stage) for number, stage in enumerate(stages) for index in range(stage.repeats)]
    for position, (number, index, stage) in enumerate(blocks):
        layers = names.separable if stage.expand == 1 else names.inverted
        places = {old: names.block.format(position=position) + new for old, new in layers.items()}
        for rule in inside:
            flax = tuple(path.format(s=number, i=index) for path in rule.flax)
            placed = dataclasses.replace(rule, flax=flax)
            made.append(_renamed(placed, rule.torch.removeprefix(block), places))
    return [rule for rule in made if rule is not None]


def _renamed(rule: WeightRule, key: str, names: Mapping[str, str]) -> WeightRule | None:
    """The rule with its layer under another name; None for a layer that `names` lacks."""
    layer, leaf = key.rsplit(".", 1)
    return dataclasses.replace(rule, torch=f"{names[layer]}.{leaf}") if layer in names else None


def is_lite(keys: Iterable[str]) -> bool:
    """Says whether keys are those of a lite variant, which squeezes nothing.

    Args:
        keys: of a state dict.

    Returns:
        Whether they are; False for keys of no EfficientNet.
    """
    known = set(keys)
    try:
        layout = detect(known)
    except ConversionError:
        return False
    ours = [key for key in known if key.startswith(layout.prefix)]
    return not any(part in key for key in ours for part in (".se.", ".squeeze_excite.", "._se_"))


def _lite_faults(lite: bool, family: Family, config: experiment.Config) -> list[str]:
    """What weights of this variant would be computed with otherwise than the configuration says."""
    faults = []
    if config.model.image.backbone.lite != lite:
        said = "of a lite variant" if lite else "of no lite variant"
        faults.append(f"these weights are {said}; set model.image.backbone.lite={lite}")
    ours = (config.augment.mean, config.augment.std)
    if lite and family == "efficientnet_pytorch" and not np.allclose(ours, LITE_NORMALISATION, atol=1e-3):
        mean, std = (_LITE_AUGMENT[f"augment.{name}"] for name in ("mean", "std"))
        faults.append(f"the lite variants take images as (x - 127) / 128; set augment.mean={mean}, augment.std={std}")
    return faults


def read(state: weights.StateDict, config: experiment.Config, source: Path) -> backbone_weights.BackboneWeights:
    """Prepares an EfficientNet, see `Conversion`."""
    layout, description, said = detect(state), bert.read_description(source), weights.metadata(source)
    name, lite = names_of(description, said, source), is_lite(state)
    usual = (config.augment.mean, config.augment.std)
    faults = differences(layout.family, name, description, config.model.image.batch_norm.eps, usual)
    faults += _lite_faults(lite, layout.family, config)
    net = image_backbone(config.model)
    assert isinstance(net, EfficientNet), "as the configuration's architecture is this"
    table = efficientnet_table(layout, net.stages)
    told = description if layout.family == "huggingface" else name
    known = told or (lite and layout.family == "efficientnet_pytorch")
    return backbone_weights.BackboneWeights(state, table, faults, "" if known else UNCHECKED)


def sizes(state: weights.StateDict, prefix: str, family: Family) -> backbone_weights.Fields:
    """Finds the multipliers of an EfficientNet by its stem, its head and its number of blocks.

    Args:
        state: the arrays by key.
        prefix: what stands before the keys.
        family: whose names they have.

    Returns:
        The fields.

    Raises:
        ConversionError: if it is none of the published ones.
    """
    ends = _NAMES[family].ends if family in _NAMES else {"conv_stem": "conv_stem", "conv_head": "conv_head"}
    stem, head = (f"{prefix}{ends[name]}.weight" for name in ("conv_stem", "conv_head"))
    blocks = sum(_ends_block(key.removeprefix(prefix)) for key in state if key.startswith(prefix))
    found = (backbone_weights.rows(state, stem), backbone_weights.rows(state, head), blocks)
    last, lite = backbone_weights.rows(state, head, 1), is_lite(state)
    for width, depth in COMPOUND_COEFFICIENTS.values():
        made = efficientnet_sizes(width, depth, lite=lite)
        sizes_made = (made.stem_width, made.head_width, sum(stage.repeats for stage in made.stages))
        if sizes_made == found and made.stages[-1].width == last:
            backbone = "model.image.backbone."
            fields = {f"{backbone}width_multiplier": width, f"{backbone}depth_multiplier": depth}
            return fields | ({f"{backbone}lite": True, **_LITE_AUGMENT} if lite else {})
    raise ConversionError(
        f"an EfficientNet of {found[0]} channels after the stem, {found[1]} after the head and {found[2]} blocks is "
        f"none of {', '.join(COMPOUND_COEFFICIENTS)}; set model.image.backbone.* yourself"
    )


_LITE_AUGMENT = {
    f"augment.{name}": tuple(round(value, 6) for value in values)
    for name, values in zip(("mean", "std"), LITE_NORMALISATION, strict=True)
}
"""The fields by which images are normalised as for the lite variants."""


def _ends_block(key: str) -> bool:
    """Whether a key is the depthwise kernel of a block, of which each has one."""
    return key.endswith((".conv_dw.weight", ".depthwise_conv.depthwise_conv.weight", "._depthwise_conv.weight"))


def _sizes_of(state: weights.StateDict, source: Path, base: experiment.Config) -> backbone_weights.Fields:
    layout = detect(state)
    return sizes(state, layout.prefix, layout.family)


def architecture(backbone: EfficientNet) -> torch_modules.EfficientNetSizes:
    """Returns the sizes of a module, ready for JSON."""
    return {
        "architecture": "efficientnet",
        "stem": backbone.stem_width,
        "stages": [list(stage) for stage in backbone.stages],
        "lite": backbone.lite,
        "norm_eps": backbone.batch_norm.eps,
        "norm_momentum": backbone.batch_norm.momentum,
    }


CONVERSION = backbone_weights.Conversion(detect, read, _sizes_of, rules, architecture)
