"""Encodings by any spelling and mark, base64 in any alphabet, patterns, and what packed files may hold."""

from __future__ import annotations

import base64
import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from wenlan_jax.prepare import pack
from wenlan_jax.prepare.formats import files, tar
from wenlan_jax.prepare.raw_items import ReadError, Rejected

TABLE = "image,caption\na.jpg,一只猫\nb.png,čeština\n"
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
    "gb18030": "\ufeff".encode("gb18030"),
}


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
def test_a_mark_tells_the_encoding(encoding: str, suffix: str, tmp_path: Path, packed: Any, images: Any) -> None:
    rows = [{"image": "a.jpg", "caption": "一只猫"}, {"image": "b.png", "caption": "čeština"}]
    content = {
        "csv": TABLE,
        "jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        "json": json.dumps(rows, ensure_ascii=False),
    }[suffix]
    place = tmp_path / f"c.{suffix}"
    place.write_bytes(MARKED[encoding] + content.encode(encoding))
    root = str(images("a.jpg", "b.png"))
    for asked in ("utf-8", "utf8", "UTF-8-SIG", "gbk"):
        assert [text for [(_, text)] in packed(place, images=root, encoding=asked).texts()] == ["一只猫", "čeština"]


@pytest.mark.parametrize(
    ("written", "spellings"),
    [
        ("utf-8", ["UTF8", "utf_8", "utf-8-bom", "Utf-8 with BOM"]),
        (
            "gbk",
            [
                "GBK",
                "gb2312",
                "GB-2312",
                "cp936",
                "GB18030",
                "gb_18030",
                "GB 18030",
                "Windows-936",
                "x-gbk",
                "gb18030-2022",
            ],
        ),
        ("big5", ["Big5", "BIG-5", "windows-950", "x-big5", "cp950", "x-windows-950"]),
        ("shift_jis", ["Shift-JIS", "SJIS", "shift_jis", "x-sjis", "Windows-31J", "windows-932"]),
        ("euc-jp", ["EUC-JP", "x-euc-jp", "eucJP"]),
        ("euc-kr", ["EUC-KR", "euckr", "EUC_KR", "windows-949", "x-windows-949", "ks_c_5601-1987"]),
        ("utf-16", ["utf16", "UTF-16", "utf_16", "ucs-2", "UCS2", "ISO-10646-UCS-2"]),
        ("utf-32", ["UTF-32", "ucs-4", "UCS4"]),
        ("iso-2022-jp", ["ISO-2022-JP", "iso2022_jp"]),
    ],
)
def test_encodings_by_any_spelling(written: str, spellings: list[str], tmp_path: Path) -> None:
    text = {"shift_jis": "猫です\n", "euc-jp": "猫です\n", "iso-2022-jp": "猫です\n", "euc-kr": "고양이\n"}.get(
        written, "中文\n"
    )
    (tmp_path / "a.txt").write_bytes(text.encode(written))
    for spelling in spellings:
        assert list(files.lines(str(tmp_path / "a.txt"), spelling)) == [text]
        assert files.text_of(text.encode(written), spelling) == text


@pytest.mark.parametrize("asked", ["utf-16", "ucs-2", "utf-32", "ucs-4"])
def test_wide_texts_without_a_mark_are_those_of_windows(asked: str, tmp_path: Path) -> None:
    data = "中文\n".encode("utf-16-le" if asked in ("utf-16", "ucs-2") else "utf-32-le")
    (tmp_path / "a.txt").write_bytes(data)
    assert list(files.lines(str(tmp_path / "a.txt"), asked)) == [files.text_of(data, asked)] == ["中文\n"]


@pytest.mark.parametrize(
    "wrong",
    [
        *("gb99", "base64", "rot13", "hex", "", "zip", "bz2", "uu", "quopri"),
        *("idna", "punycode", "undefined", "unicode_escape", "raw-unicode-escape", "x", "n" * 500, "a\0b"),
    ],
)
def test_what_is_no_encoding_of_texts(wrong: str) -> None:
    with pytest.raises(ReadError, match="no such encoding"):
        files.encoding_of(wrong)


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "big5", "shift_jis", "euc_kr", "utf-16-le", "utf-32-be"])
def test_bytes_of_no_text_cost_their_line(encoding: str, tmp_path: Path, packed: Any, images: Any) -> None:
    rows = [f"a.jpg,x{number}\n".encode(encoding) for number in range(50)]
    lone = {"utf-16-le": b"\x00\xd8", "utf-32-be": b"\x00\xff\xff\xff"}.get(encoding, b"\xff\x81 ")
    rows[20] = "a.jpg,".encode(encoding) + lone + "\n".encode(encoding)
    (tmp_path / "c.csv").write_bytes("image,caption\n".encode(encoding) + b"".join(rows))
    found = packed(tmp_path / "c.csv", images=str(images("a.jpg")), encoding=encoding)
    assert found.report.read == 50 and found.report.packed == 49
    assert [(row["line"], row["reason"]) for row in found.rejected] == [(22, "wrong_encoding")]


DATA = bytes(range(256)) + b"\xfb\xef"
CODED = {
    "standard": base64.b64encode(DATA).decode(),
    "url-safe": base64.urlsafe_b64encode(DATA).decode(),
    "unpadded": base64.b64encode(DATA).decode().rstrip("="),
    "url-safe, unpadded": base64.urlsafe_b64encode(DATA).decode().rstrip("="),
    "address": "data:image/jpeg;base64," + base64.b64encode(DATA).decode(),
    "address, url-safe": "data:;base64," + base64.urlsafe_b64encode(DATA).decode().rstrip("="),
    "lines": base64.encodebytes(DATA).decode(),
}


@pytest.mark.parametrize("form", CODED)
def test_base64_in_any_form(form: str) -> None:
    assert files.from_base64(CODED[form]) == DATA


@pytest.mark.parametrize("wrong", ["*", "AAAAA", "AA=A", "AAA\u00e4", "data:image/png;base64,A"])
def test_what_is_no_base64(wrong: str) -> None:
    with pytest.raises(Rejected, match="not base64"):
        files.from_base64(wrong)


@pytest.mark.parametrize("form", [name for name in CODED if name != "lines"])
def test_images_in_base64(form: str, tmp_path: Path, packed: Any, image: Any) -> None:
    """MUGE's lines, an object of bytes in JSON, and an address of data where a path could be."""
    data = image(3)
    prefix, _, _ = CODED[form].rpartition(",")
    coded = base64.urlsafe_b64encode(data) if "url-safe" in form else base64.b64encode(data)
    text = (prefix + "," if prefix else "") + (coded.decode().rstrip("=") if "unpadded" in form else coded.decode())
    (tmp_path / "train_imgs.tsv").write_text(f"7\t{text}\n")
    (tmp_path / "train_texts.jsonl").write_text('{"text_id": 1, "text": "x", "image_ids": [7]}\n')
    assert packed(tmp_path / "train_imgs.tsv").all()[0].image == data
    rows = [
        {"image": {"bytes": text, "path": "p.jpg"}, "caption": "x"},
        {"image": f"data:,{coded.decode()}", "caption": "y"},
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(r.id, r.image) for r in packed(tmp_path / "c.jsonl").all()] == [("p.jpg", data), ("row 2", data)]


def test_patterns() -> None:
    assert files.expand("{a,b}{08..10}.tar") == [f"{x}{n:02d}.tar" for x in "ab" for n in (8, 9, 10)]
    assert files.expand("s3://b/{0..1}.tar") == ["s3://b/0.tar", "s3://b/1.tar"]


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..99999999}",
        "{0..999999999999999999}.tar",
        "{0..9999}{0..9999}",
        "{{0..99999999},x}",
        "{0..{0..9}99999999}",
        "{a,b}" * 40,
        "s3://b/{00000000..99999999}.tar",
    ],
)
def test_patterns_that_mean_too_much_are_refused(pattern: str) -> None:
    with pytest.raises(ReadError, match="more than 1,000,000 files; correct the braces"):
        files.expand(pattern)


def test_braces_beyond_all_bounds_are_refused() -> None:
    for pattern in ("{a,b}" * 5000, "{" * 5000 + "a" + "}" * 5000):
        with pytest.raises(ReadError, match="more than 100 braces"):
            files.expand(pattern)


def test_a_number_beyond_all_bounds_is_a_name() -> None:
    assert files.expand("{0.." + "9" * 5000 + "}") == ["0.." + "9" * 5000]


def test_a_packed_file_that_holds_far_more_than_its_size(
    tmp_path: Path, packed: Any, archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_UNPACKED_BYTES", 1 << 20)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"image": "a.jpg", "caption": "x"}\n' + b" " * (1 << 22)))
    with pytest.raises(ReadError, match="200 times its size"):
        list(files.lines(str(tmp_path / "c.jsonl.gz"), "utf-8"))
    (tmp_path / "d.json.gz").write_bytes(gzip.compress(b"[" + b" " * (1 << 22) + b"]"))
    with pytest.raises(ReadError, match="200 times its size"):
        files.json_document(str(tmp_path / "d.json.gz"), "utf-8")
    (tmp_path / "t.tar.gz").write_bytes(gzip.compress(archive([("a.txt", b"x"), ("b.txt", bytes(1 << 22))])))
    with files.open_bytes(str(tmp_path / "t.tar.gz")) as stream:
        found = list(tar.members(stream))
    assert isinstance(found[-1], tar.Damage) and "200 times its size" in found[-1].detail
    monkeypatch.setattr(files, "_DOCUMENT_LIMIT", 10)
    (tmp_path / "e.json").write_text("[" + " " * 20 + "]")
    with pytest.raises(ReadError, match="more than 10 bytes"):
        files.json_document(str(tmp_path / "e.json"), "utf-8")


def test_splits_are_few_and_short(tmp_path: Path, packed: Any, images: Any) -> None:
    names = [f"s{number}" for number in range(200)] + ["s" * 65, "s" * 64]
    rows = [{"image": "a.jpg", "caption": "x", "id": name, "split": name} for name in names]
    root = images(*(f"{number}.jpg" for number in range(len(rows))))
    for number, row in enumerate(rows):
        row["image"] = f"{number}.jpg"
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = packed(tmp_path / "c.jsonl", images=str(root))
    assert len(found.records) == 64 and found.reasons == ["bad_value"] * (len(rows) - 64)
    for number in range(2):
        part = [{**row, "split": f"p{number}x{row['split']}"[:60]} for row in rows[:40]]
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    with pytest.raises(pack.PackError, match="80 splits.*more than 64; see --split-field"):
        packed(tmp_path / "[01].jsonl", images=str(root))
