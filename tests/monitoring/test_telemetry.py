"""What whole runs tell about themselves: time over all starts, traces, TensorBoard, Weights & Biases, hangs.

Each run is a process of its own, made once and looked at by several tests.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from annotations import unchecked
from whole_runs import Place, final_state, training_lines

from wenlan_jax.config import sections
from wenlan_jax.monitoring import accelerators, metrics_file, profiler, time_ledger, watchdog
from wenlan_jax.monitoring import meter as progress
from wenlan_jax.monitoring import writers as telemetry
from wenlan_jax.tasks import experiment
from wenlan_jax.training import model_flops

STEPS = 6

# The command line, with a data source that does not answer when it comes to a step.
STUCK_DATA = """
import sys, threading
from wenlan_jax import cli
from wenlan_jax.data import loader

if __name__ == "__main__":
    at, *arguments = sys.argv[1:]
    make = loader.TrainBatches.__call__

    def make_or_hang(maker, number):
        if number == int(at):
            threading.Event().wait()
        return make(maker, number)

    loader.TrainBatches.__call__ = make_or_hang
    sys.exit(cli.main(arguments))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("told")


@pytest.fixture
def place(root: Path, tiny: Callable[..., experiment.Config]) -> Place:
    return Place.make(
        root,
        tiny(
            data__dir=str(root / "data"),
            tokenizer__train_size=1000,
            model__text__bert__vocab_size=0,
            train__steps=STEPS,
            checkpoint__every=2,
            eval__every=4,
        ),
    )


@functools.cache
def straight(place: Place) -> Path:
    """A run from beginning to end that writes nothing but metrics.jsonl."""
    done = place.train("straight", "--config.telemetry.tensorboard=off")
    assert done.returncode == 0, done.stderr
    return place.root / "straight"


@functools.cache
def resumed(place: Place) -> tuple[Path, str]:
    """The same run, killed and continued, with every writer and a trace; and the log of its second start."""
    fields = ["--profile=5:2"]
    if importlib.util.find_spec("wandb"):
        fields.append("--config.telemetry.wandb=offline")
    straight(place)
    killed = place.train("resumed", *fields, kill=signal.SIGKILL, at=3)
    assert killed.returncode == -signal.SIGKILL
    done = place.train("resumed", *fields)
    assert done.returncode == 0, done.stderr
    return place.root / "resumed", done.stdout


def result(workdir: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((workdir / "result.json").read_text())
    return found


@pytest.mark.slow
def test_the_parts_of_a_run_add_up_to_its_wall_time(place: Place) -> None:
    workdir = straight(place)
    first, *_, last = time_ledger.read(workdir / "ledger.jsonl")
    assert (first.done, last.done, last.state) == (0, STEPS, time_ledger.FINISHED)
    found = result(workdir)
    named = {f"seconds/{name.replace(' ', '_')}" for name in (*time_ledger.PHASES, time_ledger.LOST)}
    assert named <= found.keys()
    np.testing.assert_allclose(sum(found[name] for name in named), found["seconds/total"])
    assert found["seconds/lost_to_restarts"] == 0
    assert all(found[f"seconds/{phase}"] > 0 for phase in ("start", "compile", "steps", "evaluation", "checkpoints"))
    assert found["goodput"] == found["seconds/steps"] / found["seconds/total"]


@pytest.mark.slow
def test_the_parts_of_a_killed_run_add_up_to_the_time_from_its_first_start(place: Place) -> None:
    workdir, log = resumed(place)
    lines = time_ledger.read(workdir / "ledger.jsonl")
    ends = [[line for line in lines if line.start == start][-1] for start in (0, 1)]
    found = time_ledger.account(lines)
    np.testing.assert_allclose(found.total, ends[1].began + ends[1].total - ends[0].began, atol=1e-3)
    kept = next(line for line in reversed(lines) if line.start == 0 and line.done == ends[1].first)
    again = sum(ends[0].seconds[name] - kept.seconds[name] for name in (time_ledger.STEPS, time_ledger.WAIT))
    gap = ends[1].began - ends[0].began - ends[0].total
    assert gap > 0
    np.testing.assert_allclose(found.seconds[time_ledger.LOST], again + gap)
    told = result(workdir)
    assert told["seconds/lost_to_restarts"] == pytest.approx(found.seconds[time_ledger.LOST])
    assert 0 < told["goodput"] < 1
    (time_line,) = [line for line in log.splitlines() if line.startswith("time: ")]
    assert "lost to restarts" in time_line
    assert f"goodput {told['goodput']:.1%}" in time_line


@pytest.mark.slow
def test_a_trace_is_written_and_changes_no_number(place: Place) -> None:
    workdir, log = resumed(place)
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    assert "profiling steps 5 to 6" in log
    assert f"is in {workdir / 'profile'}" in log
    assert training_lines(workdir) == training_lines(straight(place))


def test_model_flops_are_logged_without_a_made_up_share(place: Place, tiny: Callable[..., experiment.Config]) -> None:
    row = [row for row in metrics_file.read(straight(place) / "metrics.jsonl") if "train/loss" in row][-1]
    assert "train/mfu" not in row  # a CPU has no data sheet here
    steps_per_second = row["train/pairs_per_second"] / tiny().train.batch_size
    per_step = row["train/model_flops_per_second"] / steps_per_second
    made = tiny(model__text__bert__vocab_size=1000)
    shapes = {
        "image": jax.ShapeDtypeStruct((8, 16, 16, 3), "uint8"),
        "token_ids": jax.ShapeDtypeStruct((8, 12), "int32"),
        "token_mask": jax.ShapeDtypeStruct((8, 12), "bool"),
        "id": jax.ShapeDtypeStruct((8,), "int32"),
    }
    np.testing.assert_allclose(per_step, model_flops.of_step(made, shapes), rtol=1e-6)


def test_the_share_of_a_known_device_is_that_of_its_data_sheet(
    monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., experiment.Config]
) -> None:
    h100 = accelerators.named("h100")
    assert h100 is not None
    meter = progress.Meter(tiny(train__log_every=2), 0, time_ledger.TimeLedger())
    monkeypatch.setattr(jax, "local_devices", lambda: [FakeH100()])
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    values = {"loss": 1.0, "loss_reference": 2.0}
    with unchecked():
        assert meter.add(1, values, 3e15, FakeBatches()) is None  # type: ignore[arg-type]
        line = meter.add(2, values, 3e15, FakeBatches())  # type: ignore[arg-type]
    assert line is not None
    rate = 3e15 / 4 * line["pairs_per_second"] / tiny().train.batch_size
    np.testing.assert_allclose(line["model_flops_per_second"], rate)
    np.testing.assert_allclose(line["mfu"], rate / 989e12)
    assert "MFU" in meter.text(line, 2)


class FakeH100:
    device_kind = "NVIDIA H100 80GB HBM3"

    def memory_stats(self) -> dict[str, int]:
        return {"peak_bytes_in_use": 2**30, "bytes_in_use": 2**29}


class FakeBatches:
    replaced = 0


@pytest.mark.slow
def test_tensorboard_has_what_metrics_jsonl_has(place: Place) -> None:
    pytest.importorskip("tensorboardX")
    assert list((resumed(place)[0] / "tensorboard").glob("events.*"))
    assert not (straight(place) / "tensorboard").exists()


@pytest.mark.slow
def test_weights_and_biases_go_on_with_the_same_run(place: Place) -> None:
    pytest.importorskip("wandb")
    workdir, _ = resumed(place)
    name = (workdir / telemetry.WANDB_ID).read_text().strip()
    offline = sorted(path.name for path in (workdir / "wandb").glob("offline-run-*"))
    assert len(offline) == 2
    assert all(path.endswith(name) for path in offline)


class FakeBoards:
    """The part of wandb that is used, recording what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.errors = type("errors", (), {"Error": KeyError})

    def Settings(self, **values: Any) -> None:  # noqa: N802 - wandb's name
        del values

    def init(self, **values: Any) -> FakeBoards:
        self.told.append(("init", values))
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.told.append(("axis", (name, step_metric)))

    def log(self, row: dict[str, float]) -> None:
        self.told.append(("log", row))

    def finish(self) -> None:
        self.told.append(("finish", None))


def test_rows_of_weights_and_biases_carry_their_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Callable[..., experiment.Config]
) -> None:
    boards = FakeBoards()
    monkeypatch.setitem(sys.modules, "wandb", boards)  # type: ignore[arg-type]
    config = tiny(telemetry__wandb="online", telemetry__wandb_project="mine", telemetry__tensorboard="off")
    for step in (4, 2):  # the second start goes on from an earlier step
        with telemetry.Writers(config, tmp_path, step) as writers:
            writers.write(step + 1, {"a": 0.5, "b": float("nan")})
    starts = [values for what, values in boards.told if what == "init"]
    assert [start["project"] for start in starts] == ["mine", "mine"]
    assert starts[0]["id"] == starts[1]["id"] != ""
    assert ("axis", ("*", "step")) in boards.told
    assert [row for what, row in boards.told if what == "log"] == [{"step": 5, "a": 0.5}, {"step": 3, "a": 0.5}]
    assert boards.told[-1][0] == "finish"


def test_only_the_first_process_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Callable[..., experiment.Config]
) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with telemetry.Writers(tiny(telemetry__wandb="online"), tmp_path, 0) as writers:
        writers.write(1, {"a": 0.5})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "extra"),
    [(sections.TelemetryConfig(tensorboard="on"), "tensorboard"), (sections.TelemetryConfig(wandb="online"), "wandb")],
)
def test_a_missing_library_that_is_asked_for_is_named(
    monkeypatch: pytest.MonkeyPatch, settings: sections.TelemetryConfig, extra: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(telemetry.TelemetryError, match=rf"wenlan_jax\[{extra}\]"):
        telemetry.check(settings)
    telemetry.check(sections.TelemetryConfig())


def test_the_steps_of_a_trace_are_numbered_from_one() -> None:
    assert profiler.parse("10:5") == (10, 14)
    assert profiler.parse("") == (0, 0)


@pytest.mark.slow
def test_a_data_source_that_hangs_ends_the_run_and_leaves_its_checkpoints(place: Place) -> None:
    straight(place)
    driver = place.root / "stuck.py"
    driver.write_text(STUCK_DATA)
    fields = ["--config.telemetry.hang_seconds=4", "--config.data.prefetch=1"]
    command = [sys.executable, str(driver), "4", *place.training("hung", *fields)]
    done = subprocess.run(command, env=place.environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == watchdog.EXIT_HUNG, done.stderr
    assert "hung in the phase 'wait for data' for 4 s, 4 steps done" in done.stderr
    assert "make_or_hang" in done.stderr
    workdir = place.root / "hung"
    assert int(final_state(workdir)["step"]) == 4
    assert time_ledger.read(workdir / "ledger.jsonl")[-1].state == "hung"
    again = place.train("hung")
    assert again.returncode == 0, again.stderr
    assert "resumed at step 4:" in again.stdout


def test_a_metric_of_some_steps_is_averaged_over_those(tiny: Callable[..., experiment.Config]) -> None:
    meter = progress.Meter(tiny(train__log_every=3), 0, time_ledger.TimeLedger())
    common = {"loss": 1.0, "loss_reference": 2.0}
    with unchecked():
        assert meter.add(1, {**common, "itm_loss": 4.0}, 1.0, FakeBatches()) is None  # type: ignore[arg-type]
        assert meter.add(2, {**common, "mlm_loss": 5.0}, 1.0, FakeBatches()) is None  # type: ignore[arg-type]
        line = meter.add(3, {**common, "itm_loss": 6.0}, 1.0, FakeBatches())  # type: ignore[arg-type]
    assert line is not None
    assert (line["loss"], line["itm_loss"], line["mlm_loss"]) == (1.0, 5.0, 5.0)
