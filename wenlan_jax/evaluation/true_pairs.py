"""Which texts and images of a split belong together, as every protocol of retrieval reads it.

An image may have several texts, and a text several images: a product's title that a shop shows with each of its
photographs is one query with several true images, of which the best counts, as an image's texts do. Texts are one
where they have the same language and the same words, after Unicode's composition (NFC) and with white space collapsed.
"""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from scipy import sparse
from scipy.sparse import csgraph

from wenlan_jax.data.loader import RecordText
from wenlan_jax.util.errors import WenlanError

Rows = Int64[np.ndarray, " rows"]


class RetrievalError(WenlanError, ValueError):
    """Embeddings or links that no retrieval figure can be computed from."""


@dataclasses.dataclass(frozen=True, eq=False)
class Links:
    """The true pairs of a split, each once, sorted by text.

    Attributes:
        text: the row of each pair's text.
        image: the row of each pair's image.
        texts: the number of texts; each has an image.
        images: the number of images; some may have no text.
    """

    text: Int64[np.ndarray, " pairs"]
    image: Int64[np.ndarray, " pairs"]
    texts: int
    images: int

    @property
    def images_of_text(self) -> Int64[np.ndarray, " texts"]:
        """How many true images each text has."""
        return np.bincount(self.text, minlength=self.texts)

    @property
    def texts_of_image(self) -> Int64[np.ndarray, " images"]:
        """How many true texts each image has."""
        return np.bincount(self.image, minlength=self.images)

    @functools.cached_property
    def groups(self) -> Int64[np.ndarray, " images"]:
        """The group of each image, numbered by their first images; a group is what a chain of shared texts connects."""
        if len(self.image) == self.texts:
            return np.arange(self.images)
        ends = (np.ones(len(self.text)), (self.image, self.images + self.text))
        size = self.images + self.texts
        graph = sparse.coo_array(ends, shape=(size, size))
        labels = csgraph.connected_components(graph, directed=False)[1][: self.images]
        _, first, group = np.unique(labels, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[group]

    def pairs(self, texts: slice) -> slice:
        """Returns the slice of the pairs of consecutive texts."""
        return slice(*np.searchsorted(self.text, [texts.start, texts.stop]))

    def of_texts(self, chosen: Rows) -> Links:
        """Returns the links of some texts, numbered anew in the order of `chosen`; all images stay."""
        place = np.full(self.texts, -1, np.int64)
        place[chosen] = np.arange(len(chosen))
        kept = place[self.text] >= 0
        return _sorted(place[self.text[kept]], self.image[kept], len(chosen), self.images)

    def within(self, images: slice) -> tuple[Rows, Links]:
        """Narrows the links to consecutive images.

        Args:
            images: a slice of the images.

        Returns:
            The texts that have any of them, and the links among both, numbered anew.
        """
        kept = (self.image >= images.start) & (self.image < images.stop)
        texts, text = np.unique(self.text[kept], return_inverse=True)
        return texts, Links(text, self.image[kept] - images.start, len(texts), images.stop - images.start)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """The image of each text. Raises RetrievalError where a text has several."""
        if len(self.image) != self.texts:
            raise RetrievalError(f"{len(self.image)} pairs: some of the {self.texts} texts have several images.")
        return np.array(self.image, dtype)


LinksLike = Links | np.ndarray
"""Links, or whole numbers (texts,): the row of the one image of each text."""


def known(links: LinksLike, texts: int, images: int) -> Links:
    """Checks links, and makes `Links` of an array.

    Args:
        links: the true pairs, see `LinksLike`.
        texts: how many texts there are.
        images: how many images there are.

    Returns:
        The links.

    Raises:
        RetrievalError: if they are not of so many texts and images.
    """
    if isinstance(links, Links):
        if (links.texts, links.images) != (texts, images):
            raise RetrievalError(
                f"links: of {links.texts} texts and {links.images} images, but there are {texts} and {images}."
            )
        return links
    rows = np.asarray(links)
    if rows.shape != (texts,) or not np.issubdtype(rows.dtype, np.integer):
        raise RetrievalError(f"image_of_text: {texts} integers are needed, got {rows.dtype}{rows.shape}.")
    if rows.min() < 0 or rows.max() >= images:
        raise RetrievalError(f"image_of_text: rows must lie in [0, {images}), got {rows.min()} to {rows.max()}.")
    return Links(np.arange(texts), rows.astype(np.int64), texts, images)


def of_rows(rows: Sequence[Sequence[int]], images: int) -> Links:
    """Makes links from the rows of the images of each text.

    Args:
        rows: of each text.
        images: the number of images.

    Returns:
        The links.

    Raises:
        RetrievalError: for a text without an image.
    """
    text = np.repeat(np.arange(len(rows)), [len(of) for of in rows])
    return of_pairs(text, np.array([row for of in rows for row in of], np.int64), len(rows), images)


def of_pairs(text: Rows, image: Rows, texts: int, images: int) -> Links:
    """Makes links of pairs in any order; a pair may come twice.

    Args:
        text: the row of each pair's text.
        image: the row of each pair's image.
        texts: the number of texts.
        images: the number of images.

    Returns:
        The links.

    Raises:
        RetrievalError: for rows that are not there, or a text without an image.
    """
    for name, rows, size in (("text", text, texts), ("image", image, images)):
        if len(text) != len(image) or (len(rows) and not 0 <= rows.min() <= rows.max() < size):
            raise RetrievalError(f"{name}s of pairs: {len(text)} rows in [0, {size}) are needed.")
    if len(missing := np.setdiff1d(np.arange(texts), text)):
        raise RetrievalError(f"text {missing[0]} has no image.")
    return _sorted(text, image, texts, images)


def of_texts(texts: Sequence[RecordText], images: int) -> Links:
    """Makes the links of the texts of a split with its first `images` images."""
    return of_rows([[row for row in text.rows if row < images] for text in texts], images)


def _sorted(text: Rows, image: Rows, texts: int, images: int) -> Links:
    """Links of pairs in any order, of which some may stand twice."""
    keys = np.unique(text * images + image)
    return Links(keys // images, keys % images, texts, images)


def words(text: str) -> str:
    """Brings a text into the form in which it is compared with others: NFC, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def distinct(chosen: Sequence[RecordText], everything: Sequence[RecordText]) -> list[RecordText]:
    """Joins equal texts.

    Args:
        chosen: some texts of a split.
        everything: all texts of the split.

    Returns:
        The chosen texts, each once as it stands first, with all rows that have it in `everything`.
    """
    rows: dict[tuple[str, str], dict[int, None]] = {_key(text): {} for text in chosen}
    for text in [*chosen, *everything]:
        if (found := rows.get(_key(text))) is not None:
            found.update(dict.fromkeys(text.rows))
    first = {_key(text): text for text in reversed(chosen)}
    return [
        dataclasses.replace(first[key], others=tuple(row for row in of if row != first[key].row))
        for key, of in rows.items()
    ]


def _key(text: RecordText) -> tuple[str, str]:
    return text.text.language, words(text.text.text)
