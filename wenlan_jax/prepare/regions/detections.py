"""What a detector found in one image, whoever wrote it down, and how that becomes the regions of a record."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from wenlan_jax.config.options import faults, option
from wenlan_jax.data import records
from wenlan_jax.data.records import Classes, Features, Region
from wenlan_jax.util.errors import WenlanError

Boxes = Float64[np.ndarray, "boxes 4"]
Scores = Float64[np.ndarray, " boxes"]

UNIT = (1.0, 1.0)
"""The extent of boxes that are fractions of the image's sides."""

_ASPECT_TOLERANCE = 0.02  # an image shrunk to whole pixels is a little off
_UNIT_TOLERANCE = 1e-2  # float16 rounds the length of a row by less


class DetectionError(WenlanError, ValueError):
    """Stored detections that contradict themselves or the image; the message says how."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which boxes of an image are kept: the best by score.

    The usual values are those of the bottom-up attention features that UNITER was trained on.

    """

    threshold: float = option(0.2, "least score of a box", low=0, high=1)
    min_boxes: int = option(10, "kept of an image whatever their score", low=0)
    max_boxes: int = option(100, "kept of an image", low=1)

    def check(self) -> None:
        """Checks the numbers.

        Raises:
            DetectionError: for numbers that make no sense.
        """
        for fault in faults(self):
            raise DetectionError(fault)
        if self.min_boxes > self.max_boxes:
            raise DetectionError(f"at least {self.min_boxes} and at most {self.max_boxes} boxes cannot be kept")


@dataclasses.dataclass(frozen=True)
class Detections:
    """The boxes of one image with what belongs to each, row by row and in any order.

    Attributes:
        boxes: (x1, y1, x2, y2) in an `extent` of so much width and height.
        extent: of the image as the detector saw it, UNIT for fractions, None for the pixels of the stored image.
        scores: None means 1 for all.
        labels: a name for each box, or none at all.
        features: as the field of a record; of any float type.
        classes: as the field of a record; of any float type.
    """

    boxes: Float[np.ndarray, "boxes 4"]
    extent: tuple[float, float] | None
    scores: Float[np.ndarray, " boxes"] | None = None
    labels: tuple[str, ...] = ()
    features: Float[np.ndarray, "boxes width"] | None = None
    classes: Float[np.ndarray, "boxes classes"] | None = None


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Detections of an image in its pixels, best first: what a record holds of them.

    Attributes:
        regions: boxes, labels and scores.
        features: a row a region; None for none.
        classes: a row a region; None for none.
    """

    regions: tuple[Region, ...]
    features: Features | None
    classes: Classes | None

    def onto(self, record: records.Record) -> records.Record:
        """Returns `record` with these in place of the regions that it had."""
        return dataclasses.replace(
            record, regions=self.regions, region_features=self.features, region_classes=self.classes
        )


def fit(found: Detections, width: int, height: int, selection: Selection, counts: collections.Counter[str]) -> Fitted:
    """Fits detections to an image.

    Boxes with a number that is not finite, also in their features once these are float16, and boxes without area in
    the image are dropped. Equal scores keep their order.

    Args:
        found: the detections.
        width: of the stored image, in pixels.
        height: of the stored image, in pixels.
        selection: which boxes are kept.
        counts: tells what was dropped or cut; changed in place.

    Returns:
        What the record holds of them.

    Raises:
        DetectionError: for rows that do not fit together, and for an image of another shape.
    """
    _check_rows(found)
    boxes = _in_pixels(found, width, height)
    scores = np.ones(len(boxes)) if found.scores is None else found.scores.astype(np.float64)
    features, classes = _half(found.features), _half(found.classes)
    clipped = np.clip(boxes, 0.0, (width, height, width, height))
    finite = _finite_rows(boxes, scores[:, None], features, classes)
    solid = finite & (clipped[:, 0] < clipped[:, 2]) & (clipped[:, 1] < clipped[:, 3])
    order = _best(scores, solid, selection)
    counts["box_not_finite_dropped"] += int((~finite).sum())
    counts["box_degenerate_dropped"] += int((finite & ~solid).sum())
    counts["box_beyond_selection_dropped"] += int(solid.sum()) - len(order)
    counts["box_clipped"] += int((np.abs(clipped - boxes)[order].max(axis=1, initial=0.0) > 1e-3).sum())
    regions = tuple(
        Region(tuple(clipped[row].tolist()), found.labels[row] if found.labels else "", (), float(scores[row]))
        for row in order
    )
    if not regions:
        return Fitted((), None, None)
    return Fitted(regions, *(rows if rows is None else rows[order] for rows in (features, classes)))


def is_unit(features: Features) -> bool:
    """Says whether every row has the length 1, as M3P stores features; UNITER keeps them as the detector gave them."""
    lengths = np.linalg.norm(features.astype(np.float32), axis=1)
    return bool((np.abs(lengths - 1.0) < _UNIT_TOLERANCE).all())


def _check_rows(found: Detections) -> None:
    if found.boxes.ndim != 2 or found.boxes.shape[1] != 4:
        raise DetectionError(f"boxes are {found.boxes.shape}, not (boxes, 4)")
    count = len(found.boxes)
    for name, array, dimensions in (
        ("scores", found.scores, 1),
        ("features", found.features, 2),
        ("classes", found.classes, 2),
    ):
        if array is not None and (array.ndim != dimensions or len(array) != count):
            raise DetectionError(f"{name} are {array.shape}, for {count} boxes")
    if found.labels and len(found.labels) != count:
        raise DetectionError(f"{len(found.labels)} labels, for {count} boxes")


def _in_pixels(found: Detections, width: int, height: int) -> Boxes:
    boxes = found.boxes.astype(np.float64)
    if found.extent is None:
        return boxes
    full_width, full_height = found.extent
    if not (0 < full_width < np.inf and 0 < full_height < np.inf):
        raise DetectionError(
            f"the detector saw an image of {full_width:g} x {full_height:g} pixels; both must be positive"
        )
    if found.extent != UNIT and abs(full_width * height / (full_height * width) - 1) > _ASPECT_TOLERANCE:
        seen = f"{full_width:g} x {full_height:g} pixels"
        raise DetectionError(f"found in an image of {seen}, which this one of {width} x {height} cannot be")
    scale: Boxes = boxes * (width / full_width, height / full_height, width / full_width, height / full_height)
    return scale


def _half(rows: Float[np.ndarray, "boxes width"] | None) -> Features | None:
    if rows is None:
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # rows that are not finite afterwards are dropped
        return rows.astype(np.float16)


def _finite_rows(*arrays: Float[np.ndarray, "boxes _columns"] | None) -> Bool[np.ndarray, " boxes"]:
    return np.logical_and.reduce([np.isfinite(rows).all(axis=1) for rows in arrays if rows is not None])


def _best(scores: Scores, allowed: Bool[np.ndarray, " boxes"], selection: Selection) -> Int[np.ndarray, " kept"]:
    rows = np.flatnonzero(allowed)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    sure = int((scores[rows] >= selection.threshold).sum())
    return rows[: min(max(sure, selection.min_boxes), selection.max_boxes)]
