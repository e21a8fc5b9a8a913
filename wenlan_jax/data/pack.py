"""`wenlan pack`: turns a folder of images and a captions file into a data set that training reads.

The output is one TFDS directory in the schema of `records.py`, with `pack.json` (what was asked and what came of it)
and `rejected.jsonl` (every line left out, and why). An interrupted pack never looks finished.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO, TypeVar

from wenlan_jax.data import ingest, places, readers, writer

T = TypeVar("T")

REPORT_NAME, REJECTED_NAME = "pack.json", "rejected.jsonl"
_PROGRESS_SECONDS = 5.0


class PackError(ValueError):
    """A pack that cannot be made; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class PackOptions:
    """What to pack and where to. Images are named relative to `images`, or to the captions file when that is None.

    `file_format` None is found from the file. `language` is that of texts which name none. `split_shares` are fractions
    by a hash of the id, for lines that name no split; the rest is `train`. `max_side` is in pixels, None keeps all.
    """

    captions: Path
    out: Path
    images: Path | None = None
    file_format: str | None = None
    fields: readers.Fields = dataclasses.field(default_factory=readers.Fields)
    language: str = ""
    split_shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    max_side: int | None = None
    threads: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)

    @property
    def image_root(self) -> Path:
        return self.captions.parent if self.images is None else self.images


@dataclasses.dataclass(frozen=True)
class PackReport:
    """Counts of one pack. Every line read is packed or rejected: `read == packed + sum(rejected.values())`."""

    read: int
    packed: int
    rejected: Mapping[str, int]
    records: Mapping[str, int]
    texts: Mapping[str, int]
    fixes: Mapping[str, int]
    seconds: float

    def summary(self) -> str:
        """The report in a few lines of text."""
        lines = [
            f"lines     {self.read} read = {self.packed} packed + {sum(self.rejected.values())} rejected",
            f"records   {_counts(self.records)}",
            f"texts     {_counts(self.texts)}",
            f"rejected  {_counts(self.rejected)}",
            f"repaired  {_counts(self.fixes)}",
            f"time      {self.seconds:.1f} s",
        ]
        return "\n".join(lines)


def pack(options: PackOptions) -> PackReport:
    """Packs `options.captions` into the directory `options.out` and returns the counts.

    Raises PackError, readers.ReadError or places.BusyError, and leaves `options.out` as it was, when the input cannot
    be read, nothing in it can be packed, or the output cannot be written.
    """
    start = time.monotonic()
    _check(options)
    options = dataclasses.replace(options, file_format=options.file_format or readers.detect_format(options.captions))
    try:
        with places.replacing(options.out) as directory:
            report = _Job(options, directory).run(start)
            (directory / REPORT_NAME).write_text(_report_json(options, report), "utf-8")
    except OSError as error:
        raise PackError(
            f"{options.out}: cannot be written ({error.strerror or error}); free the space or choose another place"
        ) from error
    return report


class _Job:
    """One pack in progress: its counters, and the rejected lines as they come."""

    def __init__(self, options: PackOptions, directory: Path) -> None:
        self._options = options
        self._directory = directory
        self._rejected: collections.Counter[str] = collections.Counter()
        self._records: collections.Counter[str] = collections.Counter()
        self._texts: collections.Counter[str] = collections.Counter()
        self._packed = 0
        self._first_fault = ""

    def run(self, start: float) -> PackReport:
        options = self._options
        lines = readers.read_lines(options.captions, options.file_format or "", options.fields, options.language)
        grouping = ingest.Grouping(options.split_shares)
        with (self._directory / REJECTED_NAME).open("w", encoding="utf-8") as rejected:
            for fault in grouping.add(_progress(lines, "lines read")):
                self._reject(fault, rejected)
            self._write(grouping, rejected)
        report = PackReport(
            read=grouping.read,
            packed=self._packed,
            rejected=dict(self._rejected.most_common()),
            records=dict(self._records.most_common()),
            texts=dict(self._texts.most_common()),
            fixes={name: count for name, count in sorted(grouping.fixes.items()) if count},
            seconds=time.monotonic() - start,
        )
        self._verify(report)
        return report

    def _write(self, grouping: ingest.Grouping, rejected: TextIO) -> None:
        output = writer.RecordWriter(self._directory, "Packed by `wenlan pack`")
        for prepared in _progress(_prepare_all(grouping, self._options), "images packed", len(grouping)):
            draft, outcome = prepared.draft, prepared.outcome
            grouping.fixes.update(prepared.fixes)
            if isinstance(outcome, readers.Rejected):
                for line in draft.lines:
                    self._reject(readers.Fault(line, outcome.reason, outcome.detail, draft.image), rejected)
                continue
            output.add(draft.split, outcome)
            self._packed += len(draft.lines)
            self._records[draft.split] += 1
            self._texts.update(text.language or "unknown" for text in outcome.texts)
        output.close()

    def _reject(self, fault: readers.Fault, file: TextIO) -> None:
        self._rejected[str(fault.reason)] += 1
        self._first_fault = self._first_fault or f"line {fault.number}: {fault.reason}, {fault.detail}"
        named = {"line": fault.number, "reason": fault.reason, "item": fault.item, "detail": fault.detail}
        file.write(json.dumps(named, ensure_ascii=False) + "\n")

    def _verify(self, report: PackReport) -> None:
        captions = self._options.captions
        if not report.read:
            raise PackError(f"{captions}: holds no lines to pack")
        if not report.packed:
            raise PackError(
                f"{captions}: none of its {report.read} lines can be packed ({_counts(report.rejected)}); "
                f"the first is {self._first_fault}"
            )
        if report.read != report.packed + sum(report.rejected.values()):
            raise RuntimeError(f"some lines are neither packed nor rejected; please report this: {report}")


def _prepare_all(grouping: ingest.Grouping, options: PackOptions) -> Iterator[ingest.Prepared]:
    """Prepares drafts on several threads, in order and a bounded number ahead of the writer."""
    source = options.out.resolve().name
    window: collections.deque[concurrent.futures.Future[ingest.Prepared]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(options.threads) as pool:
        for draft in grouping.drafts():
            window.append(pool.submit(ingest.prepare, draft, options.image_root, source, options.max_side))
            if len(window) > 4 * options.threads:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()


def _progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The same items, while their count and rate go to stderr every few seconds."""
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _PROGRESS_SECONDS:
            last = now
            of = f" of {total}" if total else ""
            print(f"{what}: {count}{of}, {count / (now - start):.0f}/s", file=sys.stderr, flush=True)


def _check(options: PackOptions) -> None:
    if not options.captions.is_file():
        raise PackError(f"{options.captions}: no such captions file")
    if not options.image_root.is_dir():
        raise PackError(f"{options.image_root}: no such image directory; set --images")
    out = options.out
    replaceable = out.is_dir() and ((out / REPORT_NAME).is_file() or not any(out.iterdir()))
    if out.exists() and not replaceable:
        raise PackError(f"{out}: exists and was not made by `wenlan pack`; choose another place or remove it")
    for name, share in options.split_shares.items():
        if not readers.SPLIT_NAME.fullmatch(name) or not 0.0 < share <= 1.0:
            raise PackError(f"split {name}={share}: needs a name of letters, digits and _ and a share in (0, 1]")
    if sum(options.split_shares.values()) > 1.0:
        raise PackError(f"the split shares add up to {sum(options.split_shares.values()):g}, more than 1")
    if options.max_side is not None and options.max_side < 1:
        raise PackError(f"max side is {options.max_side} pixels; it must be positive")
    if options.threads < 1:
        raise PackError(f"threads is {options.threads}; it must be positive")


def _report_json(options: PackOptions, report: PackReport) -> str:
    content = {"options": dataclasses.asdict(options), "report": dataclasses.asdict(report)}
    return json.dumps(content, ensure_ascii=False, indent=2, default=str) + "\n"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


DESCRIPTION = """\
Pack pairs of images and texts into a data set for training.

The captions file names an image and its texts on each line; lines of one image become one record. It may be
  *.csv, *.tsv  with a header: columns image and caption, and if you like language, kind, split, id
  *.jsonl       one object a line; --image-field and --text-field say which fields hold what. A text may be a
                string, a list, or an object from language to either
  BriVL 1.0     *.jsonl with image_id, bbox and sentences

Every line that cannot be packed is named with the reason in OUT/rejected.jsonl.
"""

EXAMPLES = """\
examples:
  wenlan pack captions.tsv --out data/flowers --language zh --split validation=0.01,test=0.01 --max-side 512
  wenlan pack emoji/records.jsonl --out data/emoji --id-field emoji \\
      --text-field name=descriptive --text-field keywords=weak
  wenlan pack brivl.jsonl --images /photos --out data/brivl --language zh
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `wenlan pack`."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("captions", type=Path, help="captions file: .csv, .tsv or .jsonl")
    parser.add_argument("--out", type=Path, required=True, help="directory to write; an earlier pack is replaced")
    parser.add_argument("--images", type=Path, help="directory of the images (default: that of the captions file)")
    parser.add_argument("--format", choices=readers.FORMATS, help="captions format (default: found from the file)")
    parser.add_argument("--language", default=PackOptions.language, help="language of texts that name none, e.g. zh")
    parser.add_argument(
        "--split",
        type=_shares,
        default={},
        metavar="NAME=SHARE,...",
        help="put these shares of the records in splits, by a hash of the id; the rest is train",
    )
    parser.add_argument("--max-side", type=int, metavar="PIXELS", help="shrink larger images to this long side")
    parser.add_argument("--threads", type=int, help="threads that read and check images (default: one per core)")
    _add_field_arguments(parser.add_argument_group("which field or column holds what"))


def _add_field_arguments(group: argparse._ArgumentGroup) -> None:
    usual = readers.Fields()
    group.add_argument("--image-field", default=usual.image, metavar="FIELD", help="path (default: %(default)s)")
    group.add_argument(
        "--text-field",
        action="append",
        type=_text_field,
        metavar="FIELD[=KIND]",
        help="texts and their kind, e.g. descriptive or weak; may be given several times (default: caption)",
    )
    for name in ("id", "split", "language", "kind"):
        group.add_argument(f"--{name}-field", metavar="FIELD", help=f"{name} (default: {name}, where present)")
    group.add_argument("--box-field", metavar="FIELD", help="boxes [[x1, y1, x2, y2], ...] in pixels")


def run(args: argparse.Namespace) -> int:
    """Runs `wenlan pack` with parsed arguments, prints the report, and returns the exit status."""
    fields = readers.Fields(
        image=args.image_field,
        texts=dict(args.text_field) if args.text_field else readers.Fields().texts,
        id=args.id_field,
        split=args.split_field,
        language=args.language_field,
        kind=args.kind_field,
        boxes=args.box_field,
    )
    options = PackOptions(
        captions=args.captions,
        out=args.out,
        images=args.images,
        file_format=args.format,
        fields=fields,
        language=args.language,
        split_shares=args.split,
        max_side=args.max_side,
    )
    if args.threads is not None:
        options = dataclasses.replace(options, threads=args.threads)
    report = pack(options)
    print(report.summary())
    if report.rejected:
        print(f"          each rejected line is named in {options.out / REJECTED_NAME}")
    return 0


def _text_field(value: str) -> tuple[str, str]:
    name, _, kind = value.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{value!r} is not FIELD or FIELD=KIND")
    return name, kind or readers.DEFAULT_KIND


def _shares(value: str) -> dict[str, float]:
    try:
        pairs = [part.split("=") for part in value.split(",")]
        return {name.strip(): float(share) for name, share in pairs}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value!r} is not NAME=SHARE,NAME=SHARE") from error
