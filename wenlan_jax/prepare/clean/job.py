"""A whole cleaning job: survey of all units, decisions, rewriting, and the account of it all.

The output is one packed directory with `clean.json` (options, counts by reason), `dropped.jsonl` (samples of each
reason) and `dropped/REASON.jpg` (their images). Interrupted, it goes on unit by unit when the command is repeated.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wenlan_jax.prepare import tfds_files
from wenlan_jax.prepare.clean import decisions, ledger, runners, shards, signatures, texts
from wenlan_jax.prepare.clean.options import CleanOptions
from wenlan_jax.prepare.clean.rewrite import Rewrite
from wenlan_jax.prepare.clean.survey import Survey
from wenlan_jax.util import atomic_files

REPORT_NAME, DROPPED_NAME, SHEETS_NAME = "clean.json", "dropped.jsonl", "dropped"
_WORK = "work"
_COLUMNS = 8


@dataclasses.dataclass(frozen=True)
class CleanReport:
    """The account of a finished job, as `ledger.CleanLedger` counts it, and the records of each split written."""

    counts: Mapping[str, Mapping[str, int]]
    records: Mapping[str, int]
    seconds: float

    def summary(self) -> str:
        """The report in a few lines of text."""
        c = {name: sum(counts.values()) for name, counts in self.counts.items()}
        lines = [
            f"records   {c['records_in']} in = {c['records_out']} out + {c['records_dropped']} dropped",
            f"texts     {c['texts_in']} in = {c['texts_out']} out + {c['texts_dropped']} dropped"
            f" ({c['texts_received']} moved to an equal image)",
            *_table("records dropped", self.counts["records_dropped"]),
            *_table("texts dropped", self.counts["texts_dropped"]),
            *_table("texts changed", self.counts["changes"]),
            f"time      {self.seconds:.1f} s",
        ]
        return "\n".join(lines)


def clean(sources: Sequence[Path], out: Path, chosen: CleanOptions, runner: runners.Runner) -> CleanReport:
    """Cleans packed directories.

    The result depends on the sources, their order and `chosen` alone, whatever the runner. What is done stays for the
    next attempt.

    Args:
        sources: the packed directories.
        out: the directory to make.
        chosen: what is dropped and changed.
        runner: where the passes and rules run.

    Returns:
        The account of the job.

    Raises:
        CleanError: for a job that cannot be done.
        SourceError: for a source that cannot be read.
        UnitError: when work was begun with other options.
        BusyError: when another process writes to the same place.
    """
    started = time.monotonic()
    _check(sources, out)
    texts.check(chosen)
    signatures.check(chosen)
    plan = shards.plan([place.resolve() for place in sources], chosen)
    identity = {"options": dataclasses.asdict(chosen), "units": [_identity(shard) for shard in plan]}
    with atomic_files.resumable(out) as directory:
        work = directory / _WORK
        work.mkdir(exist_ok=True)
        surveyed = runner.map(Survey(chosen, work), plan, work, identity, "survey")
        _decide(chosen, work, len(plan), runner)
        written = runner.map(Rewrite(chosen, work, work / "decided", directory), plan, work, identity, "rewrite")
        book = ledger.sum_up([*surveyed, *written], chosen.samples)
        book.check()
        _check_left(book)
        totals = tfds_files.assemble(directory, [report["written"] for report in written], "Cleaned by `wenlan clean`")
        report = CleanReport(
            {name: dict(counts.most_common()) for name, counts in book.counts.items()}, totals, _since(started)
        )
        _write_samples(directory, book.samples)
        _write_report(directory / REPORT_NAME, sources, chosen, report)
        shutil.rmtree(work)
    return report


def _decide(chosen: CleanOptions, work: Path, count: int, runner: runners.Runner) -> None:
    """Makes and stores the decisions, unless an earlier attempt has."""
    decided = work / "decided"
    if decided.is_dir():
        return
    find = functools.partial(runner.find, scratch=work / "groups", memory=chosen.memory << 20)
    made = decisions.decide(chosen, work, count, find)
    partial = work / "decided.partial"
    shutil.rmtree(partial, ignore_errors=True)
    made.save(partial)
    partial.rename(decided)


def _check(sources: Sequence[Path], out: Path) -> None:
    if atomic_files.is_taken(out, REPORT_NAME):
        raise shards.CleanError(f"{out}: exists and was not made by `wenlan clean`; choose another place or remove it")
    if out.resolve() in {place.resolve() for place in sources}:
        raise shards.CleanError(f"{out}: is also a source; choose another place")


def _check_left(book: ledger.CleanLedger) -> None:
    if not sum(book.counts["records_out"].values()):
        reasons = ", ".join(f"{name} {count}" for name, count in book.counts["records_dropped"].most_common())
        raise shards.CleanError(f"no record is left ({reasons or 'the sources are empty'}); loosen the thresholds")


def _identity(shard: shards.RecordShard) -> list[Any]:
    """What a unit is, so that a job is not continued on other data: its rows, and the state of its files."""
    place = Path(shard.place)
    file = place / "dataset_info.json" if shard.split else place
    return [shard.place, shard.split, shard.start, shard.stop, shard.role, *atomic_files.stamp(file)]


def _since(started: float) -> float:
    return time.monotonic() - started


def _write_report(path: Path, sources: Sequence[Path], chosen: CleanOptions, report: CleanReport) -> None:
    content = {
        "sources": [str(place) for place in sources],
        "options": dataclasses.asdict(chosen),
        "report": dataclasses.asdict(report),
    }
    atomic_files.write_json(path, content)


def _write_samples(directory: Path, samples: Sequence[dict[str, Any]]) -> None:
    sheets = directory / SHEETS_NAME
    shutil.rmtree(sheets, ignore_errors=True)
    sheets.mkdir()
    thumbnails: dict[str, list[bytes]] = {}
    with (directory / DROPPED_NAME).open("w", encoding="utf-8") as file:
        for sample in sorted(samples, key=lambda sample: str(sample["reason"])):
            told = {name: value for name, value in sample.items() if name != "image"}
            file.write(json.dumps(told, ensure_ascii=False) + "\n")
            thumbnails.setdefault(sample["reason"], []).append(base64.b64decode(sample["image"]))
    for reason, images in thumbnails.items():
        cv2.imwrite(str(sheets / f"{reason}.jpg"), _sheet(images))


def _sheet(images: Sequence[bytes]) -> np.ndarray:
    """The thumbnails in rows; an image that cannot be decoded is a black square."""
    side = ledger.THUMBNAIL
    rows = -(-len(images) // _COLUMNS)
    canvas = np.full((rows * side, _COLUMNS * side, 3), 255, np.uint8)
    for number, data in enumerate(images):
        top, left = number // _COLUMNS * side, number % _COLUMNS * side
        tile = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        canvas[top : top + side, left : left + side] = 0 if tile is None else tile
    return canvas


def _table(title: str, counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return [f"{title}: none"]
    return [f"{title}:", *(f"  {count:>9} {name}" for name, count in counts.items())]
