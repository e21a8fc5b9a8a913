"""Packs small files in a set's own layout, and looks at what came of them."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from wenlan_jax.data import sources
from wenlan_jax.data.records import Record
from wenlan_jax.prepare import pack, raw_images, raw_items


def image_bytes(seed: int = 0, suffix: str = ".jpg", width: int = 40, height: int = 30) -> bytes:
    """A small encoded image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def tar_bytes(members: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar archive as the standard library writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@dataclasses.dataclass
class Packed:
    """A pack: its report, its records by split, and its rejected items."""

    report: pack.PackReport
    records: Mapping[str, list[Record]]
    rejected: list[dict[str, Any]]

    @property
    def reasons(self) -> list[str]:
        return [row["reason"] for row in self.rejected]

    def all(self) -> list[Record]:
        return [record for records in self.records.values() for record in records]

    def texts(self, split: str = "train") -> list[list[tuple[str, str]]]:
        return [[(text.language, text.text) for text in record.texts] for record in self.records[split]]


def pack_files(folder: Path, *inputs: str | Path, **options: Any) -> Packed:
    """Packs `inputs`, with options by name wherever they belong, and checks that nothing is lost."""
    read_names = {field.name for field in dataclasses.fields(raw_items.ReadOptions)}
    shown_names = {field.name for field in dataclasses.fields(raw_images.ImageOptions)}
    read = {name: options.pop(name) for name in list(options) if name in read_names}
    shown = {name: options.pop(name) for name in list(options) if name in shown_names}
    report = pack.pack(
        pack.PackOptions(
            inputs=tuple(map(str, inputs)),
            out=folder / "out",
            read=raw_items.ReadOptions(**read),
            image_options=raw_images.ImageOptions(**shown),
            **{"workers": 0, "threads": 1, **options},
        )
    )
    assert report.read == report.packed + sum(report.rejected.values())
    lines = (folder / "out" / "rejected.jsonl").read_text("utf-8").splitlines()
    rejected = [json.loads(line) for line in lines]
    assert len(rejected) == sum(report.rejected.values())
    records = {}
    for split, count in report.records.items():
        source = sources.open_source(str(folder / "out"), split, folder)
        records[split] = [source[row] for row in range(len(source))]
        assert len(records[split]) == count
    return Packed(report, records, rejected)


@pytest.fixture
def packed(tmp_path: Path) -> Callable[..., Packed]:
    return lambda *inputs, **options: pack_files(tmp_path, *inputs, **options)


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with images of these names."""

    def make(*names: str) -> Path:
        root = tmp_path / "images"
        for seed, name in enumerate(names):
            place = root / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(image_bytes(seed, place.suffix))
        return root

    return make


@pytest.fixture
def image() -> Callable[..., bytes]:
    return image_bytes


@pytest.fixture
def archive() -> Callable[..., bytes]:
    return tar_bytes
