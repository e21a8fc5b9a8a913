"""Tables as many files, in other encodings, and Parquet with images inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wenlan_jax.data import pack, readers


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
    (tmp_path / "2.csv").write_text("picture,caption\na.jpg,again\n")
    found = packed(tmp_path / "*.csv", images=str(root), source="web")
    assert [(r.id, r.source) for r in found.all()] == [("0/a.jpg", "news"), ("0/b.png", "weibo"), ("1/a.jpg", "web")]
    assert found.report.sources == {
        "news": {"read": 2, "packed": 1, "rejected": 1},
        "web": {"read": 2, "packed": 1, "rejected": 1},
        "weibo": {"read": 1, "packed": 1, "rejected": 0},
    }
    assert sorted(found.reasons) == ["damaged_shard", "missing_image"]
    assert "first line must name the columns" in found.rejected[-1]["detail"]


def test_parquet(tmp_path: Path, packed: Any, images: Any, picture: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    root = images("a.jpg")
    table = {"image": ["a.jpg", "gone.jpg"], "caption": [["x", "y"], ["z"]], "unused": [1, 2]}
    parquet.write_table(pa.table(table), tmp_path / "paths.parquet")
    found = packed(tmp_path / "paths.parquet", images=str(root), language="en")
    assert found.texts() == [[("en", "x"), ("en", "y")]] and found.reasons == ["missing_image"]
    rows = [
        {"bytes": picture(1), "path": "b.jpg"},
        {"bytes": picture(2), "path": None},
        {"bytes": None, "path": "a.jpg"},
    ]
    parquet.write_table(pa.table({"image": [*rows, None], "caption": ["1", "2", "3", "4"]}), tmp_path / "hf.parquet")
    found = packed(tmp_path / "hf.parquet", images=str(root))
    assert [record.id for record in found.all()] == ["b.jpg", "row 2", "a.jpg"]
    assert found.all()[0].image == picture(1) and found.reasons == ["missing_field"]
    parquet.write_table(pa.table({"image": [picture(3)], "caption": ["x"]}), tmp_path / "bytes.parquet")
    assert packed(tmp_path / "bytes.parquet").all()[0].image == picture(3)
    with pytest.raises(readers.ReadError, match="no column 'text'"):
        packed(tmp_path / "bytes.parquet", fields=readers.Fields(texts={"text": "weak"}))
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "hf.parquet").read_bytes()[:-50])
    with pytest.raises(readers.ReadError, match=r"cut\.parquet: cannot be read"):
        packed(tmp_path / "cut.parquet")


def test_parquet_without_pyarrow(tmp_path: Path, packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(readers.ReadError, match=r"wenlan_jax\[parquet\]"):
        packed(tmp_path / "a.parquet")


def test_a_file_that_vanishes_while_it_is_read(tmp_path: Path, packed: Any, images: Any) -> None:
    """A shard that was listed and is gone when its turn comes costs one fault, not the pack."""
    root = images("a.jpg")
    for name in "01":
        (tmp_path / f"{name}.csv").write_text("image,caption\na.jpg,x\n")
    found = packed(tmp_path / "0.csv", tmp_path / "{1,2}.csv", images=str(root))
    assert found.reasons == ["damaged_shard"] and "No such file" in found.rejected[0]["detail"]
    assert len(found.all()) == 2
