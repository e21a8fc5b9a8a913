"""Images that need care on their way into a record: bombs, unusual pixels, animations, EXIF. Headers against PIL."""

from __future__ import annotations

import collections
import io
import struct
import tracemalloc
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from wenlan_jax.data import headers, images
from wenlan_jax.prepare import raw_images
from wenlan_jax.prepare.raw_items import Rejected

PIXELS = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8), (0, 0), 3)
IMAGE, OTHER = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)


def _encoded(kind: str, image: Image.Image = IMAGE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _check(data: bytes, **options: Any) -> tuple[raw_images.RecordImage, dict[str, int]]:
    fixes: collections.Counter[str] = collections.Counter()
    image = raw_images.checked(data, raw_images.ImageOptions(**options), fixes)
    return image, {name: count for name, count in fixes.items() if count}


KINDS = {
    "jpeg": _encoded("JPEG"),
    "progressive": _encoded("JPEG", progressive=True, exif=_exif(3)),
    "png": _encoded("PNG"),
    "webp lossy": _encoded("WEBP"),
    "webp lossless": _encoded("WEBP", lossless=True),
    "webp extended": _encoded("WEBP", exif=_exif(6)),
    "gif": _encoded("GIF"),
    "bmp": _encoded("BMP"),
    "tiff": _encoded("TIFF"),
    "avif": _encoded("AVIF"),
}


@pytest.mark.parametrize("name", KINDS)
def test_headers_tell_what_pil_tells(name: str) -> None:
    header = headers.read(KINDS[name])
    with Image.open(io.BytesIO(KINDS[name])) as expected:
        assert (header.width, header.height) == expected.size == (44, 30)
        assert header.orientation == expected.getexif().get(0x0112, 1)
        assert not (header.animated or header.cmyk or header.deep)


@pytest.mark.parametrize("name", KINDS)
def test_a_header_cut_anywhere_is_told_or_refused(name: str) -> None:
    for end in range(len(KINDS[name])):
        try:
            header = headers.read(KINDS[name][:end])
        except headers.UnknownSize:
            continue
        assert (header.width, header.height) == (44, 30)


def _bombs() -> dict[str, bytes]:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    png, jpeg = KINDS["png"], KINDS["jpeg"]
    frame = jpeg.index(b"\xff\xc0")
    lossless, lossy = KINDS["webp lossless"], KINDS["webp lossy"]
    start = lossy.index(b"\x9d\x01\x2a") + 3
    frame_gif = KINDS["gif"].index(b"\x2c", 13 + 3 * 2 ** ((KINDS["gif"][10] & 7) + 1))
    return {
        "png": png[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:],
        "jpeg": jpeg[: frame + 5] + struct.pack(">HH", 50_000, 50_000) + jpeg[frame + 9 :],
        "webp lossless": lossless[:21] + struct.pack("<I", 0x0FFFFFFF) + lossless[25:],
        "webp lossy": lossy[:start] + struct.pack("<HH", 0x3FFF, 0x3FFF) + lossy[start + 4 :],
        "gif screen": KINDS["gif"][:6] + struct.pack("<HH", 50_000, 50_000) + KINDS["gif"][10:],
        "gif frame": KINDS["gif"][: frame_gif + 5] + struct.pack("<HH", 50_000, 50_000) + KINDS["gif"][frame_gif + 9 :],
    }


@pytest.mark.parametrize("name", _bombs())
def test_a_bomb_is_refused_unopened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "decode", lambda data: pytest.fail("it was decoded"))
    with pytest.raises(Rejected, match="more than 100000000; see --max-pixels") as caught:
        _check(_bombs()[name])
    assert caught.value.reason == "oversized_image"


def _tiff(tags: list[tuple[int, int, int]], pixels: bytes) -> bytes:
    """A TIFF of one strip with these (tag, form, value) and what belongs to it."""
    tags = [
        *tags,
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, 1 << 20),
        (279, 4, len(pixels)),
    ]
    coded = {3: "<HHIHxx", 4: "<HHII"}
    entries = b"".join(
        struct.pack(coded[form], tag, form, 1, value) for tag, form, value in sorted(tags, key=lambda t: t[0])
    )
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_as_stored_and_turned_once_on_request(kind: str, orientation: int) -> None:
    from PIL import ImageOps

    data = _encoded(kind, exif=_exif(orientation))
    image, _ = _check(data)
    assert (image.width, image.height) == (44, 30)
    turned, _ = _check(data, exif="apply")
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert (turned.height, turned.width) == expected.shape[:2]
    if kind != "JPEG":
        np.testing.assert_array_equal(images.decode(turned.data), expected)
        np.testing.assert_array_equal(images.decode(image.data), PIXELS)


SIZES = {256: 44, 257: 30}


def test_a_tiff_of_one_strip_is_read() -> None:
    image, _ = _check(_tiff([(tag, 3, value) for tag, value in SIZES.items()], bytes(44 * 30)))
    assert (image.width, image.height) == (44, 30)


@pytest.mark.parametrize("tag", SIZES)
@pytest.mark.parametrize("form", [3, 4])
@pytest.mark.parametrize("first", [False, True])
def test_a_size_that_is_told_twice_is_refused_unopened(
    tag: int, form: int, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = [(tag, form, 30_000), (tag, 3, SIZES[tag])]
    others = [(other, 3, value) for other, value in SIZES.items() if other != tag]
    monkeypatch.setattr(images, "decode", lambda data: pytest.fail("it was decoded"))
    with pytest.raises(Rejected, match=f"tag {tag} twice") as caught:
        _check(_tiff([*(twice if first else twice[::-1]), *others], bytes(44 * 30)))
    assert caught.value.reason == "corrupt_image"


def test_an_avif_hides_its_size_behind_no_other_box() -> None:
    """A box of padding with a small size in it stands before the one that tells."""
    data = KINDS["avif"]
    (start,) = struct.unpack_from(">I", data, 0)
    decoy = b"ispe" + struct.pack(">III", 0, 1, 1)
    padding = struct.pack(">I4s", 8 + (1 << 17), b"free") + decoy * 4 + bytes((1 << 17) - 4 * len(decoy))
    header = headers.read(data[:start] + padding + data[start:])
    assert (header.width, header.height) == (44, 30)


@pytest.mark.parametrize("name", ["jpeg", "png", "webp lossy", "bmp", "tiff"])
def test_the_decoded_size_is_that_of_the_header(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = images.decode
    for change in (lambda pixels: np.tile(pixels, (2, 1, 1)), lambda pixels: pixels[:, 1:]):
        monkeypatch.setattr(images, "decode", lambda data, change=change: change(whole(data)))
        with pytest.raises(Rejected, match="the header says 44 x 30 pixels, there are") as caught:
            _check(KINDS[name])
        assert caught.value.reason == "corrupt_image"


def _of_scans(count: int, between: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan is repeated up to `count` scans, with `between` before each that is added."""
    data = KINDS["progressive"]
    last = data.rindex(b"\xff\xda")
    return data[:-2] + (between + data[last:-2]) * (count - data.count(b"\xff\xda")) + data[-2:]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _of_notes(kind: bytes, count: int, after: bytes = b"IDAT", size: int = 1000) -> bytes:
    start = KINDS["png"].index(after) - 4
    body = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind] + zlib.compress(bytes(size))
    return KINDS["png"][:start] + _chunk(kind, body) * count + KINDS["png"][start:]


SLOW = {
    "scans": _of_scans(headers.MOST_SCANS + 1),
    "scans behind a bare marker": _of_scans(headers.MOST_SCANS + 1, b"\xff\x01"),
    "scans behind padding": _of_scans(headers.MOST_SCANS + 1, b"\xff\xff\xff"),
    "zTXt": _of_notes(b"zTXt", headers.MOST_PACKED + 1),
    "iTXt at the end": _of_notes(b"iTXt", headers.MOST_PACKED + 1, b"IEND"),
    "iCCP": _of_notes(b"iCCP", headers.MOST_PACKED + 1),
    "large zTXt": _of_notes(b"zTXt", 3, size=headers.LARGEST_NOTE),
    "large iTXt": _of_notes(b"iTXt", 3, b"IEND", headers.LARGEST_NOTE),
    "chunks": KINDS["png"][:33] + _chunk(b"tEXt", b"a\0b") * 20_000 + KINDS["png"][33:],
    "segments": KINDS["jpeg"][:2] + b"\xff\xfe\0\2" * 20_000 + KINDS["jpeg"][2:],
}


@pytest.mark.parametrize("name", SLOW)
def test_an_image_that_takes_far_longer_than_it_says_is_never_decoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(headers.UnknownSize, match="more than"):
        headers.read(SLOW[name])
    told = r"more than (100 scans|50 compressed notes|16777216 bytes|1\d+ pieces)"
    with pytest.raises(Rejected, match=told) as caught:
        _check(SLOW[name])
    assert caught.value.reason == "corrupt_image"
    with pytest.raises(images.CorruptImage, match="more than"):
        images.read_square(SLOW[name], antialias=True, exact=False, out=np.zeros((8, 8, 3), np.uint8))


def test_images_of_many_scans_and_notes_up_to_the_limit_are_read(capfd: pytest.CaptureFixture[str]) -> None:
    for data in (
        _of_scans(headers.MOST_SCANS),
        _of_notes(b"zTXt", headers.MOST_PACKED),
        _of_notes(b"zTXt", 2, size=headers.LARGEST_NOTE - 1000),
        KINDS["jpeg"][:2] + b"\xff" * 20_000 + KINDS["jpeg"][2:],
    ):
        assert _check(data)[0].data == data
    capfd.readouterr()  # libjpeg tells of the repeated scans
    # What looks like scans inside a segment, and behind the end, is none.
    inside = b"\xff\xda" * 60
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(inside)) + inside
    data = KINDS["jpeg"][:2] + comment + KINDS["jpeg"][2:] + inside
    assert _check(data)[0].data == data


@pytest.mark.parametrize(
    ("sides", "scans", "refused"),
    [((9900, 9900), 20, False), ((9900, 9900), 21, True), ((30000, 30000), 20, False), ((5000, 5000), 80, False)]
    + [((5000, 5000), 81, True), ((4000, 5000), 100, False)],
)
def test_scans_count_by_the_pixels_that_they_pass_over(sides: tuple[int, int], scans: int, refused: bool) -> None:
    data = _of_scans(scans)
    frame = data.index(b"\xff\xc2")
    data = data[: frame + 5] + struct.pack(">HH", *sides) + data[frame + 9 :]
    if refused:
        with pytest.raises(headers.UnknownSize, match=f"more than {scans - 1} scans"):
            headers.read(data)
    else:
        assert headers.read(data).height == sides[0]


def test_an_avif_or_a_gif_of_countless_pieces_is_refused_unread() -> None:
    start = struct.pack(">I", 16) + b"ftypavif" + bytes(4)
    for body, told in ((b"ispe" * 20_000, "ispe boxes"), (b"", "pieces")):
        meta = struct.pack(">I4s", 12 + len(body), b"meta") + bytes(4) + body
        with pytest.raises(headers.UnknownSize, match=f"more than .* {told}"):
            headers.read(start + meta + (struct.pack(">I4s", 8, b"free") * 20_000 if not body else b""))
    gif = KINDS["gif"]
    with pytest.raises(headers.UnknownSize, match="pieces"):
        headers.read(gif[: 13 + 3 * 2 ** ((gif[10] & 7) + 1)] + b"\x21\xfe" + b"\1a" * 20_000 + b"\0" + gif[13:])


def test_bytes_of_deep_pixels_count_as_pixels_do() -> None:
    """Of two images of equal sides the limit takes the one whose pixels have 8 bits a channel."""
    deep = PIXELS.astype(np.uint16) * 257
    clear = np.concatenate([deep, deep[..., :1]], axis=2)
    tiff = _tiff([(256, 3, 44), (257, 3, 30)], bytes(44 * 30)).replace(
        struct.pack("<HHIHxx", 258, 3, 1, 8), struct.pack("<HHIHxx", 258, 3, 1, 64)
    )
    for data, size in ((_png(deep), 6), (_png(clear), 8), (tiff, 8)):
        assert headers.read(data).pixel_bytes == size
        with pytest.raises(Rejected, match=f"44 x 30 pixels of {size} bytes each, more than 5280 bytes; see") as caught:
            _check(data, max_pixels=44 * 30)
        assert caught.value.reason == "oversized_image"
    assert _check(_png(clear), max_pixels=44 * 30 * 2)[1] == {"image_deep_converted": 1, "image_reencoded": 1}
    for data in (_png(deep[..., 0]), _png(clear.astype(np.uint8)), *map(KINDS.get, ("bmp", "tiff", "avif"))):
        assert data is not None and _check(data, max_pixels=44 * 30)[0].width == 44


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_decoding_needs_little_more_than_the_decoded_pixels(channels: int, kind: type) -> None:
    data = _png(np.random.default_rng(0).integers(0, 256, (1500, 1600, channels), np.uint8).astype(kind))
    needed = max(headers.read(data).decoded_bytes, 3 * 1500 * 1600)
    tracemalloc.start()
    try:
        images.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 2 * needed + len(data) + 4 * 2**20
    finally:
        tracemalloc.stop()


def test_the_pixel_limit_is_exact() -> None:
    assert _check(KINDS["png"], max_pixels=44 * 30)[0].data == KINDS["png"]
    with pytest.raises(Rejected, match="44 x 30"):
        _check(KINDS["png"], max_pixels=44 * 30 - 1)


def test_cmyk_jpeg_becomes_rgb() -> None:
    data = _encoded("JPEG", IMAGE.convert("CMYK"), quality=95)
    assert b"Adobe" in data
    image, fixes = _check(data)
    assert fixes == {"image_cmyk_converted": 1, "image_reencoded": 1}
    assert Image.open(io.BytesIO(image.data)).mode == "RGB"
    assert np.abs(images.decode(image.data).astype(int) - PIXELS).mean() < 6


def test_every_sixteen_bit_value_becomes_the_nearest_of_eight() -> None:
    wide = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(images.decode(_png(wide))[..., 0], (wide.astype(np.uint32) + 128) // 257)


def test_every_colour_is_laid_on_white_whatever_the_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    colour, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    pixels = np.stack([colour, 255 - colour, alpha, alpha], axis=2)
    wide = pixels.astype(np.uint32)
    expected = (wide[..., :3] * wide[..., 3:] + 255 * (255 - wide[..., 3:]) + 127) // 255
    for band in (images.BAND, 1, 700):
        monkeypatch.setattr(images, "BAND", band)
        np.testing.assert_array_equal(images.decode(_png(pixels))[..., ::-1], expected)


def test_sixteen_bits_become_eight() -> None:
    deep = PIXELS.astype(np.uint16) * 257
    image, fixes = _check(cv2.imencode(".png", deep[..., ::-1])[1].tobytes())
    assert fixes == {"image_deep_converted": 1, "image_reencoded": 1}
    np.testing.assert_array_equal(images.decode(image.data), PIXELS)
    assert not headers.read(image.data).deep


@pytest.mark.parametrize(("kind", "options"), [("WEBP", {"lossless": True}), ("PNG", {}), ("GIF", {})])
def test_of_an_animation_the_first_frame_is_kept(kind: str, options: dict[str, Any]) -> None:
    data = _encoded(kind, save_all=True, append_images=[OTHER], **options)
    assert headers.read(data).animated
    image, fixes = _check(data)
    assert fixes == {"image_first_frame": 1, "image_reencoded": 1}
    assert not headers.read(image.data).animated and (image.width, image.height) == (44, 30)
    with Image.open(io.BytesIO(data)) as expected:
        first = np.asarray(expected.convert("RGB"), int)
    assert np.abs(images.decode(image.data) - first).max() <= 1


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_turns_image_and_boxes_alike(orientation: int) -> None:
    # A white block on black, so that where it went tells whether image and box moved together.
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[8:16, 40:56] = 255
    data = _encoded("JPEG", Image.fromarray(pixels), exif=_exif(orientation), quality=95)
    image, fixes = _check(data)
    assert fixes == {"image_exif_ignored": 1} and image.data == data and image.box((40, 8, 56, 16)) == (40, 8, 56, 16)
    turned, fixes = _check(data, exif="apply")
    assert fixes == {"image_exif_applied": 1, "image_reencoded": 1}
    from PIL import ImageOps

    with Image.open(io.BytesIO(data)) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"), int)
    found = images.decode(turned.data).astype(int)
    assert np.abs(found - expected).max() < 30
    x1, y1, x2, y2 = (round(side) for side in turned.box((40, 8, 56, 16)))
    block = np.zeros(found.shape[:2], bool)
    block[y1:y2, x1:x2] = True
    np.testing.assert_array_equal(found[..., 0] > 128, block)
    assert headers.read(turned.data).orientation == 1


def test_turned_and_shrunk() -> None:
    data = _encoded("JPEG", IMAGE, exif=_exif(6))
    image, _ = _check(data, exif="apply", max_side=22)
    assert (image.width, image.height) == (15, 22)
    assert image.box((0, 0, 44, 30)) == pytest.approx((0, 0, 15, 22))


def test_what_is_no_image() -> None:
    for data in (b"", b"<html>", b"\xff\xd8", KINDS["jpeg"][:-200], KINDS["gif"][:60], KINDS["avif"][:300]):
        with pytest.raises(Rejected) as caught:
            _check(data)
        assert caught.value.reason == "corrupt_image"


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA", "L"])
def test_notes_on_colour_spaces_change_no_pixel_and_print_nothing(mode: str, capfd: pytest.CaptureFixture[str]) -> None:
    plain = _encoded("PNG", IMAGE.convert(mode))
    notes = {b"sRGB": b"\0", b"gAMA": struct.pack(">I", 20_000), b"cHRM": bytes(32), b"iCCP": b"a\0\0damaged"}
    for kind, body in notes.items():
        chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for before in (b"IDAT", b"IEND"):  # the first is behind the palette where there is one
            start = plain.index(before) - 4
            noted = plain[:start] + chunk + plain[start:]
            np.testing.assert_array_equal(images.decode(noted), images.decode(plain))
            with pytest.raises(images.CorruptImage, match=f"wrong checksum in the {kind!r}"):
                images.decode(noted.replace(chunk, chunk[:-1] + bytes([chunk[-1] ^ 1])))
    assert capfd.readouterr().err == ""
