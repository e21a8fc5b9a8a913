"""Writing a file for `torch.load`, array by array, so that it never has to be in memory as a whole.

`torch.save` wants everything at once: a model that is converted tower by tower would be held a second time, and no
byte written before the last tower is there. The format is a zip archive of stored records, `data.pkl` and one
`data/N` for each tensor, aligned to 64 bytes
(https://docs.pytorch.org/docs/stable/notes/serialization.html, "Serialized file format").
"""

from __future__ import annotations

import collections
import dataclasses
import importlib
import io
import itertools
import os
import pickle
import sys
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from wenlan_jax.convert import array_copies

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
"""PyTorch's class of a storage by the name of NumPy's type."""

_ROOT = "archive"
_ALIGNMENT = 64
_LOCAL_HEADER, _ZIP64_EXTRA, _EXTRA_HEADER = 30, 20, 4  # bytes, see APPNOTE.TXT of the zip format
_PROTOCOL = 2  # the one that `weights_only` reads
_VERSION = b"3\n"


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A record of the archive."""

    key: str
    kind: str
    items: int


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Stands for an array whose values are in the file already; becomes a tensor when the file is loaded.

    Attributes:
        storage: where its values are.
        shape: of the array.
    """

    storage: _Storage
    shape: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        backwards = itertools.accumulate(reversed(self.shape[1:]), lambda size, axis: size * axis, initial=1)
        strides = tuple(backwards)[::-1] if self.shape else ()
        rebuild = importlib.import_module("torch._utils")._rebuild_tensor_v2
        return rebuild, (self.storage, 0, self.shape, strides, False, collections.OrderedDict())


class TorchFile:
    """A file for `torch.load` that is being written. The values of an array go into it when it is put.

    Args:
        file: an open binary file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._count = itertools.count()
        self._buffer = array_copies.Buffer()

    def put(self, array: np.ndarray) -> StoredTensor:
        """Writes the values of an array, which is not needed any more then.

        Args:
            array: the array.

        Returns:
            What stands for it in `finish`.

        Raises:
            ValueError: for a type that PyTorch lacks.
        """
        if array.dtype.name not in STORAGES:
            raise ValueError(f"a file for torch.load has no type for {array.dtype}; convert the array first")
        storage = _Storage(str(next(self._count)), STORAGES[array.dtype.name], array.size)
        data = self._buffer.contiguous(array).reshape(-1).view(np.uint8).data
        self._record(f"data/{storage.key}", data)
        return StoredTensor(storage, array.shape)

    def sync(self) -> None:
        """Sends to the disk what has been put, so that little is left to wait for at the end."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self, content: Mapping[str, Any]) -> None:
        """Writes what `torch.load` gives, and ends the archive.

        Args:
            content: nested dictionaries of what `put` returned and plain values.
        """
        pickled = io.BytesIO()
        _Pickler(pickled, _PROTOCOL).dump(content)
        self._record("data.pkl", pickled.getbuffer())
        self._record("byteorder", sys.byteorder.encode())
        self._record("version", _VERSION)
        self.close()

    def close(self) -> None:
        """Ends the archive. One that is not finished can't be loaded."""
        self._archive.close()

    def _record(self, name: str, data: memoryview | bytes) -> None:
        entry = zipfile.ZipInfo(f"{_ROOT}/{name}")
        entry.file_size = len(data)
        large = len(data) * 1.05 > zipfile.ZIP64_LIMIT
        before = self._file.tell() + _LOCAL_HEADER + len(entry.filename) + _ZIP64_EXTRA * large + _EXTRA_HEADER
        padding = -before % _ALIGNMENT
        entry.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
        with self._archive.open(entry, "w", force_zip64=large) as record:
            record.write(data)


class _Pickler(pickle.Pickler):
    """Names storages instead of writing them, as `torch.save` does."""

    def persistent_id(self, value: Any) -> tuple[Any, ...] | None:
        if not isinstance(value, _Storage):
            return None
        kind = getattr(importlib.import_module("torch"), value.kind)
        return "storage", kind, value.key, "cpu", value.items
