"""Small sources whose texts and regions say which record they are of, and a tokenizer that gives texts back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from wenlan_jax.data import records
from wenlan_jax.data.mixture import MixturePart, TextChoice, WantedTexts
from wenlan_jax.tasks.single_tower.input import lengths, masking, schedule
from wenlan_jax.tasks.single_tower.input.batches import SingleBatches
from wenlan_jax.tasks.single_tower.input.examples import ExampleOptions
from wenlan_jax.tasks.single_tower.input.regions import RegionReader

WIDTH, CLASSES = 6, 5
PNG = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8))[1].tobytes()
ANY = TextChoice(WantedTexts((), ()), "any", (), 1.0)


def _tokens(row: int, language: str) -> int:
    return 8 + row % 5


def _regions(row: int) -> int:
    return 1 + row % 4


@dataclasses.dataclass
class Gallery:
    """Row r has, in each language, a text of `tokens(r, language)` tokens (0: none), and `regions(r)` regions.

    A text begins with its row and its language. Column 0 of a feature is the row, column 1 the number of the region;
    the class of region i in row r is (r + i) % CLASSES. Rows in `bad` have no features. Pairs of rows in `twins` are
    records of one image.
    """

    name: str = "gallery"
    length: int = 40
    languages: tuple[str, ...] = ("en", "zh")
    tokens: Callable[[int, str], int] = _tokens
    regions: Callable[[int], int] = _regions
    bad: tuple[int, ...] = ()
    twins: Mapping[int, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: int, /) -> records.Record:
        count = self.regions(row)
        numbers = np.arange(count)
        features = np.zeros((count, WIDTH), np.float16)
        features[:, 0], features[:, 1] = row, numbers
        texts = [
            records.Text("title", language, f"{row:02}{language}".ljust(self.tokens(row, language) - 2, "x"))
            for language in self.languages
            if self.tokens(row, language)
        ]
        return records.Record(
            id=f"id{self.twins.get(row, row)}",
            image=PNG,
            width=20,
            height=10,
            texts=tuple(texts),
            regions=tuple(records.Region((i, 0, i + 4.0, 5), "abcd"[i % 4], score=1 / (i + 1)) for i in range(count)),
            region_features=None if row in self.bad else features,
            region_classes=np.eye(CLASSES, dtype=np.float16)[(row + numbers) % CLASSES],
        )


class Letters:
    """A tokenizer of characters: pad 0, begin 1, end 2, mask 3, then 4 + its code."""

    pad_id, mask_id, size, fingerprint, file_name = 0, 3, 4 + 0x110000, "letters", "letters"

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.zeros((len(texts), length), np.int32)
        for place, text in enumerate(texts):
            row = [1, *(4 + ord(letter) for letter in text[: length - 2]), 2]
            ids[place, : len(row)] = row
        return ids, ids > 0


def read_text(ids: np.ndarray) -> str:
    """The text that `Letters` encoded; `?` for a masked letter."""
    return "".join("?" if number == 3 else chr(number - 4) for number in ids.tolist() if number >= 3)


def measured(
    source: Any, regions: RegionReader, wanted: WantedTexts = ANY.wanted, text_length: int = 16
) -> lengths.Lengths:
    return lengths.Measure(source, wanted, Letters(), text_length, regions).of(range(len(source)))


def make_regions(**changes: Any) -> RegionReader:
    fields: dict[str, Any] = {
        "features": "stored",
        "boxes": "stored",
        "grid": 2,
        "limit": 4,
        "width": WIDTH,
        "crop": 2,
        "classes": CLASSES,
        "labels": (),
        "images": None,
    }
    return RegionReader(**{**fields, **changes})


def make_recipe(**changes: Any) -> ExampleOptions:
    fields: dict[str, Any] = {
        "tokenizer": Letters(),
        "text_length": 16,
        "regions": make_regions(),
        "words": masking.WordMasking(0.15, 4, 3, 10_000, 20_000),
        "region_probability": 0.15,
        "match_probability": 0.5,
        "negatives": 2,
        "seed": 7,
    }
    return ExampleOptions(**{**fields, **changes})


ALL = {"itm": 9.0, "mlm": 12.0, "mrfr": 6.0, "mrc": 6.0}


def make_schedule(sources: Sequence[Any] = (Gallery(),), **changes: Any) -> schedule.Schedule:
    """`parts_objectives` and `weights` are those of the parts, one for each source."""
    weights = changes.pop("weights", (0.0,) * len(sources))
    own = changes.pop("parts_objectives", ((),) * len(sources))
    parts = [
        schedule.ScheduledPart(MixturePart(source, ANY, weight), measured(source, make_regions()), names)
        for source, weight, names in zip(sources, weights, own, strict=True)
    ]
    fields: dict[str, Any] = {
        "objectives": ALL,
        "batch_size": 4,
        "text_buckets": (10, 16),
        "region_buckets": (2, 4),
        "language_alpha": 1.0,
        "seed": 5,
    }
    return schedule.Schedule(parts, **{**fields, **changes})


def make_maker(sources: Sequence[Any] = (Gallery(),), **changes: Any) -> SingleBatches:
    bad_records = changes.pop("bad_records", "raise")
    recipe = changes.pop("recipe", None) or make_recipe()
    made = make_schedule(sources, **changes)
    return SingleBatches(made, recipe, changes.get("share", tuple(range(made.batch_size))), bad_records)


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """The makers above."""
    return SimpleNamespace(
        Gallery=Gallery,
        Letters=Letters,
        any=ANY,
        all=ALL,
        read_text=read_text,
        measured=measured,
        regions=make_regions,
        recipe=make_recipe,
        schedule=make_schedule,
        maker=make_maker,
    )
