"""What the search for duplicates knows of an image or a text: fixed-size rows, kept in .npy files of each unit.

Glossary: a *position* is the row number in the table of all units, which are in the order of precedence: evaluation
sets, then protected splits, then the rest, each as the sources were named. Of two equal items the one with the lower
position stays.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt32, UInt64

from wenlan_jax.prepare.clean import image_checks, patterns, texts
from wenlan_jax.prepare.clean.errors import MissingPackageError
from wenlan_jax.prepare.clean.options import CleanOptions

EVALUATION, PROTECTED, TRAINING = 0, 1, 2
"""Roles of an item: of a named evaluation set, of a split that counts as one, or trained on."""
_MINHASH_SEED = 1


@dataclasses.dataclass(frozen=True)
class SignatureLayout:
    """The row types under some options. `minhash` and `template` are left out when no step reads them."""

    hash_words: int
    permutations: int

    @staticmethod
    def of(chosen: CleanOptions) -> SignatureLayout:
        """Makes the row types for some options."""
        near = chosen.duplicates.texts != "off" or chosen.leakage.text_similarity > 0
        return SignatureLayout(chosen.duplicates.hash_side**2 // 64, chosen.duplicates.permutations if near else 0)

    @property
    def images(self) -> np.dtype[Any]:
        """One row a record. `texts`: rows of the text table that belong to it; `seen`: it has an image."""
        return np.dtype(
            [
                ("role", "u1"), ("seen", "?"), ("needs_text", "?"), ("texts", "<u4"), ("digest", "<u8", 2),
                ("hash", "<u8", (self.hash_words,)), ("colours", "u1", (image_checks.COLOURS,)),
            ]
        )  # fmt: skip

    @property
    def texts(self) -> np.dtype[Any]:
        """One row a text that passed the filters. `image`: row of its record in the unit; `image_digest` is its."""
        return np.dtype(
            [
                ("role", "u1"), ("image", "<u4"), ("digest", "<u8", 2), ("template", "<u8", 2),
                ("image_digest", "<u8", 2), ("minhash", "<u4", (self.permutations,)),
            ]
        )  # fmt: skip


class TextSigner:
    """Digest, template digest and MinHash of texts."""

    def __init__(self, chosen: CleanOptions) -> None:
        self._shingle, self._min_letters = chosen.duplicates.shingle, chosen.duplicates.min_letters
        self._permutations = SignatureLayout.of(chosen).permutations
        self._masks = [re.compile(mask) for mask in chosen.repeats.masks]
        self._fixed = chosen.repeats.min_fixed

    def digest(self, text: str) -> UInt64[np.ndarray, " 2"]:
        """128 bits of the letters and digits of a text."""
        return _digest(texts.essence(text))

    def template(self, text: str) -> UInt64[np.ndarray, " 2"]:
        """128 bits of a text without numbers and names; zeros when too little else is in it, or nothing was masked."""
        masked = text
        for mask in self._masks:
            masked = mask.sub("\x00", masked)
        fixed = patterns.NOT_LETTERS.sub("", masked.replace("\x00", ""))
        if masked == text or len(fixed) < self._fixed:
            return np.zeros(2, np.uint64)
        return _digest("template:" + masked)

    def minhashes(self, values: Sequence[str]) -> UInt32[np.ndarray, "texts permutations"]:
        """The MinHash (Broder, 1997) of the character n-grams of each text, by datasketch."""
        if not self._permutations or not values:
            return np.zeros((len(values), self._permutations), np.uint32)
        return np.stack([self._minhash(texts.essence(value)) for value in values]).astype(np.uint32)

    def _minhash(self, value: str) -> np.ndarray:
        found = _empty_minhash(self._permutations).copy()  # which shares the permutations, dear to make
        found.update_batch([piece.encode("utf-8", errors="surrogatepass") for piece in self._shingles(value)])
        return np.asarray(found.hashvalues)

    def _shingles(self, value: str) -> Iterable[str]:
        if len(value) < self._min_letters:
            return {value}
        count = max(1, len(value) - self._shingle + 1)
        return {value[start : start + self._shingle] for start in range(count)}


def similarity(
    one: UInt32[np.ndarray, "*#texts permutations"], other: UInt32[np.ndarray, "*#texts permutations"]
) -> Float64[np.ndarray, "*#texts"]:
    """The estimated Jaccard similarity of pairs of texts, row by row."""
    return np.asarray((one == other).mean(axis=-1))


@functools.cache
def lsh_bands(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows of each) by which MinHash finds pairs of similarity `threshold`, misses weighing most."""
    _minhash_class()
    import datasketch

    index = datasketch.MinHashLSH(threshold=threshold, num_perm=permutations, weights=(0.1, 0.9))
    return int(index.b), int(index.r)


@functools.cache
def _empty_minhash(permutations: int) -> Any:
    made = _minhash_class()
    return made(num_perm=permutations, seed=_MINHASH_SEED, scheme="affine32", gpu_mode="disable")


def check(options: CleanOptions) -> None:
    """Checks that the package that the options need is installed.

    Args:
        options: of the job.

    Raises:
        MissingPackageError: if it is not.
    """
    if SignatureLayout.of(options).permutations:
        _minhash_class()


def _minhash_class() -> Any:
    try:
        import datasketch
    except ImportError as error:
        raise MissingPackageError(
            "near-equal texts need datasketch: install wenlan_jax[clean], or set "
            "--config.duplicates.texts=off --config.leakage.text_similarity=0"
        ) from error
    return datasketch.MinHash


def _digest(value: str) -> UInt64[np.ndarray, " 2"]:
    data = value.encode("utf-8", errors="surrogatepass")
    return np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), "<u8").astype(np.uint64)
