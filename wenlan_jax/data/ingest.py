"""From input lines to records: lines of one image are grouped, and its file is read, checked and perhaps shrunk.

Grouping keeps paths and texts in memory, never an image; images are read one by one, later.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from wenlan_jax.data import images
from wenlan_jax.data.readers import Box, Fault, Line, Reason, Rejected
from wenlan_jax.data.records import Record, Region, Text

MAX_BOXES = 100
"""Boxes kept of one image, the first ones, as in the BriVL 1.0 files."""
JPEG_QUALITY = 95
DEFAULT_SPLIT = "train"


@dataclasses.dataclass
class Draft:
    """A record to be: everything but its image. `lines` are the input lines that it stands for."""

    image: str
    id: str
    split: str
    texts: dict[Text, None]  # an ordered set
    boxes: tuple[Box, ...]
    lines: list[int]


class Grouping:
    """Groups lines into drafts by image path; counts what it repairs in `fixes` and keeps the line count in `read`."""

    def __init__(self, split_shares: Mapping[str, float]) -> None:
        self._shares = split_shares
        self._drafts: dict[str, Draft] = {}
        self._owners: dict[str, str] = {}  # id -> image
        self.fixes: collections.Counter[str] = collections.Counter()
        self.read = 0

    def add(self, lines: Iterable[Line | Fault]) -> Iterator[Fault]:
        """Takes in all lines and yields those that are rejected."""
        for line in lines:
            self.read += 1
            if isinstance(line, Fault):
                yield line
                continue
            try:
                self._add(line)
            except Rejected as rejected:
                yield Fault(line.number, rejected.reason, rejected.detail, line.image)

    def drafts(self) -> Iterator[Draft]:
        """The drafts in the order of their first lines. Hands them over: each is forgotten here."""
        while self._drafts:
            yield self._drafts.pop(next(iter(self._drafts)))

    def __len__(self) -> int:
        return len(self._drafts)

    def _add(self, line: Line) -> None:
        key = posixpath.normpath(line.image)
        draft = self._drafts.get(key)
        if draft is None:
            draft = self._drafts[key] = self._start(key, line)
        elif line.split and line.split != draft.split:
            raise Rejected(
                Reason.SPLIT_CONFLICT,
                f"split {line.split!r}, but line {draft.lines[0]} puts it in {draft.split!r}",
            )
        draft.lines.append(line.number)
        draft.texts.update(dict.fromkeys(line.texts))
        draft.boxes = draft.boxes or line.boxes
        self.fixes["id_ignored"] += bool(line.id and line.id != draft.id)
        self.fixes["text_empty_dropped"] += line.dropped_texts
        self.fixes["box_malformed_dropped"] += line.dropped_boxes

    def _start(self, image: str, line: Line) -> Draft:
        identity = line.id or image
        owner = self._owners.setdefault(identity, image)
        if owner != image:
            raise Rejected(Reason.DUPLICATE_ID, f"id {identity!r} is that of {owner}")
        split = line.split or split_of(identity, self._shares)
        return Draft(image, identity, split, {}, (), [])


def split_of(identity: str, shares: Mapping[str, float]) -> str:
    """The split of an id: a stable hash of the id alone, so that a longer list leaves no record in another split.

    `shares` are fractions of the whole; what they leave is `train`.
    """
    position = int.from_bytes(hashlib.sha256(identity.encode("utf-8")).digest()[:8], "big") / 2**64
    for split, share in shares.items():
        if position < share:
            return split
        position -= share
    return DEFAULT_SPLIT


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What came of a draft: a record, or the reason why there is none; and the repairs made."""

    draft: Draft
    outcome: Record | Rejected
    fixes: collections.Counter[str]


def prepare(draft: Draft, root: Path, source: str, max_side: int | None) -> Prepared:
    """Reads and decodes the image of a draft. With `max_side`, a larger image is shrunk so that its long side fits.

    JPEG, PNG and WebP are stored as they are unless shrunk; other formats, and what was shrunk from PNG, become PNG.
    """
    fixes: collections.Counter[str] = collections.Counter()
    try:
        data = _read_image(root / draft.image)
        pixels = _decode(data)
        height, width = pixels.shape[:2]
        boxes = _clip(draft.boxes, width, height, fixes)
        scale = min(1.0, max_side / max(height, width)) if max_side else 1.0
        if scale < 1.0:
            pixels = _shrink(pixels, scale)
            fixes["image_shrunk"] += 1
        if scale < 1.0 or _suffix(data) is None:
            fixes["image_reencoded"] += scale == 1.0
            data = _encode(pixels, _suffix(data) or ".png")
    except Rejected as rejected:
        return Prepared(draft, rejected, fixes)
    new_height, new_width = pixels.shape[:2]
    factors = np.array([new_width / width, new_height / height] * 2)
    regions = tuple(Region(tuple((np.array(box) * factors).tolist())) for box in boxes)
    record = Record(draft.id, data, new_width, new_height, source, tuple(draft.texts), regions)
    return Prepared(draft, record, fixes)


def _read_image(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise Rejected(Reason.MISSING_IMAGE, f"{path}: {detail}") from error
    if not data:
        raise Rejected(Reason.EMPTY_IMAGE, f"{path}: a file of 0 bytes")
    return data


def _decode(data: bytes) -> np.ndarray:
    try:
        return images.decode(data)
    except images.CorruptImage as error:
        raise Rejected(Reason.CORRUPT_IMAGE, str(error)) from error


def _suffix(data: bytes) -> str | None:
    """The suffix OpenCV knows the format by, for the formats that are stored as they are."""
    if data.startswith(b"\xff\xd8"):
        return ".jpg"
    if data.startswith(b"\x89PNG"):
        return ".png"
    return ".webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _shrink(pixels: np.ndarray, scale: float) -> np.ndarray:
    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _encode(pixels: np.ndarray, suffix: str) -> bytes:
    if suffix == ".webp":
        suffix = ".jpg"
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []
    return cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _clip(boxes: Iterable[Box], width: int, height: int, fixes: collections.Counter[str]) -> list[Box]:
    """The first boxes, cut to the picture; those without area in it are dropped."""
    kept: list[Box] = []
    for box in boxes:
        x1, y1, x2, y2 = box
        clipped = (max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2))
        if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
            fixes["box_degenerate_dropped"] += 1
        elif len(kept) == MAX_BOXES:
            fixes["box_beyond_limit_dropped"] += 1
        else:
            fixes["box_clipped"] += clipped != box
            kept.append(clipped)
    return kept
