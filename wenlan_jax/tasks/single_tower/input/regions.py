"""The regions of a record as arrays: whose boxes, and what stands for each of them.

Fields of a batch of B rows and R regions, zero where `region_mask` is False, which is behind the regions there are:

| field | dtype and shape | |
|---|---|---|
| region_features | float16 (B, R, F) | where features are `stored` or `pixels` |
| image | uint8 (B, S, S, 3) | instead, where they are pooled on a `map` of the accelerator |
| region_boxes | float32 (B, R, 4) | (x1, y1, x2, y2) in units of the image's sides |
| region_mask | bool (B, R) | |
| region_classes | float16 (B, R, C) | when asked for: a distribution over classes, background first |
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float16, Float32, Int64

from wenlan_jax.data import images, loader, records
from wenlan_jax.util.errors import WenlanError

if TYPE_CHECKING:
    from wenlan_jax.data.sources import Source

WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)

Boxes = Float32[np.ndarray, "regions 4"]


class RegionReadError(WenlanError, ValueError):
    """Options that do not fit together, or a record without the regions they ask for."""


class KeptRegions(NamedTuple):
    """The regions of a record that are used.

    Attributes:
        boxes: in units of the image's sides.
        numbers: which of the record's regions they are.
    """

    boxes: Boxes
    numbers: Int64[np.ndarray, " regions"]


def grid_boxes(cells: int) -> Boxes:
    """Makes the boxes of a grid in BriVL's order, x outside and y inside, then the whole image; without jax.

    Args:
        cells: per side.

    Returns:
        cells * cells + 1 boxes (x1, y1, x2, y2) in units of the image's sides.
    """
    low, high = np.arange(cells) / cells, (np.arange(cells) + 1) / cells
    boxes = [(low[x], low[y], high[x], high[y]) for x in range(cells) for y in range(cells)]
    return np.array([*boxes, WHOLE_IMAGE], np.float32)


@dataclasses.dataclass(frozen=True)
class RegionReader:
    """How the regions of a record become arrays.

    Attributes:
        features: `stored` takes what a detector left in the record; `pixels` shrinks what is in the box to `crop` by
            `crop` pixels, RGB from -1 to 1; `map` leaves it to the accelerator and gives it the image.
        boxes: `stored` takes the first `limit` with an area of those in the record, which are best first; `grid` takes
            grid * grid cells and the whole image.
        grid: cells per side.
        limit: regions of an image at most, where they are stored.
        width: numbers of a feature.
        crop: side of the pixels of a region.
        classes: columns of `region_classes`, 0 where there are none.
        labels: names of the classes but the background, for records with labels instead of distributions; a region
            without a label is background.
        images: how an image becomes an array where features are a `map`, else None.

    Raises:
        RegionError: for options that do not fit together.
    """

    features: Literal["stored", "pixels", "map"]
    boxes: Literal["stored", "grid"]
    grid: int
    limit: int
    width: int
    crop: int
    classes: int
    labels: tuple[str, ...]
    images: loader.ImageReader | None

    def __post_init__(self) -> None:
        if self.features == "stored" and self.boxes == "grid":
            raise RegionReadError("regions: a grid has no stored features; take 'pixels' or 'map', or stored boxes")
        if self.features == "pixels" and self.width != 3 * self.crop**2:
            raise RegionReadError(
                f"regions: pixels of crop {self.crop} are {3 * self.crop**2} numbers, not {self.width}"
            )
        if (self.features == "map") != (self.images is not None):
            raise RegionReadError("regions: `images` is for features on a 'map', which need it")
        if self.labels and self.classes != len(self.labels) + 1:
            raise RegionReadError(
                f"regions: {len(self.labels)} labels and the background are not {self.classes} classes"
            )

    @property
    def largest(self) -> int:
        """Regions of an image at most."""
        return self.grid**2 + 1 if self.boxes == "grid" else self.limit

    def count(self, record: records.Record) -> int:
        """Counts the regions of a record; 0 for one that cannot be used."""
        lacking = self.features == "stored" and record.region_features is None
        return 0 if lacking else len(self._kept(record, self.largest).boxes)

    def require_classes(self) -> None:
        """Checks that records can have `region_classes`.

        Raises:
            RegionError: if none can.
        """
        if not self.classes or self.boxes == "grid":
            raise RegionReadError("regions: objective 'mrc' needs `classes` and stored boxes; leave it out otherwise")

    def empty(self, rows: int, length: int, with_classes: bool) -> loader.HostBatch:
        """Makes the fields of a batch, all padding so far.

        Args:
            rows: the number of records.
            length: regions of each at most.
            with_classes: whether `region_classes` are needed.

        Returns:
            The arrays; the module says their shapes and dtypes.

        Raises:
            RegionError: if classes are needed and no record can have them.
        """
        batch: loader.HostBatch = {
            "region_boxes": np.zeros((rows, length, 4), np.float32),
            "region_mask": np.zeros((rows, length), bool),
        }
        if self.images is not None:
            batch |= self.images.empty(rows)
            batch["image"][:] = 0
        else:
            batch["region_features"] = np.zeros((rows, length, self.width), np.float16)
        if with_classes:
            self.require_classes()
            batch["region_classes"] = np.zeros((rows, length, self.classes), np.float16)
        return batch

    def write(self, source: Source, row: int, record: records.Record, batch: loader.HostBatch, place: int) -> None:
        """Writes the regions of a record into a batch. Regions beyond the batch's length are left out.

        Args:
            source: the source of the record, for messages and to read the image.
            row: of the record in the source.
            record: the record.
            batch: made by `empty`; changed in place.
            place: the row of the batch to write.

        Raises:
            BadRecord: if the record lacks what is needed, or its image is damaged.
        """
        kept = self._kept(record, batch["region_mask"].shape[1])
        try:
            values = self._values(record, kept, "region_classes" in batch)
        except RegionReadError as error:
            remedy = "add regions with `wenlan regions`, choose other single.regions, or data.bad_records='replace'"
            raise loader.BadRecord(f"{loader.row_name(source, row, record)}: {error}. Remedy: {remedy}.") from error
        except images.CorruptImage as error:
            raise loader.BadRecord(f"{loader.row_name(source, row, record)}: {error}.") from error
        if self.images is not None:
            loader.write_record_image(self.images, source, row, record, batch, place)
        for name, rows in values.items():
            batch[name][place, : len(rows)] = rows
        batch["region_mask"][place, : len(kept.boxes)] = True

    def _values(self, record: records.Record, kept: KeptRegions, with_classes: bool) -> loader.HostBatch:
        if not len(kept.boxes):
            raise RegionReadError("no region with an area")
        values: loader.HostBatch = {"region_boxes": kept.boxes}
        if self.features == "stored":
            values["region_features"] = self._stored(record)[kept.numbers]
        elif self.features == "pixels":
            values["region_features"] = crops(images.decode(record.image), kept.boxes, self.crop)
        if with_classes:
            values["region_classes"] = self._classes(record)[kept.numbers]
        return values

    def _kept(self, record: records.Record, length: int) -> KeptRegions:
        if self.boxes == "grid":
            return KeptRegions(grid_boxes(self.grid)[:length], np.arange(min(self.largest, length)))
        corners = np.array([region.box for region in record.regions], np.float64).reshape(-1, 4)
        scaled = np.clip(corners / (record.width, record.height, record.width, record.height), 0.0, 1.0)
        solid = (scaled[:, 2] > scaled[:, 0]) & (scaled[:, 3] > scaled[:, 1])
        numbers = np.flatnonzero(solid)[: min(self.limit, length)]
        return KeptRegions(scaled[numbers].astype(np.float32), numbers)

    def _stored(self, record: records.Record) -> records.Features:
        rows = record.region_features
        if rows is None:
            raise RegionReadError("no region_features")
        if rows.shape[1] != self.width:
            raise RegionReadError(f"region_features of {rows.shape[1]} numbers, not {self.width}")
        return rows

    def _classes(self, record: records.Record) -> records.Classes:
        rows = record.region_classes
        if rows is None:
            return self._one_hot(record)
        if rows.shape[1] != self.classes:
            raise RegionReadError(f"region_classes of {rows.shape[1]} columns, not {self.classes}")
        return rows

    def _one_hot(self, record: records.Record) -> records.Classes:
        if not self.labels:
            raise RegionReadError("neither region_classes nor `labels` to make them of")
        names = ("", *self.labels)
        unknown = sorted({region.label for region in record.regions} - set(names))
        if unknown:
            raise RegionReadError(f"regions labelled {unknown}, which are not among `labels`")
        columns = [names.index(region.label) for region in record.regions]
        return np.eye(self.classes, dtype=np.float16)[columns]


def crops(image: np.ndarray, boxes: Float[np.ndarray, "regions 4"], side: int) -> Float16[np.ndarray, "regions width"]:
    """Averages what is in each box to a square of pixels; the edges of boxes are rounded outwards to whole pixels.

    Args:
        image: uint8 (height, width, 3).
        boxes: (x1, y1, x2, y2) in units of the image's sides.
        side: of the square.

    Returns:
        3 * side * side numbers from -1 to 1 for each box: rows of the square, columns, RGB.
    """
    height, width = image.shape[:2]
    scaled = boxes.astype(np.float64) * (width, height, width, height)
    # Float32 boxes in units of the sides miss whole pixels by a hair, which must not count as one more pixel.
    low = np.minimum(np.floor(scaled[:, :2] + 1e-3), (width - 1, height - 1)).astype(int)
    high = np.maximum(np.ceil(scaled[:, 2:] - 1e-3).astype(int), low + 1)
    pixels = np.empty((len(boxes), side, side, 3), np.uint8)
    for square, (x1, y1), (x2, y2) in zip(pixels, low, high, strict=True):
        images.resize(image[y1:y2, x1:x2], side, antialias=True, out=square)
    return (pixels.reshape(len(boxes), -1).astype(np.float32) / 127.5 - 1.0).astype(np.float16)
