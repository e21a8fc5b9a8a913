"""What is given to a model from Python: one or many, of many types; each is made plain, or named in an error."""

from __future__ import annotations

import io
import operator
import os
import re
import stat
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64

from wenlan_jax.util.errors import WenlanError

Image = Any
"""A path, the bytes of a file, an open file, an image of PIL, or an array (height, width[, 3]) of uint8."""

NEEDED = "a path, bytes, an open file, an image of PIL or an array is needed"
_BYTES = (bytes, bytearray, memoryview)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")
_MODES = {
    **{mode: mode for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    **{"La": "LA", "PA": "RGBA", "RGBa": "RGBA"},
    **dict.fromkeys(("RGBX", "CMYK", "YCbCr", "LAB", "HSV"), "RGB"),
}
"""Modes of PIL, and which of those that a PNG holds have the same pixels, up to rounding."""


class ModelError(WenlanError, ValueError):
    """A model or an input that cannot be encoded; the message says which, and what is needed."""


def path(given: Any, what: str) -> Path:
    """Checks a path that the user gave.

    Args:
        given: what was given.
        what: its name in messages.

    Returns:
        The path, with `~` expanded.

    Raises:
        ModelError: for what is no path, also a URL.
    """
    if not isinstance(given, str | os.PathLike) or not isinstance(os.fspath(given), str):
        raise ModelError(f"{what}: a path is needed, not {type(given).__name__}")
    name = os.fspath(given)
    if not name:
        raise ModelError(f"{what}: a path is needed, not an empty text")
    if isinstance(given, str) and _URL.match(name):
        raise ModelError(f"{what}: {name[:200]!r} is a URL; fetch it, and give its path or its bytes")
    try:
        name.encode("utf-8", "surrogateescape")
        if "\0" in name:
            raise ValueError("it has a NUL character")
        return Path(name).expanduser()
    except (ValueError, RuntimeError) as error:  # no user of that name
        raise ModelError(f"{what}: {name[:200]!r} is no path ({error})") from error


def step(given: Any) -> int | None:
    """Checks the number of a checkpoint.

    Args:
        given: what was given.

    Returns:
        The number, or None.

    Raises:
        ModelError: for what is no whole number.
    """
    try:
        if isinstance(given, bool | np.bool_):
            raise TypeError
        return None if given is None else operator.index(given)
    except TypeError as error:
        raise ModelError(f"step: the number of a checkpoint is needed, such as 2000, not {given!r}") from error


def overrides(given: Any) -> list[str]:
    """Takes fields of the configuration as on the command line; a single one may be given alone.

    Args:
        given: what was given.

    Returns:
        `--config.field=value` each.

    Raises:
        ModelError: for what is no text.
    """
    fields = many(given, "overrides", (str,))
    for field in fields:
        if not isinstance(field, str):
            raise ModelError(f"overrides: a text such as 'eval.batch_size=16' is needed, not {field!r}")
    return [f"--config.{field.removeprefix('--config.')}" for field in fields]


def texts(given: Any) -> list[str]:
    """Takes one text or many.

    Args:
        given: what was given.

    Returns:
        A list.

    Raises:
        ModelError: for what is no text.
    """
    if isinstance(given, _BYTES):
        raise ModelError(f"texts: a text or a sequence of texts is needed, not {type(given).__name__}; decode it")
    found = many(given, "texts", (str,))
    for row, text in enumerate(found):
        if not isinstance(text, str):
            raise ModelError(f"text {row}: a text is needed, not {type(text).__name__}")
    return found


def images(given: Any) -> list[Image]:
    """Takes one image or many.

    Args:
        given: what was given.

    Returns:
        A list; its elements are not checked.

    Raises:
        ModelError: for what is neither an image nor a sequence.
    """
    alone = _is_one_array(given) or hasattr(given, "read") or not isinstance(given, Iterable)
    return [given] if alone else many(given, "images", (str, os.PathLike, *_BYTES))


def boxes(given: Any, count: int) -> list[Float64[np.ndarray, "boxes 4"]]:
    """Takes the boxes of images.

    Args:
        given: what was given.
        count: the number of images.

    Returns:
        The boxes of each image, float64.

    Raises:
        ModelError: for another number of images, or what is no boxes.
    """
    found = list(given) if isinstance(given, np.ndarray) and given.ndim else many(given, "boxes", ())
    if len(found) != count:
        raise ModelError(f"boxes: {count} images have {len(found)} sets of boxes")
    return [_boxes(of_image, row) for row, of_image in enumerate(found)]


def _boxes(given: Any, row: int) -> Float64[np.ndarray, "boxes 4"]:
    try:
        found = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"boxes of image {row}: numbers (x1, y1, x2, y2) are needed ({error})") from error
    if found.size and found.shape[-1] != 4:
        raise ModelError(f"boxes of image {row}: (boxes, 4) is needed, not {found.shape}")
    return found.reshape(-1, 4)


def many(given: Any, what: str, alone: tuple[type, ...]) -> list[Any]:
    """Takes one thing or many, in any order that they have.

    Args:
        given: what was given.
        what: its name in messages.
        alone: the types of a single one.

    Returns:
        A list.

    Raises:
        ModelError: for what has no order.
    """
    if isinstance(given, alone):
        return [given]
    if isinstance(given, Mapping | Set):
        raise ModelError(f"{what}: a sequence is needed, not {type(given).__name__}")
    try:
        each = iter(given)
    except TypeError as error:
        raise ModelError(f"{what}: a sequence is needed, not {type(given).__name__}") from error
    return list(each)


def embeddings(given: Any, what: str) -> np.ndarray:
    """Takes rows of embeddings, or a single one.

    Args:
        given: what was given.
        what: its name in messages.

    Returns:
        Float32, of one or two axes.

    Raises:
        ModelError: for anything else.
    """
    try:
        found = np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{what}: embeddings are needed, not {type(given).__name__} ({error})") from error
    if found.ndim not in (1, 2):
        raise ModelError(f"{what}: embeddings (rows, dim) are needed, not {found.shape}")
    return found


def content(image: Image, what: str) -> bytes | np.ndarray:
    """Reads an image as far as the model's own decoder needs it.

    Args:
        image: a path, bytes, an open file, an image of PIL, or an array.
        what: its name in messages.

    Returns:
        The bytes of a file, or pixels.

    Raises:
        ModelError: for what is no image.
        OSError: for a file that cannot be read.
    """
    if isinstance(image, _BYTES):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return _of_path(path(image, what), what)
    if isinstance(image, type):
        raise ModelError(f"{what}: {NEEDED}, not the class {image.__name__}")
    if hasattr(image, "read"):
        return _of_file(image, what)
    if hasattr(image, "__array__") and hasattr(image, "ndim"):
        return _of_array(image, what)
    if hasattr(image, "save") and hasattr(image, "convert"):
        return _of_pil(image, what)
    raise ModelError(f"{what}: {NEEDED}, not {type(image).__name__}")


def _of_path(place: Path, what: str) -> bytes:
    if not stat.S_ISREG(place.stat().st_mode):  # a device may have no end, and a pipe no beginning
        raise ModelError(f"{what}: {str(place)!r} is no regular file")
    return place.read_bytes()


def _of_file(file: Any, what: str) -> bytes:
    try:
        if file.seekable():
            file.seek(0)
        found = file.read()
    except (AttributeError, TypeError, ValueError) as error:  # closed, or in another encoding
        raise ModelError(f"{what}: a file that cannot be read ({error})") from error
    if not isinstance(found, _BYTES):
        raise ModelError(f"{what}: a file that gives {type(found).__name__}; open it with 'rb'")
    return bytes(found)


def _is_one_array(given: Any) -> bool:
    """Whether it is an array of one image: one of one axis holds paths or bytes, one of four holds images."""
    return hasattr(given, "__array__") and getattr(given, "ndim", 1) not in (1, 4)


def _of_array(given: Any, what: str) -> np.ndarray:
    """Three channels of an array, also one of JAX or PyTorch."""
    if np.ma.is_masked(given):
        raise ModelError(f"{what}: an array with masked values; fill them")
    try:
        image = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{what}: an array that cannot be read ({error})") from error
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
        raise ModelError(f"{what}: an array (height, width[, 3]) of uint8 is needed, not {image.dtype}{image.shape}")
    return np.ascontiguousarray(np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image)


def _of_pil(image: Any, what: str) -> bytes:
    """An image of PIL, which need not be installed, as a PNG: the same rules hold for it as for files."""
    try:
        mode = str(image.mode)
        if mode.startswith("I;16"):
            return cv2.imencode(".png", np.asarray(image).astype(np.uint16))[1].tobytes()
        if mode not in _MODES:
            remedy = "give its file, or convert it to L, RGB or I;16 as its values mean"
            raise ModelError(f"{what}: an image of PIL of mode {mode!r}, whose range is not known; {remedy}")
        kept = image if _MODES[mode] == mode else image.convert(_MODES[mode])
        with io.BytesIO() as file:
            kept.save(file, "PNG", compress_level=0)
            return file.getvalue()
    except (OSError, WenlanError):
        raise
    except Exception as error:  # PIL raises many kinds for an image that is closed, empty or damaged
        raise ModelError(f"{what}: an image of PIL that cannot be used ({error})") from error


def check_widths(queries: np.ndarray, candidates: np.ndarray) -> None:
    """Checks that queries and candidates are as wide.

    Args:
        queries: embeddings.
        candidates: embeddings.

    Raises:
        ModelError: if they are not.
    """
    if queries.shape[-1] != candidates.shape[-1]:
        raise ModelError(f"queries of width {queries.shape[-1]}, candidates of width {candidates.shape[-1]}")
