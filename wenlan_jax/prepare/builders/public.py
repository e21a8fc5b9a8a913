"""The TFDS data set `wenlan_public`: published sets from files that the user has fetched, one configuration a set.

Every item of the published files becomes part of a record or is rejected and counted; the counts, with samples of each
reason, stand in metadata.json of the data set.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from wenlan_jax.data import named_sets
from wenlan_jax.data.records import Record
from wenlan_jax.data.tfds_builder import BuildError, RecordBuilder
from wenlan_jax.prepare import image_places, ingest, raw_images, raw_items
from wenlan_jax.prepare.builders import sets
from wenlan_jax.prepare.builders.sets import PublicSet, SetPart
from wenlan_jax.prepare.formats import registry
from wenlan_jax.prepare.raw_items import Fault, Item, Outcome, Reason, Rejected

SOURCE = named_sets.PUBLIC
_SAMPLES = 5  # kept of each reason


@dataclasses.dataclass(eq=False, kw_only=True)
class PublicConfig(tfds.core.BuilderConfig):
    """One set of the table."""

    of: PublicSet


class WenlanPublic(RecordBuilder):
    """A published set of images with captions or questions, in the splits of its publication."""

    name = SOURCE
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[PublicConfig]] = [
        PublicConfig(name=one.name, description=one.title, of=one) for one in sets.SETS.values()
    ]

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:  # noqa: N802 - TFDS's name
        """The files of this set."""
        return str(self.builder_config.of.instructions)

    def described(self) -> dict[str, str]:
        """From the table."""
        of = self.builder_config.of
        return {"description": of.title, "homepage": of.homepage, "license": of.license}

    def remarks(self) -> list[str]:
        """Rejected items, and splits of another size than published."""
        of, found = self.builder_config.of, {name: int(one.num_examples) for name, one in self.info.splits.items()}
        told = [
            f"warning: {of.name} {split}: {found[split]:,} images, published are {size:,}"
            for split, size in of.sizes.items()
            if split in found and found[split] != size
        ]
        rejected = self.info.metadata["rejected"]
        counts = ", ".join(f"{reason} {count}" for reason, count in rejected.items()) or "none"
        return [f"items: {self.info.metadata['read']} read; rejected: {counts}", *told]

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        of, root = self.builder_config.of, Path(dl_manager.manual_dir)
        self._reading = SetReader(of, root)
        return {split: self._generate_examples(self._counted(split), split) for split in self._reading.splits}

    def _counted(self, split: str) -> Iterator[Record]:
        yield from self._reading.records(split)
        self.info.metadata.update(self._reading.report())

    def _why_empty(self) -> str:
        report = self._reading.report()
        return f"of {report['read']} items none could be used: {report['samples'] or 'the files are empty'}"


class SetReader:
    """Reads the records of a published set by split; every file is read once, and what is rejected is counted.

    Where a rule tells the split of each item, the paths and texts of a file are kept in memory; never an image.

    Args:
        of: the set.
        root: where its files are.

    Attributes:
        splits: that have items.

    Raises:
        BuildError: when a file is missing.
        ReadError: when one cannot be read.
    """

    def __init__(self, of: PublicSet, root: Path) -> None:
        self._of, self._root = of, root
        folders = {*of.images, *(part.images for part in of.parts if part.images)}
        self._image_root = image_places.Root(str(root), linked=tuple(sorted(folders)), options=())
        self._parts = [part for part in of.parts if not part.optional or self._is_there(part)]
        absent = [name for part in self._parts for name in part.files if not (root / name).exists()]
        absent += [name for name in of.lists if not (root / name).exists()]
        if absent:
            raise BuildError(f"{root}: lacks {', '.join(absent)}. {of.instructions}")
        given = {part.fixed_split for part in self._parts}
        self.splits = [split for split in of.splits if split in given or "" in given]
        self._read = self._packed = 0
        self._rejected: collections.Counter[str] = collections.Counter()
        self._fixes: collections.Counter[str] = collections.Counter()
        self._samples: dict[str, list[str]] = collections.defaultdict(list)

    def records(self, split: str) -> Iterator[Record]:
        """Reads the records of one split, in the order of the files."""
        yield from self._prepared(self._by_rule.pop(split, []))
        grouping = ingest.Grouping(self._image_root, {}, source=self._of.name)
        items = (item for part in self._parts if part.fixed_split == split for item in self._items(part))
        yield from self._prepared(grouping.group(items))
        self._fixes.update(grouping.fixes)

    def report(self) -> dict[str, Any]:
        """Counts all that was read so far; `read` is `packed` and all of `rejected`."""
        return {
            "read": self._read,
            "packed": self._packed,
            "rejected": dict(self._rejected.most_common()),
            "fixes": {name: count for name, count in sorted(self._fixes.items()) if count},
            "samples": dict(self._samples),
        }

    @functools.cached_property
    def _by_rule(self) -> dict[str, list[ingest.Draft | Fault]]:
        """The drafts of all parts whose split a rule tells, by split."""
        drafts: dict[str, list[ingest.Draft | Fault]] = collections.defaultdict(list)
        grouping = ingest.Grouping(self._image_root, {}, source=self._of.name)
        for entry in grouping.group(item for part in self._parts if not part.fixed_split for item in self._items(part)):
            if isinstance(entry, Fault):
                self._reject(entry)
            elif entry.split in self.splits:
                drafts[entry.split].append(entry)
            else:
                self._fixes["of_other_splits_left_out"] += len(entry.numbers)
                self._packed += len(entry.numbers)
        self._fixes.update(grouping.fixes)
        return drafts

    def _items(self, part: SetPart) -> Iterator[Outcome]:
        """The items of one part, with their split, and with paths below the directory of the set."""
        options = raw_items.ReadOptions(language=part.language)
        if part.image_name:
            options = dataclasses.replace(options, image_name=part.image_name)
        rule = (lambda item: part.fixed_split) if isinstance(part.split, str) else part.split(self._root)
        _, shards = registry.shards([str(self._root / name) for name in part.files], part.format, options)
        for shard in shards:
            for item in shard.read():
                self._read += 1
                yield item if isinstance(item, Fault) else _placed(item, part, rule(item))

    def _prepared(self, entries: Iterable[ingest.Draft | Fault]) -> Iterator[Record]:
        for entry in entries:
            if isinstance(entry, Fault):
                self._reject(entry)
                continue
            prepared = ingest.prepare(entry, self._image_root, raw_images.ImageOptions())
            self._fixes.update(prepared.fixes)
            if isinstance(prepared.outcome, Rejected):
                for number in entry.numbers:
                    self._reject(Fault(number, prepared.outcome.reason, prepared.outcome.detail, entry.image))
            else:
                self._packed += len(entry.numbers)
                yield prepared.outcome

    def _reject(self, fault: Fault) -> None:
        self._rejected[str(fault.reason)] += 1
        if len(self._samples[str(fault.reason)]) < _SAMPLES:
            self._samples[str(fault.reason)].append(f"{fault.item}: line {fault.number}: {fault.detail}")

    def _is_there(self, part: SetPart) -> bool:
        return any((self._root / name).exists() for name in part.files)


def _placed(item: Item, part: SetPart, split: str) -> Outcome:
    """The item with its split, its id (the image's own name, so that sets on the same images can be compared)."""
    if not split:
        return Fault(item.number, Reason.MISSING_FIELD, "no list of a split names this image", item.image)
    texts = item.texts
    if part.text is not None:
        texts = tuple(dataclasses.replace(text, text=part.text(text.text)) for text in texts)
    identity = item.id or (item.image if part.image_name else posixpath.basename(item.image))
    image = posixpath.join(part.images, item.image) if part.images and item.data is None else item.image
    return dataclasses.replace(item, texts=texts, id=identity, image=image, split=split)
