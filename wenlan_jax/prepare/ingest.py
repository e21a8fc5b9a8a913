"""From items to records: items of one image are grouped, and its bytes are read, checked, and perhaps changed.

Grouping keeps paths and texts of one shard in memory, never an image; images are read one by one, later. Items that
bring their image are not grouped but pass through as they come.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from wenlan_jax.data.records import Question, Record, Region, Text
from wenlan_jax.prepare import raw_images
from wenlan_jax.prepare.image_places import Root
from wenlan_jax.prepare.raw_items import Fault, Item, Outcome, Reason, Rejected
from wenlan_jax.prepare.regions import detections
from wenlan_jax.prepare.regions.stored import StoredRegions

MAX_BOXES = 100
"""Boxes kept of one image, the first ones, as in the BriVL 1.0 files."""
DEFAULT_SPLIT = "train"
MAX_SPLITS = 64
"""Splits that data may name; each is a file that is open while records are written."""


@dataclasses.dataclass
class Draft:
    """A record to be: everything but its image.

    Attributes:
        image: its name.
        data: its bytes, where the input brings them.
        id: of the record.
        split: of the record.
        source: of the record.
        box_file: the boxes are in an .npz file beside the image.
        texts: an ordered set.
        questions: equal answers count.
        regions: its boxes.
        numbers: the items that it stands for.
    """

    image: str
    data: bytes | None
    id: str
    split: str
    source: str
    box_file: bool
    texts: dict[Text, None]  # an ordered set
    questions: list[Question]  # not a set: equal answers count
    regions: tuple[Region, ...]
    numbers: list[int]


class Grouping:
    """Groups the items of one shard into drafts by image.

    Names of one image below `root` are one, however they are spelled. Splits follow the id without `prefix`, or the
    image where none is given: where shards share an image, they agree on its split.

    Args:
        root: where images are named from.
        split_shares: see `split_of`.
        prefix: begins ids, and tells shards apart.
        source: of records which name none.

    Attributes:
        fixes: counts what is repaired.
        read: counts items.
    """

    def __init__(self, root: Root, split_shares: Mapping[str, float], prefix: str = "", source: str = "") -> None:
        self._root, self._shares, self._prefix, self._source = root, split_shares, prefix, source
        self._drafts: dict[str, Draft] = {}
        self._owners: dict[str, str] = {}  # id -> image
        self._brought: set[str] = set()  # ids of items that brought their image
        self._splits: set[str] = set()
        self.fixes: collections.Counter[str] = collections.Counter()
        self.read = 0

    def group(self, items: Iterable[Outcome]) -> Iterator[Draft | Fault]:
        """Groups items.

        Args:
            items: of the shard.

        Yields:
            Faults and drafts that bring their image as they come; the other drafts when all is read.
        """
        for item in items:
            self.read += 1
            if isinstance(item, Fault):
                self.fixes.update(item.fixes)
                yield item
                continue
            try:
                draft = self._add(item)
            except Rejected as rejected:
                yield Fault(item.number, rejected.reason, rejected.detail, item.image, item.source)
            else:
                if draft.data is not None:
                    yield draft
        while self._drafts:
            yield self._drafts.pop(next(iter(self._drafts)))

    def _add(self, item: Item) -> Draft:
        if item.data is not None:
            draft = self._start(item.image, item.image, item)
        else:
            name, key = self._root.named(item.image)
            if key not in self._drafts:
                self._drafts[key] = self._start(name, key, item)
            draft = self._drafts[key]
        if item.split and item.split != draft.split:
            raise Rejected(
                Reason.SPLIT_CONFLICT, f"split {item.split!r}, but line {draft.numbers[0]} puts it in {draft.split!r}"
            )
        draft.numbers.append(item.number)
        draft.texts.update(dict.fromkeys(item.texts))
        draft.questions.extend(item.questions)
        draft.regions = draft.regions or item.regions
        self.fixes["id_ignored"] += bool(item.id and self._prefix + item.id != draft.id)
        self.fixes.update(item.fixes)
        return draft

    def _start(self, image: str, key: str, item: Item) -> Draft:
        identity = item.id or image.strip()
        owner = self._owners.setdefault(identity, image)
        if owner != image or (item.data is not None and identity in self._brought):
            raise Rejected(Reason.DUPLICATE_ID, f"id {identity[:200]!r} is that of {owner[:200]}")
        split = item.split or split_of(unicodedata.normalize("NFC", item.id or key.strip()), self._shares)
        if split not in self._splits and len(self._splits) >= MAX_SPLITS:
            raise Rejected(Reason.BAD_VALUE, f"split {split!r} is one more than {MAX_SPLITS}; see --split-field")
        self._splits.add(split)
        if item.data is not None:
            self._brought.add(identity)
        source = item.source or self._source
        return Draft(image, item.data, self._prefix + identity, split, source, item.box_file, {}, [], (), [])


def split_of(identity: str, shares: Mapping[str, float]) -> str:
    """Chooses the split of an id by a stable hash of the id alone.

    So a longer list leaves no record in another split.

    Args:
        identity: the id.
        shares: fractions of the whole; what they leave is `train`.

    Returns:
        The name of the split.
    """
    position = int.from_bytes(hashlib.sha256(identity.encode("utf-8")).digest()[:8], "big") / 2**64
    for split, share in shares.items():
        if position < share:
            return split
        position -= share
    return DEFAULT_SPLIT


@dataclasses.dataclass(frozen=True)
class PreparedRecord:
    """What came of a draft.

    Attributes:
        draft: the draft.
        outcome: a record, or the reason why there is none.
        fixes: the repairs made.
    """

    draft: Draft
    outcome: Record | Rejected
    fixes: collections.Counter[str]


def prepare(
    draft: Draft, root: Root, options: raw_images.ImageOptions, stored: StoredRegions | None = None
) -> PreparedRecord:
    """Reads and checks the image of a draft, below `root` where the draft does not bring it.

    Args:
        draft: the draft.
        root: where images are named from.
        options: what happens to images.
        stored: detections that take the place of the boxes of the draft; None for none.

    Returns:
        What came of it.
    """
    fixes: collections.Counter[str] = collections.Counter()
    try:
        name, data = "", draft.data
        if data is None:
            name, data = raw_images.fetch(root, places_of(draft.image))
        raw_images.check_not_empty(data)
        regions = raw_images.boxes_beside(root, name) if draft.box_file and name else draft.regions
        image = raw_images.checked(data, options, fixes)
        fitted = _stored(draft, image, stored, fixes) or detections.Fitted(
            tuple(_clip(regions, image.stored_width, image.stored_height, fixes)), None, None
        )
    except Rejected as rejected:
        return PreparedRecord(draft, rejected, fixes)
    record = Record(
        id=draft.id,
        image=image.data,
        width=image.width,
        height=image.height,
        source=draft.source,
        texts=tuple(draft.texts),
        regions=tuple(dataclasses.replace(region, box=image.box(region.box)) for region in fitted.regions),
        questions=tuple(draft.questions),
        region_features=fitted.features,
        region_classes=fitted.classes,
    )
    return PreparedRecord(draft, record, fixes)


def _stored(
    draft: Draft, image: raw_images.RecordImage, stored: StoredRegions | None, fixes: collections.Counter[str]
) -> detections.Fitted | None:
    """What is stored of the image of a draft, in the pixels that it came with; None for nothing, which is counted."""
    if stored is None:
        return None
    try:
        found = stored.find(draft.id, draft.image)
        if found is not None:
            return detections.fit(found, image.stored_width, image.stored_height, stored.selection, fixes)
    except detections.DetectionError as error:
        raise Rejected(Reason.BAD_BOX_FILE, f"{stored.place}: {error}") from error
    fixes["regions_missing"] += 1
    return None


_COCO = re.compile(r"COCO_((?:train|val|test)20\d\d)_\d{12}\.jpg")
_GENOME = re.compile(r"\d+\.jpg")


def places_of(image: str) -> list[str]:
    """Lists where an image may lie: as named, or in the folder where its set keeps it (COCO, Visual Genome)."""
    if coco := _COCO.fullmatch(image):
        return [image, f"{coco[1]}/{image}"]
    return [image, f"VG_100K/{image}", f"VG_100K_2/{image}"] if _GENOME.fullmatch(image) else [image]


def _clip(regions: Iterable[Region], width: int, height: int, fixes: collections.Counter[str]) -> Iterator[Region]:
    """The first regions, cut to the image; those without area in it are dropped."""
    kept = 0
    for region in regions:
        x1, y1, x2, y2 = region.box
        clipped = (max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2))
        if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
            fixes["box_degenerate_dropped"] += 1
        elif kept == MAX_BOXES:
            fixes["box_beyond_limit_dropped"] += 1
        else:
            fixes["box_clipped"] += clipped != region.box
            kept += 1
            yield dataclasses.replace(region, box=clipped)
