"""Tar archives read as a stream, from damaged and truncated files too: what can be read is kept, losses are named.

The standard library's reader, with `ignore_zeros` too, ends at a bad header that follows one of attributes, which
webdataset's writer puts before every member: of 100 members it gave 10 where 99 are whole. It also holds a record of
attributes of any length in memory, 2 GB for 5 MB of gzip.

Understood are the ustar, GNU (long names, large sizes) and pax forms.
"""

from __future__ import annotations

import dataclasses
import io
import zlib
from collections.abc import Iterator
from typing import IO

from wenlan_jax.prepare.raw_items import ReadError

_BLOCK = 512
MEMBER_LIMIT = 1 << 28
"""Bytes of one member, and of all of one sample together; a larger one is passed over and reported."""
_REGULAR = b"0\x007"
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Member:
    """One regular file of an archive; `position` is the byte its header starts at."""

    position: int
    name: str
    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Damage:
    """A part of an archive that could not be read, and the byte it starts at."""

    position: int
    detail: str


class _Cut(Exception):  # noqa: N818 - never leaves this module
    """The stream ended, or could not be read further, before what was announced."""


class _Stream:
    """Counts the bytes read, and makes one kind of error of all the ways a stream can end early."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.position = 0

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes; b"" at the end. Raises _Cut for anything between."""
        chunks: list[bytes] = []
        missing = size
        while missing:
            chunk = self._some(min(missing, _CHUNK))
            if not chunk:
                break
            chunks.append(chunk)
            missing -= len(chunk)
            self.position += len(chunk)
        if missing and chunks:
            raise _Cut(f"the file ends at byte {self.position}")
        return b"".join(chunks)

    def padded(self, size: int, keep: int) -> bytes:
        """The first `keep` of `size` bytes, which are read with the padding after them."""
        kept = io.BytesIO()  # whose value is not copied once more
        missing = size
        while missing:
            chunk = self.read(min(missing, _CHUNK))
            if not chunk:
                raise _Cut(f"the file ends at byte {self.position}")
            missing -= len(chunk)
            if (room := keep - kept.tell()) > 0:
                kept.write(chunk[:room] if room < len(chunk) else chunk)
        if size % _BLOCK and not self.read(_BLOCK - size % _BLOCK):
            raise _Cut(f"the file ends at byte {self.position}")
        return kept.getvalue()

    def _some(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except (OSError, EOFError, zlib.error, ReadError) as error:
            raise _Cut(f"cannot be read after byte {self.position} ({error or 'early end'})") from error


def members(stream: IO[bytes], keep: int | None = None) -> Iterator[Member | Damage]:
    """The regular files of an archive in order, and what was lost between them. Folders and links are passed over.

    keep: bytes of each that are given, its first; None for all.
    """
    source = _Stream(stream)
    start = 0
    try:
        while True:
            start = source.position
            block = source.read(_BLOCK)
            if block and not any(block):
                following = source.read(_BLOCK)
                if not any(following):
                    return
                block = following
            if not block:
                yield Damage(start, f"no end mark; the file ends at byte {source.position}")
                return
            header = _header(block)
            if header is None:
                header = _resume(source)
                yield Damage(start, f"bytes {start} to {source.position - _BLOCK} are not tar")
            yield from _entry(source, header, start, MEMBER_LIMIT if keep is None else keep)
    except _Cut as cut:
        yield Damage(start, f"{cut}; the member that starts at byte {start} is lost, and all after it")


@dataclasses.dataclass(frozen=True)
class _Header:
    kind: bytes
    name: str
    size: int


def _entry(source: _Stream, header: _Header, start: int, keep: int) -> Iterator[Member | Damage]:
    """The file that `header` begins; headers that only tell its name or size are read on the way."""
    name, size = "", -1
    while header.kind in b"LKxg":
        if header.size > _CHUNK:
            yield Damage(start, f"a name or attribute record of {header.size} bytes")
            source.padded(header.size, keep=0)
            return
        content = source.padded(header.size, keep=header.size)
        if header.kind == b"L":
            name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif header.kind == b"x":
            attributes = _attributes(content)
            name, size = attributes.get("path", name), _size(attributes.get("size", ""), size)
        block = source.read(_BLOCK)
        following = _header(block)
        if following is None:
            yield Damage(start, f"no header follows the long name that starts at byte {start}")
            following = _resume(source)
        header = following
    name, size = name or header.name, size if size >= 0 else header.size
    wanted = header.kind in _REGULAR and not name.endswith("/")
    if wanted and size > MEMBER_LIMIT:
        yield Damage(start, f"{name!r} has {size} bytes, more than {MEMBER_LIMIT}")
        wanted = False
    data = source.padded(size, keep=keep if wanted else 0)
    if wanted:
        yield Member(start, name, data)


def _resume(source: _Stream) -> _Header:
    """The next header behind damaged blocks."""
    while block := source.read(_BLOCK):
        if (header := _header(block)) is not None:
            return header
    raise _Cut(f"no header up to the end of the file at byte {source.position}")


def _header(block: bytes) -> _Header | None:
    """The header in a block; None when its checksum is wrong (POSIX.1-1988, "ustar interchange format")."""
    if len(block) != _BLOCK:
        return None
    try:
        checksum, size = _number(block[148:156]), _number(block[124:136])
    except ValueError:
        return None
    if checksum != sum(block) - sum(block[148:156]) + 8 * 0x20 or size < 0:
        return None
    name = block[:100].split(b"\0")[0]
    prefix = block[345:500].split(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    full = prefix + b"/" + name if prefix else name
    kind = block[156:157]
    # Only files have content; a size in the header of a folder or link is to be ignored.
    return _Header(kind, full.decode("utf-8", "surrogateescape"), 0 if kind in b"123456" else size)


def _number(field: bytes) -> int:
    """Octal digits, or with the top bit set a big-endian number, which GNU tar writes for sizes over 8 GiB."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.split(b"\0")[0].strip() or b"0", 8)


def _attributes(content: bytes) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE\\n` of a pax header."""
    found: dict[str, str] = {}
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or not 0 < int(length[:8]) <= len(content):
            break
        record, content = content[: int(length[:8])], content[int(length[:8]) :]
        key, _, value = record[len(length) + 1 :].rstrip(b"\n").partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
    return found


def _size(text: str, usual: int) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else usual
