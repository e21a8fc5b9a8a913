"""The first pass over a unit: images are checked, texts normalised and filtered, and what is left is signed.

Left on disk of each unit: two .npy tables (`signatures.SignatureLayout`) and `kept-N.jsonl`, a line for each row of the
table of images. Images themselves are not copied; the last pass reads the input again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt32

from wenlan_jax.data import images, records
from wenlan_jax.prepare.clean import image_checks, ledger, scores, signatures
from wenlan_jax.prepare.clean.options import CleanOptions
from wenlan_jax.prepare.clean.shards import CleanError, RecordShard
from wenlan_jax.prepare.clean.texts import TextCleaner
from wenlan_jax.util import atomic_files, json_files


@dataclasses.dataclass(frozen=True)
class KeptRecord:
    """A record that the first pass left.

    Attributes:
        row: in the unit.
        id: of the record.
        needs_text: whether it is nothing without a text.
        texts: its texts.
    """

    row: int
    id: str
    needs_text: bool
    texts: tuple[records.Text, ...]

    def to_line(self) -> str:
        """Writes the record as a line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False) + "\n"


@dataclasses.dataclass(frozen=True)
class Signed:
    """Texts of one record with their MinHashes.

    Attributes:
        texts: the texts.
        minhashes: a row a text.
    """

    texts: tuple[records.Text, ...]
    minhashes: UInt32[np.ndarray, "texts permutations"]


def tables(directory: Path, number: int) -> tuple[Path, Path]:
    """Says where the signatures of images and of texts of a unit are."""
    return directory / f"images-{number:06d}.npy", directory / f"texts-{number:06d}.npy"


def read_kept(directory: Path, number: int) -> list[KeptRecord]:
    """Reads what the first pass left of a unit.

    Args:
        directory: of the job.
        number: of the unit.

    Returns:
        The records.

    Raises:
        CleanError: for a file that is not whole.
    """
    try:
        found, damaged = json_files.read_lines(_kept_file(directory, number), KeptRecord)
        if damaged:
            raise json_files.NoteError(f"{_kept_file(directory, number)}: line {damaged[0]} is not whole")
    except json_files.NoteError as error:
        raise CleanError(f"{error}; remove that unfinished work and repeat the command") from error
    return found


def _kept_file(directory: Path, number: int) -> Path:
    return directory / f"kept-{number:06d}.jsonl"


class Survey:
    """The first pass, called with a unit: writes its files into `directory`, returns the account of what it drops."""

    def __init__(self, chosen: CleanOptions, directory: Path) -> None:
        self._options, self._directory = chosen, directory
        self._clean = TextCleaner(chosen)
        self._signer = signatures.TextSigner(chosen)
        self._layout = signatures.SignatureLayout.of(chosen)

    def __call__(self, number: int, shard: RecordShard) -> dict[str, Any]:
        book = ledger.CleanLedger(self._options.samples)
        filters = scores.Filter.of(self._options.scores, shard)
        image_rows, text_rows, lines = [], [], []
        for row, record in enumerate(shard.read()):
            if shard.role == signatures.EVALUATION:
                seen, texts = _pixels(record.image), self._sign(self._normalised(record))
            else:
                book.counts["records_in"][shard.split] += 1
                book.counts["texts_in"][shard.split] += len(record.texts)
                left = self._filter(record, shard, row, filters, book)
                if left is None:
                    continue
                seen, texts = left
            image = self._image_row(seen, shard.role, len(texts.texts), _needs_text(record))
            image_rows.append(image)
            text_rows.append(self._text_rows(texts, image, len(image_rows) - 1))
            lines.append(KeptRecord(row, record.id, _needs_text(record), texts.texts).to_line())
        self._store(number, image_rows, text_rows, lines)
        return book.report()

    def _filter(
        self,
        record: records.Record,
        shard: RecordShard,
        row: int,
        filters: scores.Filter | None,
        book: ledger.CleanLedger,
    ) -> tuple[image_checks.Pixels, Signed] | None:
        """The pixels and the texts that are left of a record, or None when it goes, which is entered into the book."""
        seen = image_checks.look(record.image, self._options.image)
        if seen.reason or seen.pixels is None:
            book.drop_record(shard.split, record, len(record.texts), seen.reason, seen.detail)
            return None
        reasons = filters.reasons(shard.start + row, len(record.texts)) if filters else [""] * len(record.texts)
        texts = self._texts(record, shard.split, reasons, book)
        if not texts.texts and _needs_text(record):
            book.drop_record(shard.split, record, 0, "no_text_left")
            return None
        return seen.pixels, texts

    def _texts(self, record: records.Record, split: str, reasons: Sequence[str], book: ledger.CleanLedger) -> Signed:
        kept: list[records.Text] = []
        for text, reason in zip(record.texts, reasons, strict=True):
            if reason:
                book.drop_text(split, record, text.text, reason)
                continue
            outcome = self._clean(text)
            book.counts["changes"].update(outcome.changes)
            if outcome.text is None:
                book.drop_text(split, record, text.text, outcome.reason)
            else:
                kept.append(outcome.text)
        return self._distinct(self._sign(tuple(kept)), record, split, book)

    def _distinct(self, signed: Signed, record: records.Record, split: str, book: ledger.CleanLedger) -> Signed:
        """Texts of one record without those that are near an earlier one of the same language."""
        texts, hashes = signed.texts, signed.minhashes
        if self._options.duplicates.texts == "off" or len(texts) < 2:
            return signed
        kept: list[int] = []
        for index, text in enumerate(texts):
            like = signatures.similarity(hashes[kept], hashes[index][None])
            same = np.array([texts[other].language == text.language for other in kept], bool)
            if (same & (like >= self._options.duplicates.text_similarity)).any():
                book.drop_text(split, record, text.text, "duplicate_text_in_record")
            else:
                kept.append(index)
        return Signed(tuple(texts[index] for index in kept), hashes[kept])

    def _sign(self, texts: tuple[records.Text, ...]) -> Signed:
        return Signed(texts, self._signer.minhashes([text.text for text in texts]))

    def _normalised(self, record: records.Record) -> tuple[records.Text, ...]:
        """Texts of evaluation sets, normalised as the others so that they can be compared, and never dropped."""
        return tuple(self._clean.normalise(text) for text in record.texts)

    def _image_row(self, pixels: image_checks.Pixels | None, role: int, texts: int, needs_text: bool) -> np.ndarray:
        row = np.zeros((), self._layout.images)
        row["role"], row["texts"], row["needs_text"] = role, texts, needs_text
        if pixels is not None:
            row["digest"] = image_checks.digest(pixels)
            row["hash"] = image_checks.perceptual_hash(pixels, self._options.duplicates.hash_side)
            row["colours"], row["seen"] = image_checks.mean_colours(pixels), True
        return row

    def _text_rows(self, signed: Signed, image: np.ndarray, index: int) -> np.ndarray:
        values = [text.text for text in signed.texts]
        rows = np.zeros(len(values), self._layout.texts)
        rows["role"], rows["image"], rows["image_digest"] = image["role"], index, image["digest"]
        for row, value in zip(rows, values, strict=True):
            row["digest"], row["template"] = self._signer.digest(value), self._signer.template(value)
        rows["minhash"] = signed.minhashes
        return rows

    def _store(self, number: int, image_rows: list[np.ndarray], text_rows: list[np.ndarray], lines: list[str]) -> None:
        image_file, text_file = tables(self._directory, number)
        np.save(image_file, np.array(image_rows, self._layout.images))
        np.save(text_file, np.concatenate([np.zeros(0, self._layout.texts), *text_rows]))
        atomic_files.write(_kept_file(self._directory, number), atomic_files.text_bytes("".join(lines)))


def _needs_text(record: records.Record) -> bool:
    """Whether a record is nothing without texts: it came with some, and has no questions to keep it."""
    return bool(record.texts) and not record.questions


def _pixels(data: bytes) -> image_checks.Pixels | None:
    try:
        return images.decode(data) if data else None
    except images.CorruptImage:
        return None
