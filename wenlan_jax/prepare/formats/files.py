"""Files of raw data: on this machine, or under any URL that fsspec opens; braces and globs; text lines and JSON.

The places here are those that a user typed; `roots` looks up what data names.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import contextlib
import functools
import glob
import gzip
import io
import itertools
import json
import os
import re
import stat
from collections.abc import Iterator
from typing import IO, Any, cast

from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.raw_items import ReadError, Reason, Rejected, check_unicode

_GZIP = b"\x1f\x8b\x08"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_BRACES_LIMIT = 100
_EXPANSION_LIMIT = 1_000_000  # files that one pattern may mean
_LINE_LIMIT = 1 << 27  # characters: a damaged file without line ends must not fill the memory
_UNPACKED_BYTES, _UNPACKED_RATIO = 1 << 28, 200  # texts and images shrink to a tenth or so
_DOCUMENT_LIMIT = 1 << 32  # bytes of one JSON document, which is held in memory
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_url(place: str) -> bool:
    """Says whether fsspec opens `place`, as in `s3://bucket/key`, and not the file system of this machine."""
    return "://" in place


def expand(pattern: str) -> list[str]:
    """Lists the files that a path or URL with `{00..09}`, `{a,b}`, `*` or `?` means, in order.

    A path that is there is meant as it is.

    Args:
        pattern: what the user typed.

    Returns:
        The files.

    Raises:
        ReadError: for none, and for more than a job can have.
    """
    if not is_url(pattern) and os.path.lexists(pattern):
        return [pattern]
    if pattern.count("{") > _BRACES_LIMIT:
        raise ReadError(f"{pattern[:200]}: more than {_BRACES_LIMIT} braces; correct the pattern")
    spelled = list(itertools.islice(_braces(pattern), _EXPANSION_LIMIT + 1))
    if len(spelled) > _EXPANSION_LIMIT:
        raise ReadError(f"{pattern}: means more than {_EXPANSION_LIMIT:,} files; correct the braces")
    places = [found for one in spelled for found in _glob(one)]
    if not places:
        raise ReadError(f"{pattern}: no such file or folder, or nothing matches; check the path")
    return places


def check_there(pattern: str) -> None:
    """Checks that a path or pattern of this machine means something that is there; URLs are not looked at.

    Args:
        pattern: what the user typed.

    Raises:
        ReadError: if it means nothing.
    """
    if not is_url(pattern) and not any(os.path.exists(one) for one in expand(pattern)):
        raise ReadError(f"{pattern}: no such file or folder; check the path")


def _braces(pattern: str) -> Iterator[str]:
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    ends = _RANGE.fullmatch(found[1])
    parts: Iterator[str] = iter(found[1].split(","))
    if ends:
        width, first, last = len(ends[1]), int(ends[1]), int(ends[2])
        parts = (f"{number:0{width}d}" for number in range(first, last + 1))
    for part in parts:
        yield from _braces(pattern[: found.start()] + part + pattern[found.end() :])


def _glob(pattern: str) -> list[str]:
    if not any(character in pattern for character in "*?["):
        return [pattern]
    if not is_url(pattern):
        return [pattern] if os.path.lexists(pattern) else sorted(glob.glob(pattern, recursive=True))
    with reading(pattern):
        import fsspec

        system, path = fsspec.core.url_to_fs(pattern)
        return sorted(system.unstrip_protocol(found) for found in system.glob(path))


@contextlib.contextmanager
def reading(place: str) -> Iterator[None]:
    """Turns whatever fails while `place` is read into a ReadError that names it."""
    try:
        yield
    except (ReadError, Rejected):
        raise
    except ImportError as error:
        raise ReadError(f"{place}: this needs a package that is not installed ({error})") from error
    except Exception as error:  # each of fsspec's file systems has errors of its own
        detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ReadError(f"{place}: cannot be read ({detail})") from error


def open_bytes(place: str) -> IO[bytes]:
    """Opens a stream of the bytes of a file or URL; what gzip has packed is unpacked, by its beginning.

    Args:
        place: the file or URL.

    Returns:
        The stream.

    Raises:
        ReadError: if it cannot be read.
    """
    with reading(place):
        stream = _open(place)
        whole = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, stream))
        if whole.peek(len(_GZIP))[: len(_GZIP)] == _GZIP:
            return cast(IO[bytes], _Unpacked(whole, place))
        return cast(IO[bytes], whole)


class _Unpacked(gzip.GzipFile):
    """What a gzip file holds, unless that is a bomb: far more than data of any kind shrinks to."""

    def __init__(self, stream: IO[bytes], place: str) -> None:
        super().__init__(fileobj=stream, mode="rb")
        self._packed, self._place, self._given = stream, place, 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._given += len(data)
        if self._given > _UNPACKED_BYTES and self._given > _UNPACKED_RATIO * self._packed.tell():
            raise ReadError(
                f"{self._place}: more than {_UNPACKED_RATIO} times its size is packed "
                "into it; unpack it to a file if that is meant"
            )
        return data


def open_stored(place: str) -> IO[bytes]:
    """Opens a stream that can be searched, as Parquet needs it, of the bytes as they are stored.

    Args:
        place: the file or URL.

    Returns:
        The stream.

    Raises:
        ReadError: if it cannot be read.
    """
    with reading(place):
        return _open(place)


def _open(place: str) -> IO[bytes]:
    if not is_url(place):
        return _open_local(place)
    import fsspec

    return cast(IO[bytes], fsspec.open(place, "rb").open())


def _open_local(place: str) -> IO[bytes]:
    """A regular file; whatever else might wait for ever, or never end, is refused unopened."""
    _check_regular(place, os.stat(place))
    stream = open(place, "rb", opener=_opened)  # noqa: SIM115 - the caller closes it
    try:
        _check_regular(place, os.fstat(stream.fileno()))
    except ReadError:
        stream.close()
        raise
    return stream


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _check_regular(place: str, state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        what = _KINDS.get(stat.S_IFMT(state.st_mode), "something else")
        raise ReadError(f"{place}: {what}, not a regular file; copy the data to a file")


def read_bytes(place: str, limit: int) -> bytes:
    """Reads the first `limit` bytes of a file or URL as they are stored.

    Args:
        place: the file or URL.
        limit: how many bytes at most.

    Returns:
        The bytes.

    Raises:
        ReadError: if it cannot be read.
    """
    with reading(place), _open(place) as stream:
        return stream.read(limit)


def read_local(path: str, limit: int) -> bytes:
    """Reads the first `limit` bytes of a file of this machine, whatever its name looks like.

    Args:
        path: the file.
        limit: how many bytes at most.

    Returns:
        The bytes.

    Raises:
        ReadError: if it cannot be read.
    """
    with reading(path), _open_local(path) as stream:
        return stream.read(limit)


_MARKS = 64  # bytes at the beginning of a file in which byte order marks are looked for
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
# GB18030 reads all that its forerunners write.
_OTHER_SPELLINGS = {
    **dict.fromkeys(("utf8bom", "utf8withbom", "utf8sig"), "utf-8"),
    **dict.fromkeys(("utf8mb3", "utf8mb4"), "utf-8"),
    **dict.fromkeys(("gb", "gb2312", "gb18030", "gb180302000", "gb180302005", "gb180302022"), "gb18030"),
    **dict.fromkeys(("gbk", "cp936", "ms936", "windows936"), "gb18030"),
    **dict.fromkeys(("utf16", "utf16bom", "unicode", "ucs2", "iso10646ucs2"), "utf-16"),
    **dict.fromkeys(("utf32", "utf32bom", "ucs4", "iso10646ucs4"), "utf-32"),
    **dict.fromkeys(("windows932", "windows31j", "mskanji"), "cp932"),
    **{f"windows{page}": f"cp{page}" for page in (874, 949, 950, *range(1250, 1259))},
}
_WITHOUT_MARK = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}  # as Windows writes it; Python has several minds
_STAND_IN = "wenlan_stand_in"


@functools.lru_cache(maxsize=64)
def encoding_of(name: str) -> str:
    """Finds the codec of a text encoding by any of its spellings.

    Args:
        name: the spelling.

    Returns:
        The codec's name.

    Raises:
        ReadError: for what is no encoding of texts.
    """
    squeezed = re.sub(r"[^a-z0-9]", "", name.lower())
    bare = squeezed.removeprefix("x")  # as in x-sjis
    known = _OTHER_SPELLINGS.get(squeezed, _OTHER_SPELLINGS.get(bare, name.strip()))
    for one in (known, squeezed, bare, re.sub(r"^(euc|iso|utf|mac)", r"\1-", bare)):
        if _is_of_texts(one):
            return one
    raise ReadError(f"--encoding {name[:80]}: no such encoding of texts; e.g. utf-8 or gb18030")


def _is_of_texts(codec: str) -> bool:
    """Whether a codec turns all bytes into texts as files need it: none of escapes or of host names does."""
    try:
        mark = "".encode(codec)
        for handler in ("replace", _STAND_IN):
            for data in ("a".encode(codec), mark + bytes(range(256)), mark + b"a-b\xff", mark + b"\xfe\xff\xff"):
                data.decode(codec, handler)
                codecs.getincrementaldecoder(codec)(handler).decode(data, final=True)
        return "a".encode(codec).decode(codec) == "a" and b"\\u0041".decode(codec, "replace") != "A"
    except Exception:  # codecs fail in ways of their own at what they are not made for
        return False


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """Undecodable bytes as lone surrogates, whatever the encoding; `check_unicode` finds them."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_STAND_IN, _stand_in)


def _marked(start: bytes, encoding: str) -> tuple[int, str]:
    """The length of the byte order marks that a text begins with, and the encoding that they tell, or else `encoding`.

    One is usual; programs that put one before a text that has it write several.
    """
    for mark, told in _BOMS:
        if start.startswith(mark):
            count = next(index for index in itertools.count(1) if not start.startswith(mark, index * len(mark)))
            return count * len(mark), told
    codec = encoding_of(encoding)
    return 0, _WITHOUT_MARK.get(codec, codec)


def lines(place: str, encoding: str) -> Iterator[str]:
    """Reads the lines of a text file, line ends included; undecodable bytes come through as surrogates.

    So one line is lost to them, not the file. A byte order mark tells more than `encoding`.

    Args:
        place: the file or URL.
        encoding: of the text.

    Yields:
        The lines.

    Raises:
        ReadError: also in the middle, when the file cannot be read.
    """
    with open_bytes(place) as stream, reading(place):
        whole = io.BufferedReader(cast(io.RawIOBase, stream))
        mark, encoding = _marked(whole.peek(_MARKS)[:_MARKS], encoding)
        whole.read(mark)
        text = io.TextIOWrapper(whole, encoding, _STAND_IN, newline="")
        while line := text.readline(_LINE_LIMIT):
            if len(line) == _LINE_LIMIT:
                raise ReadError(f"{place}: a line of more than {_LINE_LIMIT} characters; is this a text file?")
            yield line


def head(place: str, encoding: str, size: int = 1 << 16) -> str:
    """Reads the beginning of a file as text, to tell its format by.

    Args:
        place: the file or URL.
        encoding: of the text.
        size: in bytes.

    Returns:
        The text.

    Raises:
        ReadError: if it cannot be read.
    """
    with open_bytes(place) as stream, reading(place):
        data = stream.read(size)
    mark, encoding = _marked(data, encoding)
    return data[mark:].decode(encoding, "replace")


def text_of(data: bytes, encoding: str) -> str:
    """Decodes a text; what is not of the encoding comes through as surrogates."""
    mark, encoding = _marked(data, encoding)
    return data[mark:].decode(encoding, _STAND_IN)


_DATA_URL = re.compile(r"data:[^,]{0,200},")


def from_base64(text: str) -> bytes:
    """Decodes base64 in either alphabet, with or without padding, behind `data:...;base64,` or not.

    Args:
        text: base64.

    Returns:
        The bytes.

    Raises:
        Rejected: for what is none.
    """
    if head := _DATA_URL.match(text):
        text = text[head.end() :]
    text = re.sub(r"\s+", "", text).rstrip("=").translate(_STANDARD_ALPHABET)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Rejected(Reason.CORRUPT_IMAGE, f"not base64: {error}") from error


_STANDARD_ALPHABET = str.maketrans("-_", "+/")


def is_data_url(value: str) -> bool:
    """Says whether a text is not the place of something but the thing itself, as in `data:image/png;base64,...`."""
    return bool(_DATA_URL.match(value))


def json_lines(place: str, encoding: str) -> Iterator[tuple[int, dict[str, Any] | Rejected]]:
    """Reads the objects of a JSON lines file with their line numbers; blank lines are passed over.

    Args:
        place: the file or URL.
        encoding: of the text.

    Yields:
        Line number and object, or why there is none.
    """
    for number, line in enumerate(lines(place, encoding), start=1):
        if line.strip():
            yield number, json_object(line)


def json_object(line: str) -> dict[str, Any] | Rejected:
    """Parses the JSON object in one line; returns why there is none otherwise."""
    try:
        check_unicode(line)
        row = raw_items.json_value(line)
    except Rejected as rejected:
        return rejected
    except (ValueError, RecursionError) as error:
        return Rejected(Reason.MALFORMED_JSON, str(error))
    return _checked_object(row)


def json_array(place: str, encoding: str) -> Iterator[tuple[int, dict[str, Any] | Rejected]]:
    """Reads the objects of a JSON array with their numbers, up to where it is damaged.

    Args:
        place: the file or URL.
        encoding: of the text.

    Yields:
        Number and object, or why it is none.

    Raises:
        ReadError: where the array is damaged.
    """
    text, number = _document(place, encoding), 0
    opening = _ARRAY.match(text)
    if opening is None:
        raise ReadError(f"{place}: no JSON array")
    position, decoder = opening.end(), json.JSONDecoder(parse_int=raw_items.whole_number)
    while (end := _ARRAY_END.match(text, position)) is None:
        number += 1
        try:
            row, position = decoder.raw_decode(text, position)
            following = _ARRAY_COMMA.match(text, position)
            if following is None:
                raise ValueError("no comma")
        except (ValueError, RecursionError) as error:
            raise ReadError(f"{place}: not whole JSON from object {number} on ({error}); fetch it again") from error
        position = following.end()
        yield number, _checked_object(row)
    if text[end.end() :].strip():
        raise ReadError(f"{place}: more after the end of the JSON array; is it of several files?")


_ARRAY, _ARRAY_COMMA, _ARRAY_END = (re.compile(one) for one in (r"\s*\[\s*", r"\s*(,\s*|(?=\]))", r"\]"))


def _checked_object(row: Any) -> dict[str, Any] | Rejected:
    if not isinstance(row, dict):
        return Rejected(Reason.MALFORMED_JSON, f"a {type(row).__name__}, not an object")
    return row


def json_document(place: str, encoding: str) -> Any:
    """Reads a whole JSON file.

    Args:
        place: the file or URL.
        encoding: of the text.

    Returns:
        Its content.

    Raises:
        ReadError: for a file that is not whole JSON.
    """
    try:
        return json.loads(_document(place, encoding), parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{place}: not whole JSON ({error}); fetch the file again") from error


def _whole_number(digits: str) -> int:
    """A whole number in a document whose parts name each other by numbers, so that none may stand for another."""
    if isinstance(number := raw_items.whole_number(digits), int):
        return number
    raise ValueError(f"a number of {len(digits):,} digits, {digits[:20]} and so on")


def _document(place: str, encoding: str) -> str:
    with open_bytes(place) as stream, reading(place):
        data = stream.read(_DOCUMENT_LIMIT + 1)
    if len(data) > _DOCUMENT_LIMIT:
        raise ReadError(f"{place}: more than {_DOCUMENT_LIMIT:,} bytes in one JSON document; write JSON lines instead")
    return text_of(data, encoding)


def table(document: Any, key: str, place: str) -> list[dict[str, Any] | Rejected]:
    """Takes the list of objects of a JSON document.

    Args:
        document: the content of the file.
        key: of the list; "" for the document itself.
        place: the file, for messages.

    Returns:
        The objects, or why one is none.

    Raises:
        ReadError: if there is no list.
    """
    rows = document.get(key) if key and isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise ReadError(f"{place}: has no list {key!r}; is this a file of the format that --format names?")
    wrong = Rejected(Reason.MALFORMED_JSON, "not an object")
    return [row if isinstance(row, dict) else wrong for row in rows]


def folder_of(place: str) -> str:
    """Returns a folder itself, or that of a file or URL."""
    return place if os.path.isdir(place) else place.rpartition("/")[0] or "."


def name_of(place: str) -> str:
    """Returns the last part of a path or URL."""
    return os.path.basename(place.rstrip("/"))


def stem_of(place: str) -> str:
    """Returns the last part of a path or URL up to its first dot."""
    return name_of(place).split(".")[0]
