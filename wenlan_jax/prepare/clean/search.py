"""Brings rows with a common key together on one machine, in bounded memory, and lets a rule decide.

Keys and positions are spread over files by key, so that each file is sorted in memory by itself; rows are read where
they lie. Memory is at most the stated limit plus one byte a row. The result is the same for every limit.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from wenlan_jax.prepare.clean import rules

FOUND = np.dtype([("position", "<i8"), ("witness", "<i8")])
_ENTRY = np.dtype([("key", "<u8"), ("position", "<i8")])
_CHUNK = 1 << 14
_SORTING = 4
"""Times the size of a file that sorting it takes."""


def find(
    rule: rules.CleanRule, table: rules.Rows, alive: Bool[np.ndarray, " rows"], scratch: Path, memory: int
) -> np.ndarray:
    """Finds the living rows of a table that go under a rule.

    Args:
        rule: the rule.
        table: may be a memory map.
        alive: rows that take part.
        scratch: a directory for temporary files, removed again.
        memory: bytes.

    Returns:
        FOUND rows in order of position, with their first witness.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        files = _spread(rule, table, alive, scratch, memory)
        parts = [part for file in files for part in _decide_file(rule, table, file)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return first_witness(np.concatenate(parts) if parts else np.zeros(0, FOUND))


def first_witness(found: np.ndarray) -> np.ndarray:
    """One row a position, that of the lowest witness, in order of position."""
    ordered = found[np.lexsort((found["witness"], found["position"]))]
    _, first = np.unique(ordered["position"], return_index=True)
    return ordered[first]


def _spread(
    rule: rules.CleanRule, table: rules.Rows, alive: Bool[np.ndarray, " rows"], scratch: Path, memory: int
) -> list[Path]:
    width = rule.keys(np.zeros(1, table.dtype)).shape[1]
    total = int(alive.sum()) * width * _ENTRY.itemsize
    count = min(1 + total * _SORTING // memory, 512)
    files = [scratch / f"{number:04d}" for number in range(count)]
    handles = [file.open("wb") for file in files]
    try:
        for entries in _entries(rule, table, alive):
            # The top bits of a product: keys such as digests differ in all their bits, but no rule promises it.
            home = ((entries["key"] * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)) % np.uint64(count)
            for number in np.unique(home):
                entries[home == number].tofile(handles[int(number)])
    finally:
        for handle in handles:
            handle.close()
    return files


def _entries(rule: rules.CleanRule, table: rules.Rows, alive: Bool[np.ndarray, " rows"]) -> Iterator[np.ndarray]:
    for start in range(0, len(table), _CHUNK):
        positions = start + np.flatnonzero(alive[start : start + _CHUNK])
        if not len(positions):
            continue
        keys = rule.keys(np.asarray(table[positions]))
        entries = np.empty(keys.shape, _ENTRY)
        entries["key"], entries["position"] = keys, positions[:, None]
        yield entries.ravel()


def _decide_file(rule: rules.CleanRule, table: rules.Rows, file: Path) -> Iterator[np.ndarray]:
    entries = np.fromfile(file, _ENTRY)
    if not len(entries):
        return
    entries = entries[np.lexsort((entries["position"], entries["key"]))]
    starts = np.r_[0, 1 + np.flatnonzero(entries["key"][1:] != entries["key"][:-1])]
    ends = np.r_[starts[1:], len(entries)]
    shared = ends - starts > 1
    for start, end in zip(starts[shared], ends[shared], strict=True):
        positions = entries["position"][start:end]
        found = decided(rule, positions, np.asarray(table[positions]))
        if len(found):
            yield found


def decided(rule: rules.CleanRule, positions: np.ndarray, rows: rules.Rows) -> np.ndarray:
    """Applies a rule to one group, with positions for indices."""
    witnesses = rule.decide(rows)
    gone = np.flatnonzero(witnesses >= 0)
    found = np.empty(len(gone), FOUND)
    found["position"], found["witness"] = positions[gone], positions[witnesses[gone]]
    return found
