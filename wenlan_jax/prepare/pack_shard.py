"""One shard of a pack: its items to records, every other one to a named line of `rejected.jsonl`, and the counts."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar

from wenlan_jax.prepare import ingest, raw_images, tfds_files
from wenlan_jax.prepare.image_places import Root
from wenlan_jax.prepare.raw_items import Fault, RawShard, Rejected
from wenlan_jax.prepare.regions.stored import StoredRegions
from wenlan_jax.util import atomic_files, progress_line
from wenlan_jax.util.errors import WenlanError

T = TypeVar("T")

OnBad = Literal["skip", "stop"]
_WINDOW_BYTES = 1 << 28
"""Of the images that wait for their turn, where the input brings them."""


class PackError(WenlanError, ValueError):
    """A pack that cannot be made; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class PackTarget:
    """What every shard of a pack is packed into and how; picklable.

    Attributes:
        directory: that is filled.
        root: where images are named from.
        source: of records which name none.
        split_shares: see `PackOptions`.
        image_options: what happens to images.
        threads: that read and check images.
        on_bad: see `PackOptions`.
        sole: the only shard of a pack: its ids need no prefix, and it must be readable.
        regions: those of another file than the items, if any.
    """

    directory: Path
    root: Root
    source: str
    split_shares: Mapping[str, float]
    image_options: raw_images.ImageOptions
    threads: int
    on_bad: OnBad
    sole: bool
    regions: StoredRegions | None = None

    def __call__(self, number: int, shard: RawShard) -> dict[str, Any]:
        """Packs a shard.

        Args:
            number: of the shard.
            shard: the shard.

        Returns:
            Its counts.

        Raises:
            PackError: at the first bad item, if `on_bad` is `stop`.
            ReadError: for a sole shard that cannot be read.
        """
        return _ShardJob(self, number, shard).run()


def rejected_file(directory: Path, number: int) -> Path:
    """Says where the faults of shard `number` are listed until the pack is whole."""
    return directory / f"rejected-{number:06d}.jsonl"


def stamps(shard: RawShard) -> list[list[int]]:
    """Lists size and time of change of the local files of a shard: whether it is still what was packed."""
    found = []
    for file in shard.files:
        with contextlib.suppress(OSError):
            found.append(atomic_files.stamp(file))
    return found


def _result(entry: concurrent.futures.Future[ingest.PreparedRecord] | Fault) -> ingest.PreparedRecord | Fault:
    return entry if isinstance(entry, Fault) else entry.result()


class _ShardJob:
    """A shard in progress: its counters, and the rejected items as they come."""

    def __init__(self, target: PackTarget, number: int, shard: RawShard) -> None:
        self._target, self._number, self._shard = target, number, shard
        self._rejected: collections.Counter[str] = collections.Counter()
        self._texts: collections.Counter[str] = collections.Counter()
        self._sources: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._first_fault = ""
        prefix = "" if target.sole else f"{shard.name}/"
        self._grouping = ingest.Grouping(target.root, target.split_shares, prefix, target.source)

    def run(self) -> dict[str, Any]:
        before = stamps(self._shard)
        output = tfds_files.PartWriter(self._target.directory, self._number)
        with rejected_file(self._target.directory, self._number).open("w", encoding="utf-8") as rejected:
            self._write(output, rejected)
        return {
            "shard": self._shard.name,
            "stamps": before,
            "read": self._grouping.read,
            "written": output.close(),
            "rejected": dict(self._rejected),
            "texts": dict(self._texts),
            "fixes": {name: count for name, count in self._grouping.fixes.items() if count},
            "sources": {name: dict(counts) for name, counts in self._sources.items()},
            "first_fault": self._first_fault,
        }

    def _write(self, output: tfds_files.PartWriter, rejected: TextIO) -> None:
        items = self._told(self._shard.read_up_to_damage(must_begin=self._target.sole), "items read")
        entries = self._grouping.group(items)
        for entry in self._told(self._prepared(entries), "images packed"):
            if isinstance(entry, Fault):
                self._reject(entry, rejected)
                continue
            draft, outcome = entry.draft, entry.outcome
            self._grouping.fixes.update(entry.fixes)
            if isinstance(outcome, Rejected):
                for number in draft.numbers:
                    self._reject(Fault(number, outcome.reason, outcome.detail, draft.image, draft.source), rejected)
                continue
            output.add(draft.split, outcome)
            self._sources[draft.source]["packed"] += len(draft.numbers)
            self._sources[draft.source]["records"] += 1
            self._texts.update(text.language or "unknown" for text in outcome.texts)

    def _prepared(self, entries: Iterable[ingest.Draft | Fault]) -> Iterator[ingest.PreparedRecord | Fault]:
        """Prepares drafts on several threads, in order and a bounded number ahead of the writer."""
        target = self._target
        window: collections.deque[tuple[concurrent.futures.Future[ingest.PreparedRecord] | Fault, int]] = (
            collections.deque()
        )
        held = 0
        with concurrent.futures.ThreadPoolExecutor(target.threads) as pool:
            for entry in entries:
                size = 0 if isinstance(entry, Fault) else len(entry.data or b"")
                while window and (len(window) >= 4 * target.threads or held + size > _WINDOW_BYTES):
                    first, freed = window.popleft()
                    held -= freed
                    yield _result(first)
                held += size
                if isinstance(entry, Fault):
                    window.append((entry, 0))
                else:
                    work = pool.submit(ingest.prepare, entry, target.root, target.image_options, target.regions)
                    window.append((work, size))
            while window:
                yield _result(window.popleft()[0])

    def _told(self, items: Iterable[T], what: str) -> Iterator[T]:
        """The same items; of a sole shard, their count and rate go to stderr every few seconds."""
        beat = progress_line.ProgressLine()
        for count, item in enumerate(items, start=1):
            yield item
            if self._target.sole and beat.due():
                progress_line.say(f"{what}: {count}, {count / beat.seconds:.0f}/s")

    def _reject(self, fault: Fault, file: TextIO) -> None:
        told = f"{fault.reason}, {fault.detail}"
        if self._target.on_bad == "stop":
            raise PackError(f"{self._shard.files[0]}: line {fault.number}: {told}; --on-bad skip counts it and goes on")
        self._rejected[str(fault.reason)] += 1
        self._sources[fault.source or self._target.source]["rejected"] += 1
        self._first_fault = self._first_fault or f"line {fault.number}: {told}"
        named: dict[str, Any] = {
            "line": fault.number,
            "reason": fault.reason,
            "item": fault.item,
            "detail": fault.detail,
        }
        if not self._target.sole:
            named = {"shard": self._shard.name, **named}
        file.write(json.dumps(named, ensure_ascii=False) + "\n")
