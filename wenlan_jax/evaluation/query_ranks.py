"""The rank of the truth for every query of a split: `ranks_<split>.npz` beside `result.json`.

Recall, and the paired comparison of two runs query by query, can be computed from it. Ranks and ties are those of
`retrieval.truth_ranks`.
"""

from __future__ import annotations

import dataclasses
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped, UInt32

from wenlan_jax.evaluation import true_pairs
from wenlan_jax.util import atomic_files, json_files
from wenlan_jax.util.errors import WenlanError


class RanksError(WenlanError, ValueError):
    """A file of ranks that is not whole."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ranks:
    """The rank of the truth for every query of a split; ranks count from 1.

    Attributes:
        image_to_text: of the best true text of each image; 0 where it has none and is no query.
        text_to_image: of the best true image of each text.
        image: the row of the image of each true pair, sorted by texts.
        language: of each text.
        text: CRC-32 of each text, by which two runs are seen to have had the same queries.
        of_text: the row of the text of each true pair; left out where each text has one.
    """

    image_to_text: Int64[np.ndarray, " images"]
    text_to_image: Int64[np.ndarray, " texts"]
    image: Int64[np.ndarray, " pairs"]
    language: Shaped[np.ndarray, " texts"]
    text: UInt32[np.ndarray, " texts"]
    of_text: Int64[np.ndarray, " pairs"] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if not len(self.of_text):
            object.__setattr__(self, "of_text", np.arange(len(self.image)))

    @property
    def links(self) -> true_pairs.Links:
        """Which texts and images belong together."""
        return true_pairs.Links(self.of_text, self.image, len(self.text_to_image), len(self.image_to_text))

    def same_queries(self, other: Ranks) -> bool:
        """Says whether both are of the same texts about the same images, in the same order."""
        return (
            len(self.image_to_text) == len(other.image_to_text)
            and np.array_equal(self.image, other.image)
            and np.array_equal(self.of_text, other.of_text)
            and np.array_equal(self.language, other.language)
            and np.array_equal(self.text, other.text)
        )


def of_queries(
    image_to_text: Int64[np.ndarray, " images"],
    text_to_image: Int64[np.ndarray, " texts"],
    image_of_text: true_pairs.LinksLike,
    languages: Sequence[str],
    texts: Sequence[str],
) -> Ranks:
    """Puts together the ranks of a split and what tells its queries apart.

    Args:
        image_to_text: the rank of each image's best true text.
        text_to_image: the rank of each text's best true image.
        image_of_text: the true pairs.
        languages: of the texts.
        texts: the texts themselves.

    Returns:
        The ranks.
    """
    checksums = np.array([zlib.crc32(text.encode()) for text in texts], np.uint32)
    pairs = true_pairs.known(image_of_text, len(text_to_image), len(image_to_text))
    return Ranks(image_to_text, text_to_image, pairs.image, np.array(languages), checksums, pairs.text)


def path(folder: Path, split: str) -> Path:
    """Says where the ranks of a split lie in the directory of a run or of an evaluation."""
    return folder / f"ranks_{split}.npz"


def write(folder: Path, split: str, ranks: Ranks) -> None:
    """Writes the ranks of a split; the file appears whole.

    Args:
        folder: the directory of a run or of an evaluation.
        split: the name of the split.
        ranks: its ranks.
    """
    content = io.BytesIO()
    np.savez_compressed(content, **{name: getattr(ranks, name) for name in _KINDS})
    atomic_files.write(path(folder, split), content.getvalue())


def read(folder: Path, split: str) -> Ranks:
    """Reads what `write` wrote, or an earlier version, whose texts have one image each.

    Args:
        folder: the directory of a run or of an evaluation.
        split: the name of the split.

    Returns:
        Its ranks.

    Raises:
        RanksError: for a file that is not whole.
    """
    place = path(folder, split)
    try:
        found = json_files.read_arrays(place, (*_KINDS, *_EARLIER))
        found |= {name: found.pop(earlier) for earlier, name in _EARLIER.items() if earlier in found}
        return _checked(Ranks(**found))
    except (KeyError, TypeError, ValueError) as error:
        raise RanksError(f"{place}: not a whole file of ranks ({error}); evaluate the run again") from error


_KINDS = {"image_to_text": "i", "text_to_image": "i", "image": "i", "language": "U", "text": "u", "of_text": "i"}
"""Of NumPy's types, by the fields of `Ranks`."""
_EARLIER = {"picture": "image"}
"""Names of arrays that earlier versions wrote."""


def _checked(ranks: Ranks) -> Ranks:
    """The same ranks. Raises ValueError where fields are none of theirs or contradict each other."""
    for name, kind in _KINDS.items():
        values = getattr(ranks, name)
        if values.ndim != 1 or values.dtype.kind != kind:
            raise ValueError(f"{name} is {values.dtype}{values.shape}")
    texts, images = len(ranks.text_to_image), len(ranks.image_to_text)
    if len(ranks.language) != texts or len(ranks.text) != texts:
        raise ValueError(f"{texts} texts have {len(ranks.language)} languages and {len(ranks.text)} checksums")
    known = true_pairs.of_pairs(ranks.of_text, ranks.image, texts, images)
    if not np.array_equal(known.image, ranks.image) or not np.array_equal(known.text, ranks.of_text):
        raise ValueError("pairs are not in order")
    if not texts or ranks.text_to_image.min() < 1 or ranks.image_to_text.min() < 0:
        raise ValueError("ranks begin at 1")
    return ranks
