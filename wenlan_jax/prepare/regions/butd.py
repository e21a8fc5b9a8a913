"""Bottom-up attention features in tab-separated files, as their authors and LXMERT's publish them.

A line without a header is one image: `image_id, image_w, image_h, num_boxes, boxes, features`, arrays as base64 of
float32; LXMERT has the classes, attributes and their confidences as well, and the sides in the other order. A file of
a million images is 200 GB: it is indexed once in each process, and read image by image.
"""

from __future__ import annotations

import dataclasses
import functools
import os

import numpy as np

from wenlan_jax.prepare import image_places
from wenlan_jax.prepare.formats import files
from wenlan_jax.prepare.raw_items import ReadError, Rejected
from wenlan_jax.prepare.regions import npz
from wenlan_jax.prepare.regions.detections import DetectionError, Detections
from wenlan_jax.util import atomic_files

_LAYOUTS = (
    ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features"),
    (
        "image_id", "image_h", "image_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes",
        "features",
    ),
)  # fmt: skip
_BY_WIDTH = {len(layout): layout for layout in _LAYOUTS}
_KEY_LIMIT = 4096  # bytes
_LINE_LIMIT = 1 << 28

Entry = tuple[str, int, int]
Index = dict[str, Entry]
"""Of each image id: the file, where its line begins, and how long it is; 0 for an id that several images have."""


@dataclasses.dataclass(frozen=True)
class Tsv:
    """The images of tab-separated files, by image id. Safe in threads.

    Attributes:
        place: a path or a pattern.
    """

    place: str

    def get(self, key: str) -> Detections | None:
        """Reads what was found in an image.

        Args:
            key: its id.

        Returns:
            The detections; None where it is not there.

        Raises:
            DetectionError: for a damaged line, or an id that several images have.
        """
        index = self._index()
        entry = next((index[form] for form in image_places.forms(key) if form in index), None)
        if entry is None:
            return None
        path, start, length = entry
        if not length:
            raise DetectionError(f"{path}: image {key} is there for several images; sets share their numbers")
        return parse(_line(entry), f"{path}: image {key}")

    def some_keys(self) -> list[str]:
        """Lists a few of the image ids."""
        return list(self._index())[: npz.SHOWN_KEYS]

    def stamps(self) -> list[list[int]]:
        """Lists size and time of change of the files."""
        return [list(stamp) for _, stamp in _stamped(self.place)]

    def _index(self) -> Index:
        return _index(_stamped(self.place))


def _stamped(place: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    paths = files.expand(place)
    with files.reading(place):
        return tuple((path, tuple(atomic_files.stamp(path))) for path in paths)


@functools.lru_cache(maxsize=2)
def _index(stamped: tuple[tuple[str, tuple[int, ...]], ...]) -> Index:
    """Where each image is.

    An image that is twice in a file is taken from its first line, as detectors repeat some. Two of one id and of
    different sizes, or of different files and not alike, are images of sets that share their numbers.
    """
    index: Index = {}
    for path, _ in stamped:
        start = 0
        with files.open_stored(path) as stream, files.reading(path):
            while line := stream.readline(_LINE_LIMIT):
                key, tab, _ = line[:_KEY_LIMIT].partition(b"\t")
                if (not tab and line.strip()) or len(line) == _LINE_LIMIT:
                    raise ReadError(f"{path}: byte {start} begins no tab-separated line; is this a BUTD file?")
                if tab:
                    name, entry = key.decode("utf-8", "replace").strip(), (path, start, len(line))
                    first = index.setdefault(name, entry)
                    if first is not entry and first[2] and not _is_repeated(first, path, line):
                        index[name] = (path, start, 0)
                start += len(line)
    return index


def _is_repeated(first: Entry, path: str, line: bytes) -> bool:
    """Whether `line` of `path` is of the same image as the entry `first`."""
    before = _line(first)
    same_file, same_size = (
        first[0] == path,
        before[:_KEY_LIMIT].split(b"\t")[1:3] == line[:_KEY_LIMIT].split(b"\t")[1:3],
    )
    return before.rstrip() == line.rstrip() or (same_file and same_size)


def _line(entry: Entry) -> bytes:
    path, start, length = entry
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.pread(handle, length, start)
    finally:
        os.close(handle)


def parse(line: bytes, where: str) -> Detections:
    """Reads the detections in one line.

    Args:
        line: of the file.
        where: names it in messages.

    Returns:
        The detections.

    Raises:
        DetectionError: for a damaged one.
    """
    values = line.rstrip(b"\r\n").split(b"\t")
    layout = _BY_WIDTH.get(len(values))
    if layout is None:
        raise DetectionError(f"{where}: {len(values)} columns; there are {' or '.join(map(str, _BY_WIDTH))}")
    row = dict(zip(layout, values, strict=True))
    try:
        count = int(row["num_boxes"])
        boxes = _array(row["boxes"]).reshape(count, 4)
        features = _array(row["features"]).reshape(count, -1) if count else None
        scores = _array(row["objects_conf"]) if "objects_conf" in row else None
        extent = (float(row["image_w"]), float(row["image_h"]))
    except (ValueError, OverflowError, Rejected) as error:
        raise DetectionError(f"{where}: not {row['num_boxes'][:20]!r} boxes with features ({error})") from error
    return Detections(boxes, extent, scores, features=features)


def _array(value: bytes) -> np.ndarray:
    return np.frombuffer(files.from_base64(value.decode("ascii", "replace")), "<f4")
