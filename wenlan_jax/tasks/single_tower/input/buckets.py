"""Buckets: pairs of about the same lengths, which are padded to the same shape. One program is compiled for each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from wenlan_jax.tasks.single_tower.input.lengths import Lengths

Rows = Int32[np.ndarray, " rows"]
Images = Int32[np.ndarray, " images"]
AnyRows = Int32[np.ndarray, " _rows"]
"""One of several numbers of rows."""


class Shape(NamedTuple):
    """What the pairs of a bucket are padded to.

    Attributes:
        tokens: of a text.
        regions: of an image.
    """

    tokens: int
    regions: int


class Bucket(NamedTuple):
    """Rows of a source whose texts in a language and whose regions fit a shape.

    Attributes:
        shape: what they are padded to.
        rows: ascending.
    """

    shape: Shape
    rows: Rows


def divide(
    lengths: Lengths, language: str, text_buckets: Sequence[int], region_buckets: Sequence[int], least: int
) -> list[Bucket]:
    """Divides the usable rows of a language into buckets.

    Each row goes into the smallest bucket it fits, or into the largest, where it is cut later. A bucket of fewer than
    `least` rows joins the next larger one: of more regions, or else of longer texts. The largest is filled up from the
    one before it. Only a language of fewer rows in all has a smaller bucket.

    Args:
        lengths: of the records.
        language: of the texts.
        text_buckets: numbers of tokens, ascending.
        region_buckets: numbers of regions, ascending.
        least: the fewest rows of a bucket.

    Returns:
        The buckets; none if no row is usable.
    """
    rows = lengths.usable(language).astype(np.int32)  # half the memory, in every data worker
    if not len(rows):
        return []
    texts = _smallest(lengths.of(language)[rows], text_buckets)
    regions = _smallest(lengths.regions[rows], region_buckets)
    places = list(itertools.product(range(len(text_buckets)), range(len(region_buckets))))
    pools = {(t, r): rows[(texts == t) & (regions == r)] for t, r in places}
    for t, r in places[:-1]:
        if len(pools[t, r]) < least:
            larger = (t, r + 1) if r + 1 < len(region_buckets) else (t + 1, r)
            pools[larger] = np.concatenate([pools[larger], pools.pop((t, r))])
    _fill_largest(pools, least)
    return [Bucket(Shape(text_buckets[t], region_buckets[r]), np.sort(pool)) for (t, r), pool in pools.items()]


def by_regions(found: Sequence[Bucket]) -> dict[int, AnyRows]:
    """Joins the buckets of equal numbers of regions.

    Args:
        found: buckets of one language.

    Returns:
        Their rows, ascending, by the number of regions.
    """
    sizes = {bucket.shape.regions for bucket in found}
    return {size: np.sort(np.concatenate([rows for shape, rows in found if shape.regions == size])) for size in sizes}


def _smallest(lengths: np.ndarray, buckets: Sequence[int]) -> Int64[np.ndarray, " rows"]:
    """The number of the smallest bucket that each length fits, of the largest for those that fit none."""
    return np.minimum(np.searchsorted(buckets, lengths), len(buckets) - 1)


def _fill_largest(pools: dict[tuple[int, int], AnyRows], least: int) -> None:
    """Gives the last of `pools` rows of the one before it, all of them where too few would be left; none if empty."""
    *others, largest = pools
    needed = least - len(pools[largest])
    if not len(pools[largest]):
        del pools[largest]
    elif others and needed > 0:
        before = pools.pop(others[-1])
        kept = len(before) - needed if len(before) - needed >= least else 0
        if kept:
            pools[others[-1]] = before[:kept]
        pools[largest] = np.concatenate([pools.pop(largest), before[kept:]])
