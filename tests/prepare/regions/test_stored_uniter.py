"""UNITER's arrays in files and in LMDB: read, joined to packed records, in processes and after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np
import pytest
from annotations import unchecked

from wenlan_jax.data.records import Record
from wenlan_jax.prepare.regions import job
from wenlan_jax.prepare.regions.detections import Selection
from wenlan_jax.prepare.regions.stored import StoredRegions
from wenlan_jax.util import resumable_jobs

Arrays = dict[str, np.ndarray]


def _write_lmdb(written: Any, place: Path, entries: dict[str, Arrays], compressed: bool) -> None:
    """As UNITER's convert_imgdir.py does: float16, in archives or in msgpack, and the list of keys."""
    place.mkdir()
    with lmdb.open(str(place), map_size=1 << 26) as store, store.begin(write=True) as transaction:
        for name, arrays in entries.items():
            if compressed:
                value = written.archive(written.half(arrays))
            else:
                packed = {key: written.message(array) for key, array in written.half(arrays).items()}
                value = msgpack.packb(packed, use_bin_type=True)
            transaction.put(name.encode(), value)
        transaction.put(b"__keys__", json.dumps(list(entries)).encode())


def _check_uniter(written: Any, record: Record, arrays: Arrays) -> None:
    """The record has UNITER's rows, by confidence, as many as its loader takes."""
    half = written.half(arrays)
    order = np.argsort(-half["conf"].astype(np.float64), kind="stable")
    order = order[: np.clip((half["conf"] > 0.2).sum(), 10, 100)]
    assert record.region_features is not None and record.region_classes is not None
    np.testing.assert_array_equal(record.region_features, half["features"][order])
    np.testing.assert_array_equal(record.region_classes, half["soft_labels"][order])
    np.testing.assert_allclose([region.score for region in record.regions], half["conf"][order], atol=1e-3)
    size = np.array([record.width, record.height] * 2)
    got = np.array([region.box for region in record.regions]) / size
    np.testing.assert_allclose(got, half["norm_bb"][order, :4].clip(0, 1), atol=1e-3)


@pytest.mark.parametrize("layout", ["npz", "lmdb", "lmdb_compressed"])
def test_uniter_features_come_to_their_records(
    written: Any, layout: str, tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    entries = {
        f"coco_val2014_{number:012d}.npz": written.arrays(number, sure=sure) for number, sure in ((9, 11), (30, 4))
    }
    place = tmp_path / "store"
    if layout == "npz":
        place.mkdir()
        for name, arrays in entries.items():
            np.savez(place / name, **arrays)
    else:
        _write_lmdb(written, place, entries, layout == "lmdb_compressed")
    file_format = "uniter_npz" if layout == "npz" else "uniter_lmdb"
    key = "coco_val2014_{number:012d}" + ("" if layout == "npz" else ".npz")
    report = job.run(packed, tmp_path / "out", StoredRegions(str(place), file_format, key), workers=0)
    before, after = read_records(packed), read_records(tmp_path / "out")
    _check_uniter(written, after[0], entries["coco_val2014_000000000009.npz"])
    _check_uniter(written, after[2], entries["coco_val2014_000000000030.npz"])
    assert after[1] == before[1]
    assert [record.image for record in after] == [record.image for record in before]
    assert (report.found, report.missing, report.faulty) == (2, 1, 0)
    assert (report.features, report.classes, report.feature_norm) == ({"2048": 2}, {"1601": 2}, "raw")
    stored = json.loads((tmp_path / "out" / job.REPORT_NAME).read_text())
    assert stored["report"]["feature_norm"] == "raw"


def _damaged(arrays: Arrays, fault: str) -> Arrays:
    if fault == "row counts":
        return {**arrays, "features": arrays["features"][:-1]}
    if fault == "missing array":
        return {name: array for name, array in arrays.items() if name != "conf"}
    if fault == "objects":
        return {**arrays, "features": np.array([None] * len(arrays["conf"]))}
    return {**arrays, "norm_bb": arrays["norm_bb"][:, :3]}


@pytest.mark.parametrize("fault", ["row counts", "missing array", "objects", "box width", "not a zip"])
def test_damaged_entries_are_named_and_their_records_kept(
    written: Any, fault: str, tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    place = tmp_path / "store"
    place.mkdir()
    np.savez(place / "COCO_val2014_000000000009.npz", **_damaged(written.arrays(0), fault))
    if fault == "not a zip":
        (place / "COCO_val2014_000000000009.npz").write_bytes(b"PK\x03\x04 cut")
    np.savez(place / "COCO_val2014_000000000025.npz", **written.arrays(1))
    with unchecked():
        report = job.run(packed, tmp_path / "out", StoredRegions(str(place), "uniter_npz"), workers=0)
    assert (report.found, report.missing, report.faulty) == (1, 1, 1)
    named = json.loads((tmp_path / "out" / job.FAULTS_NAME).read_text())
    assert (named["row"], named["id"]) == (0, "images/COCO_val2014_000000000009.jpg")
    assert read_records(tmp_path / "out")[0] == read_records(packed)[0]


def test_an_interrupted_job_goes_on_and_other_options_are_refused(
    written: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_record: Callable[..., Record],
    pack_records: Callable[..., Path],
    read_records: Callable[[Path], list[Record]],
) -> None:
    monkeypatch.setattr(job, "UNIT_RECORDS", 2)
    place = pack_records(tmp_path / "packed", [make_record(f"{n}.png", 60, 40, n) for n in range(5)])
    store = tmp_path / "store"
    store.mkdir()
    for number in range(5):
        np.savez(store / f"{number}.npz", **written.arrays(number))
    finder = StoredRegions(str(store), "uniter_npz")
    asked: list[str] = []
    whole = StoredRegions.find_all

    def find_all(self: StoredRegions, records: list[Record]) -> Any:
        asked.extend(record.id for record in records)
        if asked == ["0.png", "1.png", "2.png"]:
            raise KeyboardInterrupt
        return whole(self, records)

    monkeypatch.setattr(StoredRegions, "find_all", find_all)
    with pytest.raises(KeyboardInterrupt):
        job.run(place, tmp_path / "out", finder, workers=0)
    assert not (tmp_path / "out").exists()
    other = StoredRegions(str(store), "uniter_npz", selection=Selection(max_boxes=20))
    with pytest.raises(resumable_jobs.JobError, match="other options"):
        job.run(place, tmp_path / "out", other, workers=0)
    asked.clear()
    asked.append("again")
    report = job.run(place, tmp_path / "out", finder, workers=0)
    assert asked == ["again", "2.png", "3.png", "4.png"]
    assert (report.found, sum(report.records.values())) == (5, 5)
    for number, record in enumerate(read_records(tmp_path / "out")):
        assert record.id == f"{number}.png"
        _check_uniter(written, record, written.arrays(number))


def test_processes_give_what_one_process_gives(
    written: Any, tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    _write_lmdb(
        written, tmp_path / "store", {f"COCO_val2014_{n:012d}.npz": written.arrays(n) for n in (9, 25, 30)}, False
    )
    finder = StoredRegions(str(tmp_path / "store"), "uniter_lmdb")
    job.run(packed, tmp_path / "one", finder, workers=0)
    job.run(packed, tmp_path / "two", finder, workers=2)
    assert read_records(tmp_path / "one") == read_records(tmp_path / "two")
