"""EfficientNet (Tan and Le 2019), the image backbone of BriVL, up to the map before pooling and classifier.

Layer names are those of the official BriVL checkpoints, with dots turned into underscores or tree levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Float

from wenlan_jax.models.arrays import Array
from wenlan_jax.models.depthwise import DepthwiseImplementation, depthwise_conv
from wenlan_jax.models.initializers import convolution_kernel
from wenlan_jax.models.layers import BatchNorm, BatchNormOptions
from wenlan_jax.models.placement import rows, whole
from wenlan_jax.models.pointwise import pointwise_conv

SQUEEZE_RATIO = 0.25
"""Width of the squeeze-and-excitation bottleneck over the width of the block's input (Tan and Le 2019)."""

STEM_KERNEL, STEM_STRIDE = 3, 2
BASE_STEM_WIDTH, BASE_HEAD_WIDTH = 32, 1280
WIDTH_DIVISOR = 8
"""Scaled widths are rounded to multiples of this, and never down by more than 10 %."""


class Stage(NamedTuple):
    """Blocks of one size; the first has the stride, the others stride 1.

    Attributes:
        kernel: side of the depthwise filters.
        stride: of the first block.
        expand: factor by which a block widens its input.
        width: output channels.
        repeats: number of blocks.
    """

    kernel: int
    stride: int
    expand: int
    width: int
    repeats: int


BASE_STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
"""EfficientNet-B0 (Tan and Le 2019, table 1)."""

COMPOUND_COEFFICIENTS = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}
"""Published (width, depth) multipliers of the family."""


class EfficientNetSizes(NamedTuple):
    """The sizes that `EfficientNet` takes.

    Attributes:
        stem_width: output channels of the first convolution.
        stages: the stages in order.
        head_width: output channels of the last convolution.
    """

    stem_width: int
    stages: tuple[Stage, ...]
    head_width: int


def round_width(width: float) -> int:
    """Rounds a scaled width to a multiple of 8 that is not below 90 % of it."""
    rounded = max(WIDTH_DIVISOR, int(width + WIDTH_DIVISOR / 2) // WIDTH_DIVISOR * WIDTH_DIVISOR)
    return rounded + WIDTH_DIVISOR if rounded < 0.9 * width else rounded


def efficientnet_sizes(
    width_multiplier: float,
    depth_multiplier: float,
    base_stages: tuple[Stage, ...] = BASE_STAGES,
    base_stem: int = BASE_STEM_WIDTH,
    base_head: int = BASE_HEAD_WIDTH,
    lite: bool = False,
) -> EfficientNetSizes:
    """Scales the base network by compound coefficients (Tan and Le 2019, section 3.3).

    Widths are rounded to multiples of 8, numbers of blocks are rounded up.

    Args:
        width_multiplier: factor of all widths.
        depth_multiplier: factor of the number of blocks in each stage.
        base_stages: the stages to scale; pass others for another total stride.
        base_stem: output channels of the first convolution before scaling.
        base_head: output channels of the last convolution before scaling.
        lite: scale neither stem nor head, nor the number of blocks of the first and the last stage, as the lite
            variants do (tensorflow/tpu, models/official/efficientnet/lite).

    Returns:
        The scaled sizes.

    Example:
        `efficientnet_sizes(*COMPOUND_COEFFICIENTS["b5"])` gives those of EfficientNet-B5.
    """
    unscaled = (0, len(base_stages) - 1) if lite else ()
    stages = tuple(
        stage._replace(
            width=round_width(stage.width * width_multiplier),
            repeats=stage.repeats if number in unscaled else math.ceil(stage.repeats * depth_multiplier),
        )
        for number, stage in enumerate(base_stages)
    )
    of_ends = 1.0 if lite else width_multiplier
    return EfficientNetSizes(round_width(base_stem * of_ends), stages, round_width(base_head * of_ends))


class EfficientNet(nn.Module):
    """EfficientNet up to the feature map after the last normalisation and swish (Tan and Le 2019).

    The total stride is 2 (first convolution) times the strides of the stages. Every convolution pads as TensorFlow's
    "SAME", as the `tf_` weights need. No stochastic depth: the released BriVL code runs without it.

    Attributes:
        stem_width: output channels of the first convolution.
        stages: the stages, e.g. from `efficientnet_sizes`.
        head_width: output channels of the last convolution.
        batch_norm: see `BatchNormOptions`; the `tf_` weights have eps 1e-3.
        lite: the lite variant: ReLU6 in place of swish, and no squeeze and excitation.
        depthwise: implementation of the depthwise convolutions.
        dtype: of the computation and the result; parameters and statistics stay float32.
        remat: recompute each block in the backward pass instead of keeping its activations.
        scan: the blocks of a stage after its first, which are alike, are one loop named by its first and last block
            (`blocks_3_1_6`), whose parameters and statistics have a leading axis: B7 compiles 14 bodies, not 55.
    """

    stem_width: int
    stages: tuple[Stage, ...]
    head_width: int
    batch_norm: BatchNormOptions
    lite: bool
    depthwise: DepthwiseImplementation
    dtype: DTypeLike
    remat: bool
    scan: bool

    @property
    def channels(self) -> int:
        """The width of the map."""
        return self.head_width

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch map_height map_width head_width"]:
        """Computes feature maps.

        Args:
            images: normalised RGB.
            train: whether batch normalisation uses the statistics of the batch, see `BatchNormOptions`.

        Returns:
            One feature map an image, in `dtype`.
        """
        x = nn.Conv(
            self.stem_width,
            (STEM_KERNEL, STEM_KERNEL),
            strides=STEM_STRIDE,
            padding="SAME",
            use_bias=False,
            dtype=self.dtype,
            kernel_init=convolution_kernel(STEM_KERNEL, self.stem_width),
            name="conv_stem",
        )(images.astype(self.dtype))
        x = rows(activation(self.lite)(BatchNorm(self.batch_norm, self.dtype, name="bn1")(x, train)))
        for number, stage in enumerate(self.stages):
            x = self._stage(number, stage, x, train)
        x = pointwise_conv(self.head_width, self.dtype, name="conv_head")(x)
        return rows(activation(self.lite)(BatchNorm(self.batch_norm, self.dtype, name="bn2")(x, train)))

    def _stage(self, number: int, stage: Stage, x: Array, train: bool) -> Array:
        def step(block: nn.Module, carry: Array, _: None) -> tuple[Array, None]:
            return block(carry, train), None

        alike = stage.repeats - 1
        looped = self.scan and alike > 1
        run = nn.remat(step, prevent_cse=not looped) if self.remat else step
        x, _ = run(self._block(stage, stage.stride, f"blocks_{number}_0"), x, None)
        if looped:
            loop = nn.scan(
                run, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=alike
            )
            return loop(self._block(stage, 1, f"blocks_{number}_1_{alike}"), x, None)[0]
        for index in range(1, stage.repeats):
            x, _ = run(self._block(stage, 1, f"blocks_{number}_{index}"), x, None)
        return x

    def _block(self, stage: Stage, stride: int, name: str) -> nn.Module:
        return MBConv(
            kernel=stage.kernel,
            stride=stride,
            expand=stage.expand,
            width=stage.width,
            batch_norm=self.batch_norm,
            lite=self.lite,
            depthwise=self.depthwise,
            dtype=self.dtype,
            name=name,
        )


def activation(lite: bool) -> Callable[[Array], Array]:
    """Returns the activation of the network or of its lite variant."""
    return nn.relu6 if lite else nn.swish


class MBConv(nn.Module):
    """Inverted bottleneck: widen by `expand`, depthwise convolution, squeeze and excite, narrow, add the input.

    The input is added when stride and width leave its shape alone. A block with `expand` 1 has no widening
    convolution and carries the names of the official depthwise-separable block (`conv_pw`, `bn2` for the
    narrowing one).

    Attributes:
        kernel: side of the depthwise filters.
        stride: of the depthwise convolution.
        expand: factor by which the input is widened.
        width: output channels.
        batch_norm: see `BatchNormOptions`.
        lite: see `EfficientNet`.
        depthwise: implementation of the depthwise convolution.
        dtype: of the computation.
    """

    kernel: int
    stride: int
    expand: int
    width: int
    batch_norm: BatchNormOptions
    lite: bool
    depthwise: DepthwiseImplementation
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        widens = self.expand > 1
        names = ("bn1", "bn2", "conv_pwl", "bn3") if widens else ("", "bn1", "conv_pw", "bn2")
        inputs, channels = x, x.shape[-1]
        if widens:
            x = pointwise_conv(channels * self.expand, self.dtype, name="conv_pw")(x)
            x = rows(activation(self.lite)(self._norm(names[0])(x, train)))
        x = DepthwiseConv(self.kernel, self.stride, self.depthwise, self.dtype, name="conv_dw")(x)
        x = rows(activation(self.lite)(self._norm(names[1])(x, train)))
        if not self.lite:
            x = SqueezeExcite(int(channels * SQUEEZE_RATIO), self.dtype, name="se")(x)
        x = self._norm(names[3])(pointwise_conv(self.width, self.dtype, name=names[2])(x), train)
        return rows(x + inputs if x.shape == inputs.shape else x)

    def _norm(self, name: str) -> BatchNorm:
        return BatchNorm(self.batch_norm, self.dtype, name=name)


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate in (0, 1), computed from the map's mean through `width` hidden channels.

    Attributes:
        width: hidden channels.
        dtype: of the computation; the mean is taken in float32.
    """

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        pooled = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(self.dtype)
        hidden = nn.swish(pointwise_conv(self.width, self.dtype, name="conv_reduce", use_bias=True)(pooled))
        gate = jax.nn.sigmoid(pointwise_conv(channels, self.dtype, name="conv_expand", use_bias=True)(hidden))
        return x * gate


class DepthwiseConv(nn.Module):
    """Depthwise convolution without bias; parameter `kernel` (k, k, 1, channels).

    Attributes:
        size: side of the filters.
        stride: along both axes.
        implementation: see `depthwise_conv`.
        dtype: of the computation.
    """

    size: int
    stride: int
    implementation: DepthwiseImplementation
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        shape = (self.size, self.size, 1, x.shape[-1])
        kernel = self.param("kernel", convolution_kernel(self.size, 1), shape, jnp.float32)
        # A kernel split by channels would have the activations split that way too.
        return depthwise_conv(x.astype(self.dtype), whole(kernel), self.stride, self.implementation)
