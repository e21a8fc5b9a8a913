"""Decoding, resizing and boxes, against PIL, PyTorch and closed forms."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image

from wenlan_jax.data import images


def _photo(height: int = 60, width: int = 84) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


def _encoded(pixels: np.ndarray, kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _with_thumbnail(data: bytes) -> bytes:
    """`data` with a whole small JPEG, end marker and all, inside an APP1 segment."""
    thumbnail = b"Exif\0\0" + _encoded(_photo(8, 8), "JPEG")
    return data[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + data[2:]


JPEGS = {
    "baseline": _encoded(_photo(), "JPEG"),
    "progressive": _encoded(_photo(), "JPEG", progressive=True),
    "thumbnail": _with_thumbnail(_encoded(_photo(), "JPEG")),
    "grey": _encoded(_photo(), "JPEG", "L"),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_lossless_formats_decode_to_the_same_pixels(kind: str) -> None:
    assert np.array_equal(images.decode(_encoded(_photo(), kind, lossless=True)), _photo())


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg_agrees_with_pil(name: str) -> None:
    expected = np.asarray(Image.open(io.BytesIO(JPEGS[name])).convert("RGB"), np.int16)
    assert np.abs(images.decode(JPEGS[name]) - expected).max() <= 4


def test_palette_and_two_level_images() -> None:
    palette = _encoded(_photo(), "PNG", "P")
    assert np.array_equal(images.decode(palette), np.asarray(Image.open(io.BytesIO(palette)).convert("RGB")))
    assert set(np.unique(images.decode(_encoded(_photo(), "PNG", "1")))) == {0, 255}


def test_transparency_is_laid_on_white() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    alpha = pixels[..., 3:] / 255.0
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    decoded = images.decode(cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA))[1].tobytes())
    assert np.abs(decoded - expected).max() <= 0.5 + 1e-9


def test_sixteen_bits_become_eight() -> None:
    wide = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    decoded = images.decode(cv2.imencode(".png", wide)[1].tobytes())
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded[0, :, 0], np.round(wide[0] / 257).astype(np.uint8))


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert images.decode(_encoded(_photo(), "JPEG", exif=exif)).shape == (60, 84, 3)


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_cut_anywhere_is_refused(name: str) -> None:
    data = JPEGS[name]
    for end in [*range(0, len(data) - 1, 37), len(data) - 2, len(data) - 1]:
        with pytest.raises(images.CorruptImage):
            images.decode(data[:end])


def test_a_jpeg_with_an_unwritten_tail_is_refused() -> None:
    data = JPEGS["thumbnail"]
    half = len(data) * 3 // 4
    with pytest.raises(images.CorruptImage, match="end-of-image"):
        images.decode(data[:half] + bytes(len(data) - half))


def test_bytes_after_the_end_of_a_jpeg_are_harmless() -> None:
    assert np.array_equal(images.decode(JPEGS["baseline"] + b"tail"), images.decode(JPEGS["baseline"]))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_png_and_webp_cut_anywhere_are_refused(kind: str) -> None:
    data = _encoded(_photo(), kind)
    for end in [*range(0, len(data) - 1, 97), len(data) - 1]:
        with pytest.raises(images.CorruptImage):
            images.decode(data[:end])


def test_a_flipped_bit_in_a_png_is_refused() -> None:
    data = bytearray(_encoded(_photo(), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(images.CorruptImage, match="checksum"):
        images.decode(bytes(data))


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(images.CorruptImage):
        images.decode(data)


def test_plain_resize_is_bilinear_with_half_pixel_centres() -> None:
    pixels = torch.from_numpy(_photo()).permute(2, 0, 1)[None].float()
    for size in (20, 37, 60, 128):
        expected = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
        resized = images.resize(_photo(), size, antialias=False)
        assert np.abs(resized - expected[0].permute(1, 2, 0).numpy()).max() <= 1.0


def test_antialiased_resize_is_the_mean_of_blocks() -> None:
    pixels = _photo(64, 96)
    expected = pixels.reshape(16, 4, 16, 6, 3).mean(axis=(1, 3))
    assert np.abs(images.resize(pixels, 16, antialias=True) - expected).max() <= 0.5 + 1e-3


def test_antialiasing_averages_only_the_side_that_shrinks() -> None:
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(images.resize(stripes, 16, antialias=True).astype(int) - 128).max() <= 1
    ramp = np.repeat(np.arange(0, 256, 32, dtype=np.uint8)[:, None, None], 64, 1).repeat(3, 2)
    grown = images.resize(ramp, 16, antialias=True)[:, 0, 0]
    assert np.array_equal(grown, images.resize(ramp, 16, antialias=False)[:, 0, 0])


def test_an_image_of_the_right_size_is_left_alone() -> None:
    square = _photo(32, 32)
    assert np.array_equal(images.resize(square, 32, True), square)
    assert np.array_equal(images.resize(square, 32, False), square)


def _scene(height: int, width: int) -> np.ndarray:
    """Smooth colours, fine noise and sharp edges."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (9, 9, 3)).astype(np.float32)
    pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC) + random.normal(0, 6, (height, width, 1))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (20, 200, 90)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _square(data: bytes, size: int, antialias: bool, exact: bool) -> np.ndarray:
    batch = np.full((3, size, size, 3), 7, np.uint8)
    images.read_square(data, antialias, exact, batch[1])
    assert (batch[[0, 2]] == 7).all()
    return batch[1]


@pytest.mark.parametrize(("antialias", "exact"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("size", [20, 60, 100])
def test_an_exact_square_is_decoding_then_resizing(size: int, antialias: bool, exact: bool) -> None:
    for data in (*JPEGS.values(), _encoded(_photo(), "PNG")):
        expected = images.resize(images.decode(data), size, antialias)
        assert np.array_equal(_square(data, size, antialias, exact), expected)


@pytest.mark.parametrize(("antialias", "exact"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize(("height", "width"), [(40, 60), (40, 300), (200, 50), (300, 200), (64, 64), (600, 700)])
def test_sides_that_are_not_enlarged_stay_and_the_others_shrink(
    height: int, width: int, antialias: bool, exact: bool
) -> None:
    """Grown afterwards, the image is the one that grew where it was decoded, up to a second rounding."""
    data, size = _encoded(_scene(height, width), "JPEG", quality=90), 64
    out = np.full((size, size, 3), 7, np.uint8)
    assert images.read_square(data, antialias, exact, out, enlarge=False) == (height, width)
    rows, columns = min(height, size), min(width, size)
    part = out[:rows, :columns].copy()
    assert not out[rows:].any() and not out[:, columns:].any()
    grown = cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR)
    assert np.abs(grown.astype(int) - _square(data, size, antialias, exact)).max() <= 2
    if (height, width) == (40, 60):
        assert np.array_equal(part, images.decode(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("height", "width"), [(401, 468), (1023, 1365), (517, 1029), (900, 230), (64, 64), (95, 70), (449, 901)]
)
def test_a_fast_square_is_within_a_level_of_the_exact_one(height: int, width: int, kind: str) -> None:
    """The bound that the field data.averaging states, and no shift: the difference has no slope along a side."""
    data = _encoded(_scene(height, width), kind, quality=90)
    for size in (64, 112, 224):
        difference = _square(data, size, True, False).astype(int) - _square(data, size, True, True)
        assert np.abs(difference).mean() < 1.2
        assert abs(difference.mean()) < 0.2


def test_a_reduced_image_is_not_stretched() -> None:
    """1365 / 4 is 341.25 and libjpeg gives 342 columns: taken for the whole width, an edge would move."""
    pixels = np.zeros((1023, 1365, 3), np.uint8)
    pixels[:, 1100:] = 255
    found = _square(_encoded(pixels, "JPEG", quality=95), 128, True, False)[..., 0].mean(0) / 255
    assert abs(found.sum() - 128 * 265 / 1365) < 0.05


@pytest.mark.parametrize("name", JPEGS)
def test_sides_of_a_jpeg_are_read_from_its_header(name: str) -> None:
    assert images.jpeg_sides(JPEGS[name]) == (60, 84)
    assert images.jpeg_sides(JPEGS[name][:8]) is None
    assert images.jpeg_sides(_encoded(_photo(), "PNG")) is None


def test_read_square_returns_the_stored_sides_and_refuses_damage() -> None:
    data = _encoded(_scene(300, 500), "JPEG")
    out = np.empty((32, 32, 3), np.uint8)
    assert images.read_square(data, True, False, out) == (300, 500)
    with pytest.raises(images.CorruptImage, match="truncated"):
        images.read_square(data[:-2], True, False, out)


def test_boxes_are_scaled_clipped_cut_and_padded() -> None:
    boxes = np.array([[0, 0, 84, 60], [-10, 30, 42, 90], [5, 5, 5, 9], [np.nan, 0, 4, 4], [21, 15, 42, 30]])
    result, mask = images.normalise_boxes(boxes, width=84, height=60, limit=4)
    assert result.dtype == np.float32
    assert mask.dtype == bool
    expected = np.array([[0, 0, 1, 1], [0, 0.5, 0.5, 1], [0.25, 0.25, 0.5, 0.5], [0, 0, 0, 0]])
    assert np.allclose(result, expected)
    assert mask.tolist() == [True, True, True, False]
    assert images.normalise_boxes(boxes, 84, 60, 1)[0].tolist() == [[0, 0, 1, 1]]


def test_no_boxes() -> None:
    result, mask = images.normalise_boxes(np.zeros((0, 4)), 10, 10, 3)
    assert result.shape == (3, 4)
    assert not mask.any()


def test_boxes_follow_the_resized_image() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[10:30, 20:60] = 255
    box, _ = images.normalise_boxes(np.array([[20, 10, 60, 30]]), 80, 40, 1)
    seen = images.resize(pixels, 32, antialias=True)[..., 0] > 127
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 32
    assert np.allclose(found, box[0], atol=1 / 64)
