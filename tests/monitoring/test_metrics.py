"""metrics.jsonl across resumes and kills, and memory."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import jax
import pytest

from wenlan_jax.monitoring import metrics_file


def write_lines(directory: Path, steps: range, start: int = 0) -> None:
    writer = metrics_file.MetricsWriter(directory, start)
    for step in steps:
        writer.write(step, {"train/loss": float(step)})
    writer.close()


def test_lines_come_back_as_written(tmp_path: Path) -> None:
    write_lines(tmp_path, range(1, 4))
    expected = [{"step": step, "train/loss": float(step)} for step in (1, 2, 3)]
    assert metrics_file.read(tmp_path / "metrics.jsonl") == expected


def test_a_resumed_run_drops_the_lines_after_its_checkpoint(tmp_path: Path) -> None:
    write_lines(tmp_path, range(1, 8))
    write_lines(tmp_path, range(6, 9), start=5)
    found = metrics_file.read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_fresh_run_keeps_no_line_of_an_earlier_one(tmp_path: Path) -> None:
    write_lines(tmp_path, range(1, 4))
    write_lines(tmp_path, range(1, 2))
    assert [row["step"] for row in metrics_file.read(tmp_path / "metrics.jsonl")] == [1]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(tmp_path, range(1, 3))
    path.write_text(path.read_text() + '{"step": 3, "train/lo')
    assert [row["step"] for row in metrics_file.read(path)] == [1, 2]
    write_lines(tmp_path, range(3, 5), start=2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_line_without_a_step_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n\n[2]\n{"step": "3"}\n{"step": 4}\n')
    with caplog.at_level(logging.WARNING):
        assert metrics_file.read(path) == [{"step": 1}, {"step": 4}]
    assert [number for number in range(1, 6) if f"line {number} " in caplog.text] == [3, 4]


def test_a_finished_run_that_evaluates_again_has_one_line_of_it(tmp_path: Path) -> None:
    for recall in (0.25, 0.5, 0.5):
        writer = metrics_file.MetricsWriter(tmp_path, 2)
        if recall == 0.25:
            writer.write(1, {"train/loss": 1.0})
            writer.write(2, {"train/loss": 2.0})
        writer.write(2, {"retrieval/test/mean_recall": recall})
        writer.close()
    assert metrics_file.read(tmp_path / "metrics.jsonl") == [
        {"step": 1, "train/loss": 1.0},
        {"step": 2, "train/loss": 2.0},
        {"step": 2, "retrieval/test/mean_recall": 0.5},
    ]
    assert [file.name for file in tmp_path.glob("metrics*")] == ["metrics.jsonl"]


def test_values_that_are_not_finite_are_null(tmp_path: Path) -> None:
    writer = metrics_file.MetricsWriter(tmp_path, 0)
    writer.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.5})
    writer.close()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse) == {"step": 1, "a": None, "b": None, "c": None, "d": 0.5}


def test_every_line_is_on_disk_at_once(tmp_path: Path) -> None:
    writer = metrics_file.MetricsWriter(tmp_path, 0)
    writer.write(1, {"a": 1.0})
    assert metrics_file.read(tmp_path / "metrics.jsonl") == [{"step": 1, "a": 1.0}]
    writer.close()


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert metrics_file.read(tmp_path / "metrics.jsonl") == []


def test_the_memory_of_the_process_is_in_gib() -> None:
    assert 0.01 < metrics_file.memory_gib()["host_memory_gib"] < 1000


class FakeDevice:
    """A device that tells `stats`."""

    def __init__(self, stats: dict[str, int] | None) -> None:
        self.memory_stats = lambda: stats


def test_the_memory_of_the_fullest_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    used = [{"peak_bytes_in_use": peak * 2**30, "bytes_in_use": now * 2**30} for peak, now in ((3, 1), (2, 2))]
    monkeypatch.setattr(jax, "local_devices", lambda: [FakeDevice(stats) for stats in (*used, None)])
    found = metrics_file.memory_gib()
    assert (found["device_memory_gib"], found["device_memory_in_use_gib"]) == (3, 2)
    monkeypatch.setattr(jax, "local_devices", lambda: [FakeDevice(None)])
    assert metrics_file.memory_gib().keys() == {"host_memory_gib"}
