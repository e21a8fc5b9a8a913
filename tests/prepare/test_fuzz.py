"""Over 4,000 damaged inputs through `wenlan pack`: each item packed or counted, no error but the documented ones.

Run by itself, with `-s`, it prints a table: of each kind the inputs, what came of their items, and for how many of the
inputs in = out + rejected held, with a line of rejected.jsonl for each of the latter.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from wenlan_jax.data import images, sources
from wenlan_jax.prepare import pack, raw_items

Mutation = Callable[[np.random.Generator, bytes], bytes]
DOCUMENTED = (pack.PackError, raw_items.ReadError)
PER_KIND = 170


def _image(kind: str, animated: bool = False, **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": [image.rotate(180)]} if animated else {"exif": exif}
    image.save(buffer, kind, **({} if kind == "BMP" else more), **options)
    return buffer.getvalue()


def _members(k: int) -> dict[str, bytes]:
    texts = {"txt": "一只猫".encode(), "zh.txt": "猫".encode(), "json": b'{"caption": "cat", "width": 3}'}
    return {"jpg": _image("JPEG"), **texts}


def _archive(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _tar() -> bytes:
    return _archive([(f"{'d' * 120 * (k == 1)}{k}.{end}", data) for k in range(3) for end, data in _members(k).items()])


def _unsorted_tar() -> bytes:
    """Names with dots, what macOS adds, and the images before all texts."""
    members = [(f"d/site.example.{k}.{end}", data) for k in range(3) for end, data in _members(k).items()]
    members += [("d/._0.jpg", b"\0\5\x16\7" + bytes(60))]
    return _archive(sorted(members, key=lambda member: not member[0].endswith("jpg")))


def _parquet() -> bytes:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"bytes": _image("JPEG"), "path": f"{k}.jpg"} for k in range(3)]
    buffer = io.BytesIO()
    table = {"image": rows, "caption": ["一", "two", "three"], "id": [1.0, None, 3.0], "status": ["success"] * 3}
    parquet.write_table(pa.table(table), buffer)
    return buffer.getvalue()


def _muge_images() -> bytes:
    coded = base64.urlsafe_b64encode(_image("JPEG")).rstrip(b"=")
    return b"".join(b"%d\t%s\n" % (k, coded) for k in range(3))


ROWS = [{"image": "a.jpg", "caption": {"zh": "猫", "en": ["cat", "kitty"]}, "id": 7, "split": "test"}] * 3
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "annotations": [{"image_id": 1, "caption": "a cat"}, {"image_id": 1, "caption": "一只猫"}],
}
KARPATHY = {
    "images": [{"filename": "a.jpg", "split": "restval", "sentences": [{"raw": "a cat", "tokens": []}] * 2}] * 2
}
AIC = [{"url": "http://x", "image_id": "a.jpg", "caption": ["一只猫", "猫"]}] * 2
BRIVL = {"image_id": "a.jpg", "bbox": [[1, 2, 9, 9]], "sentences": [["sur_text", "一只猫"], ["easy", "猫"]]}
VG = [{"id": 1, "qas": [{"question": "What?", "answer": "A cat.", "image_id": 1}] * 2}]


def _json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


@dataclasses.dataclass(frozen=True)
class Container:
    """A layout: its format, and the files of one input by the ends of their names; mutations take turns among them."""

    file_format: str
    files: Mapping[str, Callable[[], bytes]]

    @property
    def first(self) -> str:
        return next(iter(self.files))


CONTAINERS: dict[str, Container] = {
    "tar": Container("webdataset", {".tar": _tar}),
    "tar.gz": Container("webdataset", {".tar.gz": lambda: gzip.compress(_tar(), mtime=0)}),
    "tar, unsorted": Container("webdataset", {".tar": _unsorted_tar}),
    "parquet": Container("parquet", {".parquet": _parquet}),
    "csv": Container("csv", {".csv": lambda: 'image,caption,split\na.jpg,"two\nlines",test\na.jpg,猫,\n'.encode()}),
    "csv, quoted": Container(
        "csv", {".csv": lambda: b'"image";"caption"\n' + b'"a.jpg";"a ""cat"", asleep"\n' * 9 + b"a.jpg;plain\n" * 9}
    ),
    "csv, utf-16": Container("csv", {".csv": lambda: "image,caption\na.jpg,一只猫\na.jpg,猫\n".encode("utf-16")}),
    "tsv": Container("tsv", {".tsv": lambda: "image\tcaption\na.jpg\t一只猫\na.jpg\t“cat”\n".encode()}),
    "tsv, gb18030": Container(
        "tsv", {".tsv": lambda: "\ufeffimage\tcaption\na.jpg\t一只猫\na.jpg\t猫𠀀\n".encode("gb18030")}
    ),
    "jsonl": Container("jsonl", {".jsonl": lambda: b"\n".join(_json(row) for row in ROWS)}),
    "json array": Container("jsonl", {".json": lambda: _json(ROWS)}),
    "coco": Container("coco", {".json": lambda: _json(COCO)}),
    "karpathy": Container("karpathy", {".json": lambda: _json(KARPATHY)}),
    "aic_icc": Container("aic_icc", {".json": lambda: _json(AIC)}),
    "brivl": Container("brivl", {".jsonl": lambda: _json(BRIVL) + b"\n" + _json(BRIVL)}),
    "token": Container("token", {".token": lambda: "a.jpg#0\t一只猫\na.jpg#zhb#1 a cat\n".encode()}),
    "conceptual": Container("conceptual", {".tsv": lambda: b"a cat\thttp://x/1.jpg\nhttp://x/2.jpg\ta cat\n"}),
    "vg_qa": Container("vg_qa", {".json": lambda: _json(VG)}),
    "muge": Container(
        "muge",
        {
            "_imgs.tsv": _muge_images,
            "_texts.jsonl": lambda: b"".join(_json({"text": "猫", "image_ids": [k, 0]}) + b"\n" for k in range(3)),
        },
    ),
}
IMAGES = {
    "jpg": lambda: _image("JPEG"),
    "png": lambda: _image("PNG"),
    "webp": lambda: _image("WEBP"),
    "lossless.webp": lambda: _image("WEBP", lossless=True),
    "gif": lambda: _image("GIF", animated=True),
    "apng.png": lambda: _image("PNG", animated=True),
    "bmp": lambda: _image("BMP"),
    "tiff": lambda: _image("TIFF"),
    "avif": lambda: _image("AVIF"),
}


@dataclasses.dataclass
class Account:
    """What came of the inputs of one kind. An input is accounted for if its items are all packed or told, or it is
    refused whole by a message that names it."""

    inputs: int = 0
    read: int = 0
    packed: int = 0
    refused: int = 0
    accounted: int = 0

    def add(self, read: int, packed: int, told: int) -> None:
        self.inputs += 1
        self.read += read
        self.packed += packed
        self.accounted += read == packed + told

    def refuse(self) -> None:
        self.inputs, self.refused, self.accounted = self.inputs + 1, self.refused + 1, self.accounted + 1


ACCOUNTS: dict[str, Account] = collections.defaultdict(Account)


def _flip(rng: np.random.Generator, data: bytes) -> bytes:
    changed = bytearray(data)
    for position in rng.integers(0, len(data), rng.integers(1, 9)):
        changed[position] ^= 1 << rng.integers(8)
    return bytes(changed)


def _truncate(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: rng.integers(0, len(data))]


def _splice(rng: np.random.Generator, data: bytes) -> bytes:
    """A piece of the file again, in another place, over what was there or beside it."""
    source, place = rng.integers(0, len(data), 2)
    piece = data[source : source + rng.integers(1, 600)]
    return data[:place] + piece + data[place + len(piece) * rng.integers(2) :]


def _edit_header(rng: np.random.Generator, data: bytes) -> bytes:
    """Extreme bytes near the start, where sizes are told."""
    place, value = rng.integers(0, min(len(data), 64)), bytes([rng.choice([0, 0x7F, 0x80, 0xFF])])
    size = int(rng.integers(1, 5))
    return data[:place] + value * size + data[place + size :]


def _edit_tar(rng: np.random.Generator, data: bytes) -> bytes:
    """One field of a tar header changed and its checksum made to fit."""
    blocks = [at for at in range(0, len(data) - 512, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not blocks:
        return _flip(rng, data)
    at = int(rng.choice(blocks))
    header = bytearray(data[at : at + 512])
    field, size = [(0, 100), (124, 12), (156, 1), (345, 155)][rng.integers(4)]
    header[field + rng.integers(size)] = rng.choice([0, 0x37, 0x4C, 0x78, 0x80, 0xFF])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


MUTATIONS: tuple[Mutation, ...] = (_flip, _truncate, _splice, _edit_header)


def _mutants(data: bytes, seed: int, mutations: tuple[Mutation, ...]) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [mutations[index % len(mutations)](rng, data) for index in range(PER_KIND)]


def _pack(folder: Path, inputs: list[Path], file_format: str) -> pack.PackReport:
    options = pack.PackOptions(
        inputs=tuple(map(str, inputs)),
        out=folder / "out",
        images=str(folder),
        file_format=file_format,
        workers=0,
        threads=1,
    )
    return pack.pack(options)


def _told(folder: Path) -> collections.Counter[str]:
    """The lines of rejected.jsonl by shard."""
    lines = (folder / "out" / "rejected.jsonl").read_text("utf-8").splitlines()
    return collections.Counter(json.loads(line).get("shard", "") for line in lines)


def _check_records(folder: Path, report: pack.PackReport) -> None:
    for split, count in report.records.items():
        source = sources.open_source(str(folder / "out"), split, folder)
        assert len(source) == count
        for row in range(count):
            record = source[row]
            assert images.decode(record.image).shape == (record.height, record.width, 3)


def _write(folder: Path, kind: str) -> list[Path]:
    """The inputs: the whole one, its mutants, and the whole one again; of each its first file."""
    container = CONTAINERS[kind]
    whole = {end: make() for end, make in container.files.items()}
    mutations = (*MUTATIONS, _edit_tar) if kind.startswith("tar") else MUTATIONS
    mutants = {end: _mutants(data, len(kind), mutations) for end, data in whole.items()}
    ends = list(whole)
    for index in range(PER_KIND + 2):
        for at, (end, data) in enumerate(whole.items()):
            is_changed = 0 < index <= PER_KIND and ends[index % len(ends)] == ends[at]
            (folder / f"{index:04d}{end}").write_bytes(mutants[end][index - 1] if is_changed else data)
    return [folder / f"{index:04d}{container.first}" for index in range(PER_KIND + 2)]


@pytest.mark.parametrize("kind", CONTAINERS)
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    """Each mutant is a shard, between two whole ones that must come through; and each tenth is packed alone."""
    for name in ("a.jpg", "1.jpg", "000000000.jpg", "000000001.jpg"):
        (tmp_path / name).write_bytes(_image("JPEG"))
    places, file_format, account = _write(tmp_path, kind), CONTAINERS[kind].file_format, ACCOUNTS[kind]
    report = _pack(tmp_path, places, file_format)
    _check_records(tmp_path, report)
    told = _told(tmp_path)
    labels = list(report.shards)
    first, last = (report.shards[label] for label in (labels[0], labels[-1]))
    assert first == last and first["rejected"] == 0 and first["packed"] >= 2
    for label in labels[1:-1]:
        account.add(report.shards[label]["read"], report.shards[label]["packed"], told[label])
    assert account.inputs == PER_KIND and sum(report.rejected.values()) == sum(told.values()) > 0
    assert report.read == sum(shard["read"] for shard in report.shards.values())
    for place in places[1:-1:10]:
        try:
            report = _pack(tmp_path, [place], file_format)
        except DOCUMENTED as error:
            assert place.name.partition("_")[0] in str(error)
            account.refuse()
        else:
            _check_records(tmp_path, report)
            account.add(report.read, report.packed, sum(_told(tmp_path).values()))
    assert account.accounted == account.inputs


@pytest.mark.parametrize("kind", IMAGES)
def test_damaged_images(kind: str, tmp_path: Path) -> None:
    data, account = IMAGES[kind](), ACCOUNTS[kind]
    lines = []
    for index, content in enumerate([data, *_mutants(data, len(kind), MUTATIONS)]):
        (tmp_path / f"{index:04d}.{kind}").write_bytes(content)
        lines.append(json.dumps({"image": f"{index:04d}.{kind}", "caption": "x"}) + "\n")
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(lines))
    report = _pack(tmp_path, [captions], "jsonl")
    _check_records(tmp_path, report)
    told = collections.Counter(row["line"] for row in _rejected(tmp_path))
    kept = collections.Counter(1 + int(name[:4]) for name in _ids(tmp_path, report))
    for line in range(2, PER_KIND + 2):
        account.add(1, kept[line], told[line])
    assert kept[1] == 1 and report.read == PER_KIND + 1
    assert account.accounted == account.inputs == PER_KIND
    assert set(report.rejected) <= {"corrupt_image", "oversized_image", "empty_image"}


def _rejected(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "rejected.jsonl").read_text("utf-8").splitlines()]


def _ids(folder: Path, report: pack.PackReport) -> list[str]:
    found = []
    for split, count in report.records.items():
        source = sources.open_source(str(folder / "out"), split, folder)
        found += [source[row].id for row in range(count)]
    return found


PIECES = (
    *(
        "a.jpg",
        "secret.jpg",
        "images",
        "up",
        "..",
        ".",
        "/",
        "//",
        "\\",
        "~",
        " ",
        "\n",
        "\0",
        "*",
        "?",
        "[a]",
        "{a,b}",
    ),
    *(
        "file://",
        "local://",
        "reference://",
        "memory://",
        "http://127.0.0.1:9/",
        "s3://b/",
        "simplecache::",
        "::",
        "://",
    ),
    *(
        "%2e%2e%2f",
        "%00",
        "#",
        "data:image/jpeg;base64,",
        "data:,",
        "é",
        "e\u0301",
        "\u202e",
        "\ud800",
        "C:\\",
        "dev/zero",
    ),
)


def test_names_that_are_made_up(tmp_path: Path) -> None:
    """Names of random pieces lead to the images below the folder or nowhere."""
    rng, account, root = np.random.default_rng(0), ACCOUNTS["names"], tmp_path / "images"
    root.mkdir()
    good, secret = _image("JPEG"), _image("PNG")
    for place, data in ((root / "a.jpg", good), (root / "é", good), (tmp_path / "secret.jpg", secret)):
        place.write_bytes(data)
    (root / "up").symlink_to("..")
    names = ["a.jpg", *("".join(rng.choice(PIECES, rng.integers(1, 6))) for _ in range(4 * PER_KIND))]
    names += [
        f"{tmp_path}/{name}" for name in ("images/a.jpg", "secret.jpg", "images/../secret.jpg", "images/up/secret.jpg")
    ]
    rows = [json.dumps({"image": name, "caption": "x", "id": str(number)}) for number, name in enumerate(names)]
    (tmp_path / "c.jsonl").write_text("\n".join(rows))
    options = pack.PackOptions((str(tmp_path / "c.jsonl"),), tmp_path / "out", images=str(root), workers=0, threads=1)
    report = pack.pack(options)
    told = collections.Counter(row["line"] for row in _rejected(tmp_path))
    assert all(told[line] <= 1 for line in told)
    source = sources.open_source(str(tmp_path / "out"), "train", tmp_path)
    assert {source[row].image for row in range(len(source))} == {good}
    account.inputs = account.accounted = len(names)
    account.read, account.packed = report.read, report.packed
    assert report.read == len(names) == report.packed + sum(told.values())
    assert {"untrusted_place", "missing_image"} <= set(report.rejected)


def test_the_table_of_all() -> None:
    kinds = (*CONTAINERS, *IMAGES, "names")
    if set(ACCOUNTS) != set(kinds):
        pytest.skip("the table is of a run of all kinds in one process")
    print(f"\n{'kind':16}{'inputs':>8}{'items':>8}{'packed':>8}{'rejected':>10}{'refused':>9}{'accounted':>14}")
    for kind in kinds:
        one = ACCOUNTS[kind]
        counts = f"{one.inputs:8,}{one.read:8,}{one.packed:8,}{one.read - one.packed:10,}{one.refused:9,}"
        print(f"{kind:16}{counts}{f'{one.accounted} of {one.inputs}':>14}")
    total = sum(one.inputs for one in ACCOUNTS.values())
    print(f"{'all':16}{total:8,}{sum(one.accounted for one in ACCOUNTS.values()):>47,}")
    assert total >= 4000 and all(one.accounted == one.inputs for one in ACCOUNTS.values())
