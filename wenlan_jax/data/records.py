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
from jaxtyping import Float16

from wenlan_jax.util import languages
from wenlan_jax.util.errors import WenlanError

Features = Float16[np.ndarray, "regions width"]
Classes = Float16[np.ndarray, "regions classes"]

ARRAYS = ("region_features", "region_classes")
"""Fields that directories packed before there were any do not have; such records are read with None."""


class RecordError(WenlanError, ValueError):
    """A record that contradicts itself; the message names its id and the field."""


@dataclasses.dataclass(frozen=True)
class Text:
    """One text of an image.

    Attributes:
        kind: how it relates to the image, e.g. `descriptive`, `weak`, `title`.
        language: its code, such as `zh`.
        text: the text.
    """

    kind: str
    language: str
    text: str


@dataclasses.dataclass(frozen=True)
class Region:
    """One box of an image.

    Attributes:
        box: (x1, y1, x2, y2) in pixels of the stored image.
        label: its class; "" for none.
        attributes: of what is in it.
        score: the detector's.
    """

    box: tuple[float, float, float, float]
    label: str = ""
    attributes: tuple[str, ...] = ()
    score: float = 1.0


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about the image and its answer.

    Attributes:
        language: of both.
        question: the question.
        answer: the answer of one annotator.
    """

    language: str
    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Record:
    """One image and everything known about it.

    Attributes:
        id: tells records of a data set apart.
        image: the encoded bytes (JPEG, PNG, WebP).
        width: of the stored image, in pixels.
        height: of the stored image, in pixels.
        source: where it comes from.
        texts: its texts.
        regions: its regions, best first.
        questions: questions about it.
        region_features: row i belongs to `regions[i]`; as the detector gave them, e.g. 2048 wide of a ResNet-101;
            `regions.detections.is_unit` tells whether they are normalised. None where a detector gave none.
        region_classes: row i belongs to `regions[i]`; a distribution over classes, the first of which is the background
            (UNITER's `soft_labels`). None where a detector gave none.
    """

    id: str
    image: bytes
    width: int
    height: int
    source: str = ""
    texts: tuple[Text, ...] = ()
    regions: tuple[Region, ...] = ()
    questions: tuple[Question, ...] = ()
    region_features: Features | None = dataclasses.field(default=None, repr=False, hash=False)
    region_classes: Classes | None = dataclasses.field(default=None, repr=False, hash=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return all(_equal(mine, vars(other)[name]) for name, mine in vars(self).items())


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
    return type(one) is type(other) and bool(one == other)


def features() -> Any:
    """Makes the TFDS `FeaturesDict` that stores a record. Images are kept as the encoded bytes they came as."""
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
            # Little-endian float16, row by row, of as many rows as there are regions; empty for None. TFDS writes
            # float16 arrays of two open sides only through TensorFlow.
            **{name: tfds.features.Tensor(shape=(), dtype=np.object_) for name in ARRAYS},
        }
    )


def to_example(record: Record) -> dict[str, Any]:
    """Makes the stored view of a record, as `features` wants it.

    Args:
        record: the record.

    Returns:
        The fields.

    Raises:
        RecordError: for arrays that do not fit the record.
    """
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
        **{name: _packed(record, name) for name in ARRAYS},
    }


def _packed(record: Record, name: str) -> bytes:
    rows = getattr(record, name)
    if rows is None:
        return b""
    if rows.ndim != 2 or len(rows) != len(record.regions) or rows.dtype != np.float16:
        raise RecordError(
            f"record {record.id}: {name} is {rows.dtype} {rows.shape}, not float16 of {len(record.regions)} rows, one "
            "for each region"
        )
    return rows.astype("<f2").tobytes()


def _unpacked(stored: bytes, rows: int, record_id: str, name: str) -> Features | None:
    if not stored:
        return None
    if not rows or len(stored) % (2 * rows):
        raise RecordError(f"record {record_id}: the {len(stored)} bytes of {name} are not those of {rows} rows")
    return np.frombuffer(stored, "<f2").astype(np.float16, copy=False).reshape(rows, -1)


def _string(value: bytes | str) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a TFDS sequence, which is stored as a dict of equally long columns."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _said(row: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a text or question; older directories hold languages in several spellings."""
    said = {name: _string(value) for name, value in row.items()}
    return {**said, "language": languages.known_code(said["language"]) or said["language"]}


def from_example(example: Mapping[str, Any]) -> Record:
    """Makes a record of a stored example.

    Args:
        example: read with image decoding skipped, so `image` is bytes.

    Returns:
        The record.
    """
    regions = []
    for row in _rows(example["regions"]):
        x1, y1, x2, y2 = (float(value) for value in row["box"])
        attributes = tuple(part for part in _string(row["attributes"]).split(";") if part)
        regions.append(Region((x1, y1, x2, y2), _string(row["label"]), attributes, float(row["score"])))
    record_id = _string(example["id"])
    return Record(
        id=record_id,
        image=example["image"],
        width=int(example["width"]),
        height=int(example["height"]),
        source=_string(example["source"]),
        texts=tuple(Text(**_said(row)) for row in _rows(example["texts"])),
        regions=tuple(regions),
        questions=tuple(Question(**_said(row)) for row in _rows(example["questions"])),
        **{name: _unpacked(example.get(name, b""), len(regions), record_id, name) for name in ARRAYS},
    )
