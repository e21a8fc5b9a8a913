"""The rank of the truth for every query of a split: `ranks_<split>.npz` beside `result.json`.

Recall, and the paired comparison of two runs query by query, can be computed from it. Ranks and ties are those of
`retrieval.truth_ranks`.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped, UInt32


class RanksError(ValueError):
    """A file of ranks that is not whole."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks count from 1.

    image_to_text: of the best true text of each picture; 0 where it has none and is no query. text_to_image: of the
    true picture of each text. picture: the row of that picture. language: of the text. text: CRC-32 of the text, by
    which two runs are seen to have had the same queries.
    """

    image_to_text: Int64[np.ndarray, " images"]
    text_to_image: Int64[np.ndarray, " texts"]
    picture: Int64[np.ndarray, " texts"]
    language: Shaped[np.ndarray, " texts"]
    text: UInt32[np.ndarray, " texts"]

    def same_queries(self, other: Ranks) -> bool:
        """Whether both are of the same texts about the same pictures, in the same order."""
        return (
            len(self.image_to_text) == len(other.image_to_text)
            and np.array_equal(self.picture, other.picture)
            and np.array_equal(self.language, other.language)
            and np.array_equal(self.text, other.text)
        )


def of_queries(
    image_to_text: Int64[np.ndarray, " images"],
    text_to_image: Int64[np.ndarray, " texts"],
    picture: Int64[np.ndarray, " texts"],
    languages: Sequence[str],
    texts: Sequence[str],
) -> Ranks:
    """The ranks of a split with what tells its queries apart."""
    checksums = np.array([zlib.crc32(text.encode()) for text in texts], np.uint32)
    return Ranks(image_to_text, text_to_image, picture.astype(np.int64), np.array(languages), checksums)


def path(folder: Path, split: str) -> Path:
    """Where the ranks of `split` lie in the directory of a run or of an evaluation."""
    return folder / f"ranks_{split}.npz"


def write(folder: Path, split: str, ranks: Ranks) -> None:
    """Writes the ranks of `split` into `folder`; the file appears whole."""
    final = path(folder, split)
    fresh = final.with_suffix(".tmp")
    with fresh.open("wb") as file:
        np.savez_compressed(file, **{name.name: getattr(ranks, name.name) for name in dataclasses.fields(ranks)})
    os.replace(fresh, final)


def read(folder: Path, split: str) -> Ranks:
    """What `write` wrote. Raises RanksError where the file is missing or not whole."""
    place = path(folder, split)
    try:
        with np.load(place, allow_pickle=False) as arrays:
            return Ranks(**{name.name: arrays[name.name] for name in dataclasses.fields(Ranks)})
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RanksError(f"{place}: not a whole file of ranks ({error}); evaluate the run again") from error
