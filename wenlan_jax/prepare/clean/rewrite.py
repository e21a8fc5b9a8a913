"""The last pass over a unit: the input is read again and what stays is written, with the texts of the first pass."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from wenlan_jax.data import records
from wenlan_jax.prepare import tfds_files
from wenlan_jax.prepare.clean import ledger, survey
from wenlan_jax.prepare.clean.decisions import REASONS, Decisions
from wenlan_jax.prepare.clean.options import CleanOptions
from wenlan_jax.prepare.clean.shards import RecordShard


class Rewrite:
    """The last pass, called with a unit: writes its part below `out`; returns its account and the split counts.

    `surveyed` holds what the first pass left, `decided` the decisions. Units of evaluation sets write nothing.
    """

    def __init__(self, chosen: CleanOptions, surveyed: Path, decided: Path, out: Path) -> None:
        self._options, self._surveyed, self._decided, self._out = chosen, surveyed, decided, out

    def __call__(self, number: int, shard: RecordShard) -> dict[str, Any]:
        book = ledger.CleanLedger(self._options.samples)
        if shard.source < 0:
            return {**book.report(), "written": {}}
        finisher = _Pass(self._surveyed, Decisions.load(self._decided), book)
        writer = tfds_files.PartWriter(self._out, number)
        kept = {line.row: index for index, line in enumerate(survey.read_kept(self._surveyed, number))}
        for row, record in enumerate(shard.read()):
            left = finisher.finish(number, kept[row], shard.split, record) if row in kept else None
            if left is not None:
                writer.add(shard.split, left)
                book.counts["records_out"][shard.split] += 1
                book.counts["texts_out"][shard.split] += len(left.texts)
        return {**book.report(), "written": writer.close()}


class _Pass:
    """The decisions about records, one after the other, and the book they are entered into."""

    def __init__(self, surveyed: Path, decisions: Decisions, book: ledger.CleanLedger) -> None:
        self._decisions, self._book = decisions, book
        self._starts = np.asarray(decisions.image_starts)
        self._kept = functools.lru_cache(maxsize=8)(functools.partial(survey.read_kept, surveyed))

    def finish(self, number: int, index: int, split: str, record: records.Record) -> records.Record | None:
        """The record as it is written, or None; `index` is its line in what the survey left of unit `number`."""
        position = int(self._starts[number]) + index
        surveyed, reason = self._kept(number)[index], REASONS[self._decisions.images[position]]
        own = list(self._surviving(position, surveyed, split, record))
        if self._moves_away(position):
            self._book.counts["texts_moved"]["all"] += len(own)
            self._drop(position, split, record, 0, reason)
            return None
        texts = self._merged(position, own, split, record)
        if reason != "kept":
            self._drop(position, split, record, len(texts), reason)
            return None
        return record if texts == record.texts else dataclasses.replace(record, texts=texts)

    def _surviving(
        self, position: int, kept: survey.KeptRecord, split: str, record: records.Record | None
    ) -> Iterable[records.Text]:
        """The texts of a position that stay; those that go are entered into the book, unless `record` is None."""
        first = int(self._decisions.text_firsts[position])
        for offset, text in enumerate(kept.texts):
            reason = REASONS[self._decisions.texts[first + offset]]
            if reason == "kept":
                yield text
            elif record is not None:
                witness = int(self._decisions.text_witnesses[first + offset])
                detail = self._text_detail(witness) if self._book.wants_sample(reason) else ""
                self._book.drop_text(split, record, text.text, reason, detail)

    def _merged(
        self, position: int, own: list[records.Text], split: str, record: records.Record
    ) -> tuple[records.Text, ...]:
        """`own` and the texts that move here; those that are there already go."""
        result = list(own)
        moves = self._decisions.moves
        start, stop = np.searchsorted(moves[:, 0], [position, position + 1])
        for mover in moves[start:stop, 1].tolist():
            for text in self._surviving(mover, self._line(mover), split, None):
                self._book.counts["texts_received"]["all"] += 1
                if text in result:
                    self._book.drop_text(split, record, text.text, "duplicate_text_in_record")
                else:
                    result.append(text)
        return tuple(result)

    def _moves_away(self, position: int) -> bool:
        equal = self._decisions.images[position] == REASONS.index("equal_image")
        return bool(equal and len(self._decisions.moves))

    def _drop(self, position: int, split: str, record: records.Record, texts: int, reason: str) -> None:
        witness = int(self._decisions.image_witnesses[position])
        detail = f"as {self._line(witness).id}" if witness >= 0 and self._book.wants_sample(reason) else ""
        self._book.drop_record(split, record, texts, reason, detail)

    def _text_detail(self, witness: int) -> str:
        position = int(np.searchsorted(self._decisions.text_firsts, witness, side="right")) - 1
        line = self._line(position)
        return f"as {line.id}: {line.texts[witness - int(self._decisions.text_firsts[position])].text}"

    def _line(self, position: int) -> survey.KeptRecord:
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        return self._kept(number)[position - int(self._starts[number])]
