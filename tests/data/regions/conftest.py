"""Packed directories of small pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from wenlan_jax.data import parts, sources
from wenlan_jax.data.records import Record, Region, Text

Pack = Callable[[Path, Sequence[Record]], Path]


def picture(width: int, height: int, seed: int) -> bytes:
    """A PNG of smooth noise."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.imencode(".png", cv2.resize(small, (width, height)))[1].tobytes()


def _record(name: str, width: int, height: int, seed: int) -> Record:
    texts = (Text("descriptive", "zh", f"图{seed}"),)
    return Record(name, picture(width, height, seed), width, height, "toy", texts, (Region((0.0, 0.0, 9.0, 8.0)),))


def _pack(directory: Path, records: Sequence[Record]) -> Path:
    directory.mkdir()
    output = parts.PartWriter(directory, 0)
    for record in records:
        output.add("train", record)
    parts.assemble(directory, [output.close()], "test")
    return directory


def _read(directory: Path) -> list[Record]:
    source = sources.TfdsSource(directory, "train", "test")
    return [source[row] for row in range(len(source))]


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
