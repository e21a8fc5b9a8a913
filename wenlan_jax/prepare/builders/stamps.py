"""The TFDS data set `wenlan_stamps`: Tux Paint's stamps, many of them photographs, with a phrase in many languages.

A split is a hash of the English phrase, so stamps of equal phrases (letters in several styles) share a split.
"""

from __future__ import annotations

import collections
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from wenlan_jax.data import named_sets, records
from wenlan_jax.data.tfds_builder import RecordBuilder
from wenlan_jax.prepare import ingest, raw_images
from wenlan_jax.prepare.builders import packages
from wenlan_jax.prepare.builders.emoji import SPLIT_SHARES, SPLITS
from wenlan_jax.prepare.raw_items import Rejected
from wenlan_jax.util import languages

SOURCE = named_sets.STAMPS
PACKAGE = "tuxpaint-stamps-default"
MAX_SIDE = 512
"""Pixels of the longer side; larger stamps are shrunk to it."""

_STAMPS = "usr/share/tuxpaint/stamps"
_LANGUAGES = {"zh_CN": "zh", **{code: code for code in languages.LANGUAGES if code not in ("zh", "en")}}


class WenlanStamps(RecordBuilder):
    """Stamps with one human-translated phrase each (kind `descriptive`) in up to seven languages."""

    name = SOURCE
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = packages.instructions([PACKAGE])
    WANTED: ClassVar[dict[str, tuple[str, ...]]] = {PACKAGE: (f"{_STAMPS}/*.png", f"{_STAMPS}/*.txt")}

    def described(self) -> dict[str, str]:
        """One licence for all of it."""
        return {
            "description": str(self.__doc__),
            "homepage": "https://tuxpaint.org/stamps/",
            "license": "GPL-2, Bill Kendrick and the authors named in the package",
        }

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        counts: collections.Counter[str] = collections.Counter()
        by_split: dict[str, list[records.Record]] = collections.defaultdict(list)
        with tempfile.TemporaryDirectory() as scratch:
            root = packages.unpack(Path(dl_manager.manual_dir), self.WANTED, Path(scratch)) / _STAMPS
            for split, record in _records(root, counts):
                by_split[split].append(record)
        self.info.metadata.update({name: count for name, count in sorted(counts.items()) if count})
        return {split: self._generate_examples(iter(by_split[split]), split) for split in SPLITS}


def phrases(content: str) -> dict[str, str]:
    """The phrase in each of our languages: the first line is English, the others are `LOCALE.utf8=PHRASE`."""
    english, *lines = content.splitlines() or [""]
    found = {"en": english.strip()}
    for line in lines:
        locale, mark, phrase = line.partition(".utf8=")
        if mark and locale.strip() in _LANGUAGES:
            found[_LANGUAGES[locale.strip()]] = phrase.strip()
    return {language: found[language] for language in languages.LANGUAGES if found.get(language)}


def _records(root: Path, counts: collections.Counter[str]) -> Iterator[tuple[str, records.Record]]:
    """The stamps that have an image in PNG, in the order of their paths; `counts` tells of the others."""
    for place in sorted(root.rglob("*.txt")):
        said = phrases(place.read_text("utf-8", "replace"))
        image = place.with_suffix(".png")
        if not image.is_file():
            counts["drawings_in_svg_left_out"] += 1  # every renderer draws an SVG alone otherwise
        elif "en" not in said:
            counts["without_phrase_left_out"] += 1
        else:
            try:
                checked = raw_images.checked(image.read_bytes(), raw_images.ImageOptions(max_side=MAX_SIDE), counts)
            except Rejected as rejected:
                counts[f"{rejected.reason}_left_out"] += 1
                continue
            yield (
                ingest.split_of(said["en"], SPLIT_SHARES),
                records.Record(
                    id=os.fspath(place.relative_to(root).with_suffix("")),
                    image=checked.data,
                    width=checked.width,
                    height=checked.height,
                    source=SOURCE,
                    texts=tuple(records.Text("descriptive", language, phrase) for language, phrase in said.items()),
                ),
            )
