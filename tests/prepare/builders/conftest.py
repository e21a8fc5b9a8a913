"""Small images and files, and data sets built from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from wenlan_jax.data import sources
from wenlan_jax.data.records import Record
from wenlan_jax.prepare.builders import registry


def drawn(seed: int = 0, suffix: str = ".jpg", width: int = 24, height: int = 18) -> bytes:
    """A small encoded image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Writes files below `root` by name."""
    for name, content in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def build(name: str, manual_dir: Path, data_dir: Path) -> dict[str, list[Record]]:
    """Builds a data set, and reads it back through the sources: its records by split."""
    registry.build(name, data_dir, manual_dir)
    found = {}
    for split in sources.split_sizes(name, data_dir):
        source = sources.open_source(name, split, data_dir)
        found[split] = [source[row] for row in range(len(source))]
    return found


@pytest.fixture
def built(tmp_path: Path) -> Callable[[str, Path], dict[str, list[Record]]]:
    return lambda name, manual_dir: build(name, manual_dir, tmp_path / "data")


@pytest.fixture
def files(tmp_path: Path) -> Callable[[Mapping[str, str | bytes]], Path]:
    return lambda content: write(tmp_path / "manual", content)


@pytest.fixture
def image() -> Callable[..., bytes]:
    return drawn
