"""A job that gives regions to the records of a packed directory: from a store, or by a detector that it runs.

The output is a packed directory with the same records in the same order, `regions.json` (what was asked and what came
of it) and `faults.jsonl` (each record that kept the regions it had, and why). Interrupted, it goes on unit by unit.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from wenlan_jax.data import sources
from wenlan_jax.data.records import Record
from wenlan_jax.prepare import tfds_files
from wenlan_jax.prepare.regions import detections
from wenlan_jax.prepare.regions.detections import DetectionError, Detections, Selection
from wenlan_jax.prepare.regions.stored import StoredRegions
from wenlan_jax.util import atomic_files, progress_line, resumable_jobs
from wenlan_jax.util.errors import WenlanError

REPORT_NAME, FAULTS_NAME = "regions.json", "faults.jsonl"
UNIT_RECORDS = 512
"""Records of one unit: what is done again at most after a crash, and one file, of 200 MB for 100 boxes an image."""

_JOB = "regions"


class RegionJobError(WenlanError, ValueError):
    """A job that cannot be done; the message says why and what to do."""


@runtime_checkable
class DetectionSource(Protocol):
    """Where detections come from: `stored.StoredRegions` or `detector.UserDetector`; picklable."""

    @property
    def selection(self) -> Selection:
        """The boxes that are kept."""
        ...

    @property
    def batch_size(self) -> int:
        """How many records are asked about at once."""
        ...

    def check(self) -> None:
        """Checks that the source can be used."""
        ...

    def stamps(self) -> list[list[int]]:
        """Lists size and time of change of its files."""
        ...

    def describe(self) -> dict[str, Any]:
        """Says what the arrays of its records are."""
        ...

    def find_all(self, records: Sequence[Record]) -> list[Detections | DetectionError | None]:
        """Finds the detections of each record; None for nothing, or the reason why there are none."""
        ...

    def unmatched(self) -> str:
        """Says what to tell when no record got regions."""
        ...


@dataclasses.dataclass(frozen=True)
class Slice:
    """Rows of a split of a packed directory.

    Attributes:
        place: the directory.
        split: the split.
        start: the first row.
        stop: the row after the last.
    """

    place: Path
    split: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The name of the slice, for progress lines."""
        return f"{self.split}[{self.start}:{self.stop}]"

    def read(self) -> Iterator[tuple[int, Record]]:
        """Reads the records with their rows."""
        source = sources.TfdsSource(self.place, self.split, self.place.name)
        return ((row, source[row]) for row in range(self.start, self.stop))


@dataclasses.dataclass(frozen=True)
class RegionReport:
    """The account of a job: `records == found + missing + faulty`; a record of the last two keeps what it had.

    Attributes:
        records: by split.
        found: records that got regions.
        missing: records of which nothing was found.
        faulty: records whose detections are of no use.
        counts: of boxes, by what became of them.
        features: records by the width of their features.
        classes: records by the width of their classes.
        unit_norm: records whose features have the length 1.
        arrays: what the finder says of them.
        seconds: that the job took.
    """

    records: Mapping[str, int]
    found: int
    missing: int
    faulty: int
    counts: Mapping[str, int]
    features: Mapping[str, int]
    classes: Mapping[str, int]
    unit_norm: int
    arrays: Mapping[str, Any]
    seconds: float

    @property
    def feature_norm(self) -> str:
        """`unit` where all features have the length 1, `raw` where none have, else `mixed`; "" without features."""
        total = sum(self.features.values())
        if not total:
            return ""
        return {0: "raw", total: "unit"}.get(self.unit_norm, "mixed")

    def summary(self) -> str:
        """Writes the report in a few lines of text."""
        total = sum(self.records.values())
        lines = [
            f"records   {total} = {self.found} found + {self.missing} missing + {self.faulty} faulty",
            f"boxes     {_told(self.counts)}",
            f"features  {_widths(self.features)} {self.feature_norm}".rstrip(),
            f"classes   {_widths(self.classes)}",
            f"time      {self.seconds:.1f} s, {total / max(self.seconds, 1e-9):.1f} records/s",
        ]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class RegionWork:
    """Gives regions to the records of one slice; picklable.

    Attributes:
        finder: where detections come from.
        directory: that is filled.
    """

    finder: DetectionSource
    directory: Path

    def __call__(self, number: int, unit: Slice) -> dict[str, Any]:
        """Writes the records of slice `number` as a part of `directory`, and returns the counts."""
        tally = _Tally()
        faults: list[dict[str, Any]] = []
        output = tfds_files.PartWriter(self.directory, number)
        selection = self.finder.selection
        rows = unit.read()
        while batch := list(itertools.islice(rows, self.finder.batch_size)):
            found = self.finder.find_all([record for _, record in batch])
            for (row, record), one in zip(batch, found, strict=True):
                try:
                    changed = tally.changed(record, one, selection)
                except DetectionError as error:
                    faults.append({"split": unit.split, "row": row, "id": record.id, "fault": str(error)})
                    changed = record
                output.add(unit.split, changed)
        described = self.finder.describe()
        return {"written": output.close(), "faults": faults, "arrays": described, **vars(tally)}


@dataclasses.dataclass
class _Tally:
    """The counts of one unit."""

    found: int = 0
    missing: int = 0
    unit_norm: int = 0
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    features: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    classes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def changed(self, record: Record, found: Detections | DetectionError | None, selection: Selection) -> Record:
        """`record` with what was found, or as it is where nothing was. Raises DetectionError for a fault."""
        if found is None:
            self.missing += 1
            return record
        if isinstance(found, DetectionError):
            raise found
        fitted = detections.fit(found, record.width, record.height, selection, self.counts)
        self.found += 1
        self.counts["box_kept"] += len(fitted.regions)
        self.counts["box_replaced"] += len(record.regions)
        if fitted.features is not None:
            self.features[str(fitted.features.shape[1])] += 1
            self.unit_norm += detections.is_unit(fitted.features)
        if fitted.classes is not None:
            self.classes[str(fitted.classes.shape[1])] += 1
        return fitted.onto(record)


def run(source: Path, out: Path, finder: DetectionSource, workers: int) -> RegionReport:
    """Gives regions to the records of a packed directory.

    What is done stays for the next attempt, except where no record is found.

    Args:
        source: the packed directory.
        out: the directory to make.
        finder: where detections come from.
        workers: processes; 0 works in this one.

    Returns:
        The account.

    Raises:
        RegionError: for a job that cannot be done, also if no record got regions.
        SourceError: if `source` cannot be read.
        UnitError: when work was begun with other options.
        BusyError: when another process writes to the same place.
    """
    started = time.monotonic()
    source = source.resolve()
    _check(source, out, workers)
    finder.check()
    slices = list(_slices(source))
    identity = {
        "finder": dataclasses.asdict(finder),  # type: ignore[call-overload]  # both finders are dataclasses
        "finder_stamps": finder.stamps(),
        "source": [str(source), (source / "dataset_info.json").stat().st_mtime_ns],
    }
    with atomic_files.resumable(out) as directory:
        if isinstance(finder, StoredRegions):
            finder = finder.knowing(_images(slices))
        reports = resumable_jobs.run(RegionWork(finder, directory), slices, directory, identity, workers, _JOB)
        report = _report(reports, time.monotonic() - started)
        if not report.found:
            shutil.rmtree(directory)  # there is nothing to go on with
            raise RegionJobError(_why_nothing(reports, finder))
        tfds_files.assemble(directory, [one["written"] for one in reports], "Given regions by `wenlan regions`")
        _finish(directory, source, identity["finder"], report, [fault for one in reports for fault in one["faults"]])
    return report


def _slices(place: Path) -> Iterator[Slice]:
    for split, info in sources.open_builder(place).info.splits.items():
        count = int(info.num_examples)
        for start in range(0, count, UNIT_RECORDS):
            yield Slice(place, split, start, min(start + UNIT_RECORDS, count))


def _images(slices: Sequence[Slice]) -> Iterator[tuple[str, str, str]]:
    """Id and identity of every image of a job: records with equal bytes are of one image."""
    beat = progress_line.ProgressLine()
    for unit in slices:
        if beat.due():
            progress_line.say(f"{_JOB}: which images take which regions; {unit.name}")
        for _, record in unit.read():
            yield record.id, "", hashlib.blake2b(record.image, digest_size=16).hexdigest()


def _check(source: Path, out: Path, workers: int) -> None:
    if workers < 0:
        raise RegionJobError(f"--workers {workers}: must not be negative")
    if out.resolve() == source.resolve():
        raise RegionJobError(f"{out}: is also the source; choose another place")
    if atomic_files.is_taken(out, REPORT_NAME):
        raise RegionJobError(f"{out}: exists and was not made by `wenlan regions`; choose another place or remove it")


def _report(reports: Sequence[Mapping[str, Any]], seconds: float) -> RegionReport:
    def total(name: str) -> dict[str, int]:
        counts: collections.Counter[str] = collections.Counter()
        for report in reports:
            counts.update(report[name])
        return {key: count for key, count in counts.items() if count}

    return RegionReport(
        records=total("written"),
        found=sum(report["found"] for report in reports),
        missing=sum(report["missing"] for report in reports),
        faulty=sum(len(report["faults"]) for report in reports),
        counts=total("counts"),
        features=total("features"),
        classes=total("classes"),
        unit_norm=sum(report["unit_norm"] for report in reports),
        arrays=reports[0]["arrays"],
        seconds=seconds,
    )


def _why_nothing(reports: Sequence[Mapping[str, Any]], finder: DetectionSource) -> str:
    fault = next((fault for report in reports for fault in report["faults"]), None)
    if fault is None:
        return finder.unmatched()
    return f"no record got regions; the first fault is of {fault['id']}: {fault['fault']}"


def _finish(
    directory: Path, source: Path, finder: Mapping[str, Any], report: RegionReport, faults: Sequence[Mapping[str, Any]]
) -> None:
    with (directory / FAULTS_NAME).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(fault, ensure_ascii=False) + "\n" for fault in faults)
    counted = {**dataclasses.asdict(report), "feature_norm": report.feature_norm}
    content = {"source": str(source), "finder": finder, "report": counted}
    atomic_files.write_json(directory / REPORT_NAME, content)
    resumable_jobs.clear(directory, _JOB)


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name.removeprefix('box_')} {count}" for name, count in counts.items()) or "none"


def _widths(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{width} wide in {count} records" for width, count in counts.items()) or "none"
