"""Image augmentation and normalisation on the accelerator, inside the jitted step.

The BriVL recipe [C]: colour jitter, then grayscale, each with a probability; no crop and no flip, so that
boxes stay valid. Random numbers come from a jax key and the example's index in the global batch, so the
result does not depend on the number of devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Num, PRNGKeyArray, Shaped, UInt8

from wenlan_jax.models.arrays import Array

Images = Float[Array, "batch height width 3"]
Factors = Float[Array, "batch"]
Plane = Float[Array, "batch height width"]

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey, as torchvision has them (ITU-R 601)."""


Strengths = tuple[float, float, float, float]
"""Of brightness, contrast, saturation (factors within 1 +- strength) and hue (turns within +- circles)."""


def whole(batch: Mapping[str, Array]) -> Array:
    """Takes the images of a batch in their full size.

    Args:
        batch: has `image` (batch, size, size, 3), and `image_sides` (batch, 2) if images fill only a part of it.

    Returns:
        Pixels of 0 to 255: as they are, or `enlarged` where there are sides.
    """
    return enlarged(batch["image"], batch["image_sides"]) if "image_sides" in batch else batch["image"]


def unit_range(images: Num[Array, "batch height width 3"]) -> Images:
    """Pixels of 0 to 255 as float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255.0


def enlarged(
    images: UInt8[Array, "batch size size 3"], sides: Int[Array, "batch 2"]
) -> Float[Array, "batch size size 3"]:
    """Enlarges images that fill the upper left of an array to all of it: bilinear with half-pixel centres.

    Args:
        images: pixels of 0 to 255.
        sides: height and width of each image, in pixels. An image without a side takes the value of its first pixel.

    Returns:
        Whole numbers from 0 to 255, as they would be had the images been enlarged before.
    """
    size = images.shape[1]
    grow = jax.vmap(lambda side: _tents(size, side))
    rows, columns = grow(sides[:, 0]), grow(sides[:, 1])
    # Three passes of a matrix unit: one would lose the last bits of a pixel.
    multiply = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGH)
    taller = multiply("bhi,biwc->bhwc", rows, images.astype(jnp.float32))
    return jnp.round(multiply("bwj,bhjc->bhwc", columns, taller))


def _tents(size: int, side: Int[Array, ""]) -> Float[Array, "size size"]:
    """The share of each of the first `side` pixels in each of `size` that they are stretched to."""
    last = jnp.maximum(side - 1, 0)
    places = jnp.clip((jnp.arange(size) + 0.5) * side / size - 0.5, 0.0, last)
    return jnp.maximum(1.0 - jnp.abs(places[:, None] - jnp.arange(size)[None]), 0.0)


def normalise(
    images: UInt8[Array, "batch height width 3"] | Images, mean: tuple[float, ...], std: tuple[float, ...]
) -> Images:
    """Normalises the channels of images: `(images - mean) / std`, in float32.

    Args:
        images: floats, or integers from 0 to 255, which are brought to [0, 1] first.
        mean: one value a channel.
        std: one value a channel.

    Returns:
        The normalised images.
    """
    if jnp.issubdtype(images.dtype, jnp.integer):
        images = unit_range(images)
    centre, scale = (jnp.array(values, jnp.float32).reshape(1, 1, 1, 3) for values in (mean, std))
    return (images - centre) / scale


def _per_image(factors: Shaped[Array, " batch"]) -> Shaped[Array, "batch 1 1 1"]:
    return factors[:, None, None, None]


def _grey(images: Images) -> Float[Array, "batch height width 1"]:
    # Written out: a product with a 3-vector would run on matrix units in reduced precision.
    red, green, blue = (weight * images[..., channel] for channel, weight in enumerate(LUMA))
    return (red + green + blue)[..., None]


def _blend(images: Images, other: Array, factors: Factors) -> Images:
    weight = _per_image(factors)
    return jnp.clip(weight * images + (1.0 - weight) * other, 0.0, 1.0)


def adjust_brightness(images: Images, factors: Factors) -> Images:
    """Multiplies pixels by the factor of their image and clips them to [0, 1]."""
    return jnp.clip(_per_image(factors) * images, 0.0, 1.0)


def adjust_contrast(images: Images, factors: Factors) -> Images:
    """Moves pixels away from the mean grey of their image, or towards it if the factor is below 1."""
    return _blend(images, jnp.mean(_grey(images), axis=(1, 2, 3), keepdims=True), factors)


def adjust_saturation(images: Images, factors: Factors) -> Images:
    """Moves pixels away from their own grey, or towards it if the factor is below 1."""
    return _blend(images, _grey(images), factors)


def _hue(images: Images) -> tuple[Plane, Plane, Plane]:
    """Hue in sixths of a circle, largest channel, and chroma (largest minus smallest)."""
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    top = jnp.max(images, axis=-1)
    chroma = top - jnp.min(images, axis=-1)
    divisor = jnp.where(chroma > 0, chroma, 1.0)
    at_red = jnp.mod((green - blue) / divisor, 6.0)
    at_green = (blue - red) / divisor + 2.0
    at_blue = (red - green) / divisor + 4.0
    return jnp.where(top == red, at_red, jnp.where(top == green, at_green, at_blue)), top, chroma


def adjust_hue(images: Images, turns: Factors) -> Images:
    """Turns the hue of HSV by `turns` circles; value and saturation stay exactly as they are."""
    hue, top, chroma = _hue(images)
    hue = hue + 6.0 * turns[:, None, None]
    # Closed form of HSV -> RGB: a channel falls from the top by the chroma, along a trapezium in the hue.
    channels = []
    for offset in (5.0, 3.0, 1.0):
        sector = jnp.mod(hue + offset, 6.0)
        channels.append(top - chroma * jnp.clip(jnp.minimum(sector, 4.0 - sector), 0.0, 1.0))
    return jnp.stack(channels, axis=-1)


def to_grayscale(images: Images) -> Images:
    """Puts the grey of each pixel into all three channels."""
    return jnp.broadcast_to(_grey(images), images.shape)


_ADJUSTMENTS: list[Callable[[Images, Factors], Images]] = [
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_hue,
]
_NEUTRAL = (1.0, 1.0, 1.0, 0.0)


def _in_random_order(images: Images, key: PRNGKeyArray, draws: Float[Array, "batch 4"], strengths: Strengths) -> Images:
    """The adjustments of positive strength, in an order drawn from `key`; `draws` are uniform in [-1, 1)."""
    active = [index for index, strength in enumerate(strengths) if strength > 0]
    if not active:
        return images
    factors = jnp.array([_NEUTRAL]) + jnp.array([strengths]) * draws
    factors = factors[:, jnp.array(active)]
    order = jax.random.permutation(key, len(active))

    def adjust(turn: Array, images: Images) -> Images:
        which = order[turn]
        return jax.lax.switch(which, [_ADJUSTMENTS[index] for index in active], images, factors[:, which])

    return jax.lax.fori_loop(0, len(active), adjust, images)


def jitter_and_grayscale(
    images: Images,
    key: PRNGKeyArray,
    strengths: Strengths,
    jitter_probability: float,
    grayscale_probability: float,
    positions: Int[Array, " batch"] | None = None,
) -> Images:
    """Jitters the colours of images and turns some grey, each image by its own draw.

    The operations and ranges are those of torchvision's ColorJitter and RandomGrayscale on float tensors. One
    deviation: the order of the four adjustments is drawn once per batch, not per image, so that each runs once.

    Args:
        images: in [0, 1].
        key: a key of jax.random.
        strengths: of brightness, contrast, saturation, each in [0, 1], and hue, in [0, 0.5].
        jitter_probability: that an image is jittered.
        grayscale_probability: that an image is turned grey.
        positions: of the images in the global batch; None if they are all of it.

    Returns:
        The images in [0, 1].
    """
    if jitter_probability <= 0 and grayscale_probability <= 0:
        return images
    order_key, example_key = jax.random.split(key)
    positions = jnp.arange(images.shape[0]) if positions is None else positions
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(example_key, positions)
    draws = jax.vmap(lambda one: jax.random.uniform(one, (6,)))(keys)
    if jitter_probability > 0:
        jittered = _in_random_order(images, order_key, 2.0 * draws[:, 2:] - 1.0, strengths)
        images = jnp.where(_per_image(draws[:, 0] < jitter_probability), jittered, images)
    return jnp.where(_per_image(draws[:, 1] < grayscale_probability), to_grayscale(images), images)
