"""Notes are read as what they must be, or refused by name; whatever became of them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import damage
import numpy as np
import pytest

from wenlan_jax.evaluation import vqa
from wenlan_jax.monitoring import metrics_file, time_ledger
from wenlan_jax.util import atomic_files, json_files


@dataclasses.dataclass(frozen=True)
class Inner:
    share: float


@dataclasses.dataclass(frozen=True)
class Sample:
    """One field of every kind that notes have."""

    name: str
    count: int
    by_name: dict[str, float]
    words: tuple[str, ...]
    inner: Inner
    perhaps: float | None
    done: bool = False


GOOD: dict[str, Any] = {
    "name": "中文",
    "count": 3,
    "by_name": {"a": 1, "b": 0.5},
    "words": ["x", "y"],
    "inner": {"share": 1},
    "perhaps": None,
}


def test_a_note_becomes_its_dataclass_with_the_types_of_its_fields(tmp_path: Path) -> None:
    atomic_files.write_json(tmp_path / "note.json", GOOD)
    found = json_files.read(tmp_path / "note.json", Sample)
    assert found == Sample("中文", 3, {"a": 1.0, "b": 0.5}, ("x", "y"), Inner(1.0), None)
    assert type(found.by_name["a"]) is type(found.inner.share) is float
    atomic_files.write_json(tmp_path / "note.json", dataclasses.asdict(found))
    assert json_files.read(tmp_path / "note.json", Sample) == found


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", 5, "name: a text is needed, not 5"),
        ("count", 1.0, "count: a whole number is needed, not 1.0"),
        ("count", True, "count: a whole number is needed"),
        ("count", "3", "count: a whole number is needed"),
        ("count", 2**63, "count: a whole number"),
        ("by_name", {"a": "1"}, "by_name.a: a number is needed, not '1'"),
        ("by_name", {"a": float("nan")}, "by_name.a: a number"),
        ("by_name", [], "by_name: an object is needed"),
        ("words", "xy", "words: a list is needed"),
        ("words", [1], r"words\[0\]: a text"),
        ("inner", {"share": "1"}, "inner.share: a number"),
        ("inner", {}, "inner.share: a value is needed"),
        ("perhaps", "x", "perhaps: a number"),
        ("done", 1, "done: true or false"),
        ("more", 1, "more: no such field"),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path: Path, field: str, value: object, message: str) -> None:
    place = tmp_path / "note.json"
    place.write_text(json.dumps({**GOOD, field: value}))
    with pytest.raises(json_files.NoteError, match=f"note.json: {message}"):
        json_files.read(place, Sample)


@pytest.mark.parametrize("how", damage.JSON)
def test_every_damage_is_one_error_that_names_the_file(tmp_path: Path, how: str) -> None:
    place = tmp_path / "note.json"
    atomic_files.write_json(place, GOOD)
    damage.JSON[how](place)
    for read in (lambda: json_files.read(place, Sample), lambda: json_files.read_if_any(place, Sample)):
        with pytest.raises(json_files.NoteError, match=r"note\.json"):
            read()


def test_what_is_missing_or_no_file_is_told(tmp_path: Path) -> None:
    assert json_files.read_if_any(tmp_path / "none.json", Sample) is None
    assert json_files.read_lines(tmp_path / "none.jsonl", Sample) == ([], [])
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loose").symlink_to(tmp_path / "nowhere")
    for name, reason in (("none", "No such file"), ("pipe", "is no regular file"), ("loose", "No such file")):
        with pytest.raises(json_files.NoteError, match=f"{name}: .*{reason}"):
            json_files.read(tmp_path / name, Sample)


def test_figures_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    place = tmp_path / "result.json"
    json_files.write_figures(place, {"b": 1.5, "a": float("nan"), "c": float("inf")})
    assert json.loads(place.read_text()) == {"a": None, "b": 1.5, "c": None}
    assert json_files.read_figures(place) == {"b": 1.5}


LINE = {
    "start": 0,
    "began": 1.7e9,
    "first": 0,
    "done": 2,
    "seconds": dict.fromkeys(time_ledger.PHASES, 1.0),
    "state": "running",
}


@pytest.mark.parametrize(
    "changes",
    [
        {"start": "0"},
        {"start": -1},
        {"began": None},
        {"began": 1e300},
        {"began": -5e9},
        {"first": 3},
        {"done": -1},
        {"done": 10**400},
        {"seconds": {}},
        {"seconds": [1.0]},
        {"seconds": {**LINE["seconds"], "steps": "1"}},  # type: ignore[dict-item]
        {"seconds": {**LINE["seconds"], "steps": float("nan")}},  # type: ignore[dict-item]
        {"seconds": {**LINE["seconds"], "steps": 1e308}},  # type: ignore[dict-item]
        {"state": 5},
        {"more": 1},
        {"done": 0, "first": 0},
        {"first": 1, "done": 4},
    ],
)
def test_a_line_of_a_ledger_that_cannot_be_is_left_out_of_the_account(
    tmp_path: Path, changes: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "ledger.jsonl"
    lines = [LINE, {**LINE, **changes}, {**LINE, "done": 4}, {**LINE, "start": 1, "first": 2, "began": 1.7e9 + 60}]
    place.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = time_ledger.read(place)
    assert [(line.start, line.done) for line in found] == [(0, 2), (0, 4), (1, 2)]
    assert len(caplog.records) == 1 and "ledger.jsonl" in caplog.text
    assert time_ledger.account(found).total == pytest.approx(67.0)


@pytest.mark.parametrize("how", damage.JSON)
def test_metrics_and_ledgers_of_any_damage_are_read_as_far_as_they_go(tmp_path: Path, how: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n{"step": 2, "train/loss": 1.5}\n')
    (tmp_path / "ledger.jsonl").write_text(json.dumps(LINE) + "\n")
    for name, read in (("metrics.jsonl", metrics_file.read), ("ledger.jsonl", time_ledger.read)):
        damage.JSON[how](tmp_path / name)
        if how == "a directory":
            with pytest.raises(json_files.NoteError, match=name):
                read(tmp_path / name)
        else:
            assert len(read(tmp_path / name)) == (1 if how == "cut" and name == "metrics.jsonl" else 0)


def test_what_stands_in_the_place_of_a_file_is_renamed_and_kept(tmp_path: Path) -> None:
    place = tmp_path / "result.json"
    assert json_files.make_way(place) is None
    place.write_text("{}")
    assert json_files.make_way(place) is None
    for name in ("result.json.damaged", "result.json.damaged1"):
        damage.BYTES["a directory"](place)
        (place / "inside").touch()
        assert json_files.make_way(place) == name
        assert (tmp_path / name / "inside").exists() and not place.exists()


@pytest.mark.parametrize("text", ["", "[1]", '{"a": "0"}', '{"a": true}', '{"a": 0, "b": 0}', "null", "[" * 100_000])
def test_a_list_of_answers_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="answers|answer"):
        vqa.Answers.from_json(text)


@pytest.mark.parametrize("how", damage.BYTES)
@pytest.mark.parametrize("mapped", [True, False])
def test_arrays_of_any_damage_are_refused_by_name(tmp_path: Path, how: str, mapped: bool) -> None:
    np.save(tmp_path / "one.npy", np.arange(100))
    np.savez_compressed(tmp_path / "many.npz", a=np.arange(100), b=np.arange(100))
    damage.BYTES[how](tmp_path / "one.npy")
    damage.BYTES[how](tmp_path / "many.npz")
    with pytest.raises(json_files.NoteError, match=r"one\.npy"):
        json_files.read_array(tmp_path / "one.npy", mapped)
    with pytest.raises(json_files.NoteError, match=r"many\.npz"):
        json_files.read_arrays(tmp_path / "many.npz", ("a", "b"))


def test_pickles_are_never_run(tmp_path: Path) -> None:
    ran: list[int] = []

    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return (ran.append, (1,))

    np.save(tmp_path / "one.npy", np.array([Bomb()], object), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=np.array([Bomb()], object))
    with pytest.raises(json_files.NoteError):
        json_files.read_array(tmp_path / "one.npy")
    with pytest.raises(json_files.NoteError):
        json_files.read_arrays(tmp_path / "many.npz", ("a",))
    assert not ran


def test_paths_that_are_no_text_survive_in_a_note(tmp_path: Path) -> None:
    atomic_files.write_json(tmp_path / "note.json", {"command": ["wenlan", "runs/\udcff", "中文"]})
    raw = (tmp_path / "note.json").read_bytes()
    assert "中文".encode() in raw and b"\\udcff" in raw
    assert json_files.read(tmp_path / "note.json", dict[str, list[str]])["command"][1] == "runs/\udcff"
