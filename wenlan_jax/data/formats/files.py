"""Files of raw data: on this machine, or under any URL that fsspec opens; braces and globs; text lines and JSON."""

from __future__ import annotations

import contextlib
import glob
import gzip
import io
import json
import os
import re
from collections.abc import Iterator
from typing import IO, Any, cast

from wenlan_jax.data.readers import ReadError, Reason, Rejected, check_unicode

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_LINE_LIMIT = 1 << 27  # characters: a damaged file without line ends must not fill the memory


def is_url(place: str) -> bool:
    """Whether fsspec opens `place`, as in `s3://bucket/key`, and not the file system of this machine."""
    return "://" in place


def expand(pattern: str) -> list[str]:
    """The files that a path or URL with `{00..09}`, `{a,b}`, `*` or `?` means, in order. Raises ReadError for none."""
    places = [found for one in _braces(pattern) for found in _glob(one)]
    if not places:
        raise ReadError(f"{pattern}: no such file, or nothing matches; check the path")
    return places


def _braces(pattern: str) -> list[str]:
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    ends = _RANGE.fullmatch(found[1])
    if ends:
        first, last = ends[1], ends[2]
        parts = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        parts = found[1].split(",")
    return [whole for part in parts for whole in _braces(pattern[: found.start()] + part + pattern[found.end() :])]


def _glob(pattern: str) -> list[str]:
    if not any(character in pattern for character in "*?["):
        return [pattern]
    if not is_url(pattern):
        return sorted(glob.glob(pattern, recursive=True))
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
    """A stream of the bytes of a file or URL; what ends in .gz or .tgz is unpacked. Raises ReadError."""
    with reading(place):
        stream = _open(place)
        if place.endswith((".gz", ".tgz")):
            return cast(IO[bytes], gzip.GzipFile(fileobj=stream, mode="rb"))
        return stream


def open_stored(place: str) -> IO[bytes]:
    """A stream that can be searched, as Parquet needs it, of the bytes as they are stored. Raises ReadError."""
    with reading(place):
        return _open(place)


def _open(place: str) -> IO[bytes]:
    if not is_url(place):
        return open(place, "rb")
    import fsspec

    return cast(IO[bytes], fsspec.open(place, "rb").open())


def read_bytes(place: str, limit: int) -> bytes:
    """The first `limit` bytes of a file or URL as they are stored. Raises ReadError."""
    with reading(place), _open(place) as stream:
        return stream.read(limit)


def lines(place: str, encoding: str) -> Iterator[str]:
    """The lines of a text file, line ends included; undecodable bytes come through as surrogates.

    So one line is lost to them, not the file. Raises ReadError, also in the middle, when the file cannot be read.
    """
    with open_bytes(place) as stream, reading(place):
        text = io.TextIOWrapper(stream, "utf-8-sig" if encoding == "utf-8" else encoding, "surrogateescape", newline="")
        while line := text.readline(_LINE_LIMIT):
            if len(line) == _LINE_LIMIT:
                raise ReadError(f"{place}: a line of more than {_LINE_LIMIT} characters; is this a text file?")
            yield line


def head(place: str, size: int = 1 << 16) -> str:
    """The beginning of a file as text, to tell its format by. Raises ReadError."""
    with open_bytes(place) as stream, reading(place):
        return stream.read(size).decode("utf-8-sig", "replace")


def text_of(data: bytes, encoding: str) -> str:
    """A short text in its bytes; what is not of the encoding comes through as surrogates, or is refused here."""
    try:
        return data.decode(encoding, "surrogateescape")
    except UnicodeDecodeError as error:  # encodings of two bytes a character know no surrogates for a single one
        raise Rejected(Reason.WRONG_ENCODING, f"{error}; see --encoding") from error


def json_lines(place: str, encoding: str) -> Iterator[tuple[int, dict[str, Any] | Rejected]]:
    """The objects of a JSON lines file with their line numbers; blank lines are passed over."""
    for number, line in enumerate(lines(place, encoding), start=1):
        if line.strip():
            yield number, json_object(line)


def json_object(line: str) -> dict[str, Any] | Rejected:
    """The JSON object in one line, or why there is none."""
    try:
        check_unicode(line)
        row = json.loads(line)
    except Rejected as rejected:
        return rejected
    except (ValueError, RecursionError) as error:
        return Rejected(Reason.MALFORMED_JSON, str(error))
    if not isinstance(row, dict):
        return Rejected(Reason.MALFORMED_JSON, f"a {type(row).__name__}, not an object")
    return row


def json_document(place: str, encoding: str) -> Any:
    """A whole JSON file. Raises ReadError."""
    with open_bytes(place) as stream, reading(place):
        text = stream.read().decode("utf-8-sig" if encoding == "utf-8" else encoding, "surrogateescape")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{place}: not whole JSON ({error}); fetch the file again") from error


def table(document: Any, key: str, place: str) -> list[dict[str, Any] | Rejected]:
    """The list of objects under `key` of a JSON document, or the document itself for "". Raises ReadError."""
    rows = document.get(key) if key and isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise ReadError(f"{place}: has no list {key!r}; is this a file of the format that --format names?")
    wrong = Rejected(Reason.MALFORMED_JSON, "not an object")
    return [row if isinstance(row, dict) else wrong for row in rows]


def folder_of(place: str) -> str:
    """A folder itself, or that of a file or URL."""
    return place if os.path.isdir(place) else place.rpartition("/")[0] or "."


def name_of(place: str) -> str:
    """The last part of a path or URL."""
    return os.path.basename(place.rstrip("/"))


def stem_of(place: str) -> str:
    """The last part of a path or URL up to its first dot."""
    return name_of(place).split(".")[0]
