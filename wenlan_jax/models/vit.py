"""The Vision Transformer (Dosovitskiy et al. 2021) and DINOv2's (Oquab et al. 2023), with the patch tokens as a map.

DINOv2 adds LayerScale (Touvron et al. 2021) and, in its later models, register tokens (Darcet et al. 2023). The class
token and the registers take part in attention and are left out of the map. The class token has no row of the position
table: a table that has one is folded into the token, which is the same.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from wenlan_jax.models.arrays import Array, along_last
from wenlan_jax.models.bert import exact_gelu
from wenlan_jax.models.initializers import bert_kernel
from wenlan_jax.models.placement import inner, rows, whole
from wenlan_jax.models.transformer import Attention, LayerStack, apply_layers, layer_norm

Interpolation = Literal["antialiased", "plain", "offset"]

DINOV2_OFFSET = 0.1
"""Added to the number of places a side before scales are computed, by DINOv2's code (`interpolate_offset`)."""

SHARPNESS = {True: -0.5, False: -0.75}
"""The parameter of Keys' cubic kernel in `torch.nn.functional.interpolate`, by whether it is antialiased."""


class VisionTransformer(nn.Module):
    """A Vision Transformer up to its last LayerNorm. It has no dropout and no stochastic depth.

    Attributes:
        patch: side of a patch, pixels; images are multiples of it.
        width: of the tokens and of the map.
        depth: number of layers.
        heads: attention heads; they divide the width.
        mlp_width: hidden width of the feed-forward networks.
        registers: number of register tokens.
        positions: side of the position table, in patches. It is interpolated to the images' number of patches.
        interpolation: how, see `cubic_weights`.
        qkv_bias: whether query, key and value have a bias.
        layer_scale: the value LayerScale starts from; 0 for no LayerScale.
        eps: of every LayerNorm.
        dtype: of the computation and the result; parameters stay float32.
        scan_segments: see `LayerStack`.
        remat: see `LayerStack`.
    """

    patch: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    registers: int
    positions: int
    interpolation: Interpolation
    qkv_bias: bool
    layer_scale: float
    eps: float
    dtype: DTypeLike
    scan_segments: tuple[int, ...]
    remat: bool

    @property
    def channels(self) -> int:
        """The width of the map."""
        return self.width

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch map_height map_width channels"]:
        """Computes feature maps.

        Args:
            images: normalised RGB.
            train: changes nothing, as there is no dropout.

        Returns:
            The patch tokens after the last LayerNorm, one map an image, in `dtype`.

        Raises:
            ValueError: if the images are no multiple of the patch.
        """
        patches = self._patches(images)
        height, width = patches.shape[1:3]
        tokens = patches.reshape(len(patches), height * width, self.width) + self._positions(height, width)
        prefix = self._prefix(len(patches))
        x = rows(jnp.concatenate([prefix, tokens], axis=1))
        x = apply_layers(self._layer, x, None, LayerStack(self.depth, self.scan_segments, self.remat), train)
        x = layer_norm(self.eps, self.dtype, "norm")(x[:, prefix.shape[1] :])
        return rows(x.reshape(patches.shape))

    def _patches(self, images: Array) -> Float[Array, "batch map_height map_width width"]:
        if images.shape[1] % self.patch or images.shape[2] % self.patch:
            raise ValueError(
                f"VisionTransformer: images of {images.shape[1]}x{images.shape[2]} pixels are no multiple of the patch,"
                f" {self.patch}; choose another image size."
            )
        return nn.Conv(
            self.width,
            (self.patch, self.patch),
            strides=self.patch,
            padding="VALID",
            dtype=self.dtype,
            kernel_init=bert_kernel,
            name="patch_embedding",
        )(images.astype(self.dtype))

    def _positions(self, height: int, width: int) -> Float[Array, "1 places width"]:
        table = self.param("positions", bert_kernel, (self.positions**2, self.width), jnp.float32)
        grid = whole(table).reshape(self.positions, self.positions, self.width)
        resized = resize_positions(grid, height, width, self.interpolation)
        return resized.reshape(1, height * width, self.width).astype(self.dtype)

    def _prefix(self, batch: int) -> Float[Array, "batch prefix width"]:
        """The class token and the registers, the same for every image."""
        tokens = [self.param("class_token", bert_kernel, (1, self.width), jnp.float32)]
        if self.registers:
            tokens.append(self.param("registers", bert_kernel, (self.registers, self.width), jnp.float32))
        prefix = jnp.concatenate([whole(token) for token in tokens]).astype(self.dtype)
        return jnp.broadcast_to(prefix[None], (batch, *prefix.shape))

    def _layer(self, name: str) -> PreNormLayer:
        return PreNormLayer(
            heads=self.heads,
            mlp_width=self.mlp_width,
            eps=self.eps,
            qkv_bias=self.qkv_bias,
            layer_scale=self.layer_scale,
            dtype=self.dtype,
            name=name,
        )


class PreNormLayer(nn.Module):
    """Self-attention and a feed-forward network with the exact GELU, each on the LayerNorm of its input (pre-norm).

    Attributes:
        heads: attention heads.
        mlp_width: hidden width of the feed-forward network.
        eps: of both LayerNorms.
        qkv_bias: whether query, key and value have a bias.
        layer_scale: the value that the factors of both results start from, one a channel; 0 for no factors.
        dtype: of the computation.
    """

    heads: int
    mlp_width: int
    eps: float
    qkv_bias: bool
    layer_scale: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], key_mask: Bool[Array, "batch tokens"] | None, train: bool
    ) -> Float[Array, "batch tokens width"]:
        attention = Attention(
            self.heads, 0.0, self.dtype, bert_kernel, bert_kernel, biases=self.qkv_bias, name="attention"
        )
        y = attention(layer_norm(self.eps, self.dtype, "norm1")(x), key_mask, train)
        x = rows(x + self._scaled(y, "layer_scale1"))
        hidden = self._dense(self.mlp_width, "linear1")(layer_norm(self.eps, self.dtype, "norm2")(x))
        y = self._dense(x.shape[-1], "linear2")(inner(exact_gelu(hidden)))
        return rows(x + self._scaled(y, "layer_scale2"))

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, kernel_init=bert_kernel, name=name)

    def _scaled(self, y: Array, name: str) -> Array:
        if not self.layer_scale:
            return y
        start = nn.initializers.constant(self.layer_scale)
        factors = self.param(name, start, y.shape[-1:], jnp.float32)
        return y * along_last(factors.astype(self.dtype), y.ndim)


def resize_positions(
    table: Float[Array, "rows columns channels"], height: int, width: int, interpolation: Interpolation
) -> Float[Array, "new_rows new_columns channels"]:
    """Interpolates a position table, in float32.

    Args:
        table: the table as a map.
        height: rows of the result.
        width: columns of the result.
        interpolation: see `cubic_weights`.

    Returns:
        The new map; of the same size, the table itself.
    """
    if table.shape[:2] == (height, width):
        return table
    down = cubic_weights(table.shape[0], height, interpolation)
    across = cubic_weights(table.shape[1], width, interpolation)
    with jax.default_matmul_precision("highest"):
        return jnp.einsum("hr,rcd,wc->hwd", down, table, across)


def cubic_weights(old: int, new: int, interpolation: Interpolation) -> Float[np.ndarray, "new old"]:
    """Computes the weight of every old place in every new one, by cubic convolution (Keys 1981).

    Args:
        old: number of places.
        new: number of places after the interpolation.
        interpolation: `antialiased` widens the kernel where places become fewer, as timm and transformers' DINOv2 with
            registers do; `plain` does not, as transformers' ViT and DINOv2; `offset` is plain with the scale of
            DINOv2's own code, whose sides are .1 longer.

    Returns:
        float32; each row sums to 1.
    """
    antialias = interpolation == "antialiased"
    scale = old / (new + (DINOV2_OFFSET if interpolation == "offset" else 0.0))
    stretch = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(new)[:, None] + 0.5) * scale - 0.5
    reach = int(np.ceil(2 * stretch)) + 1
    places = np.arange(-reach, old + reach)
    weights = _cubic((places - centres) / stretch, SHARPNESS[antialias])
    # Beyond its borders a table has no values where it is antialiased, and else goes on as it ends.
    inside = weights[:, reach : reach + old]
    if not antialias:
        inside[:, 0] += weights[:, :reach].sum(axis=1)
        inside[:, -1] += weights[:, reach + old :].sum(axis=1)
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))
