"""Sweeps of a stand-in for the training command: what is run, skipped, continued, shared, stopped, and shown."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wenlan_jax.sweep import claims, folder, local_runs, plan


def table_rows(sweeps: Any, name: str = "queue") -> dict[str, dict[str, str]]:
    with (sweeps.out / f"{name}.csv").open() as lines:
        return {row["row"]: row for row in csv.DictReader(lines)}


def test_a_sweep_runs_every_row_with_every_seed_and_writes_the_table(sweeps: Any) -> None:
    printed = sweeps.call("--jobs=2")
    assert "[4/4]" in printed and sweeps.starts() == 4
    rows = table_rows(sweeps)
    assert [row["seeds done"] for row in rows.values()] == ["2", "2"]
    metric = "retrieval/test/text_to_image/recall_at_1"
    results = [json.loads((made.path / "result.json").read_text())[metric] for made in sweeps.folders()]
    by_row = {"K = 20": results[0::2], "K = 8": results[1::2]}
    for name, values in by_row.items():
        assert float(rows[name][metric]) == pytest.approx(np.mean(values))
        assert float(rows[name][f"{metric} deviation"]) == pytest.approx(np.std(values, ddof=1))
    difference = np.mean(by_row["K = 8"]) - np.mean(by_row["K = 20"])
    assert float(rows["K = 8"]["difference"]) == pytest.approx(difference) != 0
    assert float(rows["K = 8"]["low"]) <= difference <= float(rows["K = 8"]["high"])
    assert rows["K = 20"]["difference"] == ""
    assert (rows["K = 8"]["pairs"], rows["K = 8"]["steps"]) == ("48.0", "6.0")
    assert float(rows["K = 8"]["pairs per second"]) == 48 / 4.0
    assert float(rows["K = 8"]["accelerator hours"]) > 0
    page = (sweeps.out / "queue.md").read_text()
    assert "A bank of K keys is better than none [R]." in page and "over the 40 held-out images" in page
    assert (sweeps.out / "queue.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_done_is_not_run_again(sweeps: Any) -> None:
    sweeps.call()
    before = sweeps.starts()
    assert "4 of 4 run(s) are done already" in sweeps.call()
    assert sweeps.starts() == before == 4


def test_only_the_row_that_is_asked_for_is_run_and_the_others_are_shown(sweeps: Any) -> None:
    sweeps.call("--only=K = 8", "--seeds", "0")
    assert sweeps.starts() == 1
    rows = table_rows(sweeps)
    assert rows["K = 20"]["state"] == "1 not run" and rows["K = 8"]["state"] == "done"
    assert "No difference for K = 8: no seed of both rows is done." in (sweeps.out / "queue.md").read_text()


def test_a_row_in_two_tables_is_run_once(sweeps: Any) -> None:
    sweeps.write_table("other", 'Row("K = 20"), Row("eight", {"contrast.bank_size": 8})')
    sweeps.call("--jobs=2", tables=("queue", "other"))
    assert sweeps.starts() == 4
    assert table_rows(sweeps, "other")["eight"]["seeds done"] == "2"


def test_a_failed_row_is_shown_with_its_log_and_tried_again(sweeps: Any) -> None:
    sweeps.out.joinpath("runs").mkdir(parents=True)
    (sweeps.out / "runs" / "break_8").touch()
    printed = sweeps.call(status=1)
    failed = sweeps.folders()[1]
    assert f"failed: ended with status 1; the end of {failed.log}" in printed and "the disk is full" in printed
    rows = table_rows(sweeps)
    assert rows["K = 8"]["state"] == "2 failed" and rows["K = 20"]["state"] == "done"
    page = (sweeps.out / "queue.md").read_text()
    assert "## Failed" in page and str(failed.log) in page and "    the disk is full" in page
    assert sweeps.starts() == 4  # each once
    (sweeps.out / "runs" / "break_8").unlink()
    sweeps.call()
    assert sweeps.starts() == 6
    assert "## Failed" not in (sweeps.out / "queue.md").read_text()


def test_a_signal_stops_the_trainings_with_their_state_and_the_same_command_continues(
    sweeps: Any, wait_for: Callable[..., None]
) -> None:
    sweeps.write_base(train__steps=400)
    process = sweeps.start("--jobs=2", "--seeds", "0")
    wait_for(lambda: len(list(sweeps.out.glob("runs/*/metrics.jsonl"))) == 2)
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + signal.SIGTERM, printed
    for made in sweeps.folders()[:2]:
        assert made.state().kind == folder.HALF and not made.claim.exists()
        assert 0 < int((made.path / "saved").read_text()) < 400
        (made.path / "saved").write_text("395")  # so that the rest is short
    sweeps.call("--jobs=2", "--seeds", "0")
    assert sweeps.starts() == 4
    log = sweeps.folders()[1].log.read_text()
    assert "from step 0" in log and "from step 395" in log


def test_two_sweeps_at_once_share_the_work(sweeps: Any) -> None:
    one, two = sweeps.start(), sweeps.start()
    printed = [process.communicate(timeout=60)[0] for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), printed
    assert sweeps.starts() == 4
    assert all(row["seeds done"] == "2" for row in table_rows(sweeps).values())
    assert "running on" in "".join(printed)


def test_a_run_that_fails_elsewhere_meanwhile_is_not_tried_again_here(sweeps: Any) -> None:
    sweeps.out.joinpath("runs").mkdir(parents=True)
    (sweeps.out / "runs" / "break_8").touch()
    one, two = sweeps.start("--only=K = 8", "--seeds", "0"), sweeps.start("--only=K = 8", "--seeds", "0")
    printed = "".join(process.communicate(timeout=60)[0] for process in (one, two))
    assert (one.returncode, two.returncode) == (1, 1)
    # Unless the second one began after all was over.
    assert sweeps.starts() == 1 or "running on" not in printed


def test_what_a_dead_machine_left_behind_is_taken_over(sweeps: Any) -> None:
    made = sweeps.folders()[0]
    made.path.mkdir(parents=True)
    made.claim.write_text('{"host": "gone", "machine": "gone", "pid": 1, "token": "t", "child": 0}')
    assert made.state().text() == "running (on gone, process 1)"
    os.utime(made.claim, (0, 0))
    assert made.state().kind == folder.NOT_RUN
    sweeps.call()
    assert sweeps.starts() == 4


def test_a_result_counts_only_when_the_run_is_finished(sweeps: Any) -> None:
    pool = sweeps.pool()
    made = pool.waiting[0]
    pool.run()
    assert made.result() is not None
    ledger = made.path / "ledger.jsonl"
    whole = ledger.read_text()
    ledger.write_text(whole.replace('"finished"', '"running"'))  # killed between result.json and the ranks
    assert made.result() is None and made.state().kind == folder.HALF
    ledger.write_text(whole)
    result = json.loads((made.path / "result.json").read_text())
    (made.path / "result.json").write_text(json.dumps({**result, "train/steps": 5}))
    assert made.result() is None


def test_a_training_whose_claim_was_taken_over_is_ended(
    sweeps: Any, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., None]
) -> None:
    sweeps.write_base(train__steps=400)
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(local_runs, "LOOK_SECONDS", 0.1)
    pool = sweeps.pool()
    del pool.waiting[1:]
    made, seen = pool.waiting[0], []

    def steal(line: str) -> None:
        seen.append(line)
        if "started" in line and len(seen) == 1:
            wait_for((made.path / "metrics.jsonl").exists)
            made.claim.write_text('{"host": "other", "machine": "other", "pid": 1, "token": "t", "child": 0}')
        if "running on other" in line:  # the other one ends as well, and the run is ours again
            made.claim.unlink()
            (made.path / "saved").write_text("399")

    pool.say = steal
    pool.run()
    assert any("was taken over" in line for line in seen) and made.result() is not None
    assert sweeps.starts() == 2


def test_gpus_are_shared_out(sweeps: Any) -> None:
    assert local_runs.slots(2, 0, None) == [{}, {}]
    assert local_runs.slots(2, 2, None) == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    assert local_runs.slots(2, 1, "5,7")[1] == {"CUDA_VISIBLE_DEVICES": "7"}
    with pytest.raises(local_runs.SlotsError, match="needs 4 GPUs; CUDA_VISIBLE_DEVICES names 2"):
        local_runs.slots(2, 2, "5,7")
    sweeps.pool(2, gpus=1).run()
    used = {line.split()[1] for path in sweeps.out.glob("runs/*/starts.txt") for line in path.read_text().splitlines()}
    assert used == {"0", "1"}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (1, "ended with status 1"),
        (0, "ended with status 0 and without a result"),
        (-9, "killed by SIGKILL"),
        (143, "stopped by SIGTERM"),
        (75, "ended with status 75"),
    ],
)
def test_the_end_of_a_training_is_told_in_words(status: int, text: str) -> None:
    assert local_runs.ended_with(status) == text


def test_a_dry_run_lists_the_runs_and_starts_nothing(sweeps: Any) -> None:
    printed = sweeps.call("--dry-run")
    assert "4 run(s) for 4 place(s) in 1 table(s)" in printed and "contrast.bank_size=8, seed=1" in printed
    assert not sweeps.out.exists()


def test_tables_of_nothing_have_no_holes(sweeps: Any) -> None:
    sweeps.call("--table-only", status=1)
    rows = table_rows(sweeps)
    assert {row["state"] for row in rows.values()} == {"2 not run"}
    assert (sweeps.out / "queue.png").exists() and sweeps.starts() == 0


def test_one_run_alone_is_run_by_its_name_and_writes_no_table(sweeps: Any) -> None:
    name = sweeps.folders()[2].run.name
    sweeps.call(f"--only-run={name}")
    assert sweeps.starts() == 1 and not (sweeps.out / "queue.md").exists()
    assert (sweeps.out / "runs" / name / "result.json").exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--only=K = 9", "no row 'K = 9'; there are 'K = 20', 'K = 8'"),
        ("--only-run=0123", "have changed since it was named"),
        ("--submit", "are for --backend=slurm"),
    ],
)
def test_arguments_that_fit_nothing_are_refused(sweeps: Any, argument: str, message: str) -> None:
    with pytest.raises(plan.SweepError, match=message):
        sweeps.call(argument)


def test_runs_on_different_queries_are_not_compared(sweeps: Any) -> None:
    sweeps.call("--seeds", "0")
    place = sweeps.folders()[1].path / "ranks_test.npz"
    with np.load(place) as arrays:
        changed = dict(arrays)
    changed["text"] = changed["text"] + np.uint32(1)
    np.savez(place, **changed)
    sweeps.call("--seeds", "0")
    assert "have different held-out queries" in (sweeps.out / "queue.md").read_text()
    place.unlink()
    sweeps.call("--seeds", "0")
    assert "not a whole file of ranks" in (sweeps.out / "queue.md").read_text()


def test_logs_and_notes_tell_what_was_run(sweeps: Any) -> None:
    sweeps.call("--seeds", "0")
    made = sweeps.folders()[1]
    assert f"--workdir={made.path}" in made.log.read_text().splitlines()[0]
    note = json.loads((made.path / "run.json").read_text())
    assert note["command"].startswith("wenlan train --config=") and note["fingerprint"] == made.run.name
    assert Path(note["base"]).name == "base.py"
