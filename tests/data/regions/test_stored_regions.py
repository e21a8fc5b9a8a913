"""Stored regions: every layout as its authors write it, read, and joined to records, when packing and afterwards."""

from __future__ import annotations

import base64
import collections
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lmdb
import msgpack
import numpy as np
import pytest

from wenlan_jax.data import pack, pictures, readers, sources, units
from wenlan_jax.data.records import Record
from wenlan_jax.data.regions import butd, detections, job, npz, uniter
from wenlan_jax.data.regions.detections import DetectionError, Selection
from wenlan_jax.data.regions.stored import Stored

Arrays = dict[str, np.ndarray]


def _uniter(seed: int, count: int = 12, sure: int = 11) -> Arrays:
    """The arrays of a picture as UNITER's extraction writes them; `sure` boxes above its threshold, in no order."""
    random = np.random.default_rng(seed)
    start = random.uniform(0, 0.6, (count, 2))
    size = random.uniform(0.1, 0.4, (count, 2))
    conf = np.concatenate([random.uniform(0.3, 1.0, sure), random.uniform(0.0, 0.19, count - sure)])
    return {
        "norm_bb": np.concatenate([start, start + size, size], axis=1).astype(np.float32),
        "features": random.normal(size=(count, 2048)).astype(np.float32),
        "conf": random.permutation(conf).astype(np.float32),
        "soft_labels": random.dirichlet(np.ones(1601), count).astype(np.float32),
    }


def _half(arrays: Arrays) -> Arrays:
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def _msgpack_numpy(array: np.ndarray) -> dict[bytes, Any]:
    """An array as msgpack-numpy's encoder has it."""
    return {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape, b"data": array.tobytes()}


def _archive_of_then(arrays: Arrays) -> bytes:
    """`np.savez_compressed(**arrays, allow_pickle=True)` by a NumPy that took the option for an array."""
    stream, flag = io.BytesIO(), io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    np.save(flag, np.bool_(True))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("allow_pickle.npy", flag.getvalue())
    return stream.getvalue()


def _write_lmdb(place: Path, entries: dict[str, Arrays], compressed: bool) -> None:
    """As UNITER's convert_imgdir.py does: float16, in archives or in msgpack, and the list of keys."""
    place.mkdir()
    with lmdb.open(str(place), map_size=1 << 26) as store, store.begin(write=True) as transaction:
        for name, arrays in entries.items():
            if compressed:
                value = _archive_of_then(_half(arrays))
            else:
                packed = {key: _msgpack_numpy(array) for key, array in _half(arrays).items()}
                value = msgpack.packb(packed, use_bin_type=True)
            transaction.put(name.encode(), value)
        transaction.put(b"__keys__", json.dumps(list(entries)).encode())


def _check_uniter(record: Record, arrays: Arrays) -> None:
    """The record has UNITER's rows, by confidence, as many as its loader takes."""
    half = _half(arrays)
    order = np.argsort(-half["conf"].astype(np.float64), kind="stable")
    order = order[: np.clip((half["conf"] > 0.2).sum(), 10, 100)]
    assert record.region_features is not None and record.region_classes is not None
    np.testing.assert_array_equal(record.region_features, half["features"][order])
    np.testing.assert_array_equal(record.region_classes, half["soft_labels"][order])
    np.testing.assert_allclose([region.score for region in record.regions], half["conf"][order], atol=1e-3)
    size = np.array([record.width, record.height] * 2)
    got = np.array([region.box for region in record.regions]) / size
    np.testing.assert_allclose(got, half["norm_bb"][order, :4].clip(0, 1), atol=1e-3)


@pytest.fixture
def packed(
    tmp_path: Path, make_record: Callable[..., Record], pack_records: Callable[[Path, list[Record]], Path]
) -> Path:
    names = [f"images/COCO_val2014_{number:012d}.jpg" for number in (9, 25, 30)]
    return pack_records(tmp_path / "packed", [make_record(name, 60, 40, n) for n, name in enumerate(names)])


@pytest.mark.parametrize("layout", ["npz", "lmdb", "lmdb_compressed"])
def test_uniter_features_come_to_their_records(
    layout: str, tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    entries = {f"coco_val2014_{number:012d}.npz": _uniter(number, sure=sure) for number, sure in ((9, 11), (30, 4))}
    place = tmp_path / "store"
    if layout == "npz":
        place.mkdir()
        for name, arrays in entries.items():
            np.savez(place / name, **arrays)
    else:
        _write_lmdb(place, entries, layout == "lmdb_compressed")
    file_format = "uniter_npz" if layout == "npz" else "uniter_lmdb"
    key = "coco_val2014_{number:012d}" + ("" if layout == "npz" else ".npz")
    report = job.run(packed, tmp_path / "out", Stored(str(place), file_format, key), workers=0)
    before, after = read_records(packed), read_records(tmp_path / "out")
    _check_uniter(after[0], entries["coco_val2014_000000000009.npz"])
    _check_uniter(after[2], entries["coco_val2014_000000000030.npz"])
    assert after[1] == before[1]
    assert [record.image for record in after] == [record.image for record in before]
    assert (report.found, report.missing, report.faulty) == (2, 1, 0)
    assert (report.features, report.classes, report.feature_norm) == ({"2048": 2}, {"1601": 2}, "raw")
    stored = json.loads((tmp_path / "out" / job.REPORT_NAME).read_text())
    assert stored["report"]["feature_norm"] == "raw"


def _butd_line(key: str, arrays: Arrays, width: int, height: int, lxmert: bool = False) -> str:
    def coded(array: np.ndarray, dtype: str = "<f4") -> str:
        return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode()

    boxes = arrays["norm_bb"][:, :4] * np.array([width, height] * 2, np.float32)
    count, features = str(len(boxes)), coded(arrays["features"])
    if not lxmert:
        return "\t".join([key, str(width), str(height), count, coded(boxes), features])
    labels, conf = coded(np.zeros(len(boxes)), "<i8"), coded(arrays["conf"])
    return "\t".join([key, str(height), str(width), labels, conf, labels, conf, count, coded(boxes), features])


def test_bottom_up_attention_files_are_read_in_parts(
    tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    first, second = _uniter(0, count=36), _uniter(1, count=36)
    lines = [_butd_line("9", first, 120, 80), _butd_line("9", second, 120, 80)]  # a picture that is there twice
    (tmp_path / "val.tsv.0").write_text("\r\n".join(lines) + "\r\n")
    (tmp_path / "val.tsv.1").write_text(_butd_line("25", second, 60, 40))
    finder = Stored(str(tmp_path / "val.tsv.*"), "butd_tsv")
    report = job.run(packed, tmp_path / "out", finder, workers=0)
    assert (report.found, report.missing) == (2, 1)
    for record, arrays in zip(read_records(tmp_path / "out"), (first, second), strict=False):
        assert record.region_features is not None and record.region_classes is None
        np.testing.assert_array_equal(record.region_features, arrays["features"].astype(np.float16))
        assert {region.score for region in record.regions} == {1.0}
        got = np.array([region.box for region in record.regions])
        np.testing.assert_allclose(got, (arrays["norm_bb"][:, :4] * (60, 40, 60, 40)).clip(0, (60, 40) * 2), atol=1e-3)


def test_lxmert_files_bring_confidences(
    tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    arrays = _uniter(0)
    (tmp_path / "val.tsv").write_text(_butd_line("9", arrays, 60, 40, lxmert=True) + "\n")
    job.run(packed, tmp_path / "out", Stored(str(tmp_path / "val.tsv"), "butd_tsv"), workers=0)
    record = read_records(tmp_path / "out")[0]
    order = np.argsort(-arrays["conf"], kind="stable")[:11]
    np.testing.assert_array_equal(record.region_features, arrays["features"][order].astype(np.float16))


def test_brivl_boxes_have_neither_scores_nor_features(
    tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    folder = tmp_path / "store" / "images"
    folder.mkdir(parents=True)
    np.savez(folder / "COCO_val2014_000000000025.npz", bbox=np.array([[1, 2, 30, 20], [0, 0, 70, 10]]))
    job.run(packed, tmp_path / "out", Stored(str(tmp_path / "store"), "brivl_npz"), workers=0)
    record = read_records(tmp_path / "out")[1]
    assert [region.box for region in record.regions] == [(1, 2, 30, 20), (0, 0, 60, 10)]
    assert record.region_features is None and record.region_classes is None


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
    fault: str, tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    place = tmp_path / "store"
    place.mkdir()
    np.savez(place / "COCO_val2014_000000000009.npz", **_damaged(_uniter(0), fault))
    if fault == "not a zip":
        (place / "COCO_val2014_000000000009.npz").write_bytes(b"PK\x03\x04 cut")
    np.savez(place / "COCO_val2014_000000000025.npz", **_uniter(1))
    report = job.run(packed, tmp_path / "out", Stored(str(place), "uniter_npz"), workers=0)
    assert (report.found, report.missing, report.faulty) == (1, 1, 1)
    named = json.loads((tmp_path / "out" / job.FAULTS_NAME).read_text())
    assert (named["row"], named["id"]) == (0, "images/COCO_val2014_000000000009.jpg")
    assert read_records(tmp_path / "out")[0] == read_records(packed)[0]


def test_damaged_lines_and_entries_of_the_other_stores(tmp_path: Path) -> None:
    line = _butd_line("9", _uniter(0), 60, 40)
    for wrong in (line.replace("\t12\t", "\t13\t"), line[:-5] + "*", line + "\tmore"):
        path = tmp_path / "wrong.tsv"
        path.write_text(wrong)
        with pytest.raises(DetectionError, match=r"wrong.tsv: image 9: "):
            Stored(str(path), "butd_tsv").find("9")
        path.unlink()
    (tmp_path / "not.tsv").write_text("no tabs here\n")
    with pytest.raises(readers.ReadError, match="is this a BUTD file"):
        Stored(str(tmp_path / "not.tsv"), "butd_tsv").find("9")
    place = tmp_path / "store"
    place.mkdir()
    good = msgpack.packb({"features": _msgpack_numpy(np.zeros((3, 4), np.float16))})
    pickled = msgpack.packb({"features": {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": b"x"}})
    with lmdb.open(str(place), map_size=1 << 20) as store, store.begin(write=True) as transaction:
        for name, value in (("cut", good[:-3]), ("pickled", pickled), ("partial", good), ("list", b"\x90")):
            transaction.put(name.encode(), value)
    finder = Stored(str(place), "uniter_lmdb", "{id}")
    for name in ("cut", "pickled", "partial", "list"):
        with pytest.raises(DetectionError, match=f"store: {name}: "):
            finder.find(name)


def _mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Bytes changed, cut out or doubled, somewhere."""
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        start = int(random.integers(len(changed)))
        kind, length = random.integers(4), int(random.integers(1, 40))
        if kind == 0:
            changed[start] ^= 1 << int(random.integers(8))
        elif kind == 1:
            del changed[start : start + length]
        elif kind == 2:
            changed[start:start] = changed[start : start + length]
        else:
            changed[start : start + length] = random.bytes(length)
        if not changed:
            break
    return bytes(changed)


@pytest.mark.parametrize("layout", ["npz", "archive", "msgpack", "tsv"])
def test_whatever_a_damaged_store_holds_is_a_fault_or_detections(layout: str, tmp_path: Path) -> None:
    arrays = _uniter(0, count=3, sure=2)
    arrays = {**arrays, "features": arrays["features"][:, :8], "soft_labels": arrays["soft_labels"][:, :5]}
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    whole = {
        "npz": stream.getvalue(),
        "archive": _archive_of_then(arrays),
        "msgpack": msgpack.packb({name: _msgpack_numpy(array) for name, array in _half(arrays).items()}),
        "tsv": _butd_line("9", arrays, 60, 40).encode(),
    }[layout]
    random = np.random.default_rng(0)
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(500):
        data = _mutated(whole, random)
        try:
            found = _read_entry(layout, data)
            fitted = detections.fit(found, 60, 40, Selection(), collections.Counter())
        except DetectionError:
            outcomes["fault"] += 1
            continue
        outcomes["read"] += 1
        assert all(np.isfinite(region.box).all() for region in fitted.regions)
        assert fitted.features is None or np.isfinite(fitted.features).all()
    assert outcomes["fault"] > 50 and outcomes["read"] > 5  # archives have checksums


def _read_entry(layout: str, data: bytes) -> detections.Detections:
    if layout == "tsv":
        return butd.parse(data, "here")
    arrays = uniter.message_arrays(data, "here") if layout == "msgpack" else npz.arrays_in(data, "here")
    return uniter.detections(arrays, "here")


def test_stores_that_fit_no_record_say_how_they_are_named(tmp_path: Path, packed: Path) -> None:
    (tmp_path / "val.tsv").write_text(_butd_line("flickr30k_7", _uniter(0), 60, 40))
    with pytest.raises(job.RegionError, match=r"val.tsv: has none.*'\{number\}'.*flickr30k_7"):
        job.run(packed, tmp_path / "out", Stored(str(tmp_path / "val.tsv"), "butd_tsv"), workers=0)
    assert not list(tmp_path.glob(".out*")) and not (tmp_path / "out").exists()
    for wrong in (
        Stored(str(tmp_path / "none"), "uniter_npz"),
        Stored(str(tmp_path), "uniter_npz"),
        Stored(str(tmp_path / "none"), "uniter_lmdb"),
        Stored(str(tmp_path / "*.tsv.*"), "butd_tsv"),
        Stored(str(tmp_path / "val.tsv"), "butd_tsv", key="{image}"),
    ):
        with pytest.raises(readers.ReadError):
            job.run(packed, tmp_path / "out", wrong, workers=0)


def test_pictures_of_another_shape_are_faults(tmp_path: Path, packed: Path) -> None:
    (tmp_path / "val.tsv").write_text(_butd_line("9", _uniter(0), 40, 60) + "\n" + _butd_line("25", _uniter(1), 60, 40))
    report = job.run(packed, tmp_path / "out", Stored(str(tmp_path / "val.tsv"), "butd_tsv"), workers=0)
    assert (report.found, report.faulty) == (1, 1)
    assert "picture of 40 x 60 pixels" in (tmp_path / "out" / job.FAULTS_NAME).read_text()


def test_an_interrupted_job_goes_on_and_other_options_are_refused(
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
        np.savez(store / f"{number}.npz", **_uniter(number))
    finder = Stored(str(store), "uniter_npz")
    asked: list[str] = []
    whole = Stored.find_all

    def find_all(self: Stored, records: list[Record]) -> Any:
        asked.extend(record.id for record in records)
        if asked == ["0.png", "1.png", "2.png"]:
            raise KeyboardInterrupt
        return whole(self, records)

    monkeypatch.setattr(Stored, "find_all", find_all)
    with pytest.raises(KeyboardInterrupt):
        job.run(place, tmp_path / "out", finder, workers=0)
    assert not (tmp_path / "out").exists()
    other = Stored(str(store), "uniter_npz", selection=Selection(max_boxes=20))
    with pytest.raises(units.UnitError, match="other options"):
        job.run(place, tmp_path / "out", other, workers=0)
    asked.clear()
    asked.append("again")
    report = job.run(place, tmp_path / "out", finder, workers=0)
    assert asked == ["again", "2.png", "3.png", "4.png"]
    assert (report.found, sum(report.records.values())) == (5, 5)
    for number, record in enumerate(read_records(tmp_path / "out")):
        assert record.id == f"{number}.png"
        _check_uniter(record, _uniter(number))


def test_processes_give_what_one_process_gives(
    tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    _write_lmdb(tmp_path / "store", {f"COCO_val2014_{n:012d}.npz": _uniter(n) for n in (9, 25, 30)}, False)
    finder = Stored(str(tmp_path / "store"), "uniter_lmdb")
    job.run(packed, tmp_path / "one", finder, workers=0)
    job.run(packed, tmp_path / "two", finder, workers=2)
    assert read_records(tmp_path / "one") == read_records(tmp_path / "two")


def test_pack_takes_stored_regions_into_shrunk_and_turned_pictures(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "1.jpg", exif=exif)
    cv2.imwrite(str(tmp_path / "2.png"), pixels)
    cv2.imwrite(str(tmp_path / "3.png"), pixels)
    cv2.imwrite(str(tmp_path / "4.png"), pixels)
    (tmp_path / "captions.csv").write_text("image,caption\n1.jpg,a\n2.png,b\n3.png,c\n4.png,d\n")
    arrays = _uniter(0, count=3, sure=3)
    arrays["norm_bb"][:, :4] = [[0.1, 0.2, 0.3, 0.6], [0, 0, 1, 1], [0.5, 0.5, 0.75, 1]]
    arrays["conf"][:] = [0.5, 0.9, 0.7]
    tsv = [_butd_line("1", arrays, 80, 40), _butd_line("2", arrays, 160, 80), _butd_line("3", arrays, 40, 80)]
    (tmp_path / "regions.tsv").write_text("\n".join(tsv))
    report = pack.pack(
        pack.PackOptions(
            inputs=(str(tmp_path / "captions.csv"),),
            out=tmp_path / "out",
            pictures=pictures.PictureOptions(max_side=40, exif="apply"),
            regions=Stored(str(tmp_path / "regions.tsv"), "butd_tsv"),
        )
    )
    assert report.fixes["regions_missing"] == 1 and report.rejected == {"bad_box_file": 1}
    assert "picture of 40 x 80 pixels" in (tmp_path / "out" / pack.REJECTED_NAME).read_text()
    source = sources.TfdsSource(tmp_path / "out", "train", "out")
    turned, straight, missing = (source[row] for row in range(3))
    assert (turned.width, turned.height, straight.width) == (20, 40, 40)
    np.testing.assert_allclose(turned.regions[0].box, (8, 4, 16, 12), atol=1e-3)
    np.testing.assert_allclose(straight.regions[0].box, (4, 4, 12, 12), atol=1e-3)
    for record in (turned, straight):
        np.testing.assert_array_equal(record.region_features, arrays["features"].astype(np.float16))
    assert (missing.regions, missing.region_features) == ((), None)


def test_pack_refuses_a_store_that_fits_no_picture(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "captions.csv").write_text("image,caption\n2.png,b\n")
    (tmp_path / "regions.tsv").write_text(_butd_line("000002", _uniter(0), 4, 4))
    options = pack.PackOptions(
        inputs=(str(tmp_path / "captions.csv"),),
        out=tmp_path / "out",
        regions=Stored(str(tmp_path / "regions.tsv"), "butd_tsv"),
    )
    with pytest.raises(pack.PackError, match="entries are 000002; see --regions-key"):
        pack.pack(options)
    assert not (tmp_path / "out").exists()
