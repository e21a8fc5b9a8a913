"""`wenlan pack`: every trap of real caption files, counted and named; and output that is whole or absent."""

from __future__ import annotations

import argparse
import base64
import collections
import dataclasses
import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from array_record.python import array_record_module

from wenlan_jax.commands import pack as pack_command
from wenlan_jax.data import images, sources
from wenlan_jax.data.records import Record, Text
from wenlan_jax.prepare import ingest, inspect, pack, raw_images, raw_items
from wenlan_jax.util import atomic_files
from wenlan_jax.util.languages import LANGUAGES


def _image(path: Path, width: int = 40, height: int = 30, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = cv2.imencode(path.suffix, pixels)[1].tobytes()
    path.write_bytes(data)
    return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a.jpg", "b.png", "c.webp", "d.bmp")):
        _image(tmp_path / name, seed=seed)
    return tmp_path


def _pack(folder: Path, name: str, content: str | bytes | list[Any], **options: Any) -> pack.PackReport:
    captions = folder / name
    if isinstance(content, list):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    captions.write_bytes(content if isinstance(content, bytes) else content.encode())
    return _pack_inputs(folder, [captions], **options)


def _pack_inputs(folder: Path, inputs: list[Path], **options: Any) -> pack.PackReport:
    """Options by name, wherever they belong."""
    read = {name: options.pop(name) for name in ("fields", "language", "encoding", "max_caption") if name in options}
    shown = {name: options.pop(name) for name in ("max_side", "max_pixels", "exif") if name in options}
    report = pack.pack(
        pack.PackOptions(
            inputs=tuple(map(str, inputs)),
            out=folder / "out",
            read=raw_items.ReadOptions(**read),
            image_options=raw_images.ImageOptions(**shown),
            **options,
        )
    )
    assert report.read == report.packed + sum(report.rejected.values())
    return report


def _records(folder: Path, split: str = "train") -> list[Record]:
    source = sources.open_source(str(folder / "out"), split, folder)
    return [source[row] for row in range(len(source))]


def _rejected(folder: Path) -> dict[int, tuple[str, str]]:
    rows = [json.loads(line) for line in (folder / "out" / "rejected.jsonl").read_text().splitlines()]
    assert len({row["line"] for row in rows}) == len(rows)
    return {row["line"]: (row["reason"], row["item"]) for row in rows}


def test_a_table_becomes_records_in_order(folder: Path) -> None:
    table = "\ufeffcaption\timage\tlanguage\tkind\tsplit\n".encode()
    table += '他说"你好\ta.jpg\tzh\tweak\ttrain\n'.encode()
    table += b"second\tb.png\tEN\t\ttest\r\n\n"
    table += b"another of a\t./a.jpg\ten\t\t\n"
    report = _pack(folder, "c.tsv", table)
    assert (report.read, report.packed, dict(report.records)) == (3, 3, {"train": 1, "test": 1})
    (record,) = _records(folder)
    assert [dataclasses.astuple(text) for text in record.texts] == [
        ("weak", "zh", '他说"你好'),
        ("descriptive", "en", "another of a"),
    ]
    assert (record.id, record.source, record.width, record.height) == ("a.jpg", "out", 40, 30)
    assert record.image == (folder / "a.jpg").read_bytes()
    assert _records(folder, "test")[0].texts[0].language == "en"


def test_csv_quoting_and_wrong_columns(folder: Path) -> None:
    table = 'image,caption\na.jpg,"two\nlines, ""quoted"""\nb.png,one,two\nb.png\nb.png,good\nc.webp,"never closed\n'
    report = _pack(folder, "c.csv", table)
    assert report.rejected == {"wrong_columns": 3}
    assert sorted(_rejected(folder)) == [4, 5, 7]
    assert [record.texts[0].text for record in _records(folder)] == ['two\nlines, "quoted"', "good"]


@pytest.mark.parametrize("header", ["a.jpg,a red cat", "image,text", "image,caption,image", ""])
def test_a_header_is_needed(folder: Path, header: str) -> None:
    with pytest.raises(raw_items.ReadError, match="first line must name the columns"):
        _pack(folder, "c.csv", header + "\nb.png,a dog\n")
    assert not (folder / "out").exists()


def test_texts_may_be_strings_lists_or_by_language(folder: Path) -> None:
    row = {
        "image": "a.jpg",
        "name": {"zh": "猫", "en": ["cat", "kitty"]},
        "tags": ["x", " ", "x"],
        "title": "plain",
        "language": "zh_CN",
        "number": 7,
    }
    fields = raw_items.FieldNames(
        image="image",
        texts={"name": "descriptive", "tags": "weak", "title": "title", "none": "weak"},
        id="number",
    )
    report = _pack(folder, "c.jsonl", [row], fields=fields)
    (record,) = _records(folder)
    assert record.id == "7"
    assert [dataclasses.astuple(text) for text in record.texts] == [
        ("descriptive", "zh", "猫"),
        ("descriptive", "en", "cat"),
        ("descriptive", "en", "kitty"),
        ("weak", "zh", "x"),
        ("title", "zh", "plain"),
    ]
    assert report.fixes == {"text_empty_dropped": 1}


def test_every_bad_line_is_named_with_its_reason(folder: Path) -> None:
    whole = (folder / "a.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.png").write_bytes((folder / "b.png").read_bytes()[:-30])
    (folder / "text.jpg").write_text("<html>404</html>")
    (folder / "zero.jpg").touch()
    bad = {
        "malformed_json": [b'{"image": "a.jpg", "caption": ', b"[1, 2]", b"null", b"[" * 100_000],
        "wrong_encoding": [
            b'{"image": "a.jpg", "caption": "\xff\xfe"}',
            rb'{"image": "a.jpg", "caption": "\ud83d"}',
        ],
        "missing_field": [b'{"image": "a.jpg"}', b'{"caption": "x"}', b'{"image": "", "caption": "x"}'],
        "empty_caption": [
            b'{"image": "a.jpg", "caption": ""}',
            '{"image": "a.jpg", "caption": "\u200b \u3000\\u0000"}'.encode(),
            b'{"image": "a.jpg", "caption": []}',
        ],
        "bad_value": [
            b'{"image": "a.jpg", "caption": 5}',
            b'{"image": "a.jpg", "caption": "x", "language": "a red cat"}',
            b'{"image": "a.jpg", "caption": "x", "split": "../x"}',
            b'{"image": "a.jpg", "caption": "x", "split": "all"}',
        ],
        "missing_image": [b'{"image": "gone.jpg", "caption": "x"}', b'{"image": ".", "caption": "x"}'],
        "empty_image": [b'{"image": "zero.jpg", "caption": "x"}'],
        "corrupt_image": [
            b'{"image": "cut.jpg", "caption": "x"}',
            b'{"image": "cut.png", "caption": "x"}',
            b'{"image": "text.jpg", "caption": "x"}',
            b'{"image": "text.jpg", "caption": "its second line"}',
        ],
        "duplicate_id": [b'{"image": "b.png", "caption": "x", "id": "a"}'],
        "split_conflict": [b'{"image": "a.jpg", "caption": "x", "split": "test"}'],
    }
    good = b'{"image": "a.jpg", "caption": "good", "id": "a"}'
    lines = [good, *(line for group in bad.values() for line in group)]
    report = _pack(folder, "c.jsonl", b"\n".join(lines))
    assert report.rejected == {reason: len(group) for reason, group in bad.items()}
    assert (report.packed, report.records) == (1, {"train": 1})
    named = _rejected(folder)
    reasons = [reason for reason, group in bad.items() for _ in group]
    assert {line: reason for line, (reason, _) in named.items()} == dict(enumerate(reasons, start=2))
    assert named[lines.index(bad["corrupt_image"][2]) + 1][1] == "text.jpg"


def test_one_image_keeps_its_first_id(folder: Path) -> None:
    rows = [{"image": "a.jpg", "caption": f"caption {i}", "id": i} for i in range(3)]
    assert _pack(folder, "c.jsonl", rows).fixes == {"id_ignored": 2}
    (record,) = _records(folder)
    assert record.id == "0" and len(record.texts) == 3


def test_brivl_lines(folder: Path) -> None:
    boxes = [
        [1, 2, 30.5, 20],
        [-5, -5, 50, 50],
        [5, 5, 5, 9],
        [30, 3, 9, 9],
        [50, 3, 60, 9],
        [1, 2, 3],
        [1, 2, "3", 4],
    ]
    row = {
        "image_id": "a.jpg",
        "bbox": boxes + [[0, 0, 1 + k / 10, 2] for k in range(120)],
        "sentences": [["sur_text", "一只猫"], ["alt_text", ""], ["first", "cat"]],
    }
    lines = [
        row,
        {"image_id": "b.png", "sentences": [["only"]]},
        {"image_id": "c.webp", "sentences": [["easy", "x"]]},
    ]
    report = _pack(folder, "c.jsonl", lines, language="zh")
    assert report.rejected == {"missing_field": 1}
    assert report.fixes == {
        "box_beyond_limit_dropped": 22,
        "box_clipped": 1,
        "box_degenerate_dropped": 3,
        "box_malformed_dropped": 2,
        "text_empty_dropped": 1,
    }
    first, second = _records(folder)
    assert [(text.kind, text.language, text.text) for text in first.texts] == [
        ("sur_text", "zh", "一只猫"),
        ("first", "zh", "cat"),
    ]
    assert [region.box for region in first.regions[:3]] == [(1, 2, 30.5, 20), (0, 0, 40, 30), (0, 0, 1, 2)]
    assert len(first.regions) == ingest.MAX_BOXES and second.regions == ()


def test_shrinking_scales_boxes_and_keeps_small_images(folder: Path) -> None:
    original = _image(folder / "large.jpg", 400, 200)
    _image(folder / "large.png", 200, 400)
    rows = [
        {"image": name, "caption": "x", "boxes": [[10, 20, 40, 30]]} for name in ("large.jpg", "large.png", "a.jpg")
    ]
    fields = raw_items.FieldNames(boxes="boxes")
    assert _pack(folder, "c.jsonl", rows, fields=fields, max_side=100).fixes == {"image_shrunk": 2}
    jpg, png, small = _records(folder)
    assert (jpg.width, jpg.height, png.width, png.height) == (100, 50, 50, 100)
    assert jpg.regions[0].box == (2.5, 5, 10, 7.5) and small.regions[0].box == (10, 20, 40, 30)
    assert jpg.image[:2] == b"\xff\xd8" and png.image[:4] == b"\x89PNG"
    assert small.image == (folder / "a.jpg").read_bytes()
    assert len(jpg.image) < len(original)
    for record in (jpg, png, small):
        assert images.decode(record.image).shape == (record.height, record.width, 3)


def test_other_formats_are_stored_as_png(folder: Path) -> None:
    rows = [{"image": name, "caption": "x"} for name in ("d.bmp", "c.webp")]
    assert _pack(folder, "c.jsonl", rows).fixes == {"image_reencoded": 1}
    bmp, webp = _records(folder)
    assert bmp.image[:4] == b"\x89PNG"
    np.testing.assert_array_equal(images.decode(bmp.image), images.decode((folder / "d.bmp").read_bytes()))
    assert webp.image == (folder / "c.webp").read_bytes()


def test_split_of_is_stable_and_follows_the_shares() -> None:
    shares = {"validation": 0.1, "test": 0.3}
    splits = [ingest.split_of(str(index), shares) for index in range(5000)]
    counts = collections.Counter(splits)
    # Four standard deviations of a binomial.
    for name, share in {**shares, "train": 0.6}.items():
        assert abs(counts[name] - 5000 * share) < 4 * (5000 * share * (1 - share)) ** 0.5
    # SHA-256 of "abc" begins with ba7816bf (FIPS 180-4), which is .7284 of the range.
    assert [ingest.split_of("abc", {"test": share}) for share in (0.728, 0.729)] == ["train", "test"]
    # Raising the last share moves records out of train only.
    more = [ingest.split_of(str(index), {"validation": 0.1, "test": 0.4}) for index in range(5000)]
    assert all(new == old or (old, new) == ("train", "test") for old, new in zip(splits, more, strict=True))
    assert {ingest.split_of(str(index), {"test": 1.0}) for index in range(200)} == {"test"}


def test_a_split_column_wins_over_shares(folder: Path) -> None:
    rows = [{"image": "a.jpg", "caption": "x", "split": "train"}, {"image": "b.png", "caption": "x"}]
    assert dict(_pack(folder, "c.jsonl", rows, split_shares={"test": 1.0}).records) == {"train": 1, "test": 1}


@pytest.mark.parametrize("word", ["nan", "NaN", "<NA>"])
def test_what_pandas_writes_for_an_absent_value_is_absent_in_every_format(word: str, folder: Path) -> None:
    fields = ("id", "split", "language", "kind", "source")
    table = f"image,caption,{','.join(fields)}\na.jpg,x{f',{word}' * 5}\nb.png,nan,1,test,zh,weak,web\n"
    other = dict(zip(fields, ("1", "test", "zh", "weak", "web"), strict=True))
    written: dict[str, str] = {"c.csv": table, "c.tsv": table.replace(",", "\t")}
    for name, value in (("text.jsonl", word), ("nan.jsonl", math.nan)):
        rows = [{"image": "a.jpg", "caption": "x", **dict.fromkeys(fields, value)}]
        rows.append({"image": "b.png", "caption": "nan", **other})
        written[name] = "".join(json.dumps(row) + "\n" for row in rows)
    for name, content in written.items():
        report = _pack(folder, name, content, language="en")
        assert report.rejected == {} and dict(report.records) == {"train": 1, "test": 1}
        assert report.fixes == ({} if name == "nan.jsonl" else {"nan_taken_as_absent": 5}), name
        (record,) = _records(folder)
        assert (record.id, record.source, record.texts[0]) == ("a.jpg", "out", Text("descriptive", "en", "x"))
        assert _records(folder, "test")[0].texts[0].text == "nan"  # a caption may be a word
        report = _pack(folder, name, content, language="en", fields=raw_items.FieldNames(split="split"))
        assert report.rejected == {"missing_field": 1}, name


def test_boxes_that_pandas_wrote_as_absent_are_none(folder: Path) -> None:
    lines = [f'{{"image": "a.jpg", "caption": "x", "boxes": {value}}}\n' for value in ("NaN", '"nan"', "null", '""')]
    report = _pack(folder, "c.jsonl", "".join(lines), fields=raw_items.FieldNames(boxes="boxes"))
    assert report.rejected == {} and report.packed == 4


def test_splits_keep_their_names_and_those_that_differ_in_case_are_told(folder: Path) -> None:
    rows = [{"image": "a.jpg", "caption": "x", "split": "Train"}, {"image": "b.png", "caption": "x", "split": "train"}]
    report = _pack(folder, "c.jsonl", rows)
    assert dict(report.records) == {"Train": 1, "train": 1}
    assert "splits    Train, train: differ in case alone; is one meant?" in report.summary().splitlines()
    assert "differ" not in _pack(folder, "c.jsonl", rows[:1]).summary()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "gb18030"])
@pytest.mark.parametrize("marks", [1, 2, 3])
def test_marks_of_the_byte_order_are_no_text(encoding: str, marks: int, folder: Path) -> None:
    _pack(folder, "c.csv", ("\ufeff" * marks + "image,caption\na.jpg,猫\n").encode(encoding))
    assert _records(folder)[0].texts[0].text == "猫"


def test_a_split_that_gets_nothing_of_its_share_is_told(folder: Path) -> None:
    rows = [{"image": "a.jpg", "caption": "x"}, {"image": "b.png", "caption": "x"}]
    report = _pack(folder, "c.jsonl", rows, split_shares={"test": 1.0 - 2**-40, "validation": 2**-40})
    assert report.empty == ["validation"]
    assert "empty     validation: too few records for such a share; give a larger one" in report.summary().splitlines()
    assert "empty" not in _pack(folder, "c.jsonl", rows, split_shares={"test": 1.0}).summary()


def test_packing_again_replaces_and_gives_the_same_bytes(folder: Path) -> None:
    rows = [{"image": name, "caption": name} for name in ("a.jpg", "b.png", "c.webp")]
    _pack(folder, "c.jsonl", rows)
    shard = next((folder / "out").glob("*array_record*"))
    first = shard.read_bytes()
    _pack(folder, "c.jsonl", rows, threads=3)
    assert shard.read_bytes() == first
    _pack(folder, "c.jsonl", rows[:1])
    assert len(_records(folder)) == 1
    assert not [path for path in folder.iterdir() if path.name.startswith(".out")]


def test_nothing_packed_is_an_error_and_leaves_the_old_output(folder: Path) -> None:
    _pack(folder, "c.jsonl", [{"image": "a.jpg", "caption": "x"}])
    with pytest.raises(pack.PackError, match=r"none of its 1 lines .*missing_image 1.*line 1"):
        _pack(folder, "c.jsonl", [{"image": "gone.jpg", "caption": "x"}])
    with pytest.raises(pack.PackError, match="no lines"):
        _pack(folder, "c.jsonl", "\n \n")
    assert len(_records(folder)) == 1


def test_a_directory_of_something_else_is_never_replaced(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(pack.PackError, match="was not made by"):
        _pack(folder, "c.jsonl", [{"image": "a.jpg", "caption": "x"}])
    assert (folder / "out" / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_shares": {"test": 1.5}}, "share in"),
        ({"split_shares": {"a": 0.6, "b": 0.6}}, "more than 1"),
        ({"split_shares": {"a-b": 0.1}}, "letters, digits"),
        ({"max_side": 0}, "max_side: at least 1 is needed, not 0"),
        ({"images": "/nonexistent"}, "--images"),
    ],
)
def test_bad_options_are_named(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(pack.PackError, match=message):
        _pack(folder, "c.jsonl", [{"image": "a.jpg", "caption": "x"}], **options)


def test_unreadable_input_and_output(folder: Path) -> None:
    with pytest.raises(raw_items.ReadError, match="no such file or folder"):
        pack.pack(pack.PackOptions(inputs=(str(folder / "none.csv"),), out=folder / "out"))
    with pytest.raises(raw_items.ReadError, match="neither its name nor its content"):
        _pack(folder, "c.xlsx", b"PK")
    captions = folder / "c.tsv"
    captions.write_text("image\tcaption\na.jpg\tx\n")
    with pytest.raises(pack.PackError, match="cannot be written"):
        pack.pack(pack.PackOptions(inputs=(str(captions),), out=folder / "a.jpg" / "out"))


def test_a_full_disk_is_reported_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("write() failed: No space left on device")

    monkeypatch.setattr(array_record_module.ArrayRecordWriter, "write", full)
    with pytest.raises(pack.PackError, match="No space left"):
        _pack(folder, "c.jsonl", [{"image": "a.jpg", "caption": "x"}])
    assert not [path for path in folder.iterdir() if "out" in path.name]


SLOW_PACK = """
import sys, time
from pathlib import Path
from wenlan_jax.prepare import ingest
from wenlan_jax.prepare import pack
quick = ingest.prepare
def prepare(*args):
    time.sleep(0.2)
    return quick(*args)
ingest.prepare = prepare
print("started", flush=True)
pack.pack(pack.PackOptions(inputs=(sys.argv[1],), out=Path(sys.argv[2]), threads=1))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_pack_does_not_look_finished(folder: Path, sent: signal.Signals) -> None:
    for index in range(300):
        os.link(folder / "b.png", folder / f"{index}.png")
    captions = folder / "many.jsonl"
    captions.write_text("".join(f'{{"image": "{i}.png", "caption": "x"}}\n' for i in range(300)))
    out, unfinished = folder / "out", folder / ".out.incomplete"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_PACK, str(captions), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while not list((unfinished / "parts").glob("train-*")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        with pytest.raises(atomic_files.BusyError, match="another process"):
            _pack(folder, "c.jsonl", [{"image": "a.jpg", "caption": "x"}])
    finally:
        process.send_signal(sent)
        process.communicate(timeout=30)
    assert not out.exists()
    assert unfinished.exists() == (sent == signal.SIGKILL)
    _pack(folder, "c.jsonl", [{"image": "a.jpg", "caption": "x"}])
    assert len(_records(folder)) == 1 and not unfinished.exists()


def _run(*arguments: str) -> int:
    parser = argparse.ArgumentParser("wenlan pack")
    pack_command.add_arguments(parser)
    return pack_command.run(parser.parse_args(arguments), [])


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = folder / "c.jsonl"
    rows = [{"file": "a.jpg", "alt": "x", "title": "y"}, {"file": "gone.jpg", "alt": "z"}]
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        str(captions),
        "--out",
        str(folder / "out"),
        "--image-field",
        "file",
        "--text-field",
        "alt=weak",
    ]
    assert _run(*arguments, "--text-field", "title", "--language", "fr", "--split", "test=0.5,validation=0.5") == 0
    printed = capsys.readouterr().out
    assert "2 read = 1 packed + 1 rejected" in printed and "missing_image 1" in printed
    stored = json.loads((folder / "out" / "pack.json").read_text())
    assert stored["report"]["packed"] == 1 and stored["options"]["file_format"] == "jsonl"
    (split,) = stored["report"]["records"]
    texts = [(text.kind, text.language) for text in _records(folder, split)[0].texts]
    assert texts == [("weak", "fr"), ("descriptive", "fr")]


@pytest.mark.parametrize("wrong", [["--split", "test"], ["--split", "test=x"], ["--text-field", "=weak"]])
def test_the_command_refuses_malformed_options(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _run("c.csv", "--out", "x", *wrong)
    assert "is not" in capsys.readouterr().err


# The name of an image in every language, and the words that it brings to mind.
SIGNS = {
    "#": {
        "zh": ("井号", "编号"), "en": ("hash sign", "number"), "de": ("Doppelkreuz", "Raute"),
        "fr": ("symbole dièse", "numéro"), "cs": ("mřížka", "křížek"), "ja": ("シャープ", "番号"),
        "ko": ("해시 기호", "우물정자"),
    },
    "☂️": {
        "zh": ("雨伞", "下雨"), "en": ("umbrella", "rain"), "de": ("Regenschirm", "Wetter"),
        "fr": ("parapluie", "pluie"), "cs": ("deštník", "déšť"), "ja": ("傘", "雨"), "ko": ("우산", "비"),
    },
    "👩‍🚒": {
        "zh": ("女消防员", "火"), "en": ("woman firefighter", "fire"), "de": ("Feuerwehrfrau", "Feuer"),
        "fr": ("pompière", "feu"), "cs": ("hasička", "oheň"), "ja": ("女性消防士", "火"), "ko": ("여자 소방관", "불"),
    },
}  # fmt: skip


def test_images_with_names_and_keywords_in_seven_languages(tmp_path: Path) -> None:
    """Images with transparency, ids that are no letters, texts by language, keywords in lists."""
    rows = []
    for number, ((sign, said), split) in enumerate(zip(SIGNS.items(), ("validation", "train", "test"), strict=True)):
        pixels = np.random.default_rng(number).integers(0, 256, (128, 128, 4), dtype=np.uint8)
        (tmp_path / f"{number}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        names = {language: name for language, (name, _) in said.items()}
        keywords = {language: list(words) for language, words in said.items()}
        rows.append({"image": f"{number}.png", "sign": sign, "name": names, "keywords": keywords, "split": split})
    captions = tmp_path / "signs.jsonl"
    captions.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    fields = ["--id-field", "sign", "--split-field", "split"]
    texts = ["--text-field", "name=descriptive", "--text-field", "keywords=weak"]
    assert _run(str(captions), "--out", str(tmp_path / "out"), *fields, *texts) == 0
    report = json.loads((tmp_path / "out" / "pack.json").read_text())["report"]
    assert report["records"] == {"train": 1, "test": 1, "validation": 1}
    assert report["rejected"] == {}
    assert set(report["texts"]) == set(LANGUAGES)
    for split, (sign, said) in zip(("validation", "train", "test"), SIGNS.items(), strict=True):
        (record,) = _records(tmp_path, split)
        assert (record.id, record.width, record.height) == (sign, 128, 128)
        for kind, place in (("descriptive", slice(0, 1)), ("weak", slice(0, 2))):
            found = {
                language: [t.text for t in record.texts if (t.kind, t.language) == (kind, language)]
                for language in said
            }
            assert found == {language: list(words[place]) for language, words in said.items()}


def test_shares_of_splits_are_told_as_they_are_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    pack_command.add_arguments(parser)
    for wrong, told in (
        ("a=0.5,a=0.6", "names 'a' 2 times"),
        ("a=0.1,b=0.2, a=0.1", "names 'a' 2 times"),
        ("a", "is not"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(["x.csv", "--out", "o", "--split", wrong])
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "told"), [("all", "every split to TFDS"), ("a b", "letters, digits"), ("1", "letters")]
)
def test_names_of_splits_are_refused_for_what_they_are(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps({"image": "a.jpg", "caption": "x", "split": name}))
    options = pack.PackOptions((str(tmp_path / "c.jsonl"),), tmp_path / "out", workers=0, threads=1)
    with pytest.raises(pack.PackError, match=f"bad_value.*{told}"):
        pack.pack(options)
    with pytest.raises(pack.PackError, match=f"--split: .*{told}"):
        pack.pack(dataclasses.replace(options, split_shares={name: 0.5}))


def test_an_output_that_cannot_be_made_is_told_by_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.csv").write_text("image,caption\na.jpg,x\n")
    options = pack.PackOptions((str(tmp_path / "c.csv"),), tmp_path / "out", workers=0, threads=1)
    for number in (errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT):

        def fail(place: Path, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(pack.atomic_files, "replacing", fail)
        with pytest.raises(pack.PackError, match=os.strerror(number)) as caught:
            pack.pack(options)
        assert ("free the space" in str(caught.value)) == (number in (errno.ENOSPC, errno.EDQUOT))


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_values_that_python_or_utf8_do_not_take_cost_their_line_and_are_named(form: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(cv2.imencode(".jpg", np.full((6, 8, 3), 90, np.uint8))[1].tobytes())
    digits = "9" * 5000
    rows = [
        f'{{"image": "a.jpg", "caption": "x", "id": {digits}}}',
        f'{{"image": "a.jpg", "caption": {digits}}}',
        f'{{"image": "a.jpg", "caption": "x", "split": -{digits}}}',
        '{"image": "a.jpg", "caption": "\\ud800"}',
        '{"image": "a.jpg\\udfff", "caption": "x"}',
        f'{{"image": "a.jpg", "caption": "good", "other": {digits}}}',
    ]
    text = "\n".join(rows) if form == "jsonl" else f"[{','.join(rows)}]"
    (tmp_path / f"c.{form}").write_text(text)
    options = pack.PackOptions((str(tmp_path / f"c.{form}"),), tmp_path / "out", workers=0, threads=1)
    report = pack.pack(options)
    told = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert (report.read, report.packed, report.fixes) == (6, 1, {})
    details = [row["detail"] for row in told]
    for detail, name in zip(details, ("field 'id'", "caption", "field 'split'", "U\\+D800", "U\\+DFFF"), strict=False):
        assert re.search(name, detail) or name == "caption", details
        assert len(detail) < 300 and "set_int_max_str_digits" not in detail and "--encoding" not in detail
    assert [row["reason"] for row in told[3:]] == ["wrong_encoding", "wrong_encoding"]


def test_a_document_with_a_number_that_python_does_not_take_is_refused_by_it(tmp_path: Path) -> None:
    digits = "9" * 5000
    document = f'{{"images": [{{"id": {digits}, "file_name": "a.jpg"}}], "annotations": [{{"image_id": {digits}8}}]}}'
    (tmp_path / "c.json").write_text(document)
    options = pack.PackOptions((str(tmp_path / "c.json"),), tmp_path / "out", file_format="coco", workers=0, threads=1)
    with pytest.raises(raw_items.ReadError, match="c.json: not whole JSON .a number of 5,000 digits, 999") as caught:
        pack.pack(options)
    assert "set_int" not in str(caught.value) and len(str(caught.value)) < 400


def test_images_of_no_bytes_are_empty_however_they_come(tmp_path: Path) -> None:
    good = cv2.imencode(".jpg", np.full((6, 8, 3), 90, np.uint8))[1].tobytes()
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": good, "path": "a.jpg"}, {"bytes": b"", "path": "b.jpg"}]
    parquet.write_table(pa.table({"image": images, "caption": ["x", "y"]}), tmp_path / "c.parquet")
    (tmp_path / "empty.jpg").write_bytes(b"")
    rows = [base64.b64encode(good).decode(), ""]
    listed = [{"image": f"data:image/jpeg;base64,{data}", "caption": "x"} for data in rows]
    listed.append({"image": "empty.jpg", "caption": "x"})
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    for name, count in (("c.parquet", 1), ("c.jsonl", 2)):
        report = pack.pack(pack.PackOptions((str(tmp_path / name),), tmp_path / "out", workers=0, threads=1))
        assert (report.packed, report.rejected) == (1, {"empty_image": count})
        found, _ = inspect.inspect(inspect.InspectOptions(str(tmp_path / name), tmp_path))
        assert found.broken == {"empty_image": count}
