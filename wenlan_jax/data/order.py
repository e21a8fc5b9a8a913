"""The order of the data: which rows make up the batch of a step, as a pure function of (seed, step).

Nothing here has a state. Index glossary:

- step: number of a global batch, from 0.
- position: number of an example in the endless training sequence, `step * batch_size + i`.
- epoch: `position // length`; every epoch is its own permutation of all rows.
- row: number of a record in its source, in `[0, length)`.
- part: one of the sources of a mixture; `Interleave` says which part a position falls to, and as which of its examples.

Resuming at a step therefore needs the step alone, and any number of hosts sees the same global batches, of which each
takes its share.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import heapq
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int64, UInt64

ROUNDS = 24
"""Feistel rounds, an even number. Large domains need few; the halves of a small one hold a bit or two, and
with 8 rounds some orders of six rows come twice as often as they should. 24 pass a chi-square test."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUND_KEYS = np.arange(ROUNDS, dtype=np.uint64) * _GOLDEN


def _mix(x: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64 bits that looks random."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _feistel(x: UInt64[np.ndarray, " n"], key: UInt64[np.ndarray, " n"], bits: int) -> UInt64[np.ndarray, " n"]:
    """A keyed permutation of `[0, 2**bits)`: rounds that swap two halves, uneven if `bits` is odd."""
    low_bits, high_bits = bits // 2, bits - bits // 2
    for round_key in _ROUND_KEYS:
        low_mask = np.uint64((1 << low_bits) - 1)
        high_mask = np.uint64((1 << high_bits) - 1)
        low, high = x & low_mask, x >> np.uint64(low_bits)
        scrambled = _mix(low + key + round_key)
        x = (low << np.uint64(high_bits)) | ((high ^ scrambled) & high_mask)
        low_bits, high_bits = high_bits, low_bits
    return x


def permute(
    index: int | Int[np.ndarray, "*indices"], length: int, seed: int, epoch: int | Int[np.ndarray, "*epochs"]
) -> Int64[np.ndarray, "*shape"]:
    """Permutes indices, each epoch in its own way.

    A Feistel network over the next power of two, walked along its cycle until it lands inside the range
    (format-preserving encryption: Black and Rogaway, 2002), so it is exactly bijective for every length.

    Args:
        index: indices in [0, length).
        length: of the range.
        seed: names the permutations, with `epoch`.
        epoch: from 0; broadcast against `index`.

    Returns:
        The image of each index, int64.

    Raises:
        ValueError: for a length below 1 or an index outside the range.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}.")
    index, epoch = np.broadcast_arrays(np.asarray(index, np.int64), np.asarray(epoch, np.int64))
    if index.size and (index.min() < 0 or index.max() >= length):
        raise ValueError(f"index must lie in [0, {length}), got {index.min()} to {index.max()}.")
    bits = max(1, (length - 1).bit_length())
    rows = index.astype(np.uint64).ravel()
    seed_key = _mix(np.full(1, seed, np.uint64) + _GOLDEN)
    key = _mix(seed_key + (epoch.astype(np.uint64).ravel() + np.uint64(1)) * _GOLDEN)
    outside = np.arange(rows.size)
    while outside.size:
        rows[outside] = _feistel(rows[outside], key[outside], bits)
        outside = outside[rows[outside] >= length]
    return rows.astype(np.int64).reshape(index.shape)


@dataclasses.dataclass(frozen=True)
class Order:
    """The endless sequence of rows of a source: one permutation per epoch.

    Every epoch covers the rows exactly once; a batch may hold the end of one epoch and the start of the next.

    Attributes:
        length: the number of records.
        seed: a non-negative 63-bit number.
        shuffle: whether rows are permuted; else they come as they are stored.

    Raises:
        ValueError: for an empty source or a seed out of range.
    """

    length: int
    seed: int
    shuffle: bool

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"The training source holds {self.length} records; at least 1 is needed.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in [0, 2**63), got {self.seed}.")

    def rows(self, step: int, batch_size: int) -> tuple[Int64[np.ndarray, " batch"], Int64[np.ndarray, " batch"]]:
        """Says which rows make up a batch.

        Args:
            step: number of the global batch.
            batch_size: of the global batch.

        Returns:
            The row numbers and the positions, in the order of the batch.

        Raises:
            ValueError: for a negative step or an empty batch.
        """
        if step < 0 or batch_size < 1:
            raise ValueError(f"step must be >= 0 and batch_size >= 1, got {step} and {batch_size}.")
        positions = np.int64(step) * batch_size + np.arange(batch_size, dtype=np.int64)
        return self.at(positions), positions

    def at(self, positions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Returns the row number at each of some positions of the sequence."""
        epoch, index = np.divmod(positions, self.length)
        return permute(index, self.length, self.seed, epoch) if self.shuffle else index


LARGEST_TOTAL = 2**31 - 1
"""The sum of an `Interleave`'s weights at most: products of two such numbers fit 64 bits."""


class _Pair(NamedTuple):
    """Two subtrees, each a part or a pair, with the weight of the first and of both."""

    left: int | _Pair
    right: int | _Pair
    weight: int
    total: int


_Tree = int | _Pair


@dataclasses.dataclass(frozen=True)
class Interleave:
    """Which part each position of the endless sequence falls to, in shares of exactly `weights`.

    A binary tree halves the sequence: of the first p positions that reach a node of weight t, its first branch, of
    weight a, gets p a / t, rounded to the nearest. The tree is Huffman's, in which a branch that is no leaf has at
    most two thirds of its node, so that the roundings of all levels add up to less than 2: of any first p positions
    part i gets p w_i / sum(w) examples up to less than 2, and of the first sum(w) exactly w_i. Nothing is stored and
    nothing drifts, so an example costs the same at any position.

    Attributes:
        weights: positive whole numbers that add up to at most `LARGEST_TOTAL`.

    Raises:
        ValueError: for other weights.
    """

    weights: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.weights or min(self.weights) < 1 or sum(self.weights) > LARGEST_TOTAL:
            raise ValueError(f"weights must be positive whole numbers of sum <= {LARGEST_TOTAL}, got {self.weights}.")

    @functools.cached_property
    def _tree(self) -> _Tree:
        number = itertools.count()
        heap: list[tuple[int, int, _Tree]] = [(weight, next(number), part) for part, weight in enumerate(self.weights)]
        heapq.heapify(heap)
        while len(heap) > 1:
            (light, _, right), (heavy, _, left) = heapq.heappop(heap), heapq.heappop(heap)
            heapq.heappush(heap, (light + heavy, next(number), _Pair(left, right, heavy, light + heavy)))
        return heap[0][2]

    def split(self, positions: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Splits positions among the parts.

        Args:
            positions: of the sequence.

        Returns:
            The part that each position falls to, and which example of that part it is, from 0.
        """
        parts, examples = np.zeros_like(positions), np.zeros_like(positions)
        pending: list[tuple[_Tree, Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]] = [
            (self._tree, np.arange(positions.size), positions)
        ]
        while pending:
            tree, places, reached = pending.pop()
            if isinstance(tree, int):
                parts[places], examples[places] = tree, reached
                continue
            left, right, weight, total = tree
            before = _portion(reached, weight, total)
            is_left = _portion(reached + 1, weight, total) > before
            pending.append((left, places[is_left], before[is_left]))
            pending.append((right, places[~is_left], (reached - before)[~is_left]))
        return parts, examples

    def counts(self, position: int) -> list[int]:
        """Counts how many of the positions before `position` fall to each part."""
        found = [0] * len(self.weights)
        pending: list[tuple[_Tree, int]] = [(self._tree, position)]
        while pending:
            tree, reached = pending.pop()
            if isinstance(tree, int):
                found[tree] = reached
            else:
                left, right, weight, total = tree
                taken = int(_portion(np.array([reached]), weight, total)[0])
                pending += [(left, taken), (right, reached - taken)]
        return found


def _portion(count: Int64[np.ndarray, " n"], weight: int, total: int) -> Int64[np.ndarray, " n"]:
    """`count * weight / total`, halves rounded up, without a product that leaves 64 bits."""
    whole, rest = np.divmod(count, total)
    return whole * weight + (2 * rest * weight + total) // (2 * total)


def whole_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Makes whole numbers of positive weights, with the same shares to nine digits.

    Args:
        weights: positive numbers.

    Returns:
        Whole numbers without a common divisor.
    """
    total = math.fsum(weights)
    scaled = [max(1, round(weight / total * 10**9)) for weight in weights]
    divisor = math.gcd(*scaled)
    return tuple(number // divisor for number in scaled)


def part_seed(seed: int, part: int) -> int:
    """Returns the seed of the order of part `part` of a mixture; part 0 has `seed` itself."""
    return int((seed + part * int(_GOLDEN)) % 2**63)


def stream(seed: int, name: str, position: int) -> np.random.Generator:
    """Makes the random numbers of one choice for one example.

    Streams of another name or position are independent; none depends on what was drawn before.

    Args:
        seed: of the run.
        name: of the choice, such as `"text"`.
        position: of the example in the sequence.

    Returns:
        A generator.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    entropy = (seed, int.from_bytes(digest, "little"), position)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def tempered(counts: Sequence[float], alpha: float) -> Float64[np.ndarray, " languages"]:
    """Computes probabilities in proportion to `count ** alpha` (XLM, Conneau and Lample 2019).

    Args:
        counts: how often each language comes; a count of 0 has probability 0.
        alpha: 1 follows the data, 0 makes all alike, and what lies between raises the rare.

    Returns:
        Probabilities that add up to 1.

    Raises:
        ValueError: for a negative count, or if none is positive.
    """
    numbers = np.asarray(counts, np.float64)
    if not (numbers > 0).any() or (numbers < 0).any():
        raise ValueError(f"counts must not be negative, and one must be positive; got {list(counts)}.")
    raised = np.where(numbers > 0, (numbers / numbers.max()) ** alpha, 0.0)
    return raised / raised.sum()


def language_of_step(seed: int, step: int, counts: Mapping[str, int], alpha: float) -> str:
    """Draws the language that all of a batch is in, by `tempered`: the same on every host.

    Args:
        seed: of the run.
        step: number of the batch.
        counts: texts of each language in the data; their order in the mapping does not matter.
        alpha: see `tempered`.

    Returns:
        The language.
    """
    languages = sorted(counts)
    chances = tempered([counts[language] for language in languages], alpha)
    return languages[pick(chances, stream(seed, "language of the step", step))]


def pick(chances: Float64[np.ndarray, " n"], random: np.random.Generator) -> int:
    """Draws an index with the given probabilities, by one number of `random`."""
    sums = np.cumsum(chances)
    return int(np.searchsorted(sums, random.random() * sums[-1], side="right"))
