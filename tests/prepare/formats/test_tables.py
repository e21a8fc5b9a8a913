"""Tables as many files, in other encodings, and Parquet with images inside."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from wenlan_jax.prepare import pack, raw_items
from wenlan_jax.prepare.formats import tables


def test_gb18030(tmp_path: Path, packed: Any, images: Any) -> None:
    root = images("a.jpg", "b.png")
    table = "image\tcaption\na.jpg\t一只猫𠀀\nb.png\t狗\n"
    place = tmp_path / "c.tsv"
    place.write_bytes(table.encode("gb18030") + b"b.png\t\xff\n")
    found = packed(place, images=str(root), encoding="gb18030")
    assert found.texts() == [[("", "一只猫𠀀")], [("", "狗")]] and found.reasons == ["wrong_encoding"]
    with pytest.raises(pack.PackError, match="wrong_encoding 3.*--encoding"):
        packed(place, images=str(root))
    with pytest.raises(pack.PackError, match="no such encoding"):
        packed(place, images=str(root), encoding="gb99")


def test_captions_beyond_the_limit(tmp_path: Path, packed: Any, images: Any) -> None:
    rows = [{"image": "a.jpg", "caption": ["猫" * 100_000, "cat"]}, {"image": "b.png", "caption": "x" * 100_000}]
    place = tmp_path / "c.jsonl"
    place.write_text("\n".join(map(json.dumps, rows)))
    found = packed(place, images=str(images("a.jpg", "b.png")))
    assert found.texts() == [[("", "cat")]] and found.reasons == ["caption_too_long"]
    assert found.report.fixes == {"text_too_long_dropped": 1}
    assert len(packed(place, images=str(tmp_path / "images"), max_caption=100_000).all()) == 2


def test_several_files_and_sources(tmp_path: Path, packed: Any, images: Any) -> None:
    root = images("a.jpg", "b.png")
    (tmp_path / "0.csv").write_text("image,caption,source\na.jpg,x,news\nb.png,y,weibo\ngone.jpg,z,news\n")
    (tmp_path / "1.csv").write_text("image,caption,source\na.jpg,again,\n")
    (tmp_path / "2.csv").write_text("nothing,caption\na.jpg,again\n")
    found = packed(tmp_path / "*.csv", images=str(root), source="web")
    assert [(r.id, r.source) for r in found.all()] == [("0/a.jpg", "news"), ("0/b.png", "weibo"), ("1/a.jpg", "web")]
    assert found.report.sources == {
        "news": {"read": 2, "packed": 1, "rejected": 1},
        "web": {"read": 2, "packed": 1, "rejected": 1},
        "weibo": {"read": 1, "packed": 1, "rejected": 0},
    }
    assert sorted(found.reasons) == ["damaged_shard", "missing_image"]
    assert "first line must name the columns" in found.rejected[-1]["detail"]


def test_parquet(tmp_path: Path, packed: Any, images: Any, image: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    root = images("a.jpg")
    table = {"image": ["a.jpg", "gone.jpg"], "caption": [["x", "y"], ["z"]], "unused": [1, 2]}
    parquet.write_table(pa.table(table), tmp_path / "paths.parquet")
    found = packed(tmp_path / "paths.parquet", images=str(root), language="en")
    assert found.texts() == [[("en", "x"), ("en", "y")]] and found.reasons == ["missing_image"]
    rows = [
        {"bytes": image(1), "path": "b.jpg"},
        {"bytes": image(2), "path": None},
        {"bytes": None, "path": "a.jpg"},
    ]
    parquet.write_table(pa.table({"image": [*rows, None], "caption": ["1", "2", "3", "4"]}), tmp_path / "hf.parquet")
    found = packed(tmp_path / "hf.parquet", images=str(root))
    assert [record.id for record in found.all()] == ["b.jpg", "row 2", "a.jpg"]
    assert found.all()[0].image == image(1) and found.reasons == ["missing_field"]
    parquet.write_table(pa.table({"image": [image(3)], "caption": ["x"]}), tmp_path / "bytes.parquet")
    assert packed(tmp_path / "bytes.parquet").all()[0].image == image(3)
    with pytest.raises(raw_items.ReadError, match="no column 'text'"):
        packed(tmp_path / "bytes.parquet", fields=raw_items.FieldNames(texts={"text": "weak"}))
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "hf.parquet").read_bytes()[:-50])
    with pytest.raises(raw_items.ReadError, match=r"cut\.parquet: cannot be read"):
        packed(tmp_path / "cut.parquet")


def test_parquet_without_pyarrow(tmp_path: Path, packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(raw_items.ReadError, match=r"wenlan_jax\[parquet\]"):
        packed(tmp_path / "a.parquet")


def test_a_file_that_vanishes_while_it_is_read(tmp_path: Path, packed: Any, images: Any) -> None:
    """A shard that was listed and is gone when its turn comes costs one fault, not the pack."""
    root = images("a.jpg")
    for name in "01":
        (tmp_path / f"{name}.csv").write_text("image,caption\na.jpg,x\n")
    found = packed(tmp_path / "0.csv", tmp_path / "{1,2}.csv", images=str(root))
    assert found.reasons == ["damaged_shard"] and "No such file" in found.rejected[0]["detail"]
    assert len(found.all()) == 2


SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "bar": "|"}


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("separator", SEPARATORS)
def test_the_header_tells_the_separator(suffix: str, separator: str, tmp_path: Path, packed: Any, images: Any) -> None:
    mark = SEPARATORS[separator]
    rows = [["filepath", "title", "split"], ["a.jpg", "one, two; three", "test"], ["b.png", "plain", ""]]
    quoted = [[f'"{cell}"' if any(m in cell for m in ",;") else cell for cell in row] for row in rows]
    plain = mark == "\t" and suffix == "tsv"  # in which quotes are characters like others
    place = tmp_path / f"c.{suffix}"
    place.write_text("".join(mark.join(row) + "\n" for row in (rows if plain else quoted)))
    fields = raw_items.FieldNames(image="filepath", texts={"title": "descriptive"})
    found = packed(place, images=str(images("a.jpg", "b.png")), fields=fields)
    assert found.texts("test") == [[("", "one, two; three")]] and found.texts() == [[("", "plain")]]


@pytest.mark.parametrize("name", ["c.csv", "c.tsv"])
def test_a_header_without_the_columns_is_told_whatever_the_separator(name: str, tmp_path: Path, packed: Any) -> None:
    (tmp_path / name).write_text("filepath;title\na.jpg;x\n")
    with pytest.raises(raw_items.ReadError, match="no column 'image', 'caption'"):
        packed(tmp_path / name)


QUOTES = {
    "never closed": 'a.jpg,"open\n',
    "never closed, in the first cell": '"a.jpg,open\n',
    "closed and followed": 'a.jpg,"open" more\n',
    "closed by the next row": 'a.jpg,"open, more\n',
    "a single quote": 'a.jpg,"\n',
}


@pytest.mark.parametrize("neighbours", ["plain", "quoted", "some quoted"])
@pytest.mark.parametrize("kind", QUOTES)
@pytest.mark.parametrize("place", [0, 7, 399])
def test_an_unclosed_quote_costs_its_line(
    kind: str, neighbours: str, place: int, tmp_path: Path, packed: Any, images: Any
) -> None:
    rows = [f"a.jpg,text {n}\n" for n in range(400)]
    for n in range(400):
        if neighbours == "quoted" or (neighbours == "some quoted" and n % 5 == 0):
            rows[n] = f'"a.jpg","text {n}, and ""more"""\n'
    rows[place] = QUOTES[kind]
    (tmp_path / "c.csv").write_text("image,caption\n" + "".join(rows))
    found = packed(tmp_path / "c.csv", images=str(images("a.jpg")))
    assert [(row["line"], row["reason"]) for row in found.rejected] == [(place + 2, "wrong_columns")]
    assert found.report.read == 400 and len(found.texts()[0]) == 399


def test_many_unclosed_quotes_and_texts_of_several_lines(tmp_path: Path, packed: Any, images: Any) -> None:
    rows = [f'a.jpg,"open {n}\n' if n % 3 else f'a.jpg,"two\nlines {n}"\n' for n in range(300)]
    (tmp_path / "c.csv").write_text("image,caption\n" + "".join(rows))
    found = packed(tmp_path / "c.csv", images=str(images("a.jpg")))
    assert found.report.read >= 300 and set(found.reasons) == {"wrong_columns"}
    assert len(found.texts()[0]) == found.report.packed == 100


def test_rows_before_and_after_are_numbered_by_their_first_line(tmp_path: Path, packed: Any, images: Any) -> None:
    table = 'image,caption\n\na.jpg,"two\nlines"\n\nb.png\na.jpg,"open\ngone.jpg,x\na.jpg,y'
    (tmp_path / "c.csv").write_text(table)
    found = packed(tmp_path / "c.csv", images=str(images("a.jpg", "b.png")))
    assert [(row["line"], row["reason"]) for row in found.rejected] == [
        (6, "wrong_columns"), (7, "wrong_columns"), (8, "missing_image")
    ]  # fmt: skip
    assert [text for _, text in found.texts()[0]] == ["two\nlines", "y"]


BLIP = {
    "train": [{"caption": "a cat", "image": "a.jpg", "image_id": "coco_0"}],
    "several": [{"image": "a.jpg", "caption": ["a cat", "the cat"]}],
    "names": [{"caption": "a cat", "image": "a.jpg", "image_id": "b.png"}],
    "last": [{"image_id": "b.png", "caption": ["a cat"], "url": "http://x/b.png", "image": "a.jpg"}],
    "lists without an image's name": [{"image": "a.jpg", "image_id": "b.png", "caption": ["a cat", "猫"], "url": "u"}],
    "long": [{"caption": "a cat" + " meow" * 20_000, "image": "a.jpg", "image_id": "b.png"}],
}


@pytest.mark.parametrize("name", BLIP)
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("file_format", [None, "jsonl"])
def test_a_json_array_is_a_table(
    name: str, indent: int | None, file_format: str | None, tmp_path: Path, packed: Any, images: Any
) -> None:
    (tmp_path / "c.json").write_text(json.dumps([*BLIP[name], 7], indent=indent))
    root, most = str(images("a.jpg", "b.png")), 1 << 20
    found = packed(tmp_path / "c.json", images=root, file_format=file_format, max_caption=most)
    assert [record.id for record in found.all()] == ["a.jpg"] and found.texts()[0][0][1].startswith("a cat")
    assert [(row["line"], row["reason"]) for row in found.rejected] == [(2, "malformed_json")]


def test_aic_icc_is_still_told_by_its_fields(tmp_path: Path, packed: Any, images: Any) -> None:
    rows = [{"url": "http://x", "image_id": "a.jpg", "caption": ["一只猫", "猫"]}]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    assert packed(tmp_path / "c.json", images=str(images("a.jpg"))).texts() == [[("zh", "一只猫"), ("zh", "猫")]]


@pytest.mark.parametrize("caption", ["a cat", ["a cat", "the cat"], "一只猫", 7])
def test_other_arrays_with_image_ids_are_not_aic_icc(caption: Any, tmp_path: Path, packed: Any, images: Any) -> None:
    (tmp_path / "c.json").write_text(json.dumps([{"image_id": "a.jpg", "caption": caption}]))
    with pytest.raises(pack.PackError, match=r"none of its 1 lines.*(field 'image' must|a int, not a text)"):
        packed(tmp_path / "c.json", images=str(images("a.jpg")))


def test_questions_of_albef_are_not_those_of_vqa(tmp_path: Path, packed: Any, images: Any) -> None:
    rows = [{"question_id": 1, "question": "What?", "answer": ["a cat"], "image": "a.jpg", "dataset": "vqa"}]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    with pytest.raises(pack.PackError, match="missing_field 1.*no field 'caption'"):
        packed(tmp_path / "c.json", images=str(images("a.jpg")))


@pytest.fixture
def parquet(tmp_path: Path) -> Any:
    """Writes columns to a Parquet file."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def write(name: str, columns: dict[str, Any], **options: Any) -> Path:
        parquet.write_table(pa.table(columns), tmp_path / name, **options)
        return tmp_path / name

    return write


def test_downloads_that_failed_and_float_ids(parquet: Any, packed: Any, image: Any) -> None:
    columns = {
        "jpg": [image(0), None, None, image(3), None],
        "caption": ["a", "b", "c", "d", "e"],
        "key": [f"{n:09d}" for n in range(5)],
        "status": ["success", "failed_to_download", "failed_to_resize", "success", "success"],
        "error_message": [None, "HTTP Error 404: Not Found", "", None, None],
        "id": [0.0, 1.0, 2.0, 3.0, 4.0],
    }
    found = packed(parquet("a.parquet", columns), fields=raw_items.FieldNames(image="jpg"))
    assert [record.id for record in found.all()] == ["0", "3"]
    assert [(row["line"], row["item"], row["reason"], row["detail"]) for row in found.rejected[:2]] == [
        (2, "000000001", "missing_image", "HTTP Error 404: Not Found"),
        (3, "000000002", "missing_image", "failed_to_resize"),
    ]
    assert found.rejected[2]["item"] == "000000004"


def test_numbers_where_texts_are_expected(parquet: Any, packed: Any, image: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    nan = float("nan")
    columns = {
        "image": [image(n) for n in range(5)],
        "caption": ["a", "b", "c", "d", "e"],
        "id": pa.array([1e15, nan, 2.5, None, 1e300], from_pandas=False),
    }
    found = packed(parquet("a.parquet", columns))
    assert [record.id for record in found.all()] == ["1000000000000000", "row 2", "row 4"]
    assert [row["line"] for row in found.rejected] == [3, 5]
    assert all("see --id-field" in row["detail"] for row in found.rejected)


@pytest.mark.parametrize("layout", ["bytes", "dict", "base64", "address"])
def test_rejected_rows_are_never_named_by_their_image(layout: str, parquet: Any, packed: Any, image: Any) -> None:
    coded = base64.b64encode(image(1)).decode()
    value: Any = {
        "bytes": image(1),
        "dict": {"bytes": image(1), "path": None},
        "base64": {"bytes": coded, "path": None},
        "address": f"data:image/jpeg;base64,{coded}",
    }[layout]
    found = packed(parquet("a.parquet", {"image": [value] * 2, "caption": ["x", ""], "url": ["u0", "u1"]}))
    assert [row["item"] for row in found.rejected] == ["data:image/jpeg;base64" if layout == "address" else "u1"]
    assert coded[:40] not in json.dumps(found.rejected) and found.report.packed == 1


def _with_bad_text(pa: Any, count: int, bad: set[int], nested: bool) -> Any:
    """Texts of which some are no UTF-8, which pyarrow does not check when it writes."""
    texts = pa.array([b"\xff\xfe" if n in bad else f"text {n}".encode() for n in range(count)], pa.binary())
    texts = texts.view(pa.string())
    return pa.ListArray.from_arrays(pa.array(range(count + 1), pa.int32()), texts) if nested else texts


@pytest.mark.parametrize("nested", [False, True])
def test_a_text_that_is_no_utf8_costs_its_row(nested: bool, parquet: Any, packed: Any, images: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    columns = {
        "image": ["a.jpg"] * 300,
        "caption": _with_bad_text(pa, 300, {5, 130}, nested),
        "url": _with_bad_text(pa, 300, {5, 7, 200}, nested=False),
        "unused": _with_bad_text(pa, 300, {9}, nested),
    }
    found = packed(parquet("a.parquet", columns), images=str(images("a.jpg")))
    assert [(row["line"], row["reason"]) for row in found.rejected] == [(6, "wrong_encoding"), (131, "wrong_encoding")]
    assert found.report.read == 300 and len(found.texts()[0]) == 298


def test_a_damaged_group_costs_its_rows(parquet: Any, packed: Any, images: Any) -> None:
    columns = {"image": ["a.jpg"] * 90, "caption": [f"text {n}" for n in range(90)]}
    place = parquet("a.parquet", columns, row_group_size=30, compression="gzip", use_dictionary=False)
    from pyarrow import parquet as pq

    chunk = pq.ParquetFile(place).metadata.row_group(1).column(1)
    data = bytearray(place.read_bytes())
    start = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[start : start + 20] = bytes(20)
    place.write_bytes(data)
    found = packed(place, images=str(images("a.jpg")))
    assert [row["line"] for row in found.rejected] == list(range(31, 61))
    assert set(found.reasons) == {"damaged_shard"} and len(found.texts()[0]) == 60


def test_values_that_come_often_are_held_once(parquet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet as pq

    place = parquet("a.parquet", {"image": [bytes(100_000)] * 64, "caption": ["x"] * 64})
    with pq.ParquetFile(place) as file:
        assert tables._rows_at_once(file, 0, ["image", "caption"]) == 64
        monkeypatch.setattr(tables, "_BATCH_BYTES", 250_000)
        assert tables._rows_at_once(file, 0, ["image", "caption"]) == 2
        assert tables._rows_at_once(file, 0, ["caption"]) == 64


def test_a_json_array_that_is_cut_keeps_what_came_before(tmp_path: Path, packed: Any, images: Any) -> None:
    root = str(images("a.jpg"))
    whole = json.dumps([{"image": "a.jpg", "caption": f"text {n}"} for n in range(50)])
    for name, content in (("cut", whole[: len(whole) // 2]), ("commas", whole.replace('24"}, ', '24"} '))):
        (tmp_path / f"{name}.json").write_text(content)
        found = packed(tmp_path / f"{name}.json", images=root)
        assert 20 < found.report.packed < 30 and found.reasons == ["damaged_shard"]
        assert "not whole JSON from object" in found.rejected[0]["detail"]
    (tmp_path / "two.json").write_text(whole + whole)
    assert packed(tmp_path / "two.json", images=root).report.packed == 50


@pytest.mark.parametrize(
    "row",
    [
        {"file_name": "a.jpg", "question_id": 3, "image": "a.jpg", "caption": "x"},
        {"image_id": "z", "image": "a.jpg", "caption": "x"},
    ],
)
def test_lines_that_mention_the_fields_of_a_set_are_lines(
    row: dict[str, Any], tmp_path: Path, packed: Any, images: Any
) -> None:
    (tmp_path / "metadata.json").write_text((json.dumps(row) + "\n") * 2)
    assert [r.id for r in packed(tmp_path / "metadata.json", images=str(images("a.jpg"))).all()] == ["a.jpg"]


def test_names_that_data_makes_up_are_bounded(tmp_path: Path, packed: Any, images: Any) -> None:
    rows = [
        {"image": f"{n}.jpg", "caption": "x", "source": f"site{n}", "language": f"{'ab'[n % 2]}{chr(97 + n // 2)}"}
        for n in range(50)
    ]
    rows.append({"image": "0.jpg", "caption": "x", "source": "s" * 5000})
    root = images(*(f"{n}.jpg" for n in range(50)))
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = packed(tmp_path / "c.jsonl", images=str(root))
    assert found.reasons == ["bad_value"] and "more than 4096 characters" in found.rejected[0]["detail"]
    lines = found.report.summary().splitlines()
    assert sum(line.startswith("source ") for line in lines) == 31 and "source    and 21 more" in lines
    assert len(found.report.sources) == 51 and max(map(len, lines)) < 400


def test_a_header_in_another_encoding_says_so(tmp_path: Path, packed: Any) -> None:
    (tmp_path / "c.csv").write_bytes("image,caption\na.jpg,x\n".encode("utf-16-le"))
    with pytest.raises(raw_items.ReadError, match="is it UTF-16. see --encoding"):
        packed(tmp_path / "c.csv")
