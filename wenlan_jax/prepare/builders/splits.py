"""How the published sets say which split an item belongs to. A rule reads its lists once and then answers by item.

A rule returns "" for an item that no list names.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from pathlib import Path

from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.formats import coco, files
from wenlan_jax.prepare.raw_items import Item

SplitRule = Callable[[Path], Callable[[Item], str]]
"""From the directory of the published files to the split of each item."""

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def named() -> SplitRule:
    """The split that the item names, as Karpathy's files and Multi30K do."""
    return lambda root: lambda item: item.split


def first(count: int, split: str, rest: str) -> SplitRule:
    """The first `count` items of the file are one split, the others another."""
    return lambda root: lambda item: split if item.number <= count else rest


def listed(lists: Mapping[str, str]) -> SplitRule:
    """By files of image names, one a line, without a suffix; `lists` gives the file of each split."""

    def rule(root: Path) -> Callable[[Item], str]:
        splits = {
            line.strip(): split
            for split, name in lists.items()
            for line in files.lines(str(root / name), "utf-8")
            if line.strip()
        }
        return lambda item: splits.get(posixpath.splitext(posixpath.basename(item.image))[0], "")

    return rule


def karpathy(name: str) -> SplitRule:
    """By the file of Karpathy's splits of the same images."""

    def rule(root: Path) -> Callable[[Item], str]:
        read = coco.read_karpathy((str(root / name),), raw_items.ReadOptions())
        splits = {posixpath.basename(item.image): item.split for item in read if isinstance(item, Item)}
        return lambda item: splits.get(posixpath.basename(item.image), "")

    return rule
