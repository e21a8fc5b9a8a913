"""Masked words and masked regions: which places, and what stands there instead (BERT; UNITER's figures)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from wenlan_jax.data.text import Tokenizer, WordPiece
from wenlan_jax.util.errors import WenlanError

MASKED, RANDOM = 0.8, 0.1
"""Shares of the chosen words that become `[MASK]` and another piece; the rest stay as they are (BERT)."""


class MaskingError(WenlanError, ValueError):
    """A tokenizer that words cannot be masked with, or numbers that make no sense."""


class MaskedWords(NamedTuple):
    """A text with words masked, and what was there.

    Attributes:
        token_ids: the text with masked words.
        places: indices of the words to guess, then padding.
        ids: the original ids at `places`, then padding.
        valid: True for the first of `places`, False for padding.
    """

    token_ids: Int32[np.ndarray, " length"]
    places: Int32[np.ndarray, " masked"]
    ids: Int32[np.ndarray, " masked"]
    valid: Bool[np.ndarray, " masked"]


@dataclasses.dataclass(frozen=True)
class WordMasking:
    """How words are chosen to be guessed, and hidden.

    Attributes:
        probability: of every piece between the first and the last token to be chosen; where none is, the first is and
            becomes `[MASK]` (UNITER).
        limit: chosen pieces that are kept at most; those beyond, drawn evenly, stay as they are and are not guessed.
        mask_id: of `[MASK]`.
        low: the lowest id of a random piece.
        high: random pieces have ids below it.

    Raises:
        MaskingError: for numbers that make no sense.
    """

    probability: float
    limit: int
    mask_id: int
    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1 or self.limit < 1 or not 0 <= self.low < self.high:
            raise MaskingError(
                "masked words: a probability in [0, 1], a limit of at least 1 and ids low < high are needed, got "
                f"{self.probability}, {self.limit}, {self.low} and {self.high}"
            )

    def hide(
        self,
        token_ids: Int32[np.ndarray, " length"],
        token_mask: Bool[np.ndarray, " length"],
        random: np.random.Generator,
    ) -> MaskedWords:
        """Masks words of one text; a text without any is left as it is.

        Args:
            token_ids: left-aligned, as a tokenizer encodes it.
            token_mask: which tokens are real.
            random: what is drawn from.

        Returns:
            The masked text, and what was there.
        """
        words = np.arange(1, token_mask.sum() - 1)
        drawn, hidden = random.random((2, len(words)))
        chosen = np.flatnonzero(drawn < self.probability)
        if not len(chosen) and len(words):
            chosen, hidden = np.zeros(1, np.int64), np.zeros(1)
        chosen = np.sort(random.permutation(chosen)[: self.limit])
        places, hidden = words[chosen], hidden[chosen]
        others = random.integers(self.low, self.high, len(places))
        shown = np.where(hidden < MASKED, self.mask_id, np.where(hidden < MASKED + RANDOM, others, token_ids[places]))
        masked = token_ids.copy()
        masked[places] = shown
        valid = np.arange(self.limit) < len(places)
        return MaskedWords(masked, self._padded(places), self._padded(token_ids[places]), valid)

    def _padded(self, values: np.ndarray) -> Int32[np.ndarray, " masked"]:
        padded = np.zeros(self.limit, np.int32)
        padded[: len(values)] = values
        return padded


def word_masking(tokenizer: Tokenizer, probability: float, limit: int) -> WordMasking:
    """Makes masking with the ids of a tokenizer.

    Args:
        tokenizer: the tokenizer.
        probability: see `WordMasking`.
        limit: see `WordMasking`.

    Returns:
        The masking.

    Raises:
        MaskingError: if the tokenizer has no `[MASK]` or no ordinary pieces.
    """
    if tokenizer.mask_id is None:
        raise MaskingError(
            "the tokenizer has no [MASK]; train one with `wenlan vocab`, or leave objective 'mlm' out of "
            "pretrain.objectives"
        )
    return WordMasking(probability, limit, tokenizer.mask_id, *ordinary_pieces(tokenizer))


def ordinary_pieces(tokenizer: Tokenizer) -> tuple[int, int]:
    """Finds the range of ids that random pieces are drawn from.

    Of word pieces those from `!` on, as in UNITER: before it BERT's vocabularies have special and unused pieces. Else
    those between the special pieces at the start of the vocabulary and a `[MASK]` at its end.

    Args:
        tokenizer: the tokenizer.

    Returns:
        The lowest id, and the id after the highest: (4, 250001) for XLM-R.

    Raises:
        MaskingError: if nothing is left.
    """
    last = tokenizer.size - 1
    begin, end = tokenizer.encode([""], 2)[0][0].tolist()
    specials = {tokenizer.pad_id, begin, end, tokenizer.mask_id, _unknown(tokenizer)} - {None, last}
    low = 1 + max(number for number in specials if number is not None)
    if isinstance(tokenizer, WordPiece) and (mark := tokenizer.encode(["!"], 3)[0][0, 1]) not in specials:
        low = max(low, int(mark))
    high = last if tokenizer.mask_id == last else tokenizer.size
    if low >= high:
        raise MaskingError(f"the tokenizer has {tokenizer.size} pieces, none of them after the special ones")
    return low, high


def _unknown(tokenizer: Tokenizer) -> int | None:
    """The id of the piece for unknown characters; None where they become bytes."""
    meaningless = [chr(0x10FFFC), chr(0x10FFFD)]
    ids, mask = tokenizer.encode(meaningless, 8)
    one, other = (int(row[there][-2]) for row, there in zip(ids, mask, strict=True))
    return one if one == other else None


def hide_regions(
    region_mask: Bool[np.ndarray, " regions"], probability: float, random: np.random.Generator
) -> Bool[np.ndarray, " regions"]:
    """Chooses the regions to hide, one at least.

    Args:
        region_mask: which regions are there.
        probability: of each region to be hidden; where none is, one is drawn evenly.
        random: what is drawn from.

    Returns:
        True for hidden regions.
    """
    hidden: Bool[np.ndarray, " regions"] = region_mask & (random.random(len(region_mask)) < probability)
    if not hidden.any() and region_mask.any():
        hidden[random.choice(np.flatnonzero(region_mask))] = True
    return hidden
