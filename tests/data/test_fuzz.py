"""Over 2,000 damaged inputs through `wenlan pack`: each item packed or counted, no error but the documented ones."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from wenlan_jax.data import images, pack, readers, sources

Mutation = Callable[[np.random.Generator, bytes], bytes]
DOCUMENTED = (pack.PackError, readers.ReadError)
PER_KIND = 170


def _picture(kind: str, animated: bool = False) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    picture = Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": [picture.rotate(180)]} if animated else {"exif": exif}
    picture.save(buffer, kind, **({} if kind == "BMP" else more))
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for k in range(3):
            members = {"jpg": _picture("JPEG"), "txt": "一只猫".encode(), "json": b'{"caption": "cat", "width": 3}'}
            for suffix, data in members.items():
                info = tarfile.TarInfo("d" * 120 * (k == 1) + f"{k}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _parquet() -> bytes:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"bytes": _picture("JPEG"), "path": f"{k}.jpg"} for k in range(3)]
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"image": rows, "caption": ["一", "two", "three"]}), buffer)
    return buffer.getvalue()


ROWS = [{"image": "a.jpg", "caption": {"zh": "猫", "en": ["cat", "kitty"]}, "id": 7, "split": "test"}] * 3
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "annotations": [{"image_id": 1, "caption": "a cat"}, {"image_id": 1, "caption": "一只猫"}],
}
CONTAINERS: dict[str, Callable[[], bytes]] = {
    "tar": _tar,
    "tar.gz": lambda: gzip.compress(_tar(), mtime=0),
    "parquet": _parquet,
    "csv": lambda: 'image,caption,split\na.jpg,"two\nlines",test\na.jpg,猫,\n'.encode(),
    "tsv": lambda: "image\tcaption\na.jpg\t一只猫\na.jpg\t“cat”\n".encode(),
    "jsonl": lambda: "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode(),
    "json": lambda: json.dumps(COCO, ensure_ascii=False).encode(),
}
PICTURES = {
    "jpg": lambda: _picture("JPEG"),
    "png": lambda: _picture("PNG"),
    "webp": lambda: _picture("WEBP"),
    "gif": lambda: _picture("GIF", animated=True),
    "apng.png": lambda: _picture("PNG", animated=True),
    "bmp": lambda: _picture("BMP"),
}


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


def _check_balance(folder: Path, report: pack.PackReport) -> None:
    rejected = (folder / "out" / "rejected.jsonl").read_text("utf-8").splitlines()
    assert report.read == report.packed + len(rejected)
    for split, count in report.records.items():
        source = sources.open_source(str(folder / "out"), split, folder)
        assert len(source) == count
        for row in range(count):
            record = source[row]
            assert images.decode(record.image).shape == (record.height, record.width, 3)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    """Each mutant is a shard, between two whole ones that must come through; and each tenth is packed alone."""
    data = CONTAINERS[kind]()
    (tmp_path / "a.jpg").write_bytes(_picture("JPEG"))
    mutations = (*MUTATIONS, _edit_tar) if kind == "tar" else MUTATIONS
    mutants = _mutants(data, len(kind), mutations)
    places = [tmp_path / f"{index:04d}.{kind}" for index in range(PER_KIND + 2)]
    for place, content in zip(places, [data, *mutants, data], strict=True):
        place.write_bytes(content)
    file_format = {"tar": "webdataset", "tar.gz": "webdataset", "json": "coco"}.get(kind, kind)
    report = _pack(tmp_path, places, file_format)
    _check_balance(tmp_path, report)
    first, last = (report.shards[f"{index:04d}"] for index in (0, PER_KIND + 1))
    assert first == last and first["rejected"] == 0 and first["packed"] >= 2
    assert sum(shard["read"] for shard in report.shards.values()) == report.read
    assert sum(report.rejected.values()) > 0
    for place in places[1:-1:10]:
        try:
            _check_balance(tmp_path, _pack(tmp_path, [place], file_format))
        except DOCUMENTED as error:
            assert place.name in str(error)


@pytest.mark.parametrize("kind", PICTURES)
def test_damaged_pictures(kind: str, tmp_path: Path) -> None:
    data = PICTURES[kind]()
    lines = []
    for index, content in enumerate([data, *_mutants(data, len(kind), MUTATIONS)]):
        (tmp_path / f"{index:04d}.{kind}").write_bytes(content)
        lines.append(json.dumps({"image": f"{index:04d}.{kind}", "caption": "x"}) + "\n")
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(lines))
    report = _pack(tmp_path, [captions], "jsonl")
    _check_balance(tmp_path, report)
    assert report.read == PER_KIND + 1 and 1 <= report.packed < report.read
    assert set(report.rejected) <= {"corrupt_image", "oversized_image", "empty_image"}


def test_there_are_enough_of_them() -> None:
    assert PER_KIND * (len(CONTAINERS) + len(PICTURES)) >= 2000
