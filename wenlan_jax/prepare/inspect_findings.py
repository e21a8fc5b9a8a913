"""What `wenlan data inspect` counts and measures, as JSON and as a page of text."""

from __future__ import annotations

import array
import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wenlan_jax.data.headers import Header
from wenlan_jax.data.records import Question, Region, Text
from wenlan_jax.prepare.raw_items import Fault

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
SAMPLES = 3
"""Broken items named of each reason."""


@dataclasses.dataclass
class Findings:
    """Counts over the records of a data set; `records` by split covers all of them, the rest those looked at.

    usable: records whose image is sound, as far as it was read. broken: items without a record, and images that
    cannot be used, by reason; `samples` names some of each.
    """

    name: str
    layout: str
    decoded: bool
    records: dict[str, int] = dataclasses.field(default_factory=dict)
    looked_at: int = 0
    usable: int = 0
    sources: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    languages: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    kinds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    formats: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    labels: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    arrays: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    broken: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    samples: dict[str, list[str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    _measured: dict[str, array.array[int]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(lambda: array.array("q"))
    )

    @property
    def total(self) -> int:
        """Records in all splits."""
        return sum(self.records.values())

    def add_texts(self, source: str, texts: Sequence[Text]) -> None:
        """Counts what one record says in captions."""
        self.looked_at += 1
        self.sources[source or "(none)"] += 1
        for text in texts:
            self.languages[text.language or "(none)"] += 1
            self.kinds[text.kind] += 1
            self._measured[f"caption characters, {text.language or 'no language'}"].append(len(text.text))
        self._measured["captions of an image"].append(len(texts))

    def add_marks(self, regions: Sequence[Region], questions: Sequence[Question], widths: Mapping[str, int]) -> None:
        """Counts the boxes and questions of one record; `widths` are those of the arrays of its regions."""
        self.labels.update(region.label for region in regions if region.label)
        self.arrays.update(f"{name} {width} wide" for name, width in widths.items())
        self._measured["boxes of an image"].append(len(regions))
        self._measured["questions of an image"].append(len(questions))

    def add_image(self, header: Header, size: int) -> None:
        """Measures one encoded image of `size` bytes."""
        flags = {
            "animated": header.animated,
            "CMYK": header.cmyk,
            "16 bits": header.deep,
            "EXIF turned": header.orientation != 1,
        }
        self.usable += 1
        self.formats[header.kind] += 1
        self.formats.update(f"{header.kind}, {flag}" for flag, is_set in flags.items() if is_set)
        self._measured["width"].append(header.width)
        self._measured["height"].append(header.height)
        self._measured["bytes"].append(size)

    def add_broken(self, fault: Fault) -> None:
        """Counts an item that is no record, or whose image cannot be used."""
        reason = str(fault.reason)
        self.broken[reason] += 1
        if len(self.samples[reason]) < SAMPLES:
            self.samples[reason].append(f"{fault.item or f'item {fault.number}'}: {fault.detail}"[:300])

    def quantiles(self) -> dict[str, dict[str, float]]:
        """Of each measured quantity, the values at QUANTILES; such that are 0 throughout are left out."""
        found = {name: np.quantile(np.asarray(values), QUANTILES) for name, values in sorted(self._measured.items())}
        return {
            name: {f"{quantile:g}": float(value) for quantile, value in zip(QUANTILES, values, strict=True)}
            for name, values in found.items()
            if values[-1] > 0
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, as `json` stores it."""
        counted = ("sources", "languages", "kinds", "formats", "labels", "arrays", "broken")
        return {
            "name": self.name,
            "layout": self.layout,
            "decoded": self.decoded,
            "records": self.records,
            "looked_at": self.looked_at,
            "usable": self.usable,
            **{name: dict(getattr(self, name).most_common()) for name in counted},
            "broken_samples": dict(self.samples),
            "quantiles": self.quantiles(),
        }

    def summary(self) -> str:
        """The same in lines of text."""
        share = "all" if self.looked_at == self.total else f"{self.looked_at:,} evenly spaced"
        read = "decoded whole" if self.decoded else "by their headers; --decode reads them whole, as pack does"
        lines = [
            f"{self.name} ({self.layout})",
            _line("records", f"{self.total:,}: {_counts(self.records)}"),
            _line("looked at", f"{share}; images {read}"),
            _line("usable", f"{self.usable:,} of these {self.looked_at:,}; what follows is of all, usable or not"),
            _line("sources", _counts(self.sources)),
            _line("languages", _counts(self.languages)),
            _line("kinds", _counts(self.kinds)),
            _line("formats", _counts(self.formats)),
        ]
        if self.labels:
            lines.append(_line("labels", _counts(dict(self.labels.most_common(12)))))
        if self.arrays:
            lines.append(_line("arrays", _counts(self.arrays)))
        lines.append(_line("quantiles", "".join(f"{f'{quantile:.0%}':>9}" for quantile in QUANTILES), 32))
        for name, values in self.quantiles().items():
            lines.append(_line(f"  {name}", "".join(f"{value:9,.0f}" for value in values.values()), 32))
        lines.append(_line("broken", _counts(self.broken)))
        lines += [f"  {reason}: {sample}" for reason, samples in self.samples.items() for sample in samples]
        return "\n".join(lines)


def _line(name: str, value: str, width: int = 11) -> str:
    return f"{name:{width}}{value}"


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{name} {count:,}" for name, count in ordered) or "none"
