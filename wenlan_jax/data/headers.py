"""What an encoded image says of itself before it is decoded: its size, above all, so that no bomb is ever opened.

Pillow tells neither the scans of a JPEG nor the depth of a PNG, takes one of two sizes of a TIFF where OpenCV takes the
other, and to tell a WebP's size sets up a decoder for all of it (2 GB of addresses for 10 kB); its own limit on pixels
is one for the whole process. It also takes up to 25 times as long.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import struct
import zlib
from collections.abc import Iterator

from wenlan_jax.util.errors import WenlanError

_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 less DHT, JPG, DAC
_JPEG_BARE = frozenset([0x01, *range(0xD0, 0xD9)])  # markers without a segment
# A marker inside JPEG scan data: 0xFF followed by neither a stuffed zero, a restart (D0-D7) nor padding (FF).
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_PADDING = re.compile(rb"\xff+")
JPEG_END, _JPEG_SCAN = 0xD9, 0xDA
MOST_SCANS = 100
"""Scans of one JPEG. Encoders write some 10, optimisers up to a few dozen; each costs a pass over the whole image,
however few its bytes, so that a small file of thousands would keep a decoder busy for minutes."""
MOST_SCANNED, USUAL_SCANS = 2 * 10**9, 20
"""Pixels times scans of one JPEG, for the same reason; an image of any size may have the usual number of scans."""
MOST_PACKED, MOST_UNPACKED = 50, 2**24
"""Compressed notes of one PNG, and the bytes that they unpack to together. Programs write a few of some kilobytes."""
LARGEST_NOTE = 8_000_000
"""Bytes that libpng unpacks of one note at most."""
MOST_PIECES, PIECE = 10_000, 64
"""Segments, chunks, blocks or boxes that every file may have, and the bytes for which a large one may have one more.
No program writes so many so small, and each takes as long to step over as thousands of bytes to read."""
_PNG_PACKED = (b"zTXt", b"iTXt", b"iCCP")
_PNG_CHANNELS = {0: 1, 2: 3}
"""By the colour type, of what a decoder gives; the others, palettes among them, may have transparency."""
_EXIF_ORIENTATION = 0x0112
_AVIF_SIZES = 1000
"""Sizes in one AVIF: of the image, of its thumbnail, and one of all tiles or a few more."""


class UnknownSize(WenlanError, ValueError):  # noqa: N818
    """An image whose size, or the time that it takes to decode, cannot be told without decoding it."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header of an encoded image says.

    Attributes:
        kind: `jpeg`, `png`, `webp`, `gif`, `bmp`, `tiff` or `avif`.
        width: as stored, in pixels.
        height: as stored, in pixels.
        animated: whether there are several frames.
        cmyk: whether its colours are CMYK.
        deep: whether it has more than 8 bits a channel.
        orientation: EXIF's, 1 to 8; 1 where none is given.
        pixel_bytes: the most that a decoder needs for a pixel, before it has 8 bits a channel.
    """

    kind: str
    width: int
    height: int
    animated: bool = False
    cmyk: bool = False
    deep: bool = False
    orientation: int = 1
    pixel_bytes: int = 4

    @property
    def pixels(self) -> int:
        """Pixels of one frame."""
        return self.width * self.height

    @property
    def decoded_bytes(self) -> int:
        """Bytes of one frame, as it is decoded."""
        return self.pixels * self.pixel_bytes


def read(data: bytes) -> Header:
    """Reads the header of an encoded image.

    Args:
        data: the file's bytes.

    Returns:
        The header.

    Raises:
        UnknownSize: for an unknown kind, a header that is cut short, or an image that would take too long to decode.
    """
    for start, parse in _PARSERS:
        if start.match(data):
            try:
                header = parse(data)
            except (struct.error, IndexError, KeyError, OverflowError) as error:
                raise UnknownSize(f"the header is damaged or cut short ({error})") from error
            check_quick(data)
            return header
    raise UnknownSize(f"not an image of a known kind; the {len(data)} bytes begin with {data[:8]!r}")


def steps(data: bytes) -> Iterator[int]:
    """Counts the pieces of a file that are stepped over.

    Args:
        data: the file's bytes.

    Yields:
        A number for each piece.

    Raises:
        UnknownSize: after more pieces than any program writes.
    """
    most = MOST_PIECES + len(data) // PIECE
    yield from range(most)
    raise UnknownSize(f"more than {most} pieces in {len(data)} bytes, which no program writes; save it anew")


def check_quick(data: bytes) -> None:
    """Checks that an image decodes in the time that its size and its bytes tell.

    Args:
        data: the file's bytes.

    Raises:
        UnknownSize: if its decoding would take far longer.
    """
    if data.startswith(b"\xff\xd8"):
        _check_scans(data)
    elif data.startswith(b"\x89PNG"):
        _check_notes(data)


def _check_scans(data: bytes) -> None:
    if data.count(b"\xff\xda") <= USUAL_SCANS:  # quick to count, and at least as many as there are scans
        return
    try:
        pixels = _jpeg(data).pixels
    except (struct.error, IndexError):
        return  # no decoder finds a size either
    most = min(MOST_SCANS, max(USUAL_SCANS, MOST_SCANNED // max(1, pixels)))
    if sum(marker == _JPEG_SCAN for marker in jpeg_markers(data)) > most:
        raise UnknownSize(
            f"a JPEG of more than {most} scans, each a pass over the whole image of {pixels} pixels; save it anew"
        )


def _check_notes(data: bytes) -> None:
    count = sum(map(data.count, _PNG_PACKED))
    if count > MOST_PACKED:
        raise UnknownSize(
            f"a PNG with more than {MOST_PACKED} compressed notes (zTXt, iTXt, iCCP); save it without them"
        )
    sums = itertools.accumulate(map(_unpacked, _png_notes(data))) if count else ()
    if any(unpacked > MOST_UNPACKED for unpacked in sums):
        raise UnknownSize(
            f"a PNG whose compressed notes (zTXt, iTXt, iCCP) unpack to more than {MOST_UNPACKED} bytes; "
            "save it without them"
        )


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a PNG: the kind of each, and where its body starts and ends."""
    position, counted = 8, steps(data)
    while position + 8 <= len(data):
        next(counted)
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, position + 8, position + 8 + length
        position += 12 + length


def _png_notes(data: bytes) -> Iterator[bytes]:
    """What is compressed in the notes of a PNG (PNG specification, 11.3.3)."""
    for kind, start, end in _png_chunks(data):
        if kind in _PNG_PACKED:
            _, _, body = data[start:end].partition(b"\0")
            if kind != b"iTXt":
                yield body[1:]  # after the method
            elif body[:1] == b"\1":
                yield body[2:].split(b"\0", 2)[-1]  # after a language and a keyword in it


def _unpacked(packed: bytes) -> int:
    """The bytes that libpng would unpack. What fails on the way is unpacked up to there, in pieces of no great size."""
    unpacker, found = zlib.decompressobj(), 0
    try:
        while packed and found < LARGEST_NOTE:
            found += len(unpacker.decompress(packed, 2**16))
            packed = unpacker.unconsumed_tail
    except zlib.error:
        pass
    return found


def _jpeg(data: bytes) -> Header:
    """Walks the segments up to the frame header (ITU T.81, B.2.2), noting EXIF on the way."""
    position, orientation, counted = 2, 1, steps(data)
    while 0 <= position < len(data):
        next(counted)
        if data[position] != 0xFF:  # garbage between segments, perhaps megabytes of it
            position = data.find(b"\xff", position)
            continue
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += len(_JPEG_PADDING.match(data, position)[0]) - 1  # type: ignore[index]
            continue
        if marker in _JPEG_BARE or marker == 0:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = position + 4
        if marker in _JPEG_SIZES:
            depth, height, width, channels = struct.unpack_from(">BHHB", data, body)
            return Header(
                "jpeg", width, height, cmyk=channels == 4, deep=depth > 8, orientation=orientation, pixel_bytes=3
            )
        if marker == 0xE1 and data[body : body + 6] == b"Exif\0\0":
            orientation = _exif(data[body + 6 : position + 2 + length])
        position += 2 + max(length, 2)
    raise IndexError("no frame header")


def jpeg_markers(data: bytes, position: int = 2) -> Iterator[int]:
    """Walks the markers of a JPEG up to its end: those of segments and scans, none inside a segment.

    Args:
        data: the file's bytes.
        position: where to begin.

    Yields:
        The marker bytes.
    """
    counted = steps(data)
    while found := _JPEG_MARKER.search(data, position):
        next(counted)
        marker = data[found.start() + 1]
        yield marker
        position = found.end()
        if marker == JPEG_END:
            return
        if marker not in _JPEG_BARE:  # scan data follows its header and is searched; other segments are skipped whole
            position += int.from_bytes(data[position : position + 2], "big")
        if position >= len(data):
            return


def _png(data: bytes) -> Header:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    animated, clear, orientation = False, False, 1
    for kind, start, end in _png_chunks(data):
        animated |= kind == b"acTL"
        clear |= kind == b"tRNS"
        if kind == b"eXIf":
            orientation = _exif(data[start:end])
        if kind == b"IDAT":
            break
    channels = 4 if clear else _PNG_CHANNELS.get(colour, 4)
    deep = depth > 8
    return Header("png", width, height, animated, deep=deep, orientation=orientation, pixel_bytes=channels * (1 + deep))


def _webp(data: bytes) -> Header:
    """The first chunk: VP8X (extended), VP8L (lossless) or VP8 (lossy)."""
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(_exactly(data, 24, 3), "little")
        height = 1 + int.from_bytes(_exactly(data, 27, 3), "little")
        flags, exif = data[20], data.rfind(b"EXIF")
        orientation = _exif(data[exif + 8 :].removeprefix(b"Exif\0\0")) if flags & 8 and exif > 0 else 1
        return Header("webp", width, height, animated=bool(flags & 2), orientation=orientation)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("webp", width & 0x3FFF, height & 0x3FFF)
    raise KeyError(f"chunk {kind!r}")


def _gif(data: bytes) -> Header:
    """The larger of the screen and the first frame; animated when a second frame is found by walking the blocks."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position, frames = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0), 0
    counted = steps(data)
    while position < len(data) and frames < 2:
        if data[position] == 0x2C and position + 10 <= len(data):
            frames += 1
            left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, position + 1)
            width, height = max(width, left + wide), max(height, top + high)
            position += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        elif data[position] == 0x21:
            position += 2
        else:
            break
        next(counted)
        while position < len(data) and data[position]:
            next(counted)
            position += 1 + data[position]
        position += 1
    return Header("gif", width, height, animated=frames > 1)


def _bmp(data: bytes) -> Header:
    if struct.unpack_from("<I", data, 14) == (12,):
        return Header("bmp", *struct.unpack_from("<HH", data, 18))
    width, height = struct.unpack_from("<ii", data, 18)
    return Header("bmp", abs(width), abs(height))


def _tiff(data: bytes) -> Header:
    tags = _tags(data, once=True)
    bits, channels = tags.get(258, 8), tags.get(277, 1)
    grey = channels == 1 and tags.get(262) in (0, 1)
    pixel_bytes = (1 if grey else max(4, channels)) * -(-bits // 8)
    return Header("tiff", tags[256], tags[257], deep=bits > 8, orientation=_turn(tags), pixel_bytes=pixel_bytes)


_AVIF_DEEP = re.compile(rb"av1C..[\x40-\x7f\xc0-\xff]", re.DOTALL)
"""The settings of an AV1 image with the flag `high_bitdepth` (AV1-ISOBMFF, 2.3.3)."""


def _avif(data: bytes) -> Header:
    """The largest of the sizes in `ispe` boxes: that of the image, or of one of its tiles or of a thumbnail."""
    meta = b"".join(body for kind, body in _boxes(data) if kind == b"meta")
    if meta.count(b"ispe") > _AVIF_SIZES:
        raise KeyError(f"more than {_AVIF_SIZES} ispe boxes")
    sizes = [struct.unpack_from(">II", meta, found.end() + 4) for found in re.finditer(b"ispe", meta)]
    if not sizes:
        raise KeyError("no ispe box")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return Header("avif", width, height, pixel_bytes=8 if _AVIF_DEEP.search(meta) else 4)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The outer boxes of a file by their kinds (ISO/IEC 14496-12, 4.2)."""
    position, counted = 0, steps(data)
    while position + 8 <= len(data):
        next(counted)
        length, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = position + length if length else len(data)
        if end < start:
            raise KeyError(f"box {kind!r} of {length} bytes")
        yield kind, data[start:end]
        position = end


def _exif(data: bytes) -> int:
    try:
        return _turn(_tags(data))
    except (struct.error, IndexError, KeyError):
        return 1  # a damaged note about an image does not damage the image


def _turn(tags: dict[int, int]) -> int:
    orientation = tags.get(_EXIF_ORIENTATION, 1)
    return orientation if 1 <= orientation <= 8 else 1


def _tags(data: bytes, once: bool = False) -> dict[int, int]:
    """The numbers in the first directory of a TIFF file, which EXIF is too (TIFF 6.0, section 2).

    With `once`, a tag that comes twice is damage: decoders differ in which of them they believe.
    """
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    tags: dict[int, int] = {}
    seen: set[int] = set()
    for index in range(count):
        tag, form, length = struct.unpack_from(order + "HHI", data, start + 2 + 12 * index)
        if once and tag in seen:
            raise KeyError(f"tag {tag} twice")
        seen.add(tag)
        place = start + 10 + 12 * index
        if form == 3 and length > 2:  # does not fit here: the place is told
            (place,) = struct.unpack_from(order + "I", data, place)
        if form in (3, 4):
            (tags[tag],) = struct.unpack_from(order + ("H" if form == 3 else "I"), data, place)
    return tags


def _exactly(data: bytes, position: int, size: int) -> bytes:
    if position + size > len(data):
        raise IndexError("cut short")
    return data[position : position + size]


_PARSERS = (
    (re.compile(rb"\xff\xd8"), _jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    (re.compile(rb"GIF8[79]a"), _gif),
    (re.compile(rb"BM"), _bmp),
    (re.compile(rb"II\*\0|MM\0\*"), _tiff),
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), _avif),
)
