"""Where the words of a text look in an image: last-layer attention from words to regions, drawn on the regions.

One panel a word, one line of panels a language. The words stand beside the panels as text of the page, for a
browser has the fonts of all languages. A word of several pieces looks where its pieces look on average. A region that
is the whole image, as grids have one, would hide all others: its weight is written, not drawn.

A row of attention is a distribution over text and regions together. What falls on the regions is either shown as it
is or divided by its sum, which hides how little of it there may be; the page says which.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from wenlan_jax.util import atomic_files, html_page
from wenlan_jax.util.errors import WenlanError

Image = UInt8[np.ndarray, "height width 3"]
Weights = Float32[np.ndarray, " regions"]
Boxes = Float32[np.ndarray, "regions 4"]
"""(x1, y1, x2, y2) in units of the image's sides."""

PANEL_SIDE = 256
"""Pixels of the longer side of a panel."""

_SHADE, _STRONGEST = (230, 30, 30), 0.75  # RGB, and its share of a pixel under the largest weight
_UNSPACED_SCRIPTS = ("CJK UNIFIED", "CJK COMPATIBILITY", "IDEOGRAPHIC ITERATION", "HIRAGANA", "KATAKANA")
_CONTINUED, _SPACE = "##", "\u2581"


class AttentionPageError(WenlanError, ValueError):
    """Attention, boxes and words that do not belong together."""


@dataclasses.dataclass(frozen=True)
class Word:
    """A word as a reader knows it.

    Attributes:
        text: the word.
        places: of its pieces among the tokens.
    """

    text: str
    places: tuple[int, ...]


Merge = Callable[[Sequence[str], Collection[str]], list[Word]]


def merge_word_pieces(pieces: Sequence[str], special: Collection[str]) -> list[Word]:
    """Puts together words of BERT pieces: a piece with `##` goes on with the word before it.

    Args:
        pieces: the spelling of each token.
        special: pieces that are left out.

    Returns:
        The words.
    """

    def begins(piece: str, before: str) -> bool:
        return not (before and piece.startswith(_CONTINUED))

    return _merged(pieces, special, begins, lambda piece: piece.removeprefix(_CONTINUED))


def merge_sentence_pieces(pieces: Sequence[str], special: Collection[str]) -> list[Word]:
    """Puts together words of SentencePiece pieces: a piece with `▁` begins one.

    Chinese and Japanese have no spaces to tell words by; there every piece is a word, with the `▁` before it.

    Args:
        pieces: the spelling of each token.
        special: pieces that are left out.

    Returns:
        The words.
    """

    def begins(piece: str, before: str) -> bool:
        alone = before != _SPACE and (_unspaced(piece) or _unspaced(before))
        return not before or piece.startswith(_SPACE) or alone

    return _merged(pieces, special, begins, lambda piece: piece.replace(_SPACE, ""))


def _merged(
    pieces: Sequence[str],
    special: Collection[str],
    begins: Callable[[str, str], bool],
    shown: Callable[[str], str],
) -> list[Word]:
    """`begins(piece, the one before or "")`: whether a word begins. Words of which nothing is shown are dropped."""
    words: list[Word] = []
    before = ""
    for place, piece in enumerate(pieces):
        if piece in special:
            before = ""
            continue
        if begins(piece, before):
            words.append(Word("", ()))
        words[-1] = Word(words[-1].text + shown(piece), (*words[-1].places, place))
        before = piece
    return [word for word in words if word.text]


def _unspaced(piece: str) -> bool:
    """Whether `piece` is in a script without spaces: Chinese characters or kana."""
    names = (unicodedata.name(letter, "") for letter in piece)
    return any(name.startswith(_UNSPACED_SCRIPTS) for name in names)


def text_to_regions(
    attention: Float[np.ndarray, "heads length length"],
    text_length: int,
    region_mask: Bool[np.ndarray, " regions"],
    renormalise: bool,
) -> Float32[np.ndarray, "tokens valid"]:
    """Computes how much each token attends to each valid region, the mean of all heads.

    Args:
        attention: of one pair and layer; rows are queries, columns keys, the regions after the text.
        text_length: how many places the text takes.
        region_mask: which regions are valid.
        renormalise: make rows sum to 1 over the regions.

    Returns:
        One row a token, one column a valid region.

    Raises:
        AttentionPageError: for attention of another shape.
    """
    if attention.ndim != 3 or attention.shape[1:] != (text_length + len(region_mask),) * 2:
        raise AttentionPageError(
            f"attention: (heads, L, L) with L = {text_length} + {len(region_mask)} is needed, got {attention.shape}."
        )
    weights = np.asarray(attention, np.float32).mean(axis=0)[:text_length, text_length:][:, region_mask]
    if renormalise:
        weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return weights


def of_words(
    weights: Float[np.ndarray, "tokens regions"], words: Sequence[Word]
) -> Float32[np.ndarray, "words regions"]:
    """Averages the rows of each word's pieces.

    Args:
        weights: one row a token.
        words: the words.

    Returns:
        One row a word.

    Raises:
        AttentionPageError: for a word beyond the tokens.
    """
    beyond = [word.text for word in words if max(word.places) >= len(weights)]
    if beyond:
        raise AttentionPageError(f"{len(weights)} tokens have attention, but {beyond[0]!r} stands beyond them.")
    rows = [weights[list(word.places)].mean(axis=0) for word in words]
    return np.array(rows, np.float32).reshape(len(words), weights.shape[1])


def heat(boxes: Boxes, weights: Weights, height: int, width: int) -> Float32[np.ndarray, "{height} {width}"]:
    """Finds for every pixel the largest weight of the regions that cover it.

    A pixel belongs to a region when its centre does, so that the cells of a grid neither overlap nor leave gaps.

    Args:
        boxes: of the regions, in units of the image's sides.
        weights: of the regions, from 0.
        height: in pixels.
        width: in pixels.

    Returns:
        The weights; 0 where there is no region.

    Raises:
        AttentionPageError: for boxes and weights that do not go together.
    """
    if boxes.shape != (len(weights), 4) or not np.isfinite(weights).all() or (weights < 0).any():
        raise AttentionPageError(f"{len(weights)} weights from 0 on need as many boxes, got {boxes.shape}.")
    across, down = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    pixels = np.zeros((height, width), np.float32)
    for (x1, y1, x2, y2), weight in zip(boxes, weights, strict=True):
        columns = slice(*np.searchsorted(across, [x1, x2]))
        rows = slice(*np.searchsorted(down, [y1, y2]))
        pixels[rows, columns] = np.maximum(pixels[rows, columns], weight)
    return pixels


def is_whole(boxes: Boxes) -> Bool[np.ndarray, " regions"]:
    """Says which regions are the whole image."""
    return np.all(np.hstack([boxes[:, :2] <= 0, boxes[:, 2:] >= 1]), axis=1)


def panel(image: Image, boxes: Boxes, weights: Weights, largest: float) -> UInt8[np.ndarray, "rows columns 3"]:
    """Shades the regions of an image by weight and frames the best one.

    All `boxes` are drawn, a whole image among them, too.

    Args:
        image: RGB.
        boxes: of the regions, in units of the image's sides.
        weights: of the regions, from 0.
        largest: the weight of the strongest shade.

    Returns:
        The panel; its longer side has `PANEL_SIDE` pixels.

    Raises:
        AttentionPageError: for a `largest` of 0 or below.
    """
    if largest <= 0:
        raise AttentionPageError(f"The largest weight must be positive, got {largest}.")
    height, width = image.shape[:2]
    scale = PANEL_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    share = np.minimum(heat(boxes, weights, size[1], size[0]) / largest, 1)[..., None] * _STRONGEST
    grey = np.repeat(small.mean(axis=2, keepdims=True), 3, axis=2)
    shaded = np.rint((1 - share) * (0.5 * grey + 0.5 * small) + share * np.array(_SHADE)).astype(np.uint8)
    if len(weights):
        x1, y1, x2, y2 = np.rint(boxes[int(np.argmax(weights))] * np.tile(size, 2)).astype(int).tolist()
        cv2.rectangle(shaded, (x1, y1), (min(x2, size[0]) - 1, min(y2, size[1]) - 1), _SHADE, 2)
    return shaded


@dataclasses.dataclass(frozen=True)
class AttendedText:
    """A text in one language and where its words look.

    Attributes:
        text: the text.
        language: its code.
        words: its words.
        weights: of each word for each region, as `of_words` gives them.
    """

    text: str
    language: str
    words: Sequence[Word]
    weights: Float32[np.ndarray, "words regions"]


def _figure(image: Image, boxes: Boxes, reading: AttendedText, place: int, largest: float) -> str:
    word, weights, whole = reading.words[place], reading.weights[place], is_whole(boxes)
    shaded = html_page.image(_png(panel(image, boxes[~whole], weights[~whole], largest)), f"where {word.text} looks")
    numbers = [f"all {weights.sum():.3f}", f"most {weights[~whole].max(initial=0.0):.3f}"]
    if whole.any():
        numbers.append(f"whole image {weights[whole].sum():.3f}")
    caption = f"{html_page.spoken('span', word.text, reading.language)}<br>{', '.join(numbers)}"
    return f"<li><figure>{shaded}<figcaption>{caption}</figcaption></figure></li>"


def _section(image: Image, boxes: Boxes, reading: AttendedText) -> str:
    if reading.weights.shape != (len(reading.words), len(boxes)):
        raise AttentionPageError(
            f"{len(reading.words)} words and {len(boxes)} boxes, but weights {reading.weights.shape}."
        )
    drawn = reading.weights[:, ~is_whole(boxes)]
    largest = max(float(drawn.max(initial=0.0)), float(np.finfo(np.float32).tiny))
    figures = "".join(_figure(image, boxes, reading, place, largest) for place in range(len(reading.words)))
    heading = f"{html_page.code(reading.language)} {html_page.spoken('span', reading.text, reading.language)}"
    return f"<section><h3>{heading}</h3><ul>{figures}</ul></section>"


def render(image: Image, boxes: Boxes, readings: Sequence[AttendedText], renormalised: bool, title: str) -> str:
    """Renders the page: the image, then each reading with a panel a word, shaded on one scale a reading.

    Args:
        image: RGB.
        boxes: of the regions, in units of the image's sides.
        readings: one a text.
        renormalised: whether the weights of a word sum to 1 over the regions, which the page states.
        title: of the page.

    Returns:
        HTML.

    Raises:
        AttentionPageError: for an image that is none.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise AttentionPageError(f"image: uint8 (height, width, 3) is needed, got {image.dtype}{image.shape}.")
    kind = (
        "Weights are renormalised: those of a word sum to 1 over the regions."
        if renormalised
        else "Weights are not renormalised: what is missing from 1 in their sum falls on the text."
    )
    note = (
        f"Attention of the last layer from each word to {len(boxes)} regions, the mean of all heads and of the word's "
        f"pieces. {kind} Below a word stand the sum of its weights and the largest of a part of the image. The "
        "strongest red of a line is its largest weight; the best region is framed."
    )
    original = f"<section>{html_page.image(_png(image), 'the image')}</section>"
    sections = [_section(image, boxes, reading) for reading in readings]
    return html_page.document(title, note, [original, *sections])


def write(
    path: Path, image: Image, boxes: Boxes, readings: Sequence[AttendedText], renormalised: bool, title: str
) -> None:
    """Writes the page of `render` to a file, whole or not at all.

    Args:
        path: the file.
        image: see `render`.
        boxes: see `render`.
        readings: see `render`.
        renormalised: see `render`.
        title: see `render`.
    """
    atomic_files.write(path, render(image, boxes, readings, renormalised, title).encode("utf-8"))


def _png(pixels: Image) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
