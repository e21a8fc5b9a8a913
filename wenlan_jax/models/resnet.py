"""ResNet with bottlenecks (He et al. 2016) up to the map before pooling and classifier, as torchvision computes it.

The stride of a stage is in the 3x3 convolution of its first block ("v1.5"), and all padding is symmetric.
"""

from __future__ import annotations

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Float

from wenlan_jax.models.arrays import Array
from wenlan_jax.models.initializers import convolution_kernel
from wenlan_jax.models.layers import BatchNorm, BatchNormOptions
from wenlan_jax.models.placement import rows
from wenlan_jax.models.pointwise import pointwise_conv

EXPANSION = 4
"""Output channels of a bottleneck over those of its 3x3 convolution."""

STEM_KERNEL, STEM_STRIDE = 7, 2


class ResNet(nn.Module):
    """ResNet-50 and its kin.

    The total stride is 4 before the first stage, and each later stage doubles it: 32 with four stages.

    Attributes:
        blocks: number of bottlenecks in each stage, (3, 4, 6, 3) for ResNet-50.
        width: channels after the first convolution; stage s, from 0, has `width * 2**s * EXPANSION`.
        batch_norm: see `BatchNormOptions`; published weights have eps 1e-5.
        dtype: of the computation and the result; parameters and statistics stay float32.
        remat: recompute each block in the backward pass instead of keeping its activations.
        scan: the blocks of a stage after its first, which are alike, are one loop named by its first and last block
            (`stage_3_1_5`), whose parameters and statistics have a leading axis.
    """

    blocks: tuple[int, ...]
    width: int
    batch_norm: BatchNormOptions
    dtype: DTypeLike
    remat: bool
    scan: bool

    @property
    def channels(self) -> int:
        """The width of the map."""
        return self.width * 2 ** (len(self.blocks) - 1) * EXPANSION

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch map_height map_width channels"]:
        """Computes feature maps.

        Args:
            images: normalised RGB.
            train: whether batch normalisation uses the statistics of the batch, see `BatchNormOptions`.

        Returns:
            One feature map an image, in `dtype`.
        """
        x = _convolution(self.width, STEM_KERNEL, STEM_STRIDE, self.dtype, "stem_conv")(images.astype(self.dtype))
        x = rows(nn.relu(BatchNorm(self.batch_norm, self.dtype, name="stem_bn")(x, train)))
        x = rows(nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))))
        for number, count in enumerate(self.blocks, start=1):
            x = self._stage(number, count, x, train)
        return x

    def _stage(self, number: int, count: int, x: Array, train: bool) -> Array:
        def step(block: nn.Module, carry: Array, _: None) -> tuple[Array, None]:
            return block(carry, train), None

        looped = self.scan and count > 2
        run = nn.remat(step, prevent_cse=not looped) if self.remat else step
        x, _ = run(self._block(number, "0", first=True), x, None)
        if looped:
            loop = nn.scan(
                run, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=count - 1
            )
            return loop(self._block(number, f"1_{count - 1}", first=False), x, None)[0]
        for index in range(1, count):
            x, _ = run(self._block(number, str(index), first=False), x, None)
        return x

    def _block(self, number: int, index: str, first: bool) -> nn.Module:
        return Bottleneck(
            width=self.width * 2 ** (number - 1),
            stride=2 if first and number > 1 else 1,
            project=first,
            batch_norm=self.batch_norm,
            dtype=self.dtype,
            name=f"stage_{number}_{index}",
        )


class Bottleneck(nn.Module):
    """Narrow, convolve by 3x3, widen, add the input, each convolution followed by batch normalisation.

    Attributes:
        width: channels of the 3x3 convolution; the output has `EXPANSION` times as many.
        stride: of the 3x3 convolution.
        project: whether the input is projected to the output's shape before it is added.
        batch_norm: see `BatchNormOptions`.
        dtype: of the computation.
    """

    width: int
    stride: int
    project: bool
    batch_norm: BatchNormOptions
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        def norm(name: str, y: Array) -> Array:
            return BatchNorm(self.batch_norm, self.dtype, name=name)(y, train)

        outputs = self.width * EXPANSION
        y = rows(nn.relu(norm("bn1", pointwise_conv(self.width, self.dtype, name="conv1")(x))))
        y = rows(nn.relu(norm("bn2", _convolution(self.width, 3, self.stride, self.dtype, "conv2")(y))))
        y = norm("bn3", pointwise_conv(outputs, self.dtype, name="conv3")(y))
        if self.project:
            kept = x[:, :: self.stride, :: self.stride]
            x = norm("downsample_bn", pointwise_conv(outputs, self.dtype, name="downsample_conv")(kept))
        return rows(nn.relu(x + y))


def _convolution(features: int, kernel: int, stride: int, dtype: DTypeLike, name: str) -> nn.Conv:
    """A convolution without bias, padded alike on both sides."""
    side = kernel // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=((side, side), (side, side)),
        use_bias=False,
        dtype=dtype,
        kernel_init=convolution_kernel(kernel, features),
        name=name,
    )
