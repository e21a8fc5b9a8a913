"""Arithmetic of boxes `(x1, y1, x2, y2)`: how much they overlap, other ways to write them, and suppression."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64, Int

from wenlan_jax.prepare.regions.detections import Boxes, Scores

FORMATS = ("xyxy", "xywh", "cxcywh")
"""Corners; corner and size; centre and size."""


def corners(boxes: Float[np.ndarray, "boxes 4"], written: str) -> Boxes:
    """Converts boxes written in one of FORMATS to corners."""
    first, second = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    if written == "xyxy":
        return np.concatenate([first, second], axis=1)
    start = first - second / 2 if written == "cxcywh" else first
    return np.concatenate([start, start + second], axis=1)


def overlap(
    one: Float[np.ndarray, "rows 4"], other: Float[np.ndarray, "columns 4"]
) -> Float64[np.ndarray, "rows columns"]:
    """Computes the intersection over union of every pair; 0 where neither has an area."""
    lower = np.maximum(one[:, None, :2], other[None, :, :2])
    upper = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(upper - lower, 0.0, None).prod(axis=2)
    union = _areas(one)[:, None] + _areas(other)[None] - shared
    return np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)


def unsuppressed(boxes: Boxes, scores: Scores, threshold: float) -> Int[np.ndarray, " kept"]:
    """Suppresses boxes greedily over all classes (non-maximum suppression).

    A box goes when a better one that stays overlaps it by more than `threshold`.

    Args:
        boxes: corners.
        scores: of the boxes.
        threshold: intersection over union.

    Returns:
        The rows that are left, best first.
    """
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[overlap(boxes[best][None], boxes[order])[0] <= threshold]
    return np.array(kept, np.int64)


def _areas(boxes: Float[np.ndarray, "boxes 4"]) -> Float64[np.ndarray, " boxes"]:
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None).prod(axis=1).astype(np.float64)
