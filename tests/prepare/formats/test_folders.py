"""Folders as inputs: the layout that they have, or else the one captions file in them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from wenlan_jax.prepare import raw_items

CAPTIONS = {
    "captions.csv": "image,caption\na.jpg,x\n",
    "train.tsv": "image\tcaption\na.jpg\tx\n",
    "list.jsonl": '{"image": "a.jpg", "caption": "x"}\n',
    "blip.json": json.dumps([{"image": "a.jpg", "caption": "x"}]),
    "coco.json": json.dumps(
        {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "x"}]}
    ),
    "results.token": "a.jpg#0\tx\n",
}
BESIDE = ("README.md", "._captions.csv", "LICENSE.txt", "00000_stats.json", "notes.txt")


@pytest.fixture
def folder(tmp_path: Path, image: Any) -> Path:
    place = tmp_path / "set [1]"
    place.mkdir()
    (place / "a.jpg").write_bytes(image())
    for name in BESIDE:
        (place / name).write_text("Nothing to see here.\n")
    os.mkfifo(place / "pipe.csv")
    (place / "sub.csv").mkdir()
    return place


@pytest.mark.parametrize("name", CAPTIONS)
def test_the_one_captions_file_is_found(name: str, folder: Path, packed: Any) -> None:
    (folder / name).write_text(CAPTIONS[name])
    found = packed(folder)
    assert [record.id for record in found.all()] == ["a.jpg"] and found.texts()[0][0][1] == "x"


def test_tables_of_something_else_are_passed_over(folder: Path, packed: Any) -> None:
    (folder / "info.json").write_text('{"licence": "CC BY 4.0"}')
    (folder / "sizes.csv").write_text("name,bytes\na.jpg,7\n")
    with pytest.raises(raw_items.ReadError, match="name one of info.json, sizes.csv"):
        packed(folder)
    (folder / "captions.csv").write_text(CAPTIONS["captions.csv"])
    assert packed(folder).report.packed == 1


def test_several_are_named(folder: Path, packed: Any) -> None:
    for name in ("captions.csv", "train.tsv", "blip.json"):
        (folder / name).write_text(CAPTIONS[name])
    with pytest.raises(raw_items.ReadError, match="name one of blip.json, captions.csv, train.tsv"):
        packed(folder)
    assert packed(folder, file_format="tsv").report.packed == 1
    (folder / "test.tsv").write_text(CAPTIONS["train.tsv"])
    with pytest.raises(raw_items.ReadError, match="name one of test.tsv, train.tsv"):
        packed(folder, file_format="tsv")
    assert packed(folder / "{train,test}.tsv").report.packed == 2


def test_archives_beside_a_table_are_ambiguous(folder: Path, packed: Any, archive: Any, image: Any) -> None:
    (folder / "images.tar").write_bytes(archive([("a.jpg", image()), ("a.txt", b"in the archive")]))
    assert packed(folder).texts() == [[("", "in the archive")]]
    (folder / "captions.csv").write_text(CAPTIONS["captions.csv"])
    with pytest.raises(raw_items.ReadError, match=r"has \*.tar and captions.csv; name what to pack"):
        packed(folder)


def test_an_empty_folder_says_what_is_missing(folder: Path, packed: Any) -> None:
    with pytest.raises(raw_items.ReadError, match="no file in this folder tells the format"):
        packed(folder)
