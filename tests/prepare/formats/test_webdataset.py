"""WebDataset shards: img2dataset's layout, every form of tar, damage of every kind, and packs of many shards."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wenlan_jax.prepare import pack, raw_items
from wenlan_jax.prepare.formats import samples, tar
from wenlan_jax.util import resumable_jobs


def _sample(key: str, image: bytes, caption: str = "a cat", **metadata: Any) -> list[tuple[str, bytes]]:
    row = {"caption": caption, "url": f"http://x/{key}", "key": key, "status": "success", "width": 9, **metadata}
    return [(f"{key}.jpg", image), (f"{key}.txt", caption.encode()), (f"{key}.json", json.dumps(row).encode())]


def _shard(folder: Path, name: str, members: list[tuple[str, bytes]], archive: Any, cut: int | None = None) -> Path:
    place = folder / name
    data = archive(members)[:cut]
    place.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    return place


def test_img2dataset_layout(tmp_path: Path, packed: Any, image: Any, archive: Any) -> None:
    members = [
        *_sample("000000000", image(0), "一只猫", title="标题"),
        ("000000001.json", json.dumps({"status": "failed_to_download", "error_message": "HTTP 404"}).encode()),
        ("000000002.png", image(2, ".png")),
        ("000000003.txt", b"no image"),
        ("000000004.JPG", image(4)),
        ("000000004.json", b'{"caption": "only json"}'),
        ("000000005.jpg", image(5)),
        ("000000005.txt", b"x"),
        ("000000005.json", b"{"),
        ("sub/000000005.jpg", image(6)),
        ("sub/000000005.en.txt", b"english"),
        ("sub/000000005.zh.txt", "中文".encode()),
        ("sub/000000005.alt.txt", b"alternative"),
        ("sub/000000005.cls", b"3"),
    ]
    fields = raw_items.FieldNames(texts={"caption": "sur_text", "title": "title"})
    found = packed(_shard(tmp_path, "00000.tar", members, archive), fields=fields, language="zh")
    assert [record.id for record in found.records["train"]] == ["000000000", "000000004", "000000005", "sub/000000005"]
    assert [[(t.kind, t.language, t.text) for t in record.texts] for record in found.records["train"]] == [
        [("sur_text", "zh", "一只猫"), ("title", "zh", "标题")],
        [("sur_text", "zh", "only json")],
        [("sur_text", "zh", "x")],
        [("descriptive", "en", "english"), ("descriptive", "zh", "中文"), ("alt", "zh", "alternative")],
    ]
    assert found.reasons == ["missing_image", "missing_text", "missing_image"]
    assert "HTTP 404" in found.rejected[0]["detail"]
    assert found.report.fixes == {"json_malformed_ignored": 1, "member_ignored": 1}
    assert found.records["train"][0].image == image(0) and found.records["train"][0].width == 40


DOTTED = [
    ["00 第 2.0 版", "01 第 2.1 版", "02 第 2.0 版"],
    ["img.example.com_1", "img.example.com_2", "img.example.org_1"],
    ["v1.0/a.b", "v1.0/a.c", "v1.1/a.b"],
    ["a", "a.b", "a.b.c"],
    ["shop.de", "shop.en", "shop.zh"],
    ["x.title", "x.alt", "x"],
    ["d/", "d/d/", "a"],
    [".hidden", "..", "end."],
]


@pytest.mark.parametrize("keys", DOTTED)
@pytest.mark.parametrize("order", ["image, text", "text, image", "images, texts"])
def test_names_with_dots(keys: list[str], order: str, tmp_path: Path, packed: Any, image: Any, archive: Any) -> None:
    """Each text stays with the image of its name, never with another image."""
    members = [m for n, key in enumerate(keys) for m in ((f"{key}.jpg", image(n)), (f"{key}.txt", key.encode()))]
    if order == "text, image":
        members = [m for n in range(len(keys)) for m in members[2 * n : 2 * n + 2][::-1]]
    elif order == "images, texts":
        members = members[::2] + members[1::2]
    found = packed(_shard(tmp_path, "a.tar", members, archive))
    assert [(r.id, r.image, r.texts[0].text, r.texts[0].kind) for r in found.all()] == [
        (key, image(n), key, "descriptive") for n, key in enumerate(keys)
    ]


def test_suffixes_of_two_parts_are_known_words(tmp_path: Path, packed: Any, image: Any, archive: Any) -> None:
    members = [("a.jpg", image()), ("a.txt", b"first")]
    members += [
        (f"a.{word}.txt", word.encode()) for word in ("title", "zh", "zh-CN", "English", "mine", "2", "example")
    ]
    fields = raw_items.FieldNames(texts={"caption": "sur_text", "mine": "weak"})
    found = packed(_shard(tmp_path, "a.tar", members, archive), fields=fields, language="fr")
    assert [(t.kind, t.language, t.text) for t in found.all()[0].texts] == [
        ("sur_text", "fr", "first"),
        ("title", "fr", "title"),
        ("descriptive", "zh", "zh"),
        ("descriptive", "zh", "zh-CN"),
        ("descriptive", "en", "English"),
        ("weak", "fr", "mine"),
    ]
    assert [(row["item"], row["reason"]) for row in found.rejected] == [
        ("a.2", "missing_image"),
        ("a.example", "missing_image"),
    ]


def test_images_that_no_text_is_of_are_told(tmp_path: Path, packed: Any, image: Any, archive: Any) -> None:
    members = [*_sample("a", image(0)), ("a.1.jpg", image(1)), ("a.2.jpg", image(2))]
    found = packed(_shard(tmp_path, "a.tar", members, archive))
    assert found.reasons == ["missing_text", "missing_text"] and found.report.read == 3


def _mixed(samples: list[list[tuple[str, bytes]]], order: str) -> list[tuple[str, bytes]]:
    members = [member for sample in samples for member in sample]
    if order == "shuffled":
        return [members[k] for k in np.random.default_rng(0).permutation(len(members))]
    last = ("jpg", "txt", "json") if order == "images first" else ("json", "txt", "jpg")
    return sorted(members, key=lambda member: last.index(member[0].rpartition(".")[2]))


@pytest.mark.parametrize("order", ["shuffled", "images first", "images last"])
@pytest.mark.parametrize("parts", [("jpg", "txt"), ("jpg", "json"), ("txt", "jpg")])
def test_parts_that_are_no_neighbours(
    order: str, parts: tuple[str, ...], tmp_path: Path, packed: Any, image: Any, archive: Any
) -> None:
    samples = [[m for m in _sample(f"{k:03d}", image(k), f"text {k}") if m[0].endswith(parts)] for k in range(12)]
    found = packed(_shard(tmp_path, "a.tar", _mixed(samples, order), archive))
    assert found.rejected == [] and found.report.read == 12
    assert {r.id: (r.image, r.texts[0].text) for r in found.all()} == {
        f"{k:03d}": (image(k), f"text {k}") for k in range(12)
    }


FAR_ORDERS = [
    *("jpg txt json", "txt jpg json", "json jpg txt", "jpg json txt", "jpg zh.txt json txt", "jpg txt json title.txt"),
    *("jpg txt / json", "jpg json / zh.txt txt", "txt json / jpg", "json / jpg txt / title.txt"),
]


@pytest.mark.parametrize("order", FAR_ORDERS)
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_part_that_comes_after_a_sample_seems_whole_belongs_to_it(
    name: str, order: str, tmp_path: Path, packed: Any, image: Any, archive: Any
) -> None:
    """All parts of one kind, then all of the next; with / several parts of a sample are neighbours."""
    runs = [run.split() for run in order.split(" / ")] if "/" in order else [[part] for part in order.split()]
    said = {"zh.txt": "中文", "txt": "plain", "title.txt": "a title"}

    def member(key: str, part: str) -> tuple[str, bytes]:
        row = json.dumps({"caption": "in json", "split": "val", "source": "web"})
        return f"{key}.{part}", image(int(key)) if part == "jpg" else said.get(part, row).encode()

    keys = ["1", "2", "3"]
    members = [member(key, part) for run in runs for key in keys for part in run]
    found = packed(_shard(tmp_path, name, members, archive))
    assert found.rejected == [] and found.report.read == 3 and list(found.records) == ["val"]
    texts = {text for part, text in said.items() if part in order.replace("/", "").split()}
    for key, record in zip(keys, found.records["val"], strict=True):
        assert (record.id, record.image, record.source) == (key, image(int(key)), "web")
        assert {text.text for text in record.texts} == texts | (set() if "plain" in texts else {"in json"})


@pytest.mark.parametrize(
    ("order", "read"),
    [
        ("jpg txt b jpg txt b json", 3),
        ("jpg b jpg txt b txt json", 3),
        ("jpg jpg txt b json", 3),
        ("jpg txt b jpg b json", 3),
    ],
)
def test_a_part_of_a_key_that_comes_twice_is_given_to_neither(
    order: str, read: int, tmp_path: Path, packed: Any, image: Any, archive: Any
) -> None:
    said = {"txt": b"x", "json": b'{"split": "val"}'}
    others = iter(range(9))
    members: list[tuple[str, bytes]] = []
    for part in order.split():
        members += _sample(f"b{next(others)}", image(8)) if part == "b" else [(f"a.{part}", said.get(part, image()))]
    found = packed(_shard(tmp_path, "a.tar", members, archive))
    assert [record.id for record in found.all()] == ["b0", "b1"][: order.count("b")]
    assert found.reasons == ["duplicate_id"] * read and found.report.read == order.count("b") + read


def test_parts_too_far_away_are_told(
    tmp_path: Path, packed: Any, image: Any, archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "HELD_LIMIT", 4 * len(image()))
    pairs = [[m for m in _sample(f"{k}", image(k)) if not m[0].endswith("json")] for k in range(9)]
    found = packed(_shard(tmp_path, "a.tar", _mixed(pairs, "images first"), archive))
    told = [row["detail"] for row in found.rejected if row["reason"] == "damaged_shard"]
    assert told and all("tar --sort=name" in detail for detail in told)
    assert found.report.read == found.report.packed + len(told) == 9


def test_what_macos_adds_is_passed_over(tmp_path: Path, packed: Any, image: Any, archive: Any) -> None:
    double = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60)
    members: list[tuple[str, bytes]] = [("./._pairs", double), ("./pairs/.DS_Store", b"\0\0\0\1Bud1")]
    for name, data in (m for k in range(3) for m in _sample(f"pairs/{k}", image(k))):
        members += [(f"./pairs/._{name.partition('/')[2]}", double), (f"./{name}", data)]
    members += [("pairs/._not.jpg", image(7)), ("pairs/._not.txt", b"an image of its own"), ("._end", double)]
    found = packed(_shard(tmp_path, "a.tar", members, archive))
    assert [record.id for record in found.all()] == ["pairs/0", "pairs/1", "pairs/2", "pairs/._not"]
    assert found.report.fixes == {"macos_member_ignored": 12}
    only = packed(
        _shard(tmp_path, "b.tar", [("._a.jpg", double), *_sample("x", b"broken"), *_sample("y", image())], archive)
    )
    assert only.report.fixes == {"macos_member_ignored": 1}


@pytest.mark.parametrize("order", ["jpg jpg txt txt", "txt txt jpg jpg", "jpg jpg txt", "cls jpg jpg txt"])
def test_parts_of_a_key_that_comes_twice_are_never_mixed(
    order: str, tmp_path: Path, packed: Any, image: Any, archive: Any
) -> None:
    members = [(f"a.{part}", image(n) if part == "jpg" else b"x") for n, part in enumerate(order.split())]
    found = packed(_shard(tmp_path, "a.tar", [*members, *_sample("b", image(9))], archive))
    assert [record.id for record in found.all()] == ["b"]
    assert len(found.rejected) >= 2 and "comes twice before it is whole" in json.dumps(found.rejected)


def test_names_in_either_unicode_form_are_one(tmp_path: Path, packed: Any, image: Any, archive: Any) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é가") for form in ("NFC", "NFD"))
    members = [(f"{decomposed}.jpg", image()), (f"{composed}.txt", b"x")]
    found = packed(_shard(tmp_path, "a.tar", members, archive))
    assert [(r.id, r.texts[0].text) for r in found.all()] == [(composed, "x")]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_members_of_a_sample_share_one_limit(
    name: str, tmp_path: Path, packed: Any, image: Any, archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar, "MEMBER_LIMIT", 100_000)
    extra = [(f"a.{k}.png", bytes(30_000)) for k in range(3)] + [(f"a.part{k}", bytes(30_000)) for k in range(4)]
    members = [("a.jpg", image()), ("a.txt", b"x"), *extra[3:], *_sample("b", image(1))]
    found = packed(_shard(tmp_path, name, members, archive))
    assert [record.id for record in found.all()] == ["b"]
    assert found.reasons == ["oversized_image"] and "100000 bytes together" in found.rejected[0]["detail"]


def test_keys_that_come_twice(tmp_path: Path, packed: Any, image: Any, archive: Any) -> None:
    members = [*_sample("1", image(0), "first"), *_sample("1", image(1), "again"), *_sample("2", image(2))]
    found = packed(_shard(tmp_path, "a.tar", [*members, *_sample("1", image(3))], archive))
    assert found.reasons == ["duplicate_id", "duplicate_id"]
    assert [text for texts in found.texts() for _, text in texts] == ["first", "a cat"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(form: int, image: Any, archive: Any) -> None:
    members = [("长" * 60 + "/" + "n" * 150 + ".jpg", image()), ("short.txt", b"x"), ("d/" * 60 + "e.txt", b"y")]
    found = list(tar.members(io.BytesIO(archive(members, form))))
    assert [(member.name, member.data) for member in found] == members


def test_an_archive_cut_anywhere_keeps_what_came_before(image: Any, archive: Any) -> None:
    members = [(f"{k:04d}.jpg", image(k)) for k in range(3)]
    whole = archive(members)
    positions = [member.position for member in tar.members(io.BytesIO(whole))]
    end = positions[2] + 512 + -(-len(members[2][1]) // 512) * 512
    for cut in range(0, end + 512, 100):
        found = list(tar.members(io.BytesIO(whole[:cut])))
        complete = sum(stop <= cut for stop in [*positions[1:], end])
        assert [(m.name, m.data) for m in found[:-1]] == members[:complete]
        damage = found[-1]
        assert isinstance(damage, tar.Damage) and str(damage.position) in damage.detail
        assert damage.position == ([*positions, end][complete])


def test_damage_in_the_middle_costs_one_member(image: Any, archive: Any) -> None:
    whole = bytearray(archive([(f"{k}.jpg", image(k)) for k in range(4)]))
    second = [member.position for member in tar.members(io.BytesIO(whole))][1]
    whole[second + 3] ^= 1
    found = list(tar.members(io.BytesIO(whole)))
    assert [getattr(member, "name", "damage") for member in found] == ["0.jpg", "damage", "2.jpg", "3.jpg"]
    assert f"bytes {second} to" in found[1].detail


@pytest.mark.parametrize("damage", [b"\xff", bytes(512), b"\xff" * 512], ids=["a byte", "zeros", "a block"])
def test_damage_behind_attributes_costs_one_member(damage: bytes) -> None:
    """Times in fractions, as webdataset's writer gives them, are told in a record of attributes before each header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in "abcd":
            info = tarfile.TarInfo(f"{name}.txt")
            info.size, info.mtime = 1, 1.5
            archive.addfile(info, io.BytesIO(name.encode()))
    whole = bytearray(buffer.getvalue())
    second = [member.position for member in tar.members(io.BytesIO(whole))][1]
    header = second + 1024  # behind the attributes' own header and their text
    whole[header : header + len(damage)] = damage
    found = list(tar.members(io.BytesIO(whole)))
    assert [getattr(member, "name", "damage") for member in found] == ["a.txt", "damage", "c.txt", "d.txt"]
    assert found[1].position == second


def test_links_folders_and_giants_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind in (("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "x" * 150
            archive.addfile(info)
        for name, size in (("giant.jpg", 5000), ("a.txt", 10)):
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(b"x" * size))
    monkeypatch.setattr(tar, "MEMBER_LIMIT", 4999)
    damage, small = tar.members(io.BytesIO(buffer.getvalue()))
    assert isinstance(damage, tar.Damage) and "giant.jpg" in damage.detail
    assert isinstance(small, tar.Member) and small.data == b"x" * 10


def test_truncated_and_compressed_shards(tmp_path: Path, packed: Any, image: Any, archive: Any) -> None:
    members = [member for k in range(3) for member in _sample(str(k), image(k))]
    _shard(tmp_path, "00.tar.gz", members, archive)
    whole = (tmp_path / "00.tar.gz").read_bytes()
    (tmp_path / "01.tar.gz").write_bytes(whole[: len(whole) * 2 // 3])
    _shard(tmp_path, "02.tar", members, archive, cut=len(archive(members)) // 2)
    (tmp_path / "03.tar").write_bytes(b"<html>404</html>" * 100)
    found = packed(tmp_path / "{00..01}.tar.gz", tmp_path / "0[23].tar")
    assert found.report.shards["00"] == {"read": 3, "packed": 3, "rejected": 0}
    assert {row["shard"]: row["reason"] for row in found.rejected if row["reason"] == "damaged_shard"} == dict.fromkeys(
        ("01", "02", "03"), "damaged_shard"
    )
    for name in ("01", "02"):
        assert found.report.shards[name]["packed"] >= 1
    assert {record.id.split("/")[0] for record in found.all()} == {"00", "01", "02"}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_what_gzip_packed_is_told_by_its_content(
    name: str, is_packed: bool, tmp_path: Path, packed: Any, image: Any, archive: Any
) -> None:
    data = archive(_sample("1", image(1)))
    (tmp_path / name).write_bytes(gzip.compress(data) if is_packed else data)
    assert [record.image for record in packed(tmp_path / name).all()] == [image(1)]


def test_a_url(packed: Any, image: Any, archive: Any, images: Any, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    for k in range(2):
        system.pipe(f"/bucket/{k:02d}.tar", archive(_sample(f"{k}", image(k))))
    system.pipe("/bucket/images/a.jpg", image(7))
    assert len(packed("memory://bucket/*.tar", images=str(images("x.jpg"))).all()) == 2
    assert [r.id for r in packed("memory://bucket/{00..01}.tar").all()] == ["00/0", "01/1"]
    listed = tmp_path / "c.tsv"
    listed.write_text("image\tcaption\na.jpg\tx\nb.jpg\ty\n")
    found = packed(listed, images="memory://bucket/images")
    assert found.all()[0].image == image(7) and found.reasons == ["missing_image"]
    with pytest.raises(raw_items.ReadError, match="cannot be read"):
        packed("memory://bucket/none.tar", images=str(tmp_path))


def test_on_bad_stop_and_going_on(tmp_path: Path, packed: Any, image: Any, archive: Any) -> None:
    for k in range(3):
        _shard(tmp_path, f"{k}.tar", _sample(f"{k}", image(k)), archive, cut=None if k != 1 else 700)
    place = tmp_path / "?.tar"
    with pytest.raises(pack.PackError, match=r"1\.tar: line .*damaged_shard.*--on-bad skip"):
        packed(place, on_bad="stop")
    reports = tmp_path / ".out.incomplete" / "pack" / "reports"
    assert (reports / "000000.json").exists()
    assert not (reports / "000001.json").exists() and not (tmp_path / "out").exists()
    with pytest.raises(resumable_jobs.JobError, match="source was '', is 'web'"):
        packed(place, source="web")
    _shard(tmp_path, "1.tar", _sample("1", image(1)), archive)
    part = next((tmp_path / ".out.incomplete" / "parts").glob("train-000000-*")).stat().st_mtime_ns
    found = packed(place, on_bad="skip")
    assert [record.id for record in found.all()] == ["0/0", "1/1", "2/2"]
    assert min(f.stat().st_mtime_ns for f in (tmp_path / "out").glob("*array_record-*")) == part
    assert not [p for p in (tmp_path / "out").iterdir() if p.is_dir()]


def test_a_shard_that_changed_in_between_is_told(tmp_path: Path, packed: Any, image: Any, archive: Any) -> None:
    for k in range(2):
        _shard(tmp_path, f"{k}.tar", _sample(f"{k}", image(k)), archive, cut=None if k != 1 else 700)
    with pytest.raises(pack.PackError, match="damaged_shard"):
        packed(tmp_path / "?.tar", on_bad="stop")
    _shard(tmp_path, "0.tar", _sample("0", image(0), "another caption"), archive)
    _shard(tmp_path, "1.tar", _sample("1", image(1)), archive)
    with pytest.raises(pack.PackError, match="0: changed since"):
        packed(tmp_path / "?.tar", on_bad="stop")


def test_workers_change_nothing(tmp_path: Path, packed: Any, image: Any, archive: Any) -> None:
    for k in range(3):
        _shard(tmp_path, f"{k}.tar", [*_sample("a", image(k)), *_sample("b", b"broken")], archive)
    one = packed(tmp_path / "?.tar", split_shares={"test": 0.5})
    other = packed(tmp_path / "?.tar", split_shares={"test": 0.5}, workers=2, threads=2)
    assert one.records == other.records and one.rejected == other.rejected
    assert {record.id for record in one.all()} == {"0/a", "1/a", "2/a"}
    assert len(one.records) == 1  # one key, one split


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb18030", "big5", "shift_jis"])
def test_no_bytes_break_the_decoding(encoding: str, tmp_path: Path, packed: Any, image: Any, archive: Any) -> None:
    rng = np.random.default_rng(0)
    members = [("good.jpg", image()), ("good.txt", "一".encode(encoding))]
    for k in range(200):
        members += [(f"{k}.jpg", image()), (f"{k}.txt", rng.bytes(rng.integers(1, 12)))]
    found = packed(_shard(tmp_path, "a.tar", members, archive), encoding=encoding)
    assert found.report.read == 201 and found.records["train"][0].texts[0].text == "一"
    assert "wrong_encoding" in found.reasons


def test_all_shards_empty(tmp_path: Path, packed: Any, archive: Any) -> None:
    for k in range(2):
        _shard(tmp_path, f"{k}.tar", [], archive)
    with pytest.raises(pack.PackError, match="holds no lines"):
        packed(tmp_path / "?.tar")
    assert not (tmp_path / ".out.incomplete").exists()


def test_dirty_shards_of_a_crawl(tmp_path: Path, packed: Any, image: Any, archive: Any) -> None:
    """The whole road: shards made as a crawl would leave them, and each thing done to them found in the counts."""
    expected = {"missing_image": 0, "corrupt_image": 0, "empty_caption": 0, "wrong_encoding": 0, "caption_too_long": 0}
    good: list[str] = []
    shards: list[list[tuple[str, bytes]]] = [[] for _ in range(6)]
    for number in range(600):
        key, content, name = f"{number:09d}", image(number, ".png"), f"图片：第{number}张"
        caption = name.encode()
        kind = {
            3: "missing_image",
            5: "corrupt_image",
            7: "empty_caption",
            11: "wrong_encoding",
            13: "caption_too_long",
        }
        trouble = kind.get(number % 17, "")
        if trouble:
            expected[trouble] += 1
        else:
            good.append(key)
        content = content[: len(content) // 2] if trouble == "corrupt_image" else content
        caption = {
            "empty_caption": "\u200b \n".encode(),
            "wrong_encoding": name.encode("gb18030") + b"\xff",
            "caption_too_long": caption * 100_000,
        }.get(trouble, caption)
        members = [(f"{key}.png", content), (f"{key}.txt", caption), (f"{key}.json", json.dumps({"key": key}).encode())]
        shards[number // 100] += members[1:] if trouble == "missing_image" else members
    for number, members in enumerate(shards):
        (tmp_path / f"{number:05d}.tar").write_bytes(archive(members, tarfile.PAX_FORMAT))
    cut = (tmp_path / "00005.tar").read_bytes()
    position = next(m.position for m in tar.members(io.BytesIO(cut)) if m.name == "000000560.png")
    (tmp_path / "00005.tar").write_bytes(cut[: position + 700])
    packed_whole = [key for key in good if int(key) < 560]
    found = packed(tmp_path / "{00000..00005}.tar", language="zh", workers=2)
    assert [record.id[6:] for record in found.all()] == packed_whole
    lost = [k for k in range(560, 600) if k % 17 in (3, 5, 7, 11, 13)]
    assert sum(found.report.rejected.values()) == sum(expected.values()) - len(lost) + 1
    assert found.report.rejected["damaged_shard"] == 1 and found.report.read == 561
    assert set(found.report.rejected) == {*expected, "damaged_shard"}
    assert sum(balance["read"] for balance in found.report.shards.values()) == 561
