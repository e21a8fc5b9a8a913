"""Accounts of a cleaning job: what came in, went out, was dropped and why, with samples; they must balance."""

from __future__ import annotations

import base64
import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from wenlan_jax.data import records
from wenlan_jax.prepare.clean import image_checks
from wenlan_jax.util.errors import WenlanError

THUMBNAIL = 96
"""Pixels of the side of a sample's image."""
Counts = collections.Counter[str]
_COUNTERS = (
    "records_in", "records_out", "records_dropped", "texts_in", "texts_out", "texts_dropped", "texts_moved",
    "texts_received", "changes",
)  # fmt: skip


class AccountError(WenlanError, RuntimeError):
    """Items were neither written nor counted as dropped, which is a bug."""


@dataclasses.dataclass
class CleanLedger:
    """Counters of one unit or of a whole job, and up to `limit` samples of each reason, the first ones.

    `records_in`, `records_out`, `texts_in` and `texts_out` are by split, `*_dropped` by reason. Texts that go with
    their record are counted under `record: REASON`. `texts_moved` went to another record, where they were
    `texts_received`.
    """

    limit: int
    counts: dict[str, Counts] = dataclasses.field(default_factory=lambda: {name: Counts() for name in _COUNTERS})
    samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    _sampled: Counts = dataclasses.field(default_factory=Counts)

    def drop_record(
        self, split: str, record: records.Record, texts: int, reason: str, detail: str = "", thumb: bytes | None = None
    ) -> None:
        """Counts a record that goes, with the `texts` it still has."""
        self.counts["records_dropped"][reason] += 1
        if texts:
            self.counts["texts_dropped"][f"record: {reason}"] += texts
        first = record.texts[0].text if record.texts else ""
        self._sample(reason, split, record, first, detail, thumb)

    def drop_text(self, split: str, record: records.Record, text: str, reason: str, detail: str = "") -> None:
        """Counts a text that goes."""
        self.counts["texts_dropped"][reason] += 1
        self._sample(reason, split, record, text, detail, None)

    def wants_sample(self, reason: str) -> bool:
        """Whether a further sample of `reason` would be kept."""
        return self._sampled[reason] < self.limit

    def report(self) -> dict[str, Any]:
        """What `json` can store; `absorb` reads it."""
        return {"counts": self.counts, "samples": self.samples}

    def absorb(self, report: Mapping[str, Any]) -> None:
        """Adds the account of another unit."""
        for name, counts in report["counts"].items():
            self.counts[name].update(counts)
        for sample in report["samples"]:
            self._keep(sample)

    def check(self) -> None:
        """Raises AccountError unless in = out + dropped, for records and for texts."""
        total = {name: sum(counts.values()) for name, counts in self.counts.items()}
        balanced = (
            total["records_in"] == total["records_out"] + total["records_dropped"]
            and total["texts_in"] == total["texts_out"] + total["texts_dropped"]
            and total["texts_moved"] == total["texts_received"]
        )
        if not balanced:
            raise AccountError(f"the accounts do not balance; please report this: {total}")

    def _sample(
        self, reason: str, split: str, record: records.Record, text: str, detail: str, thumb: bytes | None
    ) -> None:
        if not self.wants_sample(reason):
            return
        sample: dict[str, Any] = {
            "reason": reason, "source": record.source, "split": split, "id": record.id, "text": text[:500],
            "detail": detail, "image": base64.b64encode(thumb or _thumbnail(record.image)).decode(),
        }  # fmt: skip
        self._keep(sample)

    def _keep(self, sample: dict[str, Any]) -> None:
        if self.wants_sample(sample["reason"]):
            self._sampled[sample["reason"]] += 1
            self.samples.append(sample)


def _thumbnail(data: bytes) -> bytes:
    from wenlan_jax.data import images

    try:
        return image_checks.thumbnail(images.decode(data), THUMBNAIL)
    except images.CorruptImage:
        return b""


def sum_up(reports: Sequence[Mapping[str, Any]], limit: int) -> CleanLedger:
    """The account of all units."""
    whole = CleanLedger(limit)
    for report in reports:
        whole.absorb(report)
    return whole
