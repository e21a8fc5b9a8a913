"""Lengths: what is counted, made by several processes alike, kept, and made anew when damaged or out of date."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from wenlan_jax.data import records, sources
from wenlan_jax.data.mixture import WantedTexts
from wenlan_jax.data.text import WordPiece
from wenlan_jax.prepare import tfds_files
from wenlan_jax.tasks.single_tower.input import lengths
from wenlan_jax.tasks.single_tower.input.regions import RegionReader
from wenlan_jax.util import atomic_files

ANY = WantedTexts((), ())


def _measure(toy: SimpleNamespace, source: object, wanted: WantedTexts = ANY, **changes: object) -> lengths.Measure:
    fields = {"text_length": 12, "regions": toy.regions(limit=3), **changes}
    return lengths.Measure(source, wanted, toy.Letters(), **fields)  # type: ignore[arg-type]


def test_the_longest_text_and_the_regions_of_every_row(toy: SimpleNamespace) -> None:
    source = toy.Gallery(tokens=lambda row, language: row if language == "zh" and row > 5 else 6, bad=(2,))
    table = _measure(toy, source).of(range(40))
    assert table.languages == ("en", "zh")
    assert table.counts() == {"en": 40, "zh": 40}
    assert table.of("zh").tolist() == [6 if row <= 5 else min(row, 12) for row in range(40)]
    assert set(table.of("en").tolist()) == {6}
    assert table.regions.tolist() == [0 if row == 2 else min(1 + row % 4, 3) for row in range(40)]
    assert table.usable("en").tolist() == [row for row in range(40) if row != 2]
    assert table.usable("ko").tolist() == []


def test_only_wanted_texts_count(toy: SimpleNamespace) -> None:
    @dataclasses.dataclass
    class Two(toy.Gallery):  # type: ignore[name-defined, misc]
        def __getitem__(self, row: int, /) -> records.Record:
            texts = (
                records.Text("long", "en", "x" * 9),
                records.Text("title", "en", "x"),
                records.Text("t", "de", "x"),
            )
            return dataclasses.replace(super().__getitem__(row), texts=texts if row % 2 else ())

    table = _measure(toy, Two(), WantedTexts(("title",), ())).of(range(40))
    assert (table.languages, table.counts()) == (("en",), {"en": 20})
    assert table.of("en").tolist() == [0, 3] * 20
    nothing = _measure(toy, Two(), WantedTexts(("gone",), ())).of(range(40))
    assert (nothing.languages, nothing.tokens.shape) == ((), (40, 0))


def test_boxes_without_area_are_no_regions(toy: SimpleNamespace) -> None:
    @dataclasses.dataclass
    class Flat(toy.Gallery):  # type: ignore[name-defined, misc]
        def __getitem__(self, row: int, /) -> records.Record:
            boxes = ((0, 0, 5, 5), (5, 0, 5, 5), (30, 0, 40, 5), (1, 1, 2, 2))
            return dataclasses.replace(super().__getitem__(row), regions=tuple(map(records.Region, boxes)))

    pixels = toy.regions(features="pixels", width=12)
    assert set(_measure(toy, Flat(), regions=pixels).of(range(3)).regions.tolist()) == {2}
    grid = toy.regions(features="pixels", boxes="grid", width=12, limit=1)
    assert set(_measure(toy, Flat(), regions=grid).of(range(3)).regions.tolist()) == {5}


def test_lengths_beyond_16_bits_are_refused(toy: SimpleNamespace) -> None:
    with pytest.raises(lengths.LengthsError, match="65535"):
        _measure(toy, toy.Gallery(), text_length=70_000)


class Counting:
    """A source that counts how often it is read."""

    def __init__(self, source: object) -> None:
        self.source, self.name, self.reads = source, "counting", 0

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getitem__(self, row: int, /) -> records.Record:
        self.reads += 1
        return self.source[row]  # type: ignore[index, no-any-return]


def _equal(one: lengths.Lengths, other: lengths.Lengths) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_the_table_is_made_once(toy: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "ROWS_PER_UNIT", 7)
    source = Counting(toy.Gallery(length=100))
    made = lengths.load(_measure(toy, source), tmp_path, workers=0)
    assert source.reads == 100 + lengths.SAMPLED_ROWS
    again = lengths.load(_measure(toy, source), tmp_path, workers=0)
    assert source.reads == 100 + 2 * lengths.SAMPLED_ROWS
    assert _equal(made, again)
    assert _equal(made, _measure(toy, source).of(range(100)))
    [place] = tmp_path.iterdir()
    assert [file.name for file in place.iterdir() if "identity" not in file.name] == ["lengths.npz"]


def test_other_data_or_options_have_another_table(toy: SimpleNamespace, tmp_path: Path) -> None:
    several = [
        _measure(toy, toy.Gallery()),
        _measure(toy, toy.Gallery(length=39)),
        _measure(toy, toy.Gallery(name="other")),
        _measure(toy, toy.Gallery(tokens=lambda row, language: 9 if row == 20 else 8)),
        _measure(toy, toy.Gallery(), WantedTexts(("title",), ("en",))),
        _measure(toy, toy.Gallery(), text_length=9),
        _measure(toy, toy.Gallery(), regions=toy.regions(limit=2)),
    ]
    for number, measure in enumerate(several, start=1):
        lengths.load(measure, tmp_path, workers=0)
        assert len(list(tmp_path.iterdir())) == number


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "other rows"])
def test_a_damaged_table_is_made_anew(
    toy: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    made = lengths.load(_measure(toy, toy.Gallery()), tmp_path, workers=0)
    [file] = tmp_path.glob("*/lengths.npz")
    content = bytearray(file.read_bytes())
    if damage == "other rows":
        lengths._write(file, _measure(toy, toy.Gallery()).of(range(9)))
    else:
        content[len(content) // 2] ^= 255
        file.write_bytes({"cut": content[:-40], "flipped": content, "emptied": b""}[damage])
    capsys.readouterr()
    again = lengths.load(_measure(toy, toy.Gallery()), tmp_path, workers=0)
    assert _equal(made, again)
    assert "damaged" in capsys.readouterr().err
    assert _equal(made, lengths.load(_measure(toy, toy.Gallery()), tmp_path, workers=0))
    assert capsys.readouterr().err == ""


def test_work_that_was_cut_off_goes_on(toy: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "ROWS_PER_UNIT", 10)

    class Broken(Counting):
        def __getitem__(self, row: int, /) -> records.Record:
            if row == 25 and self.reads > 40:
                raise sources.SourceError("the disk is gone")
            return super().__getitem__(row)

    broken = Broken(toy.Gallery())
    with pytest.raises(sources.SourceError, match="disk is gone"):
        lengths.load(_measure(toy, broken), tmp_path, workers=0)
    whole = Counting(toy.Gallery())
    made = lengths.load(_measure(toy, whole), tmp_path, workers=0)
    assert whole.reads == 40 + 20  # the sample, and the rows from 20 on
    assert _equal(made, _measure(toy, toy.Gallery()).of(range(40)))


def test_a_table_that_another_process_makes_is_waited_for(
    toy: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = _measure(toy, toy.Gallery())
    other = tmp_path / "other"
    made = lengths.load(measure, other, workers=0)
    [finished] = other.iterdir()
    place = tmp_path / "mine" / finished.name
    with atomic_files.resumable(place) as directory:

        def finish(seconds: float) -> None:
            place.mkdir()
            (place / "lengths.npz").write_bytes((finished / "lengths.npz").read_bytes())

        monkeypatch.setattr(lengths.time, "sleep", finish)
        assert _equal(lengths.load(measure, tmp_path / "mine", workers=0), made)
        (directory / "lengths.npz").write_bytes(b"")
    assert capsys.readouterr().err.count("waiting for it") == 1


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    image = cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes()

    def record(row: int) -> records.Record:
        words: Sequence[str] = ("a",) * (1 + row % 4)
        boxes = tuple(records.Region((0.0, 0.0, 3.0, 2.0)) for _ in range(row % 3))
        text = records.Text("title", ("en", "ko")[row % 2], " ".join(words))
        return records.Record(str(row), image, 6, 4, texts=(text,), regions=boxes)

    tfds_files.write(root / "pairs", {"train": [record(row) for row in range(30)]}, "test")
    (root / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
    return root


def test_several_processes_make_the_same_table(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "ROWS_PER_UNIT", 8)
    source = sources.TfdsSource(packed / "pairs", "train", "pairs")
    boxes = RegionReader("pixels", "stored", 2, 100, 12, 2, 0, (), None)
    measure = lengths.Measure(source, ANY, WordPiece(packed / "vocab.txt", True), 16, boxes)
    made = [lengths.load(measure, tmp_path / str(workers), workers) for workers in (0, 2)]
    assert _equal(*made)
    assert made[0].of("en").tolist() == [3 + row % 4 if row % 2 == 0 else 0 for row in range(30)]
    assert made[0].regions.tolist() == [row % 3 for row in range(30)]
    assert not multiprocessing.active_children()
