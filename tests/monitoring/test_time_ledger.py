"""The account of a run's time against closed forms, and the clock it is made from."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from pathlib import Path

import pytest

from wenlan_jax.monitoring import time_ledger
from wenlan_jax.monitoring.time_ledger import LOST, PHASES, STEPS, WAIT, Snapshot


def line(
    number: int, began: float, first: int, done: int, state: str = time_ledger.RUNNING, **seconds: float
) -> Snapshot:
    """A snapshot; phases that are not given took no time."""
    named = {name.replace("_", " "): value for name, value in seconds.items()}
    return Snapshot(number, began, first, done, {**dict.fromkeys(PHASES, 0.0), **named}, state)


def test_one_start_is_accounted_as_it_was() -> None:
    found = time_ledger.account([line(0, 1000, 0, 9, start=4, compile=3, steps=10, wait_for_data=2, other=1)])
    assert (found.total, found.goodput, found.seconds[LOST]) == (20, 0.5, 0)


def test_steps_computed_again_and_the_time_between_starts_are_lost() -> None:
    lines = [
        line(0, 1000, 0, 0, start=5),
        line(0, 1000, 0, 4, start=5, compile=5, steps=8, wait_for_data=2),  # the checkpoint of step 4
        line(0, 1000, 0, 7, start=5, compile=5, steps=14, wait_for_data=3, checkpoints=1),  # killed after this
        line(1, 1040, 4, 4, start=2),
        line(1, 1040, 4, 9, start=2, compile=3, steps=10, other=5, state=time_ledger.FINISHED),
    ]
    found = time_ledger.account(lines)
    # Of the first start 6 s of steps and 1 s of waiting, and 12 s from its last line at 1028 to 1040.
    assert found.seconds[LOST] == 6 + 1 + 12
    assert (found.seconds[STEPS], found.seconds[WAIT]) == (8 + 10, 2)
    assert found.total == 1060 - 1000
    assert found.goodput == 18 / 60


def test_a_start_without_a_line_at_the_step_loses_in_proportion() -> None:
    lines = [line(0, 0, 0, 10, steps=20), line(0, 0, 0, 20, steps=60), line(1, 60, 15, 15)]
    assert time_ledger.account(lines).seconds == {**dict.fromkeys(PHASES, 0.0), STEPS: 40, LOST: 20}


def test_of_lines_about_the_same_step_the_last_one_counts() -> None:
    lines = [line(0, 0, 0, 5, steps=5), line(0, 0, 0, 5, steps=6), line(0, 0, 0, 9, steps=10), line(1, 10, 5, 5)]
    assert time_ledger.account(lines).seconds[LOST] == 4


def test_a_run_that_goes_back_behind_two_starts_loses_both() -> None:
    lines = [line(0, 0, 0, 6, steps=6), line(1, 6, 4, 8, steps=8), line(2, 14, 2, 12, steps=10)]
    found = time_ledger.account(lines)
    assert (found.seconds[STEPS], found.seconds[LOST], found.total) == (2 + 10, 4 + 8, 24)


def test_a_run_without_a_checkpoint_loses_all_its_steps() -> None:
    found = time_ledger.account([line(0, 0, 0, 6, steps=6, start=1), line(1, 7, 0, 3, steps=3)])
    assert (found.seconds[STEPS], found.seconds[LOST]) == (3, 6)


def test_time_after_the_end_of_a_run_is_not_its_time() -> None:
    lines = [line(0, 0, 0, 6, steps=6, state=time_ledger.FINISHED), line(1, 5000, 6, 6, start=2, evaluation=1)]
    found = time_ledger.account(lines)
    assert (found.total, found.seconds[LOST]) == (9, 0)
    stopped = [line(0, 0, 0, 6, steps=6, state="Stopped"), *lines[1:]]
    assert time_ledger.account(stopped).seconds[LOST] == 5000 - 6


def test_an_empty_ledger_has_no_goodput() -> None:
    assert (time_ledger.account([]).total, time_ledger.account([]).goodput) == (0, 0)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands at `now[0]`."""
    at = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: at[0])
    monkeypatch.setattr(time, "time", lambda: 5000 + at[0])
    return at


def test_every_moment_belongs_to_one_phase(now: list[float]) -> None:
    clock = time_ledger.TimeLedger(began=5097)  # imports took 3 s
    now[0] += 2
    with clock(time_ledger.WAIT):
        now[0] += 1
    with clock(time_ledger.COMPILE):
        now[0] += 7
        clock.stepping()
    with clock(STEPS):
        now[0] += 5
        with clock(time_ledger.CHECKPOINTS):
            now[0] += 3
        now[0] += 1
    with contextlib.suppress(RuntimeError), clock(STEPS):
        now[0] += 1
        raise RuntimeError
    clock.move(WAIT, STEPS, 0.5)
    now[0] += 4
    expected = {"start": 5, "compile": 7, WAIT: 0.5, STEPS: 7.5, "evaluation": 0, "checkpoints": 3, "other": 4}
    assert clock.snapshot().seconds == expected
    assert clock.account().total == now[0] - 97


def test_a_killed_start_is_found_by_the_next_one(tmp_path: Path, now: list[float]) -> None:
    path = tmp_path / "ledger.jsonl"
    killed = time_ledger.TimeLedger()
    killed.go_on(0, path)
    killed.stepping()
    for done in range(1, 5):
        with killed(STEPS):
            now[0] += 6
        killed.step_done(done)  # writes at 12 and 24 s
        if done == 3:
            killed.write()
    now[0] += 50
    with time_ledger.TimeLedger() as resumed:
        resumed.go_on(3, path)
        resumed.stepping()
        with resumed(STEPS):
            now[0] += 26
        resumed.step_done(4)
        found = resumed.account()
    assert found.seconds[STEPS] == 3 * 6 + 26
    assert found.seconds[LOST] == 6 + 50
    assert found.total == now[0] - 100
    assert [(entry.start, entry.state) for entry in time_ledger.read(path)][-1] == (1, time_ledger.FINISHED)
    assert time_ledger.account(time_ledger.read(path)) == found


def test_the_end_of_a_start_is_written_with_its_reason(tmp_path: Path) -> None:
    with contextlib.suppress(MemoryError), time_ledger.TimeLedger() as clock:
        clock.go_on(0, tmp_path / "ledger.jsonl")
        raise MemoryError
    assert time_ledger.read(tmp_path / "ledger.jsonl")[-1].state == "MemoryError"


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "ledger.jsonl"
    time_ledger.TimeLedger().go_on(0, path)
    path.write_text(path.read_text() + '{"start": 0, "beg\n{"step": 1}\n')
    with caplog.at_level(logging.WARNING):
        assert [entry.done for entry in time_ledger.read(path)] == [0]
    assert "line 2" in caplog.text
    assert "line 3" in caplog.text


def test_the_account_is_told_in_parts_that_add_up() -> None:
    found = time_ledger.account([line(0, 0, 0, 6, steps=6, wait_for_data=2)])
    fields = found.fields()
    parts = [value for name, value in fields.items() if name.startswith("seconds/") and name != "seconds/total"]
    assert math.isclose(sum(parts), fields["seconds/total"])
    assert fields["seconds/wait_for_data"] == 2
    assert found.text().endswith("lost to restarts 0 s; goodput 75.0%")
