"""Image regions: which boxes an image is read through, and the pooling of its feature map over them.

BriVL samples each box at 4x4 points of the feature map, applies a 1x1 convolution and averages. Sampling and
averaging are linear and bilinear weights are separable, so with hat(t) = max(0, 1 - |t|)

    token = (sum_yx wy[y] wx[x] feature[y, x]) W + b,     w[i] = mean over the samples p of hat(p - i),

which is one matrix product with the map, and the convolution runs once per box instead of 16 times (configs/PAPERS.md,
image tower).

Boxes are (x1, y1, x2, y2), normalised to [0, 1] by the image's sides.
"""

from __future__ import annotations

from types import ModuleType
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from wenlan_jax.models.arrays import Array
from wenlan_jax.models.initializers import torch_dense

Coordinates = Literal["official", "corrected"]
AnyArray = Array | np.ndarray

WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)


def grid_boxes(sizes: tuple[int, ...], whole_image: bool) -> Float[np.ndarray, "boxes 4"]:
    """Makes the boxes of regular grids, in the official order: x outside, y inside, then the whole image.

    Args:
        sizes: cells per side of each grid.
        whole_image: whether the whole image is the last box.

    Returns:
        Normalised boxes (x1, y1, x2, y2), float32.

    Example:
        `grid_boxes((6,), True)` gives the 37 boxes of BriVL 2.0, `grid_boxes((1, 5), False)` the 26 of the video model.
    """
    boxes = [(i / n, j / n, (i + 1) / n, (j + 1) / n) for n in sizes for i in range(n) for j in range(n)]
    return np.array(boxes + [WHOLE_IMAGE] * whole_image, np.float32).reshape(-1, 4)


def sample_positions(
    low: Float[AnyArray, "*boxes"],
    high: Float[AnyArray, "*boxes"],
    size: int,
    samples: int,
    coordinates: Coordinates,
) -> Float[AnyArray, "*boxes samples"]:
    """Says where a box is sampled along one axis of a feature map.

    With u the `samples` bin centres of [-1, 1] and x1, x2 the sides in map units (0 to `size`):
    `official` is the released code, which builds its grid for align_corners=True and samples with
    align_corners=False: ((((x2 - x1) u + x1 + x2 - (size - 1)) / (size - 1) + 1) size - 1) / 2, so samples
    leave the map near its far edges. `corrected` uses align_corners=False throughout: the centres of
    `samples` equal bins of the box, where place i covers [i, i + 1): x1 + (x2 - x1) (u + 1) / 2 - 1/2.

    Args:
        low: the lower side of each box, in [0, 1].
        high: the upper side of each box, in [0, 1].
        size: places of the map along the axis.
        samples: sample points of each box.
        coordinates: `official` or `corrected`.

    Returns:
        The sample points in places of the map; 0 is the centre of the first place.

    Raises:
        ValueError: for other coordinates, and for `official` ones on a map of one place.
    """
    u = (2.0 * np.arange(samples, dtype=np.float32) + 1.0) / samples - 1.0
    u = np.expand_dims(u, tuple(range(low.ndim)))
    x1, x2 = (low * size)[..., None], (high * size)[..., None]
    if coordinates == "corrected":
        return x1 + (x2 - x1) * (u + 1.0) / 2.0 - 0.5
    if coordinates != "official":
        raise ValueError(f"regions: coordinates must be 'official' or 'corrected', not {coordinates!r}.")
    if size < 2:
        raise ValueError(
            "regions: 'official' coordinates divide by the map's size less one, and this map has one place;"
            " use larger images or 'corrected' coordinates."
        )
    theta = ((x2 - x1) * u + x1 + x2 - (size - 1)) / (size - 1)
    return ((theta + 1.0) * size - 1.0) / 2.0


def axis_weights(
    low: Float[AnyArray, "*boxes"],
    high: Float[AnyArray, "*boxes"],
    size: int,
    samples: int,
    coordinates: Coordinates,
) -> Float[AnyArray, "*boxes size"]:
    """Weighs the places of one axis of a map in the mean over a box's samples.

    Args:
        low: the lower side of each box, in [0, 1].
        high: the upper side of each box, in [0, 1].
        size: places of the map along the axis.
        samples: sample points of each box.
        coordinates: see `sample_positions`.

    Returns:
        The weight of each place; samples outside the map count as zero.
    """
    xp: ModuleType = np if isinstance(low, np.ndarray) else jnp
    positions = sample_positions(low, high, size, samples, coordinates)
    places = np.expand_dims(np.arange(size, dtype=np.float32), tuple(range(positions.ndim)))
    distance = xp.abs(positions[..., None] - places)
    return xp.mean(xp.maximum(0.0, 1.0 - distance), axis=-2)


def pooling_weights(
    boxes: Float[AnyArray, "*batch boxes 4"], height: int, width: int, samples: int, coordinates: Coordinates
) -> Float[AnyArray, "*batch boxes places"]:
    """Weighs the places of a map in each box.

    Args:
        boxes: normalised (x1, y1, x2, y2).
        height: places of the map along y.
        width: places of the map along x.
        samples: sample points per side of a box.
        coordinates: see `sample_positions`.

    Returns:
        The weight of each place, row by row. NumPy boxes give NumPy weights, constants of a compiled program.
    """
    x1, y1, x2, y2 = (boxes[..., index] for index in range(4))
    rows = axis_weights(y1, y2, height, samples, coordinates)
    columns = axis_weights(x1, x2, width, samples, coordinates)
    weights = rows[..., :, None] * columns[..., None, :]
    return weights.reshape(*weights.shape[:-2], height * width)


class RegionPooling(nn.Module):
    """Pools a feature map over the regions of an image (configs/PAPERS.md, image tower).

    Attributes:
        grid: cells per side of one or more fixed grids (see `grid_boxes`); empty if boxes are given with each call.
        whole_image: append the whole image as the last token. With given boxes it is appended to them, always
            valid, so an image without boxes still has a token. (The released data put it after the last valid
            box; the encoder has no position embedding, so the place does not matter.)
        coordinates: see `sample_positions`.
        samples: sample points per side of a box, 4 in the released code.
        project: apply the linear layer `region_proj`, from the map's channels to as many (the released 1x1
            convolution; the video descendant has none).
        dtype: of the computation.
    """

    grid: tuple[int, ...]
    whole_image: bool
    coordinates: Coordinates
    samples: int
    project: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch height width channels"],
        boxes: Float[Array, "batch boxes 4"] | None,
        box_mask: Bool[Array, "batch boxes"] | None,
    ) -> tuple[Float[Array, "batch tokens channels"], Bool[Array, "batch tokens"]]:
        """Turns feature maps into region tokens.

        Args:
            features: feature maps of any float type.
            boxes: normalised (x1, y1, x2, y2); None with a fixed grid.
            box_mask: true for boxes that are there; None with a fixed grid.

        Returns:
            The tokens in `dtype`, and which of them are valid.

        Raises:
            ValueError: if boxes are given to a fixed grid, or missing without one.
        """
        batch, height, width, channels = features.shape
        regions, mask = self._regions(batch, boxes, box_mask)
        weights = pooling_weights(regions, height, width, self.samples, self.coordinates)
        flat = features.reshape(batch, height * width, channels).astype(self.dtype)
        equation = "rp,bpc->brc" if weights.ndim == 2 else "brp,bpc->brc"
        tokens = jnp.einsum(equation, jnp.asarray(weights, self.dtype), flat)
        if self.project:
            tokens = torch_dense(channels, channels, self.dtype, "region_proj")(tokens)
        return tokens, mask

    def _regions(
        self, batch: int, boxes: Array | None, box_mask: Array | None
    ) -> tuple[AnyArray, Bool[Array, "batch tokens"]]:
        if self.grid:
            if boxes is not None or box_mask is not None:
                raise ValueError(
                    "regions: boxes were given, but the regions are a fixed grid; give none or empty `grid`."
                )
            fixed = grid_boxes(self.grid, self.whole_image)
            return fixed, jnp.ones((batch, len(fixed)), bool)
        if boxes is None or box_mask is None:
            raise ValueError("regions: without a `grid`, every call needs `boxes` and `box_mask`.")
        if not self.whole_image:
            return jax.lax.stop_gradient(boxes), box_mask
        whole = jnp.broadcast_to(jnp.array(WHOLE_IMAGE, boxes.dtype), (batch, 1, 4))
        mask = jnp.concatenate([box_mask, jnp.ones((batch, 1), bool)], axis=1)
        return jax.lax.stop_gradient(jnp.concatenate([boxes, whole], axis=1)), mask
