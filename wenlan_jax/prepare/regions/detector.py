"""A detector that the user supplies, as the source of regions: images of records in, detections out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from wenlan_jax.config.options import REQUIRED, faults, option
from wenlan_jax.data import images
from wenlan_jax.data.records import Record
from wenlan_jax.prepare.regions import contract
from wenlan_jax.prepare.regions.contract import DetectorError
from wenlan_jax.prepare.regions.detections import DetectionError, Detections, Selection
from wenlan_jax.prepare.regions.onnx_detector import AnyPixels, OnnxDetector, Pixels
from wenlan_jax.prepare.regions.transformers_detector import TransformersDetector
from wenlan_jax.util import atomic_files


@runtime_checkable
class Detector(Protocol):
    """Finds things in a batch of 8-bit RGB images of any sizes."""

    def __call__(self, batch: Sequence[AnyPixels], /) -> Sequence[Detections | DetectionError]: ...

    def describe(self) -> dict[str, Any]:
        """Says what the arrays of its records are."""
        ...


@dataclasses.dataclass(frozen=True)
class UserDetector:
    """A detector of the user: picklable, and opened once in each process.

    Attributes:
        min_boxes: see `Selection`.
        max_boxes: see `Selection`.
    """

    place: Path = option(REQUIRED, "an ONNX file or a directory of transformers", metavar="PATH")
    kind: Literal["onnx", "transformers"] = option(
        REQUIRED, "of the detector", usual="onnx for a file, transformers for a directory"
    )
    threshold: float | None = option(
        None,
        "least score of a box",
        low=0,
        high=1,
        usual=f"that of the detector's contract, else {Selection.threshold:g}",
    )
    nms: float | None = option(
        None,
        "suppress worse boxes that overlap more",
        low=0,
        high=1,
        metavar="OVERLAP",
        usual="that of the detector's contract, else none is suppressed",
    )
    min_boxes: int = Selection.min_boxes
    max_boxes: int = Selection.max_boxes
    batch_size: int = option(16, "images at once", low=1)
    threads: int = option(0, "of each process; 0: all cores", low=0)

    @property
    def selection(self) -> Selection:
        """Which boxes are kept."""
        chosen = Selection(min_boxes=self.min_boxes, max_boxes=self.max_boxes)
        threshold = self.threshold
        if threshold is None and self.kind == "onnx":
            threshold = contract.read(self.place).threshold
        return chosen if threshold is None else dataclasses.replace(chosen, threshold=threshold)

    def check(self) -> None:
        """Opens the detector.

        Raises:
            DetectorError: for one that cannot be used.
            DetectionError: for a selection that makes no sense.
        """
        for fault in faults(self):
            raise DetectorError(fault)
        if not self.place.exists():
            raise DetectorError(f"{self.place}: no such detector")
        self.selection.check()
        _opened(self.place, self.kind, self.threads, self.nms)

    def stamps(self) -> list[list[int]]:
        """Size and time of change of its files."""
        files = sorted(self.place.iterdir()) if self.place.is_dir() else [self.place, self.place.with_suffix(".json")]
        return [atomic_files.stamp(file) for file in files]

    def describe(self) -> dict[str, Any]:
        """Says what the arrays of its records are."""
        return _opened(self.place, self.kind, self.threads, self.nms).describe()

    def find_all(self, records: Sequence[Record]) -> list[Detections | DetectionError | None]:
        """Detects things in the image of each record, or says why it cannot be looked at."""
        decoded = [_decoded(record) for record in records]
        good = [image for image in decoded if not isinstance(image, DetectionError)]
        found = iter(_opened(self.place, self.kind, self.threads, self.nms)(good) if good else ())
        return [image if isinstance(image, DetectionError) else next(found) for image in decoded]

    def unmatched(self) -> str:
        """Says what to tell when no image could be looked at."""
        return f"{self.place}: none of the images can be decoded"


def kind_of(place: Path) -> Literal["onnx", "transformers"]:
    """Guesses the kind of a detector from its path."""
    return "transformers" if place.is_dir() else "onnx"


@functools.lru_cache(maxsize=1)
def _opened(place: Path, kind: str, threads: int, nms: float | None) -> Detector:
    openers: dict[str, Callable[[], Detector]] = {
        "onnx": lambda: OnnxDetector(place, threads, nms),
        "transformers": lambda: TransformersDetector(place, threads, nms),
    }
    return openers[kind]()


def _decoded(record: Record) -> Pixels | DetectionError:
    try:
        return images.decode(record.image)
    except images.CorruptImage as error:
        return DetectionError(f"the image cannot be decoded ({error})")
