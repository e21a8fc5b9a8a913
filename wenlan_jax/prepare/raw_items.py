"""What every input format yields: `Item`s (an image and what is said about it) or named `Fault`s, shard by shard.

A raw data set is a list of `RawShard`s, each read from its start to its end by one process. How an item is made of raw
fields, and when it is refused, is written here once; the layouts are in `formats/`. No image is opened here.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from wenlan_jax.config.options import option
from wenlan_jax.data.records import Question, Region, Text
from wenlan_jax.util import arguments, languages
from wenlan_jax.util.errors import WenlanError

Row = Mapping[str, Any]
Box = tuple[float, float, float, float]

DEFAULT_KIND = "descriptive"
KINDS = (
    *("descriptive", "weak", "title", "caption", "alt", "alt_text", "sur_text", "easy", "first"),
    *("description", "keywords", "tags", "query", "ocr"),
)
"""Words that name a kind of text where a file's name tells it."""
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "avif", "tif", "tiff")
SPLIT_NAME = re.compile(r"(?!all$)[A-Za-z][A-Za-z0-9_]{0,63}")


_NAME_LIMIT = 4096  # characters of an id, a source, a kind


class Reason(enum.StrEnum):
    """Why an item was not packed."""

    MALFORMED_JSON = "malformed_json"
    WRONG_COLUMNS = "wrong_columns"
    WRONG_ENCODING = "wrong_encoding"
    MISSING_FIELD = "missing_field"
    MISSING_TEXT = "missing_text"
    EMPTY_CAPTION = "empty_caption"
    CAPTION_TOO_LONG = "caption_too_long"
    BAD_VALUE = "bad_value"
    DUPLICATE_ID = "duplicate_id"
    SPLIT_CONFLICT = "split_conflict"
    UNTRUSTED_PLACE = "untrusted_place"
    MISSING_IMAGE = "missing_image"
    EMPTY_IMAGE = "empty_image"
    CORRUPT_IMAGE = "corrupt_image"
    OVERSIZED_IMAGE = "oversized_image"
    BAD_BOX_FILE = "bad_box_file"
    DAMAGED_SHARD = "damaged_shard"


class ReadError(WenlanError, ValueError):
    """An input that cannot be read, or no further; the message names the file and the remedy."""


class Rejected(Exception):  # noqa: N818 - counted, not raised to the user
    """One item cannot be packed."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def _text_field(word: str) -> tuple[str, str]:
    name, _, kind = arguments.text(word).partition("=")
    if not name:
        raise ValueError(f"{word!r} is not FIELD or FIELD=KIND")
    return name, kind or DEFAULT_KIND


def _same_name(name: str) -> Any:
    return option(None, name, metavar="FIELD", usual=f"{name}, where present")


@dataclasses.dataclass(frozen=True)
class FieldNames:
    """Which fields of a row hold what.

    None takes the field of the same name (`id`, `split`, `language`, `kind`, `source`) where a row has it.
    """

    image: str = option("image", "path or URL of the image", metavar="FIELD")
    texts: Mapping[str, str] = option(
        {"caption": DEFAULT_KIND},
        "texts and their kind, e.g. descriptive or weak; may be given several times",
        read=_text_field,
        metavar="FIELD[=KIND]",
        usual="caption",
        repeated=True,
    )
    id: str | None = _same_name("id")
    split: str | None = _same_name("split")
    language: str | None = _same_name("language")
    kind: str | None = _same_name("kind")
    source: str | None = _same_name("source")
    boxes: str | None = option(None, "boxes [[x1, y1, x2, y2], ...] in pixels", metavar="FIELD")

    def asked(self) -> list[str]:
        """Lists the fields that a table must have."""
        single = (self.image, *self.texts, self.id, self.split, self.language, self.kind, self.source, self.boxes)
        return [name for name in single if name]


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How raw text is understood, the same for every format.

    Attributes:
        fields: which fields of a row hold what.
    """

    fields: FieldNames = dataclasses.field(default_factory=FieldNames)
    language: str = option("", "language of texts that name none, e.g. zh; any usual spelling")
    encoding: str = option("utf-8", "of the files, e.g. gb18030; a byte order mark tells more", read=str)
    max_caption: int = option(10_000, "longer texts are dropped and counted", low=1, metavar="CHARACTERS")
    image_name: str = option(
        "{number:09d}.jpg",
        "name of the image of a line that gives a URL, by {number} (of the line, from 0) and {url}",
        read=str,
        metavar="TEMPLATE",
    )


@dataclasses.dataclass(frozen=True)
class Item:
    """One input line, row or sample: an image and what is said about it.

    Attributes:
        number: counts the items of the shard, or is the line.
        image: its path or URL; with `data`, it only names it.
        texts: its texts.
        data: its bytes, where the input brings them.
        id: of the record.
        split: of the record.
        source: of the record.
        regions: its boxes.
        questions: about it.
        box_file: the boxes are in an .npz file beside the image.
        fixes: counts what was repaired or dropped on the way.
    """

    number: int
    image: str
    texts: tuple[Text, ...] = ()
    data: bytes | None = dataclasses.field(default=None, repr=False)
    id: str = ""
    split: str = ""
    source: str = ""
    regions: tuple[Region, ...] = ()
    questions: tuple[Question, ...] = ()
    box_file: bool = False
    fixes: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Fault:
    """One item, or a part of a shard, that was rejected.

    Attributes:
        number: see `Item`.
        reason: why.
        detail: for a person.
        item: its image where known.
        source: see `Item`.
        fixes: see `Item`.
    """

    number: int
    reason: Reason
    detail: str
    item: str = ""
    source: str = ""
    fixes: Mapping[str, int] = dataclasses.field(default_factory=dict)


Outcome = Item | Fault
Reader = Callable[[tuple[str, ...], ReadOptions], Iterator[Outcome]]


@dataclasses.dataclass(frozen=True)
class RawShard:
    """A part of a raw data set that is read whole by one process; picklable.

    Attributes:
        name: of the shard.
        files: paths or URLs that belong together.
        reader: of the format.
        options: how raw text is understood.
    """

    name: str
    files: tuple[str, ...]
    reader: Reader
    options: ReadOptions

    def read(self) -> Iterator[Outcome]:
        """Reads every item in order, or the fault in its stead.

        Returns:
            An iterator over items and faults; it raises ReadError where the files cannot be read further.
        """
        return self.reader(self.files, self.options)

    def read_up_to_damage(self, must_begin: bool, item: str = "") -> Iterator[Outcome]:
        """Reads as `read` does; where the files cannot be read further, that is one fault.

        Args:
            must_begin: files that cannot be read at all raise their ReadError.
            item: what the fault is of.

        Yields:
            Items and faults.
        """
        number = 0
        try:
            for one in self.read():
                number = max(number, one.number)
                yield one
        except ReadError as error:
            if must_begin and not number:
                raise
            yield Fault(number + 1, Reason.DAMAGED_SHARD, f"{error}; what follows is lost", item)


def convert(
    rows: Iterable[tuple[int, Row | Rejected]],
    make: Callable[[int, Row, ReadOptions], Item],
    options: ReadOptions,
    name: str,
) -> Iterator[Outcome]:
    """Makes an item of each row; a row that is refused becomes a fault.

    Args:
        rows: numbered.
        make: makes the item of a row.
        options: how raw text is understood.
        name: the field that a fault calls its row by.

    Yields:
        Items and faults.
    """
    for number, row in rows:
        item = ""
        try:
            if isinstance(row, Rejected):
                raise row
            item = _named(row, name)
            yield make(number, row, options)
        except Rejected as rejected:
            yield Fault(number, rejected.reason, rejected.detail, printable(item))


def _named(row: Row, name: str) -> str:
    """What to call a row that is refused: its image where that is a name, or else what the row is listed by."""
    for value in (row.get(name), row.get("key"), row.get("id"), row.get("url")):
        if isinstance(value, dict):
            value = value.get("path")
        if isinstance(value, str | int | float) and value:
            text = str(value)[:1000] if isinstance(value, str) else repr(value)[:80]
            return text.partition(",")[0] if text.startswith("data:") else text
    return ""


def failure(row: Row) -> str:
    """Reads what a row says of the download that failed (img2dataset); "" for one that did not."""
    for name in ("error_message", "status"):
        told = row.get(name)
        if isinstance(told, str) and told.strip() and told != "success":
            return printable(told[:200])
    return ""


def item_of_row(number: int, row: Row, options: ReadOptions, more: Iterable[Text] = ()) -> Item:
    """Makes the item of a row whose fields the user has named: of a table, of JSON lines, of a sample's metadata.

    Args:
        number: of the row.
        row: its fields.
        options: which fields hold what.
        more: texts from elsewhere, which come first; those that name no language are in that of the row.

    Returns:
        The item.

    Raises:
        Rejected: for a row that cannot be packed.
    """
    fields = options.fields
    language = language_code(_optional(row, fields.language, "language") or options.language)
    kind = _optional(row, fields.kind, "kind")
    present = {name: kind or usual for name, usual in fields.texts.items() if not is_missing(row.get(name))}
    texts = [dataclasses.replace(text, language=text.language or language) for text in more]
    if not present and not texts:
        raise Rejected(Reason.MISSING_FIELD, f"no field {' or '.join(map(repr, fields.texts))}")
    texts += [text for name, kind in present.items() for text in texts_of(row[name], name, kind, language)]
    regions, dropped = regions_of(row.get(fields.boxes) if fields.boxes else None)
    split = _optional(row, fields.split, "split")
    if split and (why := split_fault(split)):
        raise Rejected(Reason.BAD_VALUE, why)
    kept, fixes = kept_texts(texts, options)
    return Item(
        number=number,
        image=image_name(row.get(fields.image), fields.image),
        texts=kept,
        id=_optional(row, fields.id, "id"),
        split=split,
        source=_optional(row, fields.source, "source"),
        regions=regions,
        fixes={**fixes, "box_malformed_dropped": dropped, "nan_taken_as_absent": _nan_texts(row, fields)},
    )


def _nan_texts(row: Row, fields: FieldNames) -> int:
    """How many of the fields that may be absent hold the word for it."""
    names = (getattr(fields, usual) or usual for usual in ("id", "split", "language", "kind", "source"))
    return sum(map(_is_nan_text, map(row.get, names)))


def split_fault(name: str) -> str:
    """Says why `name` cannot be that of a split; "" where it can."""
    if name == "all":
        return "split 'all' would mean every split to TFDS; take another name"
    return "" if SPLIT_NAME.fullmatch(name) else f"split {name[:80]!r} is not a name of up to 64 letters, digits and _"


def texts_of(value: Any, name: str, kind: str, language: str) -> Iterator[Text]:
    """Reads the texts of one field: a string, a list, or either by language.

    Args:
        value: of the field.
        name: of the field, for messages.
        kind: of the texts.
        language: of the texts, where the value does not say.

    Yields:
        The texts.

    Raises:
        Rejected: for a value that is none of these.
    """
    if isinstance(value, dict):
        for code, inner in value.items():
            if isinstance(inner, dict):
                raise Rejected(Reason.BAD_VALUE, f"field {name!r}: objects within objects")
            yield from texts_of(inner, name, kind, language_code(code))
    elif isinstance(value, list):
        for inner in value:
            if not isinstance(inner, str):
                raise Rejected(Reason.BAD_VALUE, f"field {name!r}: a list of {type(inner).__name__}, not of texts")
            yield Text(kind, language, clean(inner))
    elif isinstance(value, str):
        yield Text(kind, language, clean(value))
    elif value is not None:
        raise Rejected(Reason.BAD_VALUE, f"field {name!r}: a {type(value).__name__}, not a text")


def kept_texts(texts: Iterable[Text], options: ReadOptions) -> tuple[tuple[Text, ...], dict[str, int]]:
    """Drops texts that say nothing or are too long.

    Args:
        texts: of an item.
        options: say how long a text may be.

    Returns:
        The texts that stay, and the counts of the others.

    Raises:
        Rejected: if none stays.
    """
    kept, fixes = [], collections.Counter[str]()
    for text in texts:
        if not _is_visible(text.text):
            fixes["text_empty_dropped"] += 1
        elif len(text.text) > options.max_caption:
            fixes["text_too_long_dropped"] += 1
        else:
            kept.append(text)
    if kept:
        return tuple(kept), dict(fixes)
    if fixes["text_too_long_dropped"]:
        raise Rejected(Reason.CAPTION_TOO_LONG, f"no text of at most {options.max_caption} characters")
    raise Rejected(Reason.EMPTY_CAPTION, "no text, or only spaces and control characters")


def regions_of(value: Any) -> tuple[tuple[Region, ...], int]:
    """Reads the boxes of a row.

    Args:
        value: `[[x1, y1, x2, y2], ...]`, or JSON of that.

    Returns:
        The boxes, and the number of those that are not four finite numbers.

    Raises:
        Rejected: for a value that is no list.
    """
    if is_missing(value) or _is_nan_text(value):
        return (), 0
    if isinstance(value, str):
        try:
            value = json_value(value or "[]")
        except (ValueError, RecursionError) as error:
            raise Rejected(Reason.BAD_VALUE, f"boxes are not JSON: {error}") from error
    if not isinstance(value, list | None):
        raise Rejected(Reason.BAD_VALUE, "boxes must be a list of [x1, y1, x2, y2]")
    regions = tuple(
        Region((float(x1), float(y1), float(x2), float(y2))) for x1, y1, x2, y2 in filter(_is_box, value or ())
    )
    return regions, len(value or ()) - len(regions)


def json_value(text: str) -> Any:
    """Reads JSON; whole numbers of thousands of digits, which Python does not read, are infinite."""
    try:
        return json.loads(text)
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError):
            raise
        return json.loads(text, parse_int=whole_number)


def whole_number(digits: str) -> int | float:
    """Reads a whole number in JSON; infinite, as JSON's 1e999 is, where it has thousands of digits."""
    return int(digits) if len(digits) <= _NAME_LIMIT else math.copysign(math.inf, -1 if digits[0] == "-" else 1)


def image_name(value: Any, name: str) -> str:
    """Reads the path or URL of an image; blanks around it may belong to it.

    Args:
        value: of the field.
        name: of the field, for messages.

    Returns:
        The name.

    Raises:
        Rejected: if there is none.
    """
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise Rejected(Reason.MISSING_FIELD, f"field {name!r} must hold the path of an image")
    check_unicode(value)
    return value


def is_missing(value: Any) -> bool:
    """Says whether a field holds nothing: None, or what pandas writes for it where it has a number for that."""
    return value is None or value != value


_NAN_TEXTS = ("nan", "NaN", "<NA>")


def _is_nan_text(value: Any) -> bool:
    """Whether a field holds nothing as pandas writes it as a text. Of a caption that is not asked: it may be a word."""
    return isinstance(value, str) and value.strip() in _NAN_TEXTS


def language_code(code: str) -> str:
    """Brings a language into the one spelling of the records (`languages`)."""
    try:
        return languages.code(clean(code))
    except ValueError as error:
        raise Rejected(Reason.BAD_VALUE, str(error)) from error


def clean(value: Any) -> str:
    """Strips the spaces around a text.

    Undecodable bytes arrive as surrogates, and are refused here.

    Args:
        value: of a field.

    Returns:
        The text.

    Raises:
        Rejected: for what is no text.
    """
    if not isinstance(value, str):
        raise Rejected(Reason.BAD_VALUE, f"a {type(value).__name__}, not a text")
    check_unicode(value)
    return value.strip()


def check_unicode(value: str) -> None:
    """Checks that a text has no bytes that are not of the encoding it was read in.

    Args:
        value: the text.

    Raises:
        Rejected: if it has some.
    """
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        bad = value[error.start]
        if not 0xDC00 <= ord(bad) <= 0xDCFF:  # no byte that could not be read, but written so, as JSON can
            raise Rejected(
                Reason.WRONG_ENCODING,
                f"half of a surrogate pair (U+{ord(bad):04X}) at character {error.start} is no text; correct the data",
            ) from error
        raise Rejected(
            Reason.WRONG_ENCODING,
            f"not of the expected encoding at character {error.start} (U+{ord(bad):04X} stands for it); see --encoding",
        ) from error


def printable(value: str) -> str:
    """Writes out undecodable bytes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _optional(row: Row, name: str | None, usual: str) -> str:
    """A short text field, `usual` when the user named none; "" when absent."""
    value = row.get(name or usual)
    if is_missing(value) or _is_nan_text(value):
        if name:
            raise Rejected(Reason.MISSING_FIELD, f"no field {name!r}")
        return ""
    # A column of numbers that lacks some, as pandas keeps it; beyond 2^53 a float stands for several numbers.
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        value = int(value)
    if value in (math.inf, -math.inf):
        raise Rejected(Reason.BAD_VALUE, f"field {name or usual!r}: a number too large, or of thousands of digits")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise Rejected(
            Reason.BAD_VALUE,
            f"field {name or usual!r}: a {type(value).__name__}, not a text or whole number; see --{usual}-field",
        )
    if len(value) > _NAME_LIMIT:
        raise Rejected(Reason.BAD_VALUE, f"field {name or usual!r}: more than {_NAME_LIMIT} characters")
    return clean(value)


def _is_visible(text: str) -> bool:
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_finite, value))


def _is_finite(side: Any) -> bool:
    try:
        return isinstance(side, int | float) and abs(float(side)) < math.inf
    except OverflowError:
        return False
