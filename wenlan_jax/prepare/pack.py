"""`wenlan pack`: turns raw pairs of images and texts, of any size and layout, into a data set that training reads.

The output is one TFDS directory in the schema of `records.py`, with `pack.json` (what was asked and what came of it)
and `rejected.jsonl` (every item left out, and why). Shards are packed side by side; a pack of several that was
interrupted goes on where it stopped, and never looks finished before.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import functools
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wenlan_jax.config.options import REQUIRED, faults, option
from wenlan_jax.prepare import image_places, ingest, pack_shard, raw_images, raw_items, tfds_files
from wenlan_jax.prepare.formats import files, registry
from wenlan_jax.prepare.pack_shard import PackError
from wenlan_jax.prepare.regions.stored import StoredRegions
from wenlan_jax.util import atomic_files, languages, progress_line, resumable_jobs

REPORT_NAME, REJECTED_NAME = "pack.json", "rejected.jsonl"
_JOB = "pack"


def _shares(text: str) -> dict[str, float]:
    try:
        pairs = [(name.strip(), float(share)) for name, share in (part.split("=") for part in text.split(","))]
    except ValueError as error:
        raise ValueError(f"{text!r} is not NAME=SHARE,NAME=SHARE") from error
    for name, count in collections.Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"{text!r} names {name!r} {count} times; give one share")
    return dict(pairs)


_SHOWN = 30
"""Names of one kind that data gives which the summary shows; the report has all."""


@dataclasses.dataclass(frozen=True)
class PackOptions:
    """What to pack and where to.

    Attributes:
        read: how raw text is understood.
        image_options: what happens to images.
        regions: boxes and features of a detector, which take the place of the boxes of the inputs.
    """

    inputs: tuple[str, ...] = option(
        REQUIRED, "files, URLs, patterns of either, or folders", read=str, metavar="INPUT", positional=True
    )
    out: Path = option(REQUIRED, "directory to write; an earlier pack is replaced")
    images: str | None = option(None, "directory or URL of the images", read=str, usual="that of the first input")
    allow_remote: bool = image_places.allow_remote()
    allow_links: bool = image_places.allow_links()
    file_format: str | None = option(
        None, "of the inputs", among=lambda: tuple(registry.FORMATS), usual="found from the first"
    )
    read: raw_items.ReadOptions = dataclasses.field(default_factory=raw_items.ReadOptions)
    image_options: raw_images.ImageOptions = dataclasses.field(default_factory=raw_images.ImageOptions)
    source: str = option("", "source of records that name none", usual="OUT's name")
    split_shares: Mapping[str, float] = option(
        {},
        "put these shares of the records in splits, by a hash of the id, where items name no split; the rest is train",
        read=_shares,
        metavar="NAME=SHARE,...",
    )
    regions: StoredRegions | None = None
    on_bad: pack_shard.OnBad = option("skip", "count what cannot be packed, or end at the first")
    workers: int | None = option(
        None, "processes, each at a shard", low=0, usual="one per core for several shards, this one for one"
    )
    threads: int = option(
        os.cpu_count() or 1, "threads for images, shared out among the workers", low=1, usual="one per core"
    )

    @property
    def image_root(self) -> str:
        """The place that images are named from."""
        return self.images if self.images is not None else files.folder_of(self.inputs[0])

    def identity(self) -> dict[str, Any]:
        """Lists the options that the records depend on: a pack that stopped at a bad item may go on and skip it."""
        options = dataclasses.asdict(self)
        for name in ("out", "on_bad", "workers", "threads"):
            del options[name]
        return options


@dataclasses.dataclass(frozen=True)
class PackReport:
    """Counts of one pack. Every item read is packed or rejected: `read == packed + sum(rejected.values())`.

    Attributes:
        read: items.
        packed: items.
        rejected: items by reason.
        records: by split.
        texts: by language.
        fixes: changes by kind.
        sources: read, packed and rejected of each.
        shards: read, packed and rejected of each.
        seconds: that the pack took.
        empty: splits that got nothing of their share.
    """

    read: int
    packed: int
    rejected: Mapping[str, int]
    records: Mapping[str, int]
    texts: Mapping[str, int]
    fixes: Mapping[str, int]
    sources: Mapping[str, Mapping[str, int]]
    shards: Mapping[str, Mapping[str, int]]
    seconds: float
    empty: Sequence[str] = ()

    def summary(self) -> str:
        """Writes the report in a few lines of text."""
        lines = [
            f"lines     {self.read} read = {self.packed} packed + {sum(self.rejected.values())} rejected",
            f"records   {_counts(self.records)}",
            f"texts     {_counts(self.texts)}",
            f"rejected  {_counts(self.rejected)}",
            f"repaired  {_counts(self.fixes)}",
        ]
        if self.empty:
            lines.append(f"empty     {', '.join(self.empty)}: too few records for such a share; give a larger one")
        lines += [f"splits    {', '.join(names)}: differ in case alone; is one meant?" for names in self._alike()]
        if len(self.sources) > 1:
            lines += [f"source    {name}: {_counts(counts)}" for name, counts in list(self.sources.items())[:_SHOWN]]
        if len(self.sources) > _SHOWN:
            lines.append(f"source    and {len(self.sources) - _SHOWN} more")
        return "\n".join([*lines, f"time      {self.seconds:.1f} s, {len(self.shards)} shards"])

    def _alike(self) -> list[list[str]]:
        """Splits that are called alike: a split keeps the name that data, or `split_shares`, give it."""
        alike: dict[str, list[str]] = {}
        for name in sorted(self.records):
            alike.setdefault(name.casefold(), []).append(name)
        return [names for names in alike.values() if len(names) > 1]


def pack(options: PackOptions) -> PackReport:
    """Packs raw pairs into a data set.

    Where this fails, `options.out` stays as it was. Of several shards, those that are done stay beside `options.out`,
    and the same call goes on with the others.

    Args:
        options: what to pack and where to.

    Returns:
        The counts.

    Raises:
        PackError: when nothing can be packed, or the output cannot be written.
        ReadError: when the input cannot be read.
        UnitError: when work was begun with other options.
        BusyError: when another process packs into the same place.
    """
    start = time.monotonic()
    _check(options)
    name, shards = registry.shards(options.inputs, options.file_format, options.read)
    options = dataclasses.replace(options, file_format=name)
    # One shard has no parts to go on with: what an interrupted pack of one leaves is cleared.
    filling = atomic_files.replacing if len(shards) == 1 else atomic_files.resumable
    try:
        with filling(options.out) as directory:
            reports = _run(options, shards, directory)
            report = _report(options, reports, time.monotonic() - start)
            _check_splits(report.records)
            tfds_files.assemble(directory, [report["written"] for report in reports], "Packed by `wenlan pack`")
            _finish(options, report, len(shards), directory)
    except OSError as error:
        remedy = "free the space or choose" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose"
        raise PackError(
            f"{options.out}: cannot be written ({error.strerror or error}); {remedy} another place"
        ) from error
    return report


def _run(options: PackOptions, shards: Sequence[raw_items.RawShard], directory: Path) -> list[dict[str, Any]]:
    """Packs the shards that are not packed yet; the reports of all."""
    workers = options.workers
    if workers is None:
        workers = 0 if len(shards) == 1 else min(os.cpu_count() or 1, len(shards))
    root = image_places.Root(options.image_root, options.allow_remote, options.allow_links)
    stored = options.regions and options.regions.knowing(_images(shards, root))
    target = pack_shard.PackTarget(
        directory=directory,
        root=root,
        source=options.source or options.out.resolve().name,
        split_shares=options.split_shares,
        image_options=options.image_options,
        threads=max(1, options.threads // max(1, workers)),
        on_bad=options.on_bad,
        sole=len(shards) == 1,
        regions=stored,
    )
    identity = {**options.identity(), "shards": [shard.files for shard in shards]}
    if options.regions is not None:
        identity["regions_stamps"] = options.regions.stamps()
    reports = resumable_jobs.run(target, shards, directory, identity, workers, _JOB)
    changed = [
        shard.name
        for shard, report in zip(shards, reports, strict=True)
        if report["stamps"] != pack_shard.stamps(shard)
    ]
    if changed:
        raise PackError(
            f"{', '.join(changed[:5])}: changed since this pack of {len(shards)} shards began; "
            f"remove {directory} and pack again"
        )
    return reports


def _images(shards: Sequence[raw_items.RawShard], root: image_places.Root) -> Iterator[tuple[str, str, str]]:
    """Id, name and identity of every image of a pack: names of two files are two, and so are any that are brought."""
    beat = progress_line.ProgressLine()
    for shard in shards:
        for item in shard.read_up_to_damage(must_begin=False):
            if beat.due():
                progress_line.say(f"{_JOB}: which images take which regions; {shard.name}, line {item.number}")
            if isinstance(item, raw_items.Item):
                brought = item.data is not None
                identity = f"{shard.name}:{item.number}" if brought else root.named(item.image)[1]
                yield item.id or item.image, item.image, identity


def _report(options: PackOptions, reports: Sequence[Mapping[str, Any]], seconds: float) -> PackReport:
    """The sum of the reports of all shards. Raises PackError when there is nothing in it."""
    rejected = _total(report["rejected"] for report in reports)
    sources: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for report in reports:
        for name, counts in report["sources"].items():
            sources[name].update(counts)
    read, packed = sum(report["read"] for report in reports), sum(counts["packed"] for counts in sources.values())
    whole = PackReport(
        read=read,
        packed=packed,
        rejected=dict(rejected.most_common()),
        records=dict(_total(report["written"] for report in reports).most_common()),
        texts=dict(_total(report["texts"] for report in reports).most_common()),
        fixes=dict(sorted(_total(report["fixes"] for report in reports).items())),
        sources={name: _balance(counts) for name, counts in sorted(sources.items())},
        shards={report["shard"]: _balance(_total(report["sources"].values())) for report in reports},
        seconds=seconds,
        empty=[name for name in options.split_shares if not any(report["written"].get(name) for report in reports)],
    )
    _verify(options, whole, next((report["first_fault"] for report in reports if report["first_fault"]), ""))
    return whole


def _check_splits(records: Mapping[str, int]) -> None:
    if len(records) > ingest.MAX_SPLITS:
        raise PackError(
            f"the shards name {len(records)} splits, {', '.join(sorted(records)[:3])} and so on, more than "
            f"{ingest.MAX_SPLITS}; see --split-field"
        )


def _verify(options: PackOptions, report: PackReport, first_fault: str) -> None:
    inputs = options.inputs[0]
    if report.read != report.packed + sum(report.rejected.values()):
        raise RuntimeError(f"some lines are neither packed nor rejected; please report this: {report}")
    unmatched = options.regions is not None and report.fixes.get("regions_missing") == sum(report.records.values())
    if report.packed and not unmatched:
        return
    with contextlib.suppress(OSError):
        shutil.rmtree(atomic_files.unfinished(options.out))  # there is nothing to go on with
    if unmatched and options.regions is not None:
        raise PackError(f"{options.regions.unmatched()}; see --regions-key")
    if not report.read:
        raise PackError(f"{inputs}: holds no lines to pack")
    raise PackError(
        f"{inputs}: none of its {report.read} lines can be packed ({_counts(report.rejected)}); "
        f"the first is {first_fault}"
    )


def _finish(options: PackOptions, report: PackReport, shards: int, directory: Path) -> None:
    """Joins what the shards left and adds the report."""
    with (directory / REJECTED_NAME).open("wb") as joined:
        for number in range(shards):
            with pack_shard.rejected_file(directory, number).open("rb") as part:
                shutil.copyfileobj(part, joined)
    content = {"options": dataclasses.asdict(options), "report": dataclasses.asdict(report)}
    atomic_files.write_json(directory / REPORT_NAME, content)
    for number in range(shards):
        pack_shard.rejected_file(directory, number).unlink()
    resumable_jobs.clear(directory, _JOB)


def _check(options: PackOptions) -> None:
    if not options.inputs:
        raise PackError("nothing to pack: name at least one input")
    for place in options.inputs:
        files.check_there(place)
    if not files.is_url(options.image_root) and not os.path.isdir(options.image_root):
        raise PackError(f"{options.image_root}: no such image directory; set --images")
    if atomic_files.is_taken(options.out, REPORT_NAME):
        raise PackError(f"{options.out}: exists and was not made by `wenlan pack`; choose another place or remove it")
    _check_shares(options.split_shares)
    _check_choices(options)
    if options.regions is not None:
        options.regions.check()


def _check_shares(shares: Mapping[str, float]) -> None:
    for name, share in shares.items():
        if why := raw_items.split_fault(name):
            raise PackError(f"--split: {why}")
        if not 0.0 < share <= 1.0:
            raise PackError(f"--split {name}={share:g}: needs a share in (0, 1]")
    if sum(shares.values()) > 1.0:
        raise PackError(f"the split shares add up to {sum(shares.values()):g}, more than 1")


def _check_choices(options: PackOptions) -> None:
    for fault in (*faults(options), *faults(options.image_options), *faults(options.read)):
        raise PackError(fault)
    try:
        files.encoding_of(options.read.encoding)
        languages.typed(options.read.language)
    except raw_items.ReadError as error:
        raise PackError(str(error)) from error
    except ValueError as error:
        raise PackError(f"--language {error}") from error


def _total(counts: Iterable[Mapping[str, int]]) -> collections.Counter[str]:
    return functools.reduce(lambda total, more: total + collections.Counter(more), counts, collections.Counter[str]())


def _balance(counts: Mapping[str, int]) -> dict[str, int]:
    packed, rejected = counts.get("packed", 0), counts.get("rejected", 0)
    return {"read": packed + rejected, "packed": packed, "rejected": rejected}


def _counts(counts: Mapping[str, int]) -> str:
    told = [f"{name} {count}" for name, count in list(counts.items())[:_SHOWN]]
    return ", ".join(told + [f"{len(counts) - _SHOWN} more"] * (len(counts) > _SHOWN)) or "none"
