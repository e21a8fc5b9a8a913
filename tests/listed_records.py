"""Records in memory as a source, for tests that need rows and ids but no files."""

from __future__ import annotations

from collections.abc import Iterable

from wenlan_jax.data import records


class Listed(list[records.Record]):
    """A source of these records."""

    name = "things/test"


def with_ids(ids: Iterable[str]) -> Listed:
    """Records without an image in their bytes."""
    return Listed(records.Record(name, b"", 1, 1) for name in ids)
