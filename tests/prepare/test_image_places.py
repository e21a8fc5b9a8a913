"""Names in data lead to regular files below one folder, by whatever characters they are spelled, and nowhere else."""

from __future__ import annotations

import argparse
import json
import os
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest

from wenlan_jax.commands import data as command_of_data
from wenlan_jax.commands import pack as pack_command
from wenlan_jax.data import sources
from wenlan_jax.prepare import image_places, inspect, pack, raw_images, raw_items
from wenlan_jax.prepare.raw_items import ReadError, Rejected

IMAGE = cv2.imencode(".jpg", np.full((6, 8, 3), 90, np.uint8))[1].tobytes()
NFC, NFD = (unicodedata.normalize(form, "café 가.jpg") for form in ("NFC", "NFD"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder `images` with an image and links, and a secret beside it."""
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    (images / "in.jpg").write_bytes(IMAGE)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    for name, target in {
        "sub/within.jpg": "../in.jpg",
        "out.jpg": "../secret.jpg",
        "absolute.jpg": str(tmp_path / "secret.jpg"),
        "up": "..",
        "zero.jpg": "/dev/zero",
        "chain.jpg": "out.jpg",
        "loop.jpg": "loop.jpg",
    }.items():
        (images / name).symlink_to(target)
    os.mkfifo(images / "pipe.jpg")
    return images


def _elsewhere(place: Path) -> list[str]:
    secret = place.parent / "secret.jpg"
    return [
        *("../secret.jpg", "sub/../../secret.jpg", str(secret), "/dev/zero", "/proc/self/environ", "/"),
        *("out.jpg", "absolute.jpg", "up/secret.jpg", "zero.jpg", "chain.jpg"),
        *(f"file://{secret}", f"FILE://{secret}", f"local://{secret}", f"reference://{secret}", "memory://a"),
        *(
            f"simplecache::file://{secret}",
            f"zip://a.jpg::{secret}",
            f"s3://b/k::file://{secret}",
            "://x",
            "github://a",
        ),
        *("http://127.0.0.1:9/a.jpg", "HTTPS://127.0.0.1:9/a.jpg", "s3://bucket/a.jpg", "gs://bucket/a.jpg"),
    ]


def test_names_that_lead_elsewhere_are_refused(place: Path) -> None:
    root = image_places.Root(str(place))
    for name in _elsewhere(place):
        with pytest.raises(Rejected) as caught:
            root.read(name, 100)
        assert caught.value.reason == "untrusted_place", name


BLANKS = ["\u2028", " ", "\t", "\u3000", "\x1f", "\u00a0"]


@pytest.mark.parametrize("links", [False, True])
def test_parts_that_are_dots_once_blanks_are_dropped_lead_nowhere(place: Path, links: bool) -> None:
    (place.parent / "secret.npz").write_bytes(b"secret")
    names = [
        f"{part}/secret.jpg" for blank in BLANKS for part in (f"..{blank}", f"{blank}..", f"sub/..{blank}/{blank}..")
    ]
    names += [f"sub/{part}/in.jpg" for blank in BLANKS for part in (f".{blank}", blank, f"{blank}..{blank}")]
    local = image_places.Root(str(place), links=links)
    for root in (
        local,
        image_places.Root(f"file://{place}", links=links),
        image_places.Root("https://host/dir", True, links),
    ):
        for name in names:
            with pytest.raises(Rejected, match="not below") as caught:
                root.read(name, 100)
            assert caught.value.reason == "untrusted_place", name
    for name in names:
        with pytest.raises(Rejected):
            raw_images.boxes_beside(local, name)


def test_names_below_are_read_however_they_are_spelled(place: Path) -> None:
    for base in (place, place / ".." / "images", f"file://{place}"):
        root = image_places.Root(str(base))
        for name in ("in.jpg", "./in.jpg", "sub/../in.jpg", "sub/within.jpg", str(place / "in.jpg")):
            assert root.read(name, 1000) == IMAGE


@pytest.mark.parametrize("name", ["pipe.jpg", "sub", "loop.jpg", "none.jpg", "in.jpg/x", "n" * 5000])
def test_what_is_no_regular_file_is_missing(place: Path, name: str) -> None:
    with pytest.raises(ReadError):
        image_places.Root(str(place)).read(name, 100)


def test_what_the_user_allows(place: Path) -> None:
    linked = image_places.Root(str(place), links=True)
    assert linked.read("out.jpg", 100) == linked.read("up/secret.jpg", 100) == b"secret"
    for name in ("../secret.jpg", "/dev/zero", f"file://{place.parent}/secret.jpg"):
        with pytest.raises(Rejected):
            linked.read(name, 100)
    with pytest.raises(ReadError, match="a device"):
        linked.read("zero.jpg", 100)
    remote = image_places.Root(str(place), remote=True)
    with pytest.raises(ReadError, match="http://127.0.0.1:9/a.jpg: (cannot be read|this needs a package)"):
        remote.read("HTTP://127.0.0.1:9/a.jpg", 100)
    for name in ("reference://x", "memory://x", "file:///x", "http://127.0.0.1:9/a::reference://x"):
        with pytest.raises(Rejected):
            remote.read(name, 100)
    assert image_places.Root(str(place), linked=("up",)).read("up/secret.jpg", 100) == b"secret"
    with pytest.raises(Rejected):
        image_places.Root(str(place), linked=("sub",)).read("up/secret.jpg", 100)


def test_names_below_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def read(address: str, limit: int) -> bytes:
        asked.append(address)
        if address in there:
            return b"x"
        raise ReadError(f"{address}: gone")

    monkeypatch.setattr(image_places.files, "read_bytes", read)
    web, store = image_places.Root("https://host/dir"), image_places.Root("s3://bucket/dir")
    there = {"https://host/dir/a%23b%3Fc%20%C3%A9.jpg", "s3://bucket/dir/a#b?c é.jpg", "https://host/dir/a%20b.jpg"}
    assert web.read("a#b?c é.jpg", 9) == web.read("a#b?c é.jpg", 9) == store.read("a#b?c é.jpg", 9) == b"x"
    assert web.read("a%20b.jpg", 9) == web.read("a b.jpg", 9) == b"x"
    count = len(asked)
    for name in ("/etc/passwd", "../x", "a/../../x", "a::reference://x", "http://other/x"):
        for root in (web, store):
            with pytest.raises(Rejected):
                root.read(name, 9)
    for name in ("%2e%2e/x", "a/%2E./%2e%2E/x", "..%2fx", "a%2f..%2f..%2fx", "%2fetc", "..%20/x"):
        with pytest.raises(Rejected):
            web.read(name, 9)
    assert len(asked) == count


@pytest.mark.parametrize(
    ("stored", "asked"), [(NFC, NFD), (NFD, NFC), (NFD, NFD), ("a.jpg ", "a.jpg"), (NFD, " " + NFC)]
)
def test_names_in_another_form(tmp_path: Path, stored: str, asked: str) -> None:
    folder = unicodedata.normalize("NFD", "ü")
    (tmp_path / folder).mkdir()
    (tmp_path / folder / stored).write_bytes(b"x")
    for name in (f"ü/{asked}", f"{folder}/{asked}"):
        assert image_places.Root(str(tmp_path)).read(name, 9) == b"x"


def test_of_two_files_the_exact_one_or_none_is_taken(tmp_path: Path) -> None:
    (tmp_path / NFC).write_bytes(b"c")
    (tmp_path / NFD).write_bytes(b"d")
    root = image_places.Root(str(tmp_path))
    assert (root.read(NFC, 9), root.read(NFD, 9)) == (b"c", b"d")
    with pytest.raises(Rejected, match="2 files differ"):
        root.read(NFC + " ", 9)


def _pack(captions: Path, **options: object) -> pack.PackReport:
    out = captions.parent / "out"
    report = pack.pack(pack.PackOptions((str(captions),), out, workers=0, threads=1, **options))  # type: ignore[arg-type]
    assert report.read == report.packed + sum(report.rejected.values())
    return report


def test_a_pack_follows_no_name_that_leads_elsewhere(place: Path) -> None:
    captions = place.parent / "c.jsonl"
    names = ["in.jpg", *_elsewhere(place), "pipe.jpg"]
    captions.write_text("".join(json.dumps({"image": name, "caption": "x"}) + "\n" for name in names))
    report = _pack(captions, images=str(place))
    assert report.packed == 1
    assert report.rejected == {"untrusted_place": len(_elsewhere(place)), "missing_image": 1}
    found, _ = inspect.inspect(inspect.InspectOptions(str(captions), place, images=str(place)))
    assert found.broken["untrusted_place"] == len(_elsewhere(place)) - 1  # of two names of one file
    assert found.formats == {"jpeg": 1}


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "coco", "brivl"])
def test_no_format_follows_dots_behind_blanks(place: Path, form: str) -> None:
    (place.parent / "secret.jpg").write_bytes(IMAGE)
    names = ["in.jpg", "..\u2028/secret.jpg", "sub/..\u00a0/\u3000../secret.jpg"]
    captions = place.parent / f"c.{'json' if form == 'coco' else 'jsonl' if form == 'brivl' else form}"
    if form == "coco":
        found = [{"id": number, "file_name": name} for number, name in enumerate(names)]
        said = [{"id": number, "image_id": number, "caption": "x"} for number in range(len(names))]
        captions.write_text(json.dumps({"images": found, "annotations": said}))
    elif form in ("csv", "tsv"):
        separator = "," if form == "csv" else "\t"
        captions.write_text(
            "\n".join(separator.join(row) for row in [("image", "caption"), *((n, "x") for n in names)])
        )
    else:
        fields = ("image_id", "sentences") if form == "brivl" else ("image", "caption")
        said = [["easy", "x"]] if form == "brivl" else "x"
        captions.write_text("".join(json.dumps({fields[0]: n, fields[1]: said, "bbox": None}) + "\n" for n in names))
    for links in (False, True):
        report = _pack(captions, images=str(place), allow_links=links, file_format=form)
        assert (report.packed, report.rejected) == (1, {"untrusted_place": 2})


def test_a_pipe_that_the_user_names_is_refused(place: Path) -> None:
    for options in ({}, {"file_format": "csv"}, {"file_format": "webdataset"}):
        with pytest.raises(ReadError, match="a pipe, not a regular file"):
            _pack(place / "pipe.jpg", **options)


def test_the_options_of_the_commands(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "out.jpg").unlink()
    (place.parent / "secret.jpg").write_bytes(IMAGE)
    (place / "out.jpg").symlink_to("../secret.jpg")
    captions, out = place.parent / "c.csv", place.parent / "out"
    captions.write_text("image,caption\nin.jpg,x\nout.jpg,y\nhttp://127.0.0.1:9/a.jpg,z\n")
    for command, first, usual in (
        (pack_command, [], "untrusted_place 2"),
        (command_of_data, ["inspect"], "untrusted_place 2"),
    ):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        rest = ["--out", str(out)] if command is pack_command else []
        arguments = [*first, str(captions), "--images", str(place), *rest]
        for more, expected in (
            ([], usual),
            (["--allow-links"], "untrusted_place 1"),
            (["--allow-links", "--allow-remote"], "missing_image 1"),
        ):
            assert command.run(parser.parse_args([*arguments, *more]), []) == 0
            assert expected in capsys.readouterr().out


def test_a_list_of_addresses_is_fetched_only_if_that_is_allowed(place: Path) -> None:
    captions = place.parent / "gcc.tsv"
    captions.write_text("a cat\thttp://127.0.0.1:9/1.jpg\n")
    for allowed, told in ((False, "untrusted_place.*--allow-remote"), (True, "missing_image")):
        with pytest.raises(pack.PackError, match=told):
            _pack(captions, read=raw_items.ReadOptions(image_name="{url}"), allow_remote=allowed)


def _names_of_one(place: Path) -> list[str]:
    """Of the image `in.jpg`, by paths, blanks, and links within the folder."""
    return [
        *("in.jpg", "./in.jpg", "sub/../in.jpg", "../images/in.jpg", str(place / "in.jpg"), f"/{place}/in.jpg"),
        *(f"{place}/../images//in.jpg", " in.jpg", "in.jpg\u3000", "sub/within.jpg", "again/in.jpg"),
    ]


@pytest.mark.parametrize("links", [False, True])
def test_an_image_of_many_names_is_one_record(place: Path, links: bool) -> None:
    (place / "again").symlink_to(".")
    captions = place.parent / "c.jsonl"
    names = [*_names_of_one(place), "café.jpg", unicodedata.normalize("NFD", "café.jpg")]
    (place / names[-1]).write_bytes(IMAGE)
    captions.write_text("".join(json.dumps({"image": n, "caption": f"{k}"}) + "\n" for k, n in enumerate(names)))
    report = _pack(captions, images=str(place), allow_links=links, split_shares={"a": 0.5, "b": 0.5})
    assert (report.read, report.packed, sum(report.records.values())) == (len(names), len(names), 2)
    found = {r.id: r for s in report.records for r in sources.open_source(str(place.parent / "out"), s, place)}
    assert set(found) == {"in.jpg", "café.jpg"}
    assert [text.text for text in found["in.jpg"].texts] == [str(k) for k in range(len(names) - 2)]
    assert [text.text for text in found["café.jpg"].texts] == [str(k) for k in range(len(names) - 2, len(names))]


def test_shards_agree_on_the_split_of_an_image_of_many_names(place: Path) -> None:
    (place / "again").symlink_to(".")
    for number, name in enumerate(_names_of_one(place)):
        (place.parent / f"{number}.jsonl").write_text(json.dumps({"image": name, "caption": "x"}))
    report = _pack(place.parent / "*.jsonl", images=str(place), split_shares={f"s{k}": 0.1 for k in range(10)})
    assert sum(report.records.values()) == len(_names_of_one(place)) and len(report.records) == 1


def test_images_of_like_names_stay_apart(place: Path) -> None:
    for name in (NFC, NFD, "in.jpg ", "sub/in.jpg"):
        (place / name).write_bytes(IMAGE)
    names = [NFC, NFD, "in.jpg", "in.jpg ", "sub/in.jpg"]
    captions = place.parent / "c.jsonl"
    captions.write_text(
        "".join(json.dumps({"image": n, "caption": "x", "id": str(k)}) + "\n" for k, n in enumerate(names))
    )
    report = _pack(captions, images=str(place))
    assert (report.packed, report.records) == (5, {"train": 5})


STRANGE = ["[1]", "a*b", "q?", "h#h", "p%20", "bl ank", "new\nline", "back\\slash", "{1..3}", "{a,b}", NFD, "~", "a:b"]


@pytest.mark.parametrize("name", STRANGE)
def test_any_characters_in_paths(name: str, tmp_path: Path) -> None:
    """Of the folder, the captions file, the image and the output."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{name}.jpg").write_bytes(IMAGE)
    captions = folder / f"{name}.jsonl"
    captions.write_text(json.dumps({"image": f"{name}.jpg", "caption": "x"}))
    out = tmp_path / f"out {name}"
    report = pack.pack(pack.PackOptions((str(captions),), out, workers=0, threads=1))
    assert report.packed == 1
    assert sources.open_source(str(out), "train", tmp_path)[0].image == IMAGE


def test_bytes_in_paths_that_are_no_text(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    (folder / "a.jpg").write_bytes(IMAGE)
    for name in ("1.csv", os.fsdecode(b"2\xff.csv")):
        (folder / name).write_text("image,caption\na.jpg,x\n")
    inputs = tuple(map(str, sorted(folder.glob("*.csv"))))
    report = pack.pack(pack.PackOptions(inputs, tmp_path / "out", workers=0, threads=1))
    assert report.packed == 2
    with pytest.raises(ValueError, match="a name that is not UTF-8"):
        pack.pack(pack.PackOptions(inputs, folder / "out", workers=0, threads=1))


def test_a_list_of_sets_to_keep_apart_names_images_beside_it(place: Path) -> None:
    from wenlan_jax.prepare.clean import shards

    listed = place / "list.jsonl"
    for name, good in (("in.jpg", True), ("../secret.jpg", False), ("out.jpg", False), ("pipe.jpg", False)):
        listed.write_text("\ufeff" + json.dumps({"image": name, "caption": "x", "language": "Chinese"}))
        shard = shards.RecordShard(str(listed), "", 0, 1, 0)
        if good:
            (record,) = shard.read()
            assert record.image == IMAGE and record.texts[0].language == "zh"
        else:
            with pytest.raises(shards.CleanError, match="list.jsonl: line 1.*correct the list"):
                list(shard.read())


def test_stored_regions_are_looked_up_below_their_folder(tmp_path: Path) -> None:
    from wenlan_jax.prepare.regions.detections import DetectionError
    from wenlan_jax.prepare.regions.stored import StoredRegions

    store = tmp_path / "store"
    store.mkdir()
    for file in (tmp_path / "secret.npz", store / "a.npz", store / unicodedata.normalize("NFD", "é.npz")):
        np.savez(file, bbox=np.array([[1, 2, 3, 4]]))
    (store / "link.npz").symlink_to(tmp_path / "secret.npz")
    found = StoredRegions(str(store), "brivl_npz")
    assert found.find("a.jpg") is not None and found.find("é.jpg") is not None and found.find("b.jpg") is None
    for name in ("../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg"):
        with pytest.raises(DetectionError, match="untrusted|not below|leads out"):
            found.find(name)


def test_readers_that_need_it_say_what_to_do() -> None:
    with pytest.raises(Rejected, match="--allow-remote"):
        image_places.Root(".").read("https://host/a.jpg", 9)
    with pytest.raises(raw_items.Rejected, match="no address but plain ones"):
        image_places.Root(".").read("reference://a", 9)
