"""The one record schema: what every source yields and every later stage reads.

A record is one encoded image with all that is said about it. `Record` is the Python view, `features()`
the stored view (TFDS, array_record files, readable without TensorFlow), and `to_example` / `from_example`
go between the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

LANGUAGES = ("zh", "en", "de", "fr", "cs", "ja", "ko")
"""The seven languages of the WenLan papers; records may hold others, as any lower-case code."""


@dataclasses.dataclass(frozen=True)
class Text:
    """One text of an image. `kind` says how it relates to it, e.g. `descriptive`, `weak`, `title`."""

    kind: str
    language: str
    text: str


@dataclasses.dataclass(frozen=True)
class Region:
    """One box in pixels of the stored image, `(x1, y1, x2, y2)`, with an optional class and attributes."""

    box: tuple[float, float, float, float]
    label: str = ""
    attributes: tuple[str, ...] = ()
    score: float = 1.0


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about the image and its answer, both in `language`."""

    language: str
    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Record:
    """One image and everything known about it. `image` holds the encoded bytes (JPEG, PNG, WebP)."""

    id: str
    image: bytes
    width: int
    height: int
    source: str = ""
    texts: tuple[Text, ...] = ()
    regions: tuple[Region, ...] = ()
    questions: tuple[Question, ...] = ()


def features() -> Any:
    """The TFDS `FeaturesDict` that stores a record. Images are kept as the encoded bytes they came as."""
    import tensorflow_datasets as tfds

    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            "id": text(),
            "source": text(),
            "width": np.int32,
            "height": np.int32,
            "image": tfds.features.Image(shape=(None, None, None)),
            "texts": tfds.features.Sequence({"kind": text(), "language": text(), "text": text()}),
            "regions": tfds.features.Sequence(
                {
                    "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
                    "label": text(),
                    "attributes": text(),  # joined by ";"
                    "score": np.float32,
                }
            ),
            "questions": tfds.features.Sequence({"language": text(), "question": text(), "answer": text()}),
        }
    )


def to_example(record: Record) -> dict[str, Any]:
    """The stored view of `record`, as `features()` wants it."""
    return {
        "id": record.id,
        "source": record.source,
        "width": record.width,
        "height": record.height,
        "image": record.image,
        "texts": [vars(text) for text in record.texts],
        "regions": [
            {
                "box": np.asarray(region.box, np.float32),
                "label": region.label,
                "attributes": ";".join(region.attributes),
                "score": region.score,
            }
            for region in record.regions
        ],
        "questions": [vars(question) for question in record.questions],
    }


def _string(value: bytes | str) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a TFDS sequence, which is stored as a dict of equally long columns."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def from_example(example: Mapping[str, Any]) -> Record:
    """The record in a stored example that was read with image decoding skipped (so `image` is bytes)."""
    regions = []
    for row in _rows(example["regions"]):
        x1, y1, x2, y2 = (float(value) for value in row["box"])
        attributes = tuple(part for part in _string(row["attributes"]).split(";") if part)
        regions.append(Region((x1, y1, x2, y2), _string(row["label"]), attributes, float(row["score"])))
    return Record(
        id=_string(example["id"]),
        image=example["image"],
        width=int(example["width"]),
        height=int(example["height"]),
        source=_string(example["source"]),
        texts=tuple(Text(**{k: _string(v) for k, v in row.items()}) for row in _rows(example["texts"])),
        regions=tuple(regions),
        questions=tuple(Question(**{k: _string(v) for k, v in row.items()}) for row in _rows(example["questions"])),
    )
