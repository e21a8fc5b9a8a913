"""The decisions that need all records: which items are alike, and which of them go.

A rule gives each row some keys and decides within the rows that share a key, in order of position; a decision names the
*witness* because of which an item goes. Rules know neither files nor runners: `search.py` brings rows together on one
machine, `beam.py` on a cluster. A row goes when it goes in any of its groups, and its witness is the first of all, so
the result depends on no order of groups.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt64

from wenlan_jax.prepare.clean.signatures import EVALUATION, TRAINING, lsh_bands

Rows = np.ndarray[Any, np.dtype[Any]]
"""Rows of one of the two tables of `signatures.SignatureLayout`."""
Keys = UInt64[np.ndarray, "rows keys"]
Witnesses = Int[np.ndarray, " rows"]
"""Index of the witness within the group, -1 for rows that stay."""

_BLOCK = 1024
_MIXER = np.uint64(0x9E3779B97F4A7C15)


@runtime_checkable
class CleanRule(Protocol):
    """One decision."""

    @property
    def reason(self) -> str:
        """What dropped items are counted under."""
        ...

    @property
    def table(self) -> str:
        """The table that the rule reads: `images` or `texts`."""
        ...

    def keys(self, rows: Rows) -> Keys:
        """Computes the keys of each row; rows that are alike share at least one, others may share some, too."""
        ...

    def decide(self, group: Rows) -> Witnesses:
        """Decides who goes among rows with a common key, which are in order of position."""
        ...


@dataclasses.dataclass(frozen=True)
class DropEqual:
    """Drops all but the first of rows with equal digests.

    Attributes:
        reason: what dropped items are counted under.
        table: `images` or `texts`.
    """

    reason: str
    table: str

    def keys(self, rows: Rows) -> Keys:
        """Returns the first word of each digest."""
        return rows["digest"][:, :1]

    def decide(self, group: Rows) -> Witnesses:
        """Drops each row whose digest an earlier one has."""
        _, first, inverse = np.unique(group["digest"], axis=0, return_index=True, return_inverse=True)
        witness = first[inverse.ravel()]
        return np.where(witness < np.arange(len(group)), witness, -1)


@dataclasses.dataclass(frozen=True)
class DropRepeated:
    """Drops texts equal in `field` that belong to more than `limit` different images; the first is their witness.

    Those equal in `template` must also be `distinct` texts, else they are one repeated caption.

    Attributes:
        reason: what dropped items are counted under.
        field: the column that is compared.
        limit: images that a text may belong to.
        distinct: whether the texts must differ.
        table: `texts`.
    """

    reason: str
    field: str
    limit: int
    distinct: bool
    table: str = "texts"

    def keys(self, rows: Rows) -> Keys:
        """Returns the first word of each row's field."""
        return rows[self.field][:, :1]

    def decide(self, group: Rows) -> Witnesses:
        """Drops all rows of a value that is repeated too often."""
        _, inverse = np.unique(group[self.field], axis=0, return_inverse=True)
        witnesses = np.full(len(group), -1)
        for value in range(inverse.max() + 1):
            same = np.flatnonzero(inverse.ravel() == value)
            if self._goes(group[same]):
                witnesses[same] = same[0]
        return witnesses

    def _goes(self, same: Rows) -> bool:
        if len(same) <= self.limit:
            return False
        images = len(np.unique(same["image_digest"], axis=0))
        return images > self.limit and (not self.distinct or len(np.unique(same["digest"], axis=0)) > 1)


@dataclasses.dataclass(frozen=True)
class DropNear:
    """Drops rows that are near an earlier one; with `leakage`, only training rows that are near an evaluation row.

    Near an earlier row means any earlier row, whether that one stays or not: the rule is local, and the first of each
    cluster stays. Subclasses say what near is.

    Attributes:
        reason: what dropped items are counted under.
        leakage: whether training rows are compared with evaluation rows.
    """

    reason: str
    leakage: bool

    def decide(self, group: Rows) -> Witnesses:
        """Drops each row that is near an earlier one."""
        candidates, targets = self._sides(group["role"])
        witnesses = np.full(len(group), -1)
        earlier, later = np.flatnonzero(candidates), np.flatnonzero(targets)
        for start in range(0, len(later), _BLOCK):
            at = later[start : start + _BLOCK]
            witnesses[at] = self._first_near(group, earlier, at)
        return witnesses

    def _sides(self, role: np.ndarray) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
        """Which rows another one may be dropped for, and which may be dropped."""
        if self.leakage:
            return role < TRAINING, role == TRAINING
        return role != EVALUATION, role != EVALUATION

    def _first_near(self, group: Rows, earlier: np.ndarray, at: np.ndarray) -> np.ndarray:
        """The first of rows `earlier` that each of rows `at` is near to and comes after; -1: none."""
        found = np.full(len(at), -1)
        for start in range(0, len(earlier), _BLOCK):
            before = earlier[start : start + _BLOCK]
            open_ = np.flatnonzero(found < 0)
            if before[0] >= at[-1] or not len(open_):
                break
            near = self.near(group[before], group[at[open_]]) & (before[None, :] < at[open_, None])
            hit = near.any(axis=1)
            found[open_[hit]] = before[near[hit].argmax(axis=1)]
        return found

    def near(self, before: Rows, after: Rows) -> Bool[np.ndarray, "after before"]:
        """Says which rows of `after` are near which of `before`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class DropNearImages(DropNear):
    """Perceptual hashes that differ in at most `distance` bits, and mean colours by at most `colour_distance`.

    Found exactly: of `distance + 1` bands of the hash at least one has no differing bit (the pigeonhole principle), so
    each band is a key. A band of b bits makes about n / 2^b chance candidates for each of n images.

    Attributes:
        distance: bits.
        colour_distance: levels of 0 to 255.
        table: `images`.
    """

    distance: int
    colour_distance: int
    table: str = "images"

    def keys(self, rows: Rows) -> Keys:
        """Hashes each band of the perceptual hash."""
        bits = np.unpackbits(np.ascontiguousarray(rows["hash"]).view(np.uint8), axis=1)
        # Neighbouring coefficients go to different bands: they are alike in many images.
        bands = [bits[:, band :: self.distance + 1] for band in range(self.distance + 1)]
        return np.stack([_mix(np.packbits(part, axis=1), band) for band, part in enumerate(bands)], axis=1)

    def near(self, before: Rows, after: Rows) -> Bool[np.ndarray, "after before"]:
        """Compares hashes bit by bit, and the mean colours of those that are near."""
        total = np.zeros((len(after), len(before)), np.uint16)
        for word in range(before["hash"].shape[1]):
            total += np.bitwise_count(after["hash"][:, None, word] ^ before["hash"][None, :, word])
        near = total <= self.distance
        at, by = np.nonzero(near)
        apart = np.abs(after["colours"][at].astype(np.int16) - before["colours"][by]).max(axis=1, initial=0)
        near[at, by] = apart <= self.colour_distance
        return near


@dataclasses.dataclass(frozen=True)
class DropNearTexts(DropNear):
    """Texts whose estimated Jaccard similarity is at least `similarity`, among those that MinHash LSH brings together.

    Unlike images this is a search with misses, ever fewer the more alike two texts are; equal texts are never missed.

    Attributes:
        similarity: in [0, 1].
        table: `texts`.
    """

    similarity: float
    table: str = "texts"

    def keys(self, rows: Rows) -> Keys:
        """Hashes each band of the MinHash signature."""
        bands, size = lsh_bands(self.similarity, rows["minhash"].shape[1])
        parts = [np.ascontiguousarray(rows["minhash"][:, band * size : (band + 1) * size]) for band in range(bands)]
        return np.stack([_mix(part.view(np.uint8), band) for band, part in enumerate(parts)], axis=1)

    def near(self, before: Rows, after: Rows) -> Bool[np.ndarray, "after before"]:
        """Compares signatures number by number."""
        same = np.zeros((len(after), len(before)), np.uint32)
        for column in range(before["minhash"].shape[1]):
            same += after["minhash"][:, None, column] == before["minhash"][None, :, column]
        return same >= self.similarity * before["minhash"].shape[1]


def _mix(data: np.ndarray, band: int) -> UInt64[np.ndarray, " rows"]:
    """A 64-bit hash of each row of bytes, another one for each band. Equal rows have equal hashes."""
    padded = np.zeros((len(data), -(-data.shape[1] // 8) * 8), np.uint8)
    padded[:, : data.shape[1]] = data
    state = np.full(len(data), band + 1, np.uint64) * _MIXER
    for word in padded.view("<u8").T:
        state = (state ^ word) * _MIXER
        state ^= state >> np.uint64(29)
    return state
