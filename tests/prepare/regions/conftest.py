"""Packed directories of small images, and entries of stored regions."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from wenlan_jax.data import sources
from wenlan_jax.data.records import Record, Region, Text
from wenlan_jax.prepare import tfds_files

Arrays = dict[str, np.ndarray]
Pack = Callable[[Path, Sequence[Record]], Path]


def image(width: int, height: int, seed: int) -> bytes:
    """A PNG of smooth noise."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.imencode(".png", cv2.resize(small, (width, height)))[1].tobytes()


def _record(name: str, width: int, height: int, seed: int) -> Record:
    texts = (Text("descriptive", "zh", f"图{seed}"),)
    return Record(name, image(width, height, seed), width, height, "toy", texts, (Region((0.0, 0.0, 9.0, 8.0)),))


def _pack(directory: Path, records: Sequence[Record]) -> Path:
    directory.mkdir()
    output = tfds_files.PartWriter(directory, 0)
    for record in records:
        output.add("train", record)
    tfds_files.assemble(directory, [output.close()], "test")
    return directory


def _read(directory: Path) -> list[Record]:
    source = sources.TfdsSource(directory, "train", "test")
    return [source[row] for row in range(len(source))]


class Written:
    """Makers of what UNITER's extraction writes of an image."""

    @staticmethod
    def arrays(seed: int, count: int = 12, sure: int = 11) -> Arrays:
        """The arrays of an image as UNITER's extraction writes them; `sure` boxes above its threshold, in no order."""
        random = np.random.default_rng(seed)
        start = random.uniform(0, 0.6, (count, 2))
        size = random.uniform(0.1, 0.4, (count, 2))
        conf = np.concatenate([random.uniform(0.3, 1.0, sure), random.uniform(0.0, 0.19, count - sure)])
        return {
            "norm_bb": np.concatenate([start, start + size, size], axis=1).astype(np.float32),
            "features": random.normal(size=(count, 2048)).astype(np.float32),
            "conf": random.permutation(conf).astype(np.float32),
            "soft_labels": random.dirichlet(np.ones(1601), count).astype(np.float32),
        }

    @staticmethod
    def half(arrays: Arrays) -> Arrays:
        return {name: array.astype(np.float16) for name, array in arrays.items()}

    @staticmethod
    def message(array: np.ndarray) -> dict[bytes, Any]:
        """An array as msgpack-numpy's encoder has it."""
        return {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape, b"data": array.tobytes()}

    @staticmethod
    def archive(arrays: Arrays) -> bytes:
        """`np.savez_compressed(**arrays, allow_pickle=True)` by a NumPy that took the option for an array."""
        stream, flag = io.BytesIO(), io.BytesIO()
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        np.save(flag, np.bool_(True))
        with zipfile.ZipFile(stream, "a") as archive:
            archive.writestr("allow_pickle.npy", flag.getvalue())
        return stream.getvalue()


@pytest.fixture
def make_record() -> Callable[[str, int, int, int], Record]:
    """A record by name, width, height and seed, with one box."""
    return _record


@pytest.fixture
def pack_records() -> Pack:
    """Writes records to the split `train` of a new directory."""
    return _pack


@pytest.fixture
def read_records() -> Callable[[Path], list[Record]]:
    """All records of the split `train`."""
    return _read


@pytest.fixture(scope="session")
def written() -> type[Written]:
    """Makers of UNITER's arrays and of the forms they are stored in."""
    return Written


@pytest.fixture
def packed(
    tmp_path: Path, make_record: Callable[..., Record], pack_records: Callable[[Path, list[Record]], Path]
) -> Path:
    """Three records with names of COCO images, of 60 x 40 pixels."""
    names = [f"images/COCO_val2014_{number:012d}.jpg" for number in (9, 25, 30)]
    return pack_records(tmp_path / "packed", [make_record(name, 60, 40, n) for n, name in enumerate(names)])
