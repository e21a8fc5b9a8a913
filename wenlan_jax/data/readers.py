"""The input formats of `wenlan pack`: caption files, line by line, into `Line`s or named `Fault`s.

Three formats are read: tables with a header (`.csv`, `.tsv`), JSON lines with fields of the user's naming, and the
BriVL 1.0 JSON lines (`image_id`, `bbox`, `sentences`). No image is opened here.
"""

from __future__ import annotations

import csv
import dataclasses
import enum
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wenlan_jax.data.records import Text

Box = tuple[float, float, float, float]
Row = Mapping[str, Any]

FORMATS = ("csv", "tsv", "jsonl", "brivl")
IMAGE_FIELD, BRIVL_IMAGE_FIELD = "image", "image_id"
TEXT_FIELD, DEFAULT_KIND = "caption", "descriptive"
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,8})*")
SPLIT_NAME = re.compile(r"(?!all$)[A-Za-z][A-Za-z0-9_]*")  # TFDS means every split by "all"
_CELL_LIMIT = 1 << 20  # an unclosed quote in a CSV file swallows no more than this


class Reason(enum.StrEnum):
    """Why a line was not packed."""

    MALFORMED_JSON = "malformed_json"
    WRONG_COLUMNS = "wrong_columns"
    INVALID_UTF8 = "invalid_utf8"
    MISSING_FIELD = "missing_field"
    EMPTY_CAPTION = "empty_caption"
    BAD_VALUE = "bad_value"
    DUPLICATE_ID = "duplicate_id"
    SPLIT_CONFLICT = "split_conflict"
    MISSING_IMAGE = "missing_image"
    EMPTY_IMAGE = "empty_image"
    CORRUPT_IMAGE = "corrupt_image"


class ReadError(ValueError):
    """A captions file that cannot be read at all; the message names the file and the remedy."""


class Rejected(Exception):  # noqa: N818 - counted, not raised to the user
    """One item cannot be packed."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class Fields:
    """Which fields of a row hold what; `texts` maps a field to the kind of its texts.

    None takes the field of the same name (`id`, `split`, `language`, `kind`) where a row has it.
    """

    image: str = IMAGE_FIELD
    texts: Mapping[str, str] = dataclasses.field(default_factory=lambda: {TEXT_FIELD: DEFAULT_KIND})
    id: str | None = None
    split: str | None = None
    language: str | None = None
    kind: str | None = None
    boxes: str | None = None


@dataclasses.dataclass(frozen=True)
class Line:
    """One input line: an image by its path, with texts. Boxes are `(x1, y1, x2, y2)` in pixels of that image."""

    number: int
    image: str
    texts: tuple[Text, ...]
    id: str = ""
    split: str = ""
    boxes: tuple[Box, ...] = ()
    dropped_boxes: int = 0
    dropped_texts: int = 0


@dataclasses.dataclass(frozen=True)
class Fault:
    """One line, or what it brought, that was rejected. `item` is its image where known."""

    number: int
    reason: Reason
    detail: str
    item: str = ""


def detect_format(path: Path) -> str:
    """The format of a captions file: by its suffix, and for JSON lines by the fields of the first line."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return suffix[1:]
    if suffix not in (".jsonl", ".json", ".ndjson"):
        raise ReadError(
            f"{path}: the suffix {suffix!r} names no format; rename it or choose --format {'|'.join(FORMATS)}"
        )
    _, first = next(_json_rows(path), (0, None))
    is_brivl = isinstance(first, dict) and {BRIVL_IMAGE_FIELD, "sentences"} <= first.keys()
    return "brivl" if is_brivl else "jsonl"


def read_lines(path: Path, file_format: str, fields: Fields, language: str) -> Iterator[Line | Fault]:
    """Every line of a captions file in order, blank ones apart. `language` is for texts that do not name theirs.

    Raises ReadError when the file cannot be opened or its header lacks a field that was asked for.
    """
    rows = _table_rows(path, file_format, fields) if file_format in ("csv", "tsv") else _json_rows(path)
    image_field = BRIVL_IMAGE_FIELD if file_format == "brivl" else fields.image
    for number, row in rows:
        item = ""
        try:
            if isinstance(row, Rejected):
                raise row
            item = str(row.get(image_field) or "")
            yield (
                _brivl_line(number, row, language) if file_format == "brivl" else _line(number, row, fields, language)
            )
        except Rejected as rejected:
            yield Fault(number, rejected.reason, rejected.detail, _printable(item))


def _open(path: Path) -> Any:
    """The file as text; bytes that are not UTF-8 come through as surrogates, so that one line is lost, not the file."""
    try:
        return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise ReadError(f"{path}: cannot be read ({error.strerror or error})") from error


def _json_rows(path: Path) -> Iterator[tuple[int, Row | Rejected]]:
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _json_row(line)


def _json_row(line: str) -> Row | Rejected:
    try:
        _check_unicode(line)
        row = json.loads(line)
    except Rejected as rejected:
        return rejected
    except (ValueError, RecursionError) as error:
        return Rejected(Reason.MALFORMED_JSON, str(error))
    if not isinstance(row, dict):
        return Rejected(Reason.MALFORMED_JSON, f"a {type(row).__name__}, not an object")
    return row


def _table_rows(path: Path, file_format: str, fields: Fields) -> Iterator[tuple[int, Row | Rejected]]:
    """Rows of a CSV file (quoted as in RFC 4180), or of a TSV file, where quotes are characters like others."""
    csv.field_size_limit(_CELL_LIMIT)
    with _open(path) as lines:
        if file_format == "csv":
            table = csv.reader(lines, strict=True)
        else:
            table = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = _header(path, table, fields)
        start = table.line_num + 1
        while (cells := _next_cells(table)) is not None:
            if isinstance(cells, Rejected):
                yield start, cells
            elif any(cell.strip() for cell in cells):
                yield start, _table_row(header, cells)
            start = table.line_num + 1


def _header(path: Path, table: Any, fields: Fields) -> list[str]:
    cells = _next_cells(table)
    header = [cell.strip() for cell in cells] if isinstance(cells, list) else []
    asked = [fields.image, *fields.texts, fields.id, fields.split, fields.language, fields.kind, fields.boxes]
    missing = [name for name in asked if name and name not in header]
    if missing or len(set(header)) < len(header):
        problem = f"has no column {', '.join(map(repr, missing))}" if missing else "names a column twice"
        raise ReadError(
            f"{path}: the first line must name the columns; it {problem} (found: "
            f"{_printable(', '.join(header)) or 'nothing'}); add a header, or say which column is which with "
            "--image-field and --text-field"
        )
    return header


def _next_cells(table: Any) -> list[str] | Rejected | None:
    try:
        return next(table, None)
    except csv.Error as error:
        return Rejected(Reason.WRONG_COLUMNS, f"{error} (an unclosed quote?)")


def _table_row(header: list[str], cells: list[str]) -> Row | Rejected:
    if len(cells) != len(header):
        return Rejected(Reason.WRONG_COLUMNS, f"{len(cells)} columns, but the header has {len(header)}")
    return dict(zip(header, cells, strict=True))


def _line(number: int, row: Row, fields: Fields, language: str) -> Line:
    language = _language(_optional(row, fields.language, "language") or language)
    kind = _optional(row, fields.kind, "kind")
    present = {name: kind or usual for name, usual in fields.texts.items() if row.get(name) is not None}
    if not present:
        raise Rejected(Reason.MISSING_FIELD, f"no field {' or '.join(map(repr, fields.texts))}")
    texts = [text for name, kind in present.items() for text in _texts(row[name], name, kind, language)]
    boxes, dropped = _boxes(row.get(fields.boxes) if fields.boxes else None)
    split = _optional(row, fields.split, "split")
    if split and not SPLIT_NAME.fullmatch(split):
        raise Rejected(Reason.BAD_VALUE, f"split {split!r} is not a name of letters, digits and _")
    return Line(
        number=number,
        image=_image(row, fields.image),
        texts=_filled(texts),
        id=_optional(row, fields.id, "id"),
        split=split,
        boxes=boxes,
        dropped_boxes=dropped,
        dropped_texts=len(texts) - len(_filled(texts)),
    )


def _brivl_line(number: int, row: Row, language: str) -> Line:
    """The BriVL 1.0 format: facts under "Official data formats"; sentences are `[kind, text]` pairs."""
    sentences = row.get("sentences")
    if not isinstance(sentences, list) or not all(_is_pair(sentence) for sentence in sentences):
        raise Rejected(Reason.MISSING_FIELD, "'sentences' must be a list of [kind, text] pairs")
    texts = [Text(_string(kind), _language(language), _string(text)) for kind, text in sentences]
    boxes, dropped = _boxes(row.get("bbox"))
    return Line(
        number=number,
        image=_image(row, BRIVL_IMAGE_FIELD),
        texts=_filled(texts),
        boxes=boxes,
        dropped_boxes=dropped,
        dropped_texts=len(texts) - len(_filled(texts)),
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _texts(value: Any, name: str, kind: str, language: str) -> Iterator[Text]:
    """The texts of one field: a string, a list, or either by language."""
    if isinstance(value, dict):
        for code, inner in value.items():
            if isinstance(inner, dict):
                raise Rejected(Reason.BAD_VALUE, f"field {name!r}: objects within objects")
            yield from _texts(inner, name, kind, _language(code))
    elif isinstance(value, list):
        for inner in value:
            if not isinstance(inner, str):
                raise Rejected(Reason.BAD_VALUE, f"field {name!r}: a list of {type(inner).__name__}, not of texts")
            yield Text(kind, language, _string(inner))
    elif isinstance(value, str):
        yield Text(kind, language, _string(value))
    elif value is not None:
        raise Rejected(Reason.BAD_VALUE, f"field {name!r}: a {type(value).__name__}, not a text")


def _filled(texts: list[Text]) -> tuple[Text, ...]:
    """The texts that say something; an item with none is rejected."""
    filled = tuple(text for text in texts if _is_visible(text.text))
    if not filled:
        raise Rejected(Reason.EMPTY_CAPTION, "no text, or only spaces and control characters")
    return filled


def _is_visible(text: str) -> bool:
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


def _image(row: Row, name: str) -> str:
    image = row.get(name)
    if not isinstance(image, str) or not image.strip() or "\0" in image:
        raise Rejected(Reason.MISSING_FIELD, f"field {name!r} must hold the path of an image")
    return _string(image)


def _optional(row: Row, name: str | None, usual: str) -> str:
    """A short text field, `usual` when the user named none; "" when absent."""
    value = row.get(name or usual)
    if value is None and name:
        raise Rejected(Reason.MISSING_FIELD, f"no field {name!r}")
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return "" if value is None else str(value)
    if not isinstance(value, str):
        raise Rejected(Reason.BAD_VALUE, f"field {name or usual!r}: a {type(value).__name__}, not a text")
    return _string(value)


def _language(code: str) -> str:
    code = code.strip().lower().replace("_", "-")
    if code and not _LANGUAGE.fullmatch(code):
        raise Rejected(Reason.BAD_VALUE, f"{_printable(code)!r} is not a language code such as zh or en")
    return code


def _boxes(value: Any) -> tuple[tuple[Box, ...], int]:
    """The boxes of a row and the number of those that are not four finite numbers."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "[]")
        except ValueError as error:
            raise Rejected(Reason.BAD_VALUE, f"boxes are not JSON: {error}") from error
    if not isinstance(value, list | None):
        raise Rejected(Reason.BAD_VALUE, "boxes must be a list of [x1, y1, x2, y2]")
    boxes = tuple(tuple(side for side in box) for box in value or () if _is_box(box))
    return boxes, len(value or ()) - len(boxes)


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(side, int | float) and abs(side) < math.inf for side in value)
    )


def _string(value: str) -> str:
    _check_unicode(value)
    return value.strip()


def _check_unicode(value: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        bad = value[error.start]
        raise Rejected(
            Reason.INVALID_UTF8, f"not UTF-8 at character {error.start} (U+{ord(bad):04X} stands for it)"
        ) from error


def _printable(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
