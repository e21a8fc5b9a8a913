"""`wenlan data inspect`: counts of packed and raw data, broken items by reason, samples, and the contact sheet."""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from wenlan_jax import cli
from wenlan_jax.commands import data as command
from wenlan_jax.data import images, tfds_builder
from wenlan_jax.data.records import Question, Record, Region, Text
from wenlan_jax.prepare import contact_sheet, inspect, raw_items, tfds_files


def _image(seed: int, suffix: str = ".jpg", width: int = 40, height: int = 20) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def _record(index: int) -> Record:
    return Record(
        id=f"r{index}",
        image=_image(index, ".png" if index % 2 else ".jpg"),
        width=40,
        height=20,
        source="web" if index < 15 else "news",
        texts=(Text("descriptive", "zh", "\u732b" * (index + 1)), Text("weak", "en", "a cat"))[: 1 + index % 2],
        regions=tuple(Region((1, 1, 9, 9), "cat") for _ in range(index % 3)),
        questions=(Question("en", "what?", "a cat"),) if index == 0 else (),
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inspect")
    records = [_record(index) for index in range(20)]
    broken = [
        Record("short", _image(0)[:60], 40, 20),
        Record("cut", _image(0)[:-40], 40, 20),
        Record("other", _image(0), 50, 20),
    ]
    tfds_files.write(root / "toy", {"train": records[:16], "test": [*records[16:], *broken]}, "test")
    return root / "toy"


def _look(place: Path | str, tmp_path: Path, **options: Any) -> tuple[inspect.Findings, list[contact_sheet.Card]]:
    return inspect.inspect(inspect.InspectOptions(str(place), tmp_path, **options))


def test_a_packed_directory(packed: Path, tmp_path: Path) -> None:
    found, cards = _look(packed, tmp_path)
    assert (found.layout, found.records, found.looked_at) == ("packed", {"train": 16, "test": 7}, 23)
    assert found.usable == 21 and found.total - found.usable == sum(found.broken.values())
    assert found.sources == {"web": 15, "news": 5, "(none)": 3}
    assert found.languages == {"zh": 20, "en": 10} and found.kinds == {"descriptive": 20, "weak": 10}
    assert found.formats == {"jpeg": 11, "png": 10}  # that which is cut short has a sound header
    assert found.labels == {"cat": sum(index % 3 for index in range(20))}
    assert found.broken == {"corrupt_image": 1, "bad_value": 1}
    assert "50 x 20 pixels, the image 40 x 20" in found.samples["bad_value"][0]
    assert len(cards) == 20  # of those whose image can be shown
    measured = found.quantiles()
    assert measured["caption characters, zh"]["0"] == 1 and measured["caption characters, zh"]["1"] == 20
    assert measured["caption characters, zh"]["0.5"] == np.median(np.arange(1, 21))
    assert measured["boxes of an image"]["1"] == 2 and measured["questions of an image"]["1"] == 1
    assert measured["width"] == dict.fromkeys(measured["width"], 40)


def test_decoding_finds_what_headers_hide(packed: Path, tmp_path: Path) -> None:
    found, _ = _look(packed, tmp_path, decode=True)
    assert found.broken == {"corrupt_image": 2, "bad_value": 1}
    assert sorted(sample.split(":")[0] for sample in found.samples["corrupt_image"]) == ["cut", "short"]


def test_a_limit_samples_evenly_and_says_so(packed: Path, tmp_path: Path) -> None:
    found, cards = _look(packed, tmp_path, limit=5)
    assert (found.total, found.looked_at) == (23, 5)
    assert [card.name for card in cards] == ["r0", "r4", "r9", "r13", "r18"]
    assert "5 evenly spaced" in found.summary() and "records    23: train 16, test 7" in found.summary()
    assert _look(packed, tmp_path, limit=100)[0].looked_at == 23


@pytest.mark.parametrize("total,limit", [(1, 1), (10, 3), (23, 5), (1000, 999)])
def test_evenly_spaced_numbers_do_not_depend_on_how_the_whole_is_cut(total: int, limit: int) -> None:
    chosen = inspect._evenly(total, limit)
    whole = chosen(0, total)
    assert len(whole) == limit == len(set(whole)) and max(whole) < total
    assert [number for start in range(total) for number in chosen(start, start + 1)] == whole


def test_cards_stay_few_and_spaced() -> None:
    kept: inspect.Evenly[int] = inspect.Evenly(4)
    for number in range(100):
        if kept.next_is_wanted():
            kept.add(number)
    assert kept.kept == [0, 32, 64, 96]


@pytest.mark.parametrize(("most", "total"), [(64, 1200), (4, 23), (7, 7), (9, 4), (1, 100), (38, 39)])
def test_of_a_known_number_exactly_the_cards_asked_for_are_kept(most: int, total: int) -> None:
    kept: inspect.Evenly[int] = inspect.Evenly(most, total)
    for number in range(total):
        if kept.next_is_wanted(number):
            kept.add(number)
    count = min(most, total)
    assert kept.kept == [index * total // count for index in range(count)]
    faulty: inspect.Evenly[int] = inspect.Evenly(4, 100)
    for number in range(100):
        if faulty.next_is_wanted(number) and number not in (0, 50, 51):
            faulty.add(number)
    assert faulty.kept == [1, 25, 52, 75]


def test_a_sheet_of_packed_or_counted_data_has_all_its_cards(packed: Path, tmp_path: Path) -> None:
    for cards in (3, 5, 7):  # what is broken comes last
        assert len(_look(packed, tmp_path, cards=cards)[1]) == cards
    rows = ["image\tcaption"]
    for seed in range(30):
        (tmp_path / f"{seed}.jpg").write_bytes(_image(seed))
        rows.append(f"{seed}.jpg\tx")
    (tmp_path / "many.tsv").write_text("\n".join(rows))
    assert len(_look(tmp_path / "many.tsv", tmp_path, cards=13, limit=20)[1]) == 13
    assert len(_look(tmp_path / "many.tsv", tmp_path, cards=13)[1]) <= 13


def _table(root: Path) -> Path:
    for seed, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        (root / name).write_bytes(_image(seed))
    (root / "d.jpg").write_bytes(b"no image")
    rows = ["image\tcaption\tlanguage", "a.jpg\tone\ten", "a.jpg\ttwo\tde", "b.jpg\tthree\ten", "c.jpg\t\ten"]
    (root / "pairs.tsv").write_text("\n".join([*rows, "d.jpg\tfour\ten", "e.jpg\tfive\ten"]), "utf-8")
    return root / "pairs.tsv"


def test_raw_items_are_counted_by_image_and_refused_by_reason(tmp_path: Path) -> None:
    found, cards = _look(_table(tmp_path), tmp_path)
    assert (found.layout, found.records, found.looked_at) == ("tsv", {"train": 4}, 4)
    assert found.languages == {"en": 4, "de": 1}
    assert found.broken == {"empty_caption": 1, "corrupt_image": 1, "missing_image": 1}
    assert [card.name for card in cards] == ["a.jpg", "b.jpg"]
    limited, _ = _look(tmp_path / "pairs.tsv", tmp_path, limit=2)
    assert (limited.records, limited.looked_at) == ({"train": 4}, 2)


def test_shards_and_one_that_is_cut_short(tmp_path: Path) -> None:
    def archive(first: int) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for key in range(first, first + 3):
                for name, data in ((f"{key}.jpg", _image(key)), (f"{key}.txt", b"a cat")):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    (tmp_path / "0.tar").write_bytes(archive(0))
    (tmp_path / "1.tar").write_bytes(archive(3)[:4000])
    found, cards = _look(f"{tmp_path}/{{0..1}}.tar", tmp_path)
    assert found.broken["damaged_shard"] == 1 and found.total == found.looked_at >= 4
    assert [card.name for card in cards][:3] == ["0/0", "0/1", "0/2"]


def test_what_holds_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.tsv").write_text("image\tcaption\n", "utf-8")
    with pytest.raises(inspect.InspectError, match="empty.tsv: holds nothing"):
        _look(tmp_path / "empty.tsv", tmp_path)
    with pytest.raises(inspect.InspectError, match="set --images"):
        _look(_table(tmp_path), tmp_path, images=str(tmp_path / "nowhere"))
    with pytest.raises(raw_items.ReadError, match="nowhere.tsv"):
        _look(tmp_path / "nowhere.tsv", tmp_path)
    for wrong in ({"limit": 0}, {"cards": 0}, {"file_format": "doc"}):
        with pytest.raises(inspect.InspectError, match=f"{next(iter(wrong))}: (at least|one of) .* needed, not"):
            _look(tmp_path, tmp_path, **wrong)


@pytest.mark.parametrize("name", ["pipe.csv", "pipe.jsonl", "empty.csv", "shard-{0..1}.tar"])
def test_what_cannot_be_read_at_all_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name.startswith("pipe"):
        os.mkfifo(tmp_path / name)
    elif name.startswith("shard"):
        for number in range(2):
            (tmp_path / f"shard-{number}.tar").write_bytes(b"no tar at all" * 100)
    else:
        (tmp_path / name).touch()
    assert cli.main(["data", "inspect", str(tmp_path / name)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_thumbnails_are_fitted_and_boxes_drawn_where_they_are() -> None:
    white = cv2.imencode(".png", np.full((40, 80, 3), 255, np.uint8))[1].tobytes()
    small = contact_sheet.thumbnail(white, [Region((20, 10, 40, 30))])
    assert small.shape == (contact_sheet.SIDE, contact_sheet.SIDE, 3)
    scale, top = contact_sheet.SIDE / 80, contact_sheet.SIDE // 4
    drawn = np.argwhere((small != 255).any(axis=2))
    assert drawn.min(axis=0).tolist() == [top + 10 * scale, 20 * scale]
    assert drawn.max(axis=0).tolist() == [top + 30 * scale, 40 * scale]
    with pytest.raises(images.CorruptImage):
        contact_sheet.thumbnail(b"none", [])


def test_the_contact_sheet_shows_every_card(packed: Path, tmp_path: Path) -> None:
    _, cards = _look(packed, tmp_path)
    image, page = contact_sheet.write(tmp_path / "sheet", cards, "toy <&>", "note")
    pixels = cv2.imread(str(image))
    assert pixels.shape[0] > 3 * contact_sheet.SIDE and pixels.shape[1] > 8 * contact_sheet.SIDE
    text = page.read_text("utf-8")
    assert text.count("<img ") == 20 and '<span lang="zh" dir="auto">\u732b\u732b</span>' in text
    assert "toy &lt;&amp;&gt;" in text and "boxes: cat" in text and "<script" not in text
    assert not list((tmp_path / "sheet").glob("*.tmp"))


def _run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments), [])


def test_the_command_prints_text_or_json(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("inspect", str(packed), "--out", str(tmp_path / "sheet"), "--cards", "4") == 0
    shown = capsys.readouterr().out
    assert "records    23: train 16, test 7" in shown and f"contact sheet: {tmp_path}/sheet/contact_sheet.jpg" in shown
    assert _run("inspect", str(packed), "--json", "--decode") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["records"] == {"train": 16, "test": 7} and found["broken"]["corrupt_image"] == 2
    assert _run("inspect", str(_table(tmp_path)), "--text-field", "language=weak", "--json") == 0
    assert json.loads(capsys.readouterr().out)["kinds"] == {"weak": 6}


def test_the_command_lists_what_can_be_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("list") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "wenlan_emoji/noto" in names and "wenlan_public/multi30k" in names and len(names) == len(set(names)) == 19
    assert names[:4] == [f"wenlan_scenes/{size}" for size in ("tiny", "close64", "s64", "s128")]
    assert _run("list") == 0
    assert "(drawn here, nothing to fetch)" in capsys.readouterr().out.splitlines()[0]
    assert _run("list", "wenlan_public/mscoco") == 0
    assert "dataset_coco.json" in capsys.readouterr().out


def test_data_sets_by_the_end_of_their_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for short, name in (
        ("muge", "wenlan_public/muge"),
        ("noto", "wenlan_emoji/noto"),
        ("stamps", "wenlan_stamps"),
        ("s64", "wenlan_scenes/s64"),
        ("public/coco_cn", "wenlan_public/coco_cn"),
    ):
        assert _run("list", short) == 0
        assert capsys.readouterr().out.startswith(f"{name}: ")
    assert _run("build", "tiny", "--data-dir", str(tmp_path)) == 0
    assert capsys.readouterr().out.startswith(f"wenlan_scenes/tiny in {tmp_path}: ")
    with pytest.raises(tfds_builder.BuildError, match=r"'mugge'; perhaps wenlan_public/muge"):
        _run("list", "mugge")
    with pytest.raises(tfds_builder.BuildError, match="data set 'wenlan_public/muge' is not in"):
        _run("build", "muge", "--data-dir", str(tmp_path))
