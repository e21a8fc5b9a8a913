"""Regions stored in TSV files and by BriVL, stores that fit nothing or are damaged, and regions at the pack."""

from __future__ import annotations

import base64
import collections
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lmdb
import msgpack
import numpy as np
import pytest

from wenlan_jax.data import sources
from wenlan_jax.data.records import Record
from wenlan_jax.prepare import pack, raw_images, raw_items
from wenlan_jax.prepare.regions import butd, detections, job, npz, uniter
from wenlan_jax.prepare.regions.detections import DetectionError, Selection
from wenlan_jax.prepare.regions.stored import StoredRegions

Arrays = dict[str, np.ndarray]


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
    written: Any, tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    first, second = written.arrays(0, count=36), written.arrays(1, count=36)
    lines = [_butd_line("9", first, 120, 80), _butd_line("9", second, 120, 80)]  # an image that is there twice
    (tmp_path / "val.tsv.0").write_text("\r\n".join(lines) + "\r\n")
    (tmp_path / "val.tsv.1").write_text(_butd_line("25", second, 60, 40))
    finder = StoredRegions(str(tmp_path / "val.tsv.*"), "butd_tsv")
    report = job.run(packed, tmp_path / "out", finder, workers=0)
    assert (report.found, report.missing) == (2, 1)
    for record, arrays in zip(read_records(tmp_path / "out"), (first, second), strict=False):
        assert record.region_features is not None and record.region_classes is None
        np.testing.assert_array_equal(record.region_features, arrays["features"].astype(np.float16))
        assert {region.score for region in record.regions} == {1.0}
        got = np.array([region.box for region in record.regions])
        np.testing.assert_allclose(got, (arrays["norm_bb"][:, :4] * (60, 40, 60, 40)).clip(0, (60, 40) * 2), atol=1e-3)


def test_lxmert_files_bring_confidences(
    written: Any, tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    arrays = written.arrays(0)
    (tmp_path / "val.tsv").write_text(_butd_line("9", arrays, 60, 40, lxmert=True) + "\n")
    job.run(packed, tmp_path / "out", StoredRegions(str(tmp_path / "val.tsv"), "butd_tsv"), workers=0)
    record = read_records(tmp_path / "out")[0]
    order = np.argsort(-arrays["conf"], kind="stable")[:11]
    np.testing.assert_array_equal(record.region_features, arrays["features"][order].astype(np.float16))


def test_brivl_boxes_have_neither_scores_nor_features(
    tmp_path: Path, packed: Path, read_records: Callable[[Path], list[Record]]
) -> None:
    folder = tmp_path / "store" / "images"
    folder.mkdir(parents=True)
    np.savez(folder / "COCO_val2014_000000000025.npz", bbox=np.array([[1, 2, 30, 20], [0, 0, 70, 10]]))
    job.run(packed, tmp_path / "out", StoredRegions(str(tmp_path / "store"), "brivl_npz"), workers=0)
    record = read_records(tmp_path / "out")[1]
    assert [region.box for region in record.regions] == [(1, 2, 30, 20), (0, 0, 60, 10)]
    assert record.region_features is None and record.region_classes is None


def test_damaged_lines_and_entries_of_the_other_stores(written: Any, tmp_path: Path) -> None:
    line = _butd_line("9", written.arrays(0), 60, 40)
    for wrong in (line.replace("\t12\t", "\t13\t"), line[:-5] + "*", line + "\tmore"):
        path = tmp_path / "wrong.tsv"
        path.write_text(wrong)
        with pytest.raises(DetectionError, match=r"wrong.tsv: image 9: "):
            StoredRegions(str(path), "butd_tsv").find("9")
        path.unlink()
    (tmp_path / "not.tsv").write_text("no tabs here\n")
    with pytest.raises(raw_items.ReadError, match="is this a BUTD file"):
        StoredRegions(str(tmp_path / "not.tsv"), "butd_tsv").find("9")
    place = tmp_path / "store"
    place.mkdir()
    good = msgpack.packb({"features": written.message(np.zeros((3, 4), np.float16))})
    pickled = msgpack.packb({"features": {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": b"x"}})
    with lmdb.open(str(place), map_size=1 << 20) as store, store.begin(write=True) as transaction:
        for name, value in (("cut", good[:-3]), ("pickled", pickled), ("partial", good), ("list", b"\x90")):
            transaction.put(name.encode(), value)
    finder = StoredRegions(str(place), "uniter_lmdb", "{id}")
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
def test_whatever_a_damaged_store_holds_is_a_fault_or_detections(written: Any, layout: str, tmp_path: Path) -> None:
    arrays = written.arrays(0, count=3, sure=2)
    arrays = {**arrays, "features": arrays["features"][:, :8], "soft_labels": arrays["soft_labels"][:, :5]}
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    whole = {
        "npz": stream.getvalue(),
        "archive": written.archive(arrays),
        "msgpack": msgpack.packb({name: written.message(array) for name, array in written.half(arrays).items()}),
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


WRONG_KEYS = [
    *("{image}", "{id.foo}", "{id[x]}", "{path.__class__.__mro__}", "{number:99999999999}", "{id:>999}", "{id!r}"),
    *("{}", "{0}", "{id:{number}}", "{", "}", "{id:d}", "{number:.99999999f}", "{number:q}"),
]


def test_keys_are_of_plain_fields(tmp_path: Path) -> None:
    (tmp_path / "val.tsv").write_text("")
    for key in WRONG_KEYS:
        with pytest.raises(raw_items.ReadError, match=r"--regions-key .*may hold \{id\}, \{path\}, \{stem\}"):
            StoredRegions(str(tmp_path / "val.tsv"), "butd_tsv", key).check()
    named = StoredRegions("x", "butd_tsv", "{{a}}_{number:012d}_{stem:_>8}_{id:.3}")
    assert named.key_of("record", "p/img12.jpg") == "{a}_000000000012____img12_rec"
    assert StoredRegions("x", "butd_tsv").key_of("9" * 5000, "") == ""


@pytest.mark.parametrize("form", ["brivl_npz", "uniter_npz"])
def test_links_of_stored_regions_are_followed_where_the_user_allows_it(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    named = {"bbox": [[1, 2, 3, 4]], "norm_bb": [[0, 0, 1, 1, 1, 1.0]], "conf": [0.5], "features": [[1.0, 2.0]]}
    np.savez(tmp_path / "elsewhere.npz", **{name: np.array(values) for name, values in named.items()})
    (folder / "a.npz").symlink_to("../elsewhere.npz")
    with pytest.raises(DetectionError, match="leads out of .*--allow-links follows such"):
        StoredRegions(str(folder), form).find("a", "a.jpg")
    found = StoredRegions(str(folder), form, links=True)
    for one in (found, found.knowing([("a", "a.jpg", "a")])):
        assert one.find("a", "a.jpg") is not None


def test_stores_that_fit_no_record_say_how_they_are_named(written: Any, tmp_path: Path, packed: Path) -> None:
    (tmp_path / "val.tsv").write_text(_butd_line("flickr30k_7", written.arrays(0), 60, 40))
    with pytest.raises(job.RegionJobError, match=r"val.tsv: has none.*'\{number\}'.*flickr30k_7"):
        job.run(packed, tmp_path / "out", StoredRegions(str(tmp_path / "val.tsv"), "butd_tsv"), workers=0)
    assert not list(tmp_path.glob(".out*")) and not (tmp_path / "out").exists()
    for wrong in (
        StoredRegions(str(tmp_path / "none"), "uniter_npz"),
        StoredRegions(str(tmp_path), "uniter_npz"),
        StoredRegions(str(tmp_path / "none"), "uniter_lmdb"),
        StoredRegions(str(tmp_path / "*.tsv.*"), "butd_tsv"),
        *(StoredRegions(str(tmp_path / "val.tsv"), "butd_tsv", key=key) for key in WRONG_KEYS),
    ):
        with pytest.raises(raw_items.ReadError):
            job.run(packed, tmp_path / "out", wrong, workers=0)


def test_images_of_another_shape_are_faults(written: Any, tmp_path: Path, packed: Path) -> None:
    (tmp_path / "val.tsv").write_text(
        _butd_line("9", written.arrays(0), 40, 60) + "\n" + _butd_line("25", written.arrays(1), 60, 40)
    )
    report = job.run(packed, tmp_path / "out", StoredRegions(str(tmp_path / "val.tsv"), "butd_tsv"), workers=0)
    assert (report.found, report.faulty) == (1, 1)
    assert "image of 40 x 60 pixels" in (tmp_path / "out" / job.FAULTS_NAME).read_text()


def test_pack_takes_stored_regions_into_shrunk_and_turned_images(written: Any, tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "1.jpg", exif=exif)
    cv2.imwrite(str(tmp_path / "2.png"), pixels)
    cv2.imwrite(str(tmp_path / "3.png"), pixels)
    cv2.imwrite(str(tmp_path / "4.png"), pixels)
    (tmp_path / "captions.csv").write_text("image,caption\n1.jpg,a\n2.png,b\n3.png,c\n4.png,d\n")
    arrays = written.arrays(0, count=3, sure=3)
    arrays["norm_bb"][:, :4] = [[0.1, 0.2, 0.3, 0.6], [0, 0, 1, 1], [0.5, 0.5, 0.75, 1]]
    arrays["conf"][:] = [0.5, 0.9, 0.7]
    tsv = [_butd_line("1", arrays, 80, 40), _butd_line("2", arrays, 160, 80), _butd_line("3", arrays, 40, 80)]
    (tmp_path / "regions.tsv").write_text("\n".join(tsv))
    report = pack.pack(
        pack.PackOptions(
            inputs=(str(tmp_path / "captions.csv"),),
            out=tmp_path / "out",
            image_options=raw_images.ImageOptions(max_side=40, exif="apply"),
            regions=StoredRegions(str(tmp_path / "regions.tsv"), "butd_tsv"),
        )
    )
    assert report.fixes["regions_missing"] == 1 and report.rejected == {"bad_box_file": 1}
    assert "image of 40 x 80 pixels" in (tmp_path / "out" / pack.REJECTED_NAME).read_text()
    source = sources.TfdsSource(tmp_path / "out", "train", "out")
    turned, straight, missing = (source[row] for row in range(3))
    assert (turned.width, turned.height, straight.width) == (20, 40, 40)
    np.testing.assert_allclose(turned.regions[0].box, (8, 4, 16, 12), atol=1e-3)
    np.testing.assert_allclose(straight.regions[0].box, (4, 4, 12, 12), atol=1e-3)
    for record in (turned, straight):
        np.testing.assert_array_equal(record.region_features, arrays["features"].astype(np.float16))
    assert (missing.regions, missing.region_features) == ((), None)


def test_pack_refuses_a_store_that_fits_no_image(written: Any, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "captions.csv").write_text("image,caption\n2.png,b\n")
    (tmp_path / "regions.tsv").write_text(_butd_line("000002", written.arrays(0), 4, 4))
    options = pack.PackOptions(
        inputs=(str(tmp_path / "captions.csv"),),
        out=tmp_path / "out",
        regions=StoredRegions(str(tmp_path / "regions.tsv"), "butd_tsv"),
    )
    with pytest.raises(pack.PackError, match="entries are 000002; see --regions-key"):
        pack.pack(options)
    assert not (tmp_path / "out").exists()


def _captions(folder: Path, name: str, images: list[str]) -> str:
    for seed, image in enumerate(images):
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / image), np.full((40, 60, 3), seed + len(name), np.uint8))
    (folder / name).write_text("image,caption\n" + "".join(f"{image},x\n" for image in images))
    return str(folder / name)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_number_that_two_sources_share_belongs_to_neither(written: Any, tmp_path: Path, workers: int) -> None:
    coco = _captions(tmp_path, "coco.csv", [f"coco/COCO_val2014_{number:012d}.jpg" for number in (9, 25)])
    genome = _captions(tmp_path, "genome.csv", ["VG_100K/9.jpg", "VG_100K/30.jpg", "VG_100K/./30.jpg"])
    lines = [_butd_line(str(number), written.arrays(number, count=12), 60, 40) for number in (9, 25, 30)]
    (tmp_path / "regions.tsv").write_text("\n".join(lines))
    options = pack.PackOptions(
        inputs=(coco, genome),
        out=tmp_path / "out",
        images=str(tmp_path),
        workers=workers,
        regions=StoredRegions(str(tmp_path / "regions.tsv"), "butd_tsv"),
    )
    report = pack.pack(options)
    assert report.rejected == {"bad_box_file": 2} and report.packed == 3
    assert "entry '9' is that of several of these images" in (tmp_path / "out" / pack.REJECTED_NAME).read_text()
    source = sources.TfdsSource(tmp_path / "out", "train", "out")
    assert [(source[row].id, len(source[row].regions)) for row in range(2)] == [
        ("coco/coco/COCO_val2014_000000000025.jpg", 12),
        ("genome/VG_100K/30.jpg", 12),
    ]


def test_records_of_equal_numbers_share_regions_only_if_they_are_one_image(
    written: Any, tmp_path: Path, make_record: Any, pack_records: Any, read_records: Any
) -> None:
    records = [
        make_record("en/9.jpg", 60, 40, 0),
        make_record("zh/9.jpg", 60, 40, 0),
        make_record("en/7.jpg", 60, 40, 1),
        make_record("other/7.jpg", 60, 40, 2),
    ]
    packed = pack_records(tmp_path / "in", records)
    lines = [_butd_line(str(number), written.arrays(number, count=12), 60, 40) for number in (7, 9)]
    (tmp_path / "regions.tsv").write_text("\n".join(lines))
    report = job.run(packed, tmp_path / "out", StoredRegions(str(tmp_path / "regions.tsv"), "butd_tsv"), workers=0)
    assert (report.found, report.faulty) == (2, 2)
    assert [record.region_features is not None for record in read_records(tmp_path / "out")] == [
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(job.RegionJobError, match="entry '9' is that of several"):
        job.run(packed, tmp_path / "all", StoredRegions(str(tmp_path / "regions.tsv"), "butd_tsv", "9"), workers=0)


def test_an_entry_that_comes_from_two_sets_is_refused(written: Any, tmp_path: Path) -> None:
    line, other = (_butd_line("9", written.arrays(seed, count=12), 60, 40) for seed in (0, 1))
    larger = _butd_line("9", written.arrays(0, count=12), 600, 400)
    for name, contents, refused in (
        ("repeated", [line + "\n" + other], False),
        ("copied", [line, line + "\n"], False),
        ("files", [line, other], True),
        ("sizes", [line + "\n" + larger], True),
        ("third", [line, line, other], True),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for number, content in enumerate(contents):
            (folder / f"{number}.tsv").write_text(content)
        store = StoredRegions(str(folder / "*.tsv"), "butd_tsv")
        if refused:
            with pytest.raises(DetectionError, match="several images; sets share their numbers"):
                store.find("9")
        else:
            assert store.find("9") is not None


def test_an_archive_of_arrays_that_unpack_to_far_more_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    np.savez_compressed(stream, bbox=np.zeros((50_000, 4)))
    monkeypatch.setattr(npz, "_SIZE_LIMIT", 1 << 20)
    with pytest.raises(DetectionError, match="bytes of arrays for one image"):
        npz.arrays_in(stream.getvalue(), "here")


def test_base64_of_regions_in_the_other_alphabet(written: Any) -> None:
    line = _butd_line("9", written.arrays(0), 60, 40)
    changed = line.replace("+", "-").replace("/", "_").replace("=", "")
    assert changed != line
    one, two = (butd.parse(text.encode(), "here") for text in (line, changed))
    np.testing.assert_array_equal(one.boxes, two.boxes)
    np.testing.assert_array_equal(one.features, two.features)


def test_keys_of_ids_with_dots_and_without_digits() -> None:
    number, stem = StoredRegions("x", "butd_tsv"), StoredRegions("x", "uniter_npz")
    assert [number.key_of(one, "") for one in ("img.example.com_12", "v2/photo.7.JPG", "cat", "7/cat.jpg")] == [
        "12",
        "7",
        "",
        "",
    ]
    assert [stem.key_of(one, "") for one in ("a/img.example.com_1", "a/b.tar.png")] == ["img.example.com_1", "b.tar"]


def test_an_image_without_a_number_has_no_entry(written: Any, tmp_path: Path) -> None:
    (tmp_path / "regions.tsv").write_text(_butd_line("0", written.arrays(0), 60, 40))
    store = StoredRegions(str(tmp_path / "regions.tsv"), "butd_tsv")
    assert store.find("0.jpg") is not None and store.find("cat.jpg") is None


@pytest.mark.parametrize("name", ["n" * 600 + ".jpg", "n" * 5000, "名" * 300])
def test_names_longer_than_a_store_can_hold_have_no_entry(name: str, written: Any, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(_butd_line("9", written.arrays(0), 60, 40))
    with lmdb.open(str(tmp_path / "store"), map_size=1 << 20) as store, store.begin(write=True) as transaction:
        transaction.put(b"9.npz", b"x")
    assert StoredRegions(str(tmp_path / "store"), "uniter_lmdb").find(name) is None
    assert StoredRegions(str(tmp_path / "a.tsv"), "butd_tsv", "{stem}").find(name) is None
    assert StoredRegions(str(tmp_path), "brivl_npz").find(name) is None
