"""Image backbones by the name that `model.image.architecture` has.

A backbone is a module in `models/` with the protocol `models.backbone.Backbone`, a section of fields in `schema.py`,
and a table of weights in `convert/`, whose `CONVERSION` says how published weights are imported and how its own are
exported. An entry of `BACKBONES` joins them: how the section becomes the module, and which of its fields clash. Towers,
clashes, plans, `wenlan import` and `wenlan export` ask that entry and know no backbone. Models and tables are imported
when they are first used, so that a configuration is read without them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wenlan_jax.util.late_import import late

if TYPE_CHECKING:
    from jax.typing import DTypeLike

    from wenlan_jax.models.backbone import Backbone
    from wenlan_jax.models.layers import BatchNormOptions
    from wenlan_jax.tasks.schema import Config
    from wenlan_jax.tasks.two_tower import schema


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """An image backbone.

    Attributes:
        meaning: what weights of it `wenlan import` takes, for the command line.
        section: the name of its section in `model.image`.
        create: builds the module of the section `model`, for the dtype of the computation and a platform in jax's
            name, which chooses between computations with equal results.
        clashes: faults of its own fields, one message each.
        conversion: gives the `convert.backbone_weights.Conversion` when it is resolved.
        batch_norm: whether it has batch normalisation, and so reads `model.image.batch_norm`.
    """

    meaning: str
    section: str
    create: Callable[[schema.ModelConfig, DTypeLike, str], Backbone]
    clashes: Callable[[Config], list[str]]
    conversion: Any
    batch_norm: bool

    @property
    def path(self) -> str:
        """The section of its fields."""
        return f"model.image.{self.section}"


def of(model: schema.ModelConfig) -> BackboneSpec:
    """Finds the image backbone of the section `model`."""
    return BACKBONES[model.image.architecture]


def micro_batch_unit(config: Config) -> int:
    """Counts the pairs of a micro-batch that stay together: groups of batch normalisation are not divided."""
    norm = config.model.image.batch_norm
    return norm.group_size if of(config.model).batch_norm and norm.mode == "group" else 1


def _batch_norm(model: schema.ModelConfig) -> BatchNormOptions:
    from wenlan_jax.models.layers import BatchNormOptions

    norm = model.image.batch_norm
    return BatchNormOptions(
        mode=norm.mode,
        group_size=norm.group_size,
        momentum=norm.momentum,
        eps=norm.eps,
        frozen_paths=() if norm.official_frozen_drift else model.freeze,
        scope="image/",
    )


def _efficientnet(model: schema.ModelConfig, dtype: DTypeLike, platform: str) -> Backbone:
    from wenlan_jax.models.efficientnet import BASE_STAGES, EfficientNet, Stage, efficientnet_sizes

    net = model.image.backbone
    stages = tuple(Stage(*stage) for stage in net.stages) or BASE_STAGES
    return EfficientNet(
        *efficientnet_sizes(net.width_multiplier, net.depth_multiplier, stages, net.stem, net.head, net.lite),
        batch_norm=_batch_norm(model),
        lite=net.lite,
        depthwise=_depthwise(net.depthwise, platform),
        dtype=dtype,
        remat=net.remat,
        scan=net.scan,
    )


def _depthwise(implementation: str, platform: str) -> Any:
    if implementation != "auto":
        return implementation
    return "shift" if platform == "cpu" else "conv"


def _efficientnet_clashes(c: Config) -> list[str]:
    fits = all(len(stage) == 5 for stage in c.model.image.backbone.stages)
    return [] if fits else ["model.image.backbone.stages: five numbers a stage"]


def _vit(model: schema.ModelConfig, dtype: DTypeLike, platform: str) -> Backbone:
    from wenlan_jax.models.vit import VisionTransformer

    vit = model.image.vit
    return VisionTransformer(
        patch=vit.patch,
        width=vit.width,
        depth=vit.layers,
        heads=vit.heads,
        mlp_width=vit.feed_forward,
        registers=vit.registers,
        positions=vit.positions,
        interpolation=vit.interpolation,
        qkv_bias=vit.qkv_bias,
        layer_scale=vit.layer_scale,
        eps=vit.eps,
        dtype=dtype,
        scan_segments=vit.scan_segments,
        remat=vit.remat,
    )


def _vit_clashes(c: Config) -> list[str]:
    vit, size, faults = c.model.image.vit, c.data.image_size, []
    if vit.width % vit.heads:
        faults.append("model.image.vit.heads: must divide model.image.vit.width")
    if size % vit.patch:
        below = max(1, size // vit.patch) * vit.patch
        faults.append(
            f"data.image_size: {size} is no multiple of model.image.vit.patch, {vit.patch}; take {below} or "
            f"{below + vit.patch}"
        )
    if vit.scan_segments and sum(vit.scan_segments) != vit.layers:
        faults.append("model.image.vit.scan_segments: must sum to model.image.vit.layers")
    return faults


def _resnet(model: schema.ModelConfig, dtype: DTypeLike, platform: str) -> Backbone:
    from wenlan_jax.models.resnet import ResNet

    net = model.image.resnet
    return ResNet(net.blocks, net.width, _batch_norm(model), dtype, net.remat, net.scan)


def _resnet_clashes(c: Config) -> list[str]:
    return [] if c.model.image.resnet.blocks else ["model.image.resnet.blocks: at least one stage is needed"]


BACKBONES = {
    "efficientnet": BackboneSpec(
        meaning="EfficientNet of timm or Hugging Face",
        section="backbone",
        create=_efficientnet,
        clashes=_efficientnet_clashes,
        conversion=late("wenlan_jax.convert.efficientnet:CONVERSION"),
        batch_norm=True,
    ),
    "vit": BackboneSpec(
        meaning="Vision Transformer or DINOv2 of timm, Hugging Face or DINOv2's own code",
        section="vit",
        create=_vit,
        clashes=_vit_clashes,
        conversion=late("wenlan_jax.convert.vit:CONVERSION"),
        batch_norm=False,
    ),
    "resnet": BackboneSpec(
        meaning="ResNet with bottlenecks of torchvision, timm or Hugging Face",
        section="resnet",
        create=_resnet,
        clashes=_resnet_clashes,
        conversion=late("wenlan_jax.convert.resnet:CONVERSION"),
        batch_norm=True,
    ),
}
"""By the value of `model.image.architecture`."""
