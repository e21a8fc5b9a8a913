"""Records that no filter may touch, and ways to write and clean small sets of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from wenlan_jax.data import records, sources
from wenlan_jax.prepare import tfds_files
from wenlan_jax.prepare.clean import options

WORDS = "山水天地人日月花草树木鱼鸟猫狗房屋车路桥河海湖城市公园孩子老师学生朋友早晨夜晚春天夏天秋天冬天红色绿色蓝色白色"


class Plant:
    """Makers of images, texts, records and packed directories."""

    @staticmethod
    def image(seed: int, side: int = 96) -> np.ndarray:
        """A random image with large and small things in it, unlike those of other seeds."""
        rng = np.random.default_rng(seed)
        layers = [
            rng.uniform(-1, 1, (size, size, 3)).astype(np.float32) / octave
            for octave, size in enumerate((5, 12, 24), 1)
        ]
        mixed = sum(cv2.resize(layer, (side, side), interpolation=cv2.INTER_LINEAR) for layer in layers)
        return np.clip(127.5 + 80.0 * mixed, 0, 255).astype(np.uint8)

    @staticmethod
    def png(pixels: np.ndarray) -> bytes:
        return bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())

    @staticmethod
    def jpeg(pixels: np.ndarray, quality: int = 80) -> bytes:
        return bytes(cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())

    @staticmethod
    def sentence(seed: int, length: int = 14) -> str:
        """A row of Chinese words, unlike those of other seeds."""
        rng = np.random.default_rng([7, seed])
        return "".join(WORDS[index] for index in rng.integers(0, len(WORDS), length))

    @staticmethod
    def clean_record(seed: int, **changes: Any) -> records.Record:
        """A record without fault."""
        base = records.Record(
            id=f"clean{seed}",
            image=Plant.png(Plant.image(seed)),
            width=96,
            height=96,
            source="web",
            texts=(records.Text("weak", "zh", Plant.sentence(seed)),),
        )
        return dataclasses.replace(base, **changes)

    @staticmethod
    def text(value: str, language: str = "zh") -> tuple[records.Text, ...]:
        return (records.Text("weak", language, value),)

    @staticmethod
    def write(place: Path, splits: Mapping[str, Iterable[records.Record]]) -> Path:
        """A packed directory."""
        tfds_files.write(place, splits, "planted")
        return place

    @staticmethod
    def read(place: Path, split: str) -> list[records.Record]:
        source = sources.TfdsSource(place, split, place.name)
        return [source[row] for row in range(len(source))]


@pytest.fixture(scope="session")
def plant() -> type[Plant]:
    return Plant


@pytest.fixture
def configure() -> Callable[..., options.CleanOptions]:
    """Checked options with changes, given as `section__field`."""

    def make(**changes: Any) -> options.CleanOptions:
        values = options.default().to_dict()
        for name, value in changes.items():
            *sections, field = name.split("__")
            section = values
            for part in sections:
                section = section[part]
            section[field] = value
        return options.FORM.parse(values)

    return make
