"""The middle of a cleaning job: from the signatures of all units to what goes, and which texts move to which record.

The order of the rules is part of the result: leakage, repeated captions, equal images, near images, near texts. A
rule sees only what is left by those before it, so that of two equal images one with texts stays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from wenlan_jax.prepare.clean import rules, signatures, survey
from wenlan_jax.prepare.clean.options import CleanOptions
from wenlan_jax.prepare.clean.shards import CleanError
from wenlan_jax.util import json_files

REASONS = (
    "kept", "leakage_image", "leakage_text", "repeated_text", "repeated_template", "no_text_left", "equal_image",
    "near_image", "near_text",
)  # fmt: skip
"""What the codes of `Decisions` stand for."""
Find = Callable[[rules.CleanRule, rules.Rows, Bool[np.ndarray, " rows"]], np.ndarray]
"""Runs a rule over the living rows of a table, as `search.find`."""


@dataclasses.dataclass(frozen=True)
class Decisions:
    """Codes and witnesses of all rows, where units begin, and moves of texts.

    `images` and `texts` are indices of REASONS; the witnesses are positions, -1 for none. `moves` are
    (position of the record that stays, position of its equal whose texts it takes), sorted.
    """

    images: UInt8[np.ndarray, " images"]
    texts: UInt8[np.ndarray, " texts"]
    image_witnesses: Int[np.ndarray, " images"]
    text_witnesses: Int[np.ndarray, " texts"]
    image_starts: Int[np.ndarray, " units_and_end"]
    text_firsts: Int[np.ndarray, " images_and_end"]
    moves: Int[np.ndarray, "moves 2"]

    def save(self, directory: Path) -> None:
        """Writes each array into `directory`, so that `load` need not read them whole."""
        directory.mkdir(exist_ok=True)
        for field in dataclasses.fields(self):
            np.save(directory / f"{field.name}.npy", getattr(self, field.name))

    @staticmethod
    def load(directory: Path) -> Decisions:
        """The decisions as memory maps."""
        names = [field.name for field in dataclasses.fields(Decisions)]
        return Decisions(**{name: _map(directory / f"{name}.npy") for name in names})


class Decider:
    """Applies the rules in turn to the joined tables of all units."""

    def __init__(self, image_table: rules.Rows, text_table: rules.Rows, find: Find) -> None:
        self._tables = {"images": image_table, "texts": text_table}
        self._find = find
        self._codes = {name: np.zeros(len(table), np.uint8) for name, table in self._tables.items()}
        self._witnesses = {name: np.full(len(table), -1, np.int64) for name, table in self._tables.items()}
        counts = image_table["texts"]
        self._firsts = np.r_[0, np.cumsum(counts, dtype=np.int64)]
        self._moves = np.zeros((0, 2), np.int64)

    def run(self, chosen: CleanOptions, image_starts: Sequence[int]) -> Decisions:
        """All decisions under `chosen`; `image_starts` are the first positions of the units, and the end."""
        for rule in _rules(chosen):
            self._apply(rule, chosen)
            self._drop_bare()
        return Decisions(
            self._codes["images"], self._codes["texts"], self._witnesses["images"], self._witnesses["texts"],
            np.asarray(image_starts), self._firsts, self._moves,
        )  # fmt: skip

    def _apply(self, rule: rules.CleanRule, chosen: CleanOptions) -> None:
        found = self._find(rule, self._tables[rule.table], self._alive(rule))
        self._codes[rule.table][found["position"]] = REASONS.index(rule.reason)
        self._witnesses[rule.table][found["position"]] = found["witness"]
        if rule.reason == "equal_image" and chosen.duplicates.merge_texts:
            moves = np.stack([found["witness"], found["position"]], axis=1)
            self._moves = moves[np.lexsort((moves[:, 1], moves[:, 0]))]

    def _alive(self, rule: rules.CleanRule) -> Bool[np.ndarray, " rows"]:
        """Rows that take part: nothing dropped, no text of a dropped record, evaluation sets only where they count."""
        table = self._tables[rule.table]
        alive = self._codes[rule.table] == 0
        if rule.table == "texts":
            alive &= np.repeat(self._record_speaks(), self._tables["images"]["texts"])
        else:
            alive &= table["seen"]
        if not (isinstance(rule, rules.DropNear) and rule.leakage):
            alive &= table["role"] != signatures.EVALUATION
        if isinstance(rule, rules.DropRepeated):
            alive &= table[rule.field].any(axis=1)
        return alive

    def _record_speaks(self) -> Bool[np.ndarray, " images"]:
        """Records whose texts are still in the game: those that stay, and those whose texts another one takes."""
        speaks = self._codes["images"] == 0
        keepers, movers = self._moves.T
        speaks[movers] = speaks[keepers]
        return speaks

    def _drop_bare(self) -> None:
        """Drops records that have lost all their texts, unless they take some over."""
        left = np.r_[0, np.cumsum(self._codes["texts"] == 0, dtype=np.int64)]
        counts = left[self._firsts[1:]] - left[self._firsts[:-1]]
        np.add.at(counts, self._moves[:, 0], counts[self._moves[:, 1]])
        table = self._tables["images"]
        bare = (counts == 0) & table["needs_text"] & (table["role"] != signatures.EVALUATION)
        self._codes["images"][bare & (self._codes["images"] == 0)] = REASONS.index("no_text_left")


def decide(chosen: CleanOptions, directory: Path, units: int, find: Find) -> Decisions:
    """Joins the tables that the survey left, and decides which items go.

    Args:
        chosen: the options of the job.
        directory: of the job.
        units: how many there are.
        find: finds what goes under a rule.

    Returns:
        The decisions.
    """
    layout = signatures.SignatureLayout.of(chosen)
    files = [survey.tables(directory, number) for number in range(units)]
    image_table = _joined([pair[0] for pair in files], directory / "image_checks.npy", layout.images)
    text_table = _joined([pair[1] for pair in files], directory / "texts.npy", layout.texts)
    starts = np.r_[0, np.cumsum([len(_map(pair[0])) for pair in files])]
    return Decider(image_table, text_table, find).run(chosen, starts.tolist())


def _rules(chosen: CleanOptions) -> Iterator[rules.CleanRule]:
    """The rules that are on, in their order."""
    leakage, repeats, duplicates = chosen.leakage, chosen.repeats, chosen.duplicates
    if leakage.image_distance >= 0:
        yield rules.DropNearImages("leakage_image", True, leakage.image_distance, duplicates.colour_distance)
    if leakage.text_similarity > 0:
        yield rules.DropNearTexts("leakage_text", True, leakage.text_similarity)
    if repeats.max_images:
        yield rules.DropRepeated("repeated_text", "digest", repeats.max_images, distinct=False)
    if repeats.max_template_images:
        yield rules.DropRepeated("repeated_template", "template", repeats.max_template_images, distinct=True)
    if duplicates.exact_images:
        yield rules.DropEqual("equal_image", "images")
    if duplicates.image_distance >= 0:
        yield rules.DropNearImages("near_image", False, duplicates.image_distance, duplicates.colour_distance)
    if duplicates.texts == "all":
        yield rules.DropNearTexts("near_text", False, duplicates.text_similarity)


def _joined(files: Sequence[Path], path: Path, dtype: np.dtype[Any]) -> rules.Rows:
    """All tables as one file, read as a memory map."""
    parts = [_map(file) for file in files]
    length = sum(len(part) for part in parts)
    if not length:
        return np.zeros(0, dtype)
    whole = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(length,))
    start = 0
    for part in parts:
        whole[start : start + len(part)] = part
        start += len(part)
    whole.flush()
    del whole
    return _map(path)


def _map(path: Path) -> np.ndarray:
    try:
        return json_files.read_array(path, mapped=True)
    except json_files.NoteError as error:
        raise CleanError(f"{error}; remove that unfinished work and repeat the command") from error
