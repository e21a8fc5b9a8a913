"""UNITER's stores of bottom-up attention features: an .npz file for each image, or all of them in one LMDB.

Arrays are `features`, `norm_bb` (x1, y1, x2, y2, width, height as fractions), `conf` and `soft_labels`, whose class 0
is the background. An LMDB holds them by the name of the .npz file, either as that file (`*_compressed`) or in msgpack
with the arrays as msgpack-numpy writes them. Known traps: float32 is stored as float16, archives may hold a stray entry
`allow_pickle`, and UNITER skips images that its detector failed on.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
from typing import Any

import numpy as np

from wenlan_jax.prepare.image_places import forms
from wenlan_jax.prepare.raw_items import ReadError
from wenlan_jax.prepare.regions import npz
from wenlan_jax.prepare.regions.detections import UNIT, DetectionError, Detections
from wenlan_jax.util import atomic_files

BOXES, FEATURES, SCORES, CLASSES = "norm_bb", "features", "conf", "soft_labels"

_KEY_BYTES = 511
_ZIP_START = b"PK\x03\x04"


@dataclasses.dataclass(frozen=True)
class Lmdb:
    """An LMDB directory, by the names of the .npz files it was made of. Needs the extra `lmdb`. Safe in threads."""

    place: str

    def get(self, key: str) -> Detections | None:
        """What was found in image `key`; None where it is not there. Raises DetectionError for a damaged entry."""
        keys = [form.encode("utf-8") for form in forms(key)]
        with _environment(self.place).begin(buffers=False) as transaction:
            # LMDB refuses to look for keys that are longer than it can hold.
            found = (transaction.get(one) for one in keys if 0 < len(one) <= _KEY_BYTES)
            entry = next((one for one in found if one is not None), None)
        if entry is None:
            return None
        where = f"{self.place}: {key}"
        return detections(
            npz.arrays_in(entry, where) if entry.startswith(_ZIP_START) else message_arrays(entry, where), where
        )

    def some_keys(self) -> list[str]:
        """A few of the names."""
        with _environment(self.place).begin() as transaction:
            listed = transaction.get(b"__keys__")
            if listed is not None:
                return [str(key) for key in json.loads(listed)][: npz.SHOWN_KEYS]
            keys = transaction.cursor().iternext(keys=True, values=False)
            return [bytes(key).decode("utf-8", "replace") for key in itertools.islice(keys, npz.SHOWN_KEYS)]

    def stamps(self) -> list[list[int]]:
        """Size and time of change of the store."""
        return [atomic_files.stamp(os.path.join(self.place, "data.mdb"))]


@functools.lru_cache(maxsize=8)
def _environment(place: str) -> Any:
    """The open store, once in each process, as LMDB demands."""
    try:
        import lmdb
    except ImportError as error:
        raise ReadError(f"{place}: reading LMDB needs packages that are not here: install wenlan_jax[lmdb]") from error
    try:
        return lmdb.open(place, readonly=True, create=False, lock=False, readahead=False, max_readers=512)
    except lmdb.Error as error:
        raise ReadError(f"{place}: not an LMDB directory with data.mdb ({error})") from error


def message_arrays(data: bytes, where: str) -> dict[str, np.ndarray]:
    """Reads the arrays of an entry in msgpack.

    Args:
        data: the entry.
        where: names it in messages.

    Returns:
        The arrays by name.

    Raises:
        DetectionError: for what is none.
        ReadError: if msgpack is not installed.
    """
    try:
        import msgpack
    except ImportError as error:
        raise ReadError(f"{where}: reading it needs packages that are not here: install wenlan_jax[lmdb]") from error
    try:
        found = msgpack.unpackb(data, raw=False, strict_map_key=False, object_hook=_plain_array)
    except Exception as error:  # msgpack has several kinds, and arrays may be cut short
        raise DetectionError(f"{where}: not msgpack with plain arrays ({error})") from error
    if not isinstance(found, dict):
        raise DetectionError(f"{where}: a {type(found).__name__}, not the arrays of an image")
    return {str(name): array for name, array in found.items() if isinstance(array, np.ndarray)}


def _plain_array(value: dict[Any, Any]) -> Any:
    """An array as msgpack-numpy writes it; its keys are bytes, of older writers text."""
    known = {key.decode() if isinstance(key, bytes) else key: inner for key, inner in value.items()}
    if known.get("nd") is not True or known.get("kind"):
        return value  # neither scalars nor arrays of objects or fields occur
    written = known["type"]
    dtype = np.dtype(written.decode() if isinstance(written, bytes) else written)
    if dtype.hasobject:
        raise ValueError(f"an array of {dtype}")
    return np.frombuffer(known["data"], dtype).reshape(known["shape"])


def detections(arrays: npz.Arrays, where: str) -> Detections:
    """Makes detections of the arrays of an image.

    Args:
        arrays: of the image.
        where: names it in messages.

    Returns:
        The detections; their boxes are fractions of the image's sides.

    Raises:
        DetectionError: where an array is missing or of another kind.
    """
    missing = [name for name in (BOXES, SCORES, FEATURES) if name not in arrays]
    if missing:
        raise DetectionError(f"{where}: has {', '.join(arrays) or 'nothing'}, not {', '.join(missing)}")
    wanted = {name: arrays[name] for name in (BOXES, SCORES, FEATURES, CLASSES) if name in arrays}
    strange = [f"{name} ({array.dtype})" for name, array in wanted.items() if array.dtype.kind != "f"]
    if strange:
        raise DetectionError(f"{where}: {', '.join(strange)} must be floating-point numbers")
    boxes = arrays[BOXES]
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 6, 7):
        raise DetectionError(f"{where}: {BOXES} is {boxes.shape}, not (boxes, 6)")
    return Detections(
        boxes[:, :4].astype(np.float64), UNIT, arrays[SCORES], features=arrays[FEATURES], classes=arrays.get(CLASSES)
    )
