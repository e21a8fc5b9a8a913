"""Whole runs on a hostile machine: killed at random moments, on a full disk, on one that cannot be written.

Whatever happens, the run must end in the bits of one that nothing happened to.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from whole_runs import Place, assert_same_bits, final_state, training_lines

from wenlan_jax.tasks import experiment

pytestmark = pytest.mark.slow

STEPS = 96
EVERY = 4
LEAST = 3
"""Kills that fall into each phase."""

KILLS = 26
PHASES = ("start", "restore", "steps", "save")
"""Where kills are aimed at, in turn. `start`: before the checkpoint is looked at; `restore`: until the first step."""

UNFINISHED = "*.orbax-checkpoint-tmp"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture
def place(root: Path, tiny: Callable[..., experiment.Config]) -> Place:
    return Place.make(
        root,
        tiny(
            data__dir=str(root / "data"),
            tokenizer__train_size=1000,
            model__text__bert__vocab_size=0,
            model__image__encoder__dropout=0.1,
            train__steps=STEPS,
            checkpoint__every=EVERY,
            checkpoint__keep=3,
            eval__final_splits=("test",),
            eval__gallery=0,
        ),
    )


@functools.cache
def straight(place: Place) -> Path:
    """The work directory of a run that nothing happens to; it also builds the data and fills the cache of programs."""
    done = place.train("straight")
    assert done.returncode == 0, done.stderr
    return place.root / "straight"


@dataclasses.dataclass
class Victim:
    """A running `wenlan train`, its output so far and its checkpoints."""

    process: subprocess.Popen[str]
    workdir: Path
    lines: list[str]

    @classmethod
    def start(cls, place: Place, name: str) -> Victim:
        command = place.command(*place.training(name))
        process = subprocess.Popen(
            command, env=place.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        victim = cls(process, place.root / name, [])
        threading.Thread(target=victim._listen, daemon=True).start()
        return victim

    def _listen(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def said(self, *beginnings: str) -> bool:
        return any(line.startswith(beginnings) for line in list(self.lines))

    def steps(self) -> int:
        """Steps that were logged since the start."""
        return sum(line.startswith("step ") and "loss" in line for line in list(self.lines))

    def saving(self) -> bool:
        return any((self.workdir / "checkpoints").glob(UNFINISHED))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds or the process ends."""
        limit = time.monotonic() + 120
        while self.process.poll() is None and not condition():
            assert time.monotonic() < limit, "".join(self.lines)
            time.sleep(0.0005)

    def kill(self) -> str | None:
        """Kills it; the phase it was in, by what it left behind, or None if it had ended."""
        self.process.send_signal(signal.SIGKILL)
        if self.process.wait() != -signal.SIGKILL:
            return None
        time.sleep(0.05)  # the listener reads what is left in the pipe
        if self.saving() and self.steps():
            return "save"
        if self.steps():
            return "steps"
        return "restore" if self.said("configuration ") else "start"


def strike(victim: Victim, aim: str, rng: random.Random, start: float) -> str | None:
    """Kills the run at a random moment of the phase `aim`; the phase that it turned out to be.

    `start` is about how many seconds the first phase takes.
    """
    if aim == "start":
        time.sleep(rng.uniform(0.0, start))
    elif aim == "restore":
        victim.wait_for(lambda: victim.said("configuration "))
        time.sleep(rng.uniform(0.0, 1.0))
    elif aim == "steps":
        logged = rng.randrange(1, EVERY - 1)
        victim.wait_for(lambda: victim.steps() >= logged)
        time.sleep(rng.uniform(0.0, 0.01))
    else:
        logged = EVERY * rng.randint(1, 2)
        victim.wait_for(lambda: victim.steps() >= logged)
        victim.wait_for(victim.saving)
        time.sleep(rng.uniform(0.0, 0.1))
    return victim.kill()


def seconds_of_a_start(place: Place) -> float:
    """How long a run takes on this machine until it looks at its checkpoints."""
    victim, began = Victim.start(place, "start"), time.monotonic()
    victim.wait_for(lambda: victim.said("configuration "))
    took = time.monotonic() - began
    victim.kill()
    return took


@functools.cache
def harried(place: Place) -> Counter[str]:
    """A run that is killed again and again and then left to end; how many kills fell into which phase."""
    straight(place)
    rng = random.Random(0)
    start = seconds_of_a_start(place)
    phases: Counter[str] = Counter()
    while sum(phases.values()) < KILLS or min(phases[phase] for phase in PHASES) < LEAST:
        number = sum(phases.values())
        assert number < 3 * KILLS, phases
        # A machine that is faster or slower than when the start was timed lets a kill miss its phase: aim again.
        aim = PHASES[number % len(PHASES)] if number < KILLS else min(PHASES, key=lambda one: phases[one])
        phase = strike(Victim.start(place, "harried"), aim, rng, start / (1 + number // KILLS))
        assert phase is not None, f"the run had ended before kill {number + 1}"
        phases[phase] += 1
    done = place.train("harried")
    assert done.returncode == 0, done.stderr
    return phases


def test_kills_fall_into_every_phase(place: Place) -> None:
    phases = harried(place)
    print(dict(phases))
    assert sum(phases.values()) >= KILLS
    assert all(phases[phase] >= LEAST for phase in PHASES), phases


def test_a_run_killed_at_random_moments_ends_in_the_bits_of_a_straight_one(place: Place) -> None:
    harried(place)
    one, two = final_state(straight(place)), final_state(place.root / "harried")
    assert int(one["step"]) == STEPS
    assert_same_bits(one, two)


def test_every_step_is_in_the_metrics_of_a_killed_run_once(place: Place) -> None:
    harried(place)
    lines = training_lines(place.root / "harried")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines == training_lines(straight(place))


def test_kills_leave_no_rubbish(place: Place) -> None:
    harried(place)
    kept = sorted(path.name for path in (place.root / "harried" / "checkpoints").iterdir())
    assert kept == sorted(str(step) for step in range(STEPS - 2 * EVERY, STEPS + 1, EVERY))


# --- disks -----------------------------------------------------------------------------------------------------------

FULL = """
set -e
mount -t tmpfs -o size=64m tmpfs "$WORK"
mkdir "$WORK/run"
status() { rc=0; "$@" || rc=$?; echo "status $rc"; }
status $STOPPED_EARLY
dd if=/dev/zero of="$WORK/filler" bs=16k >/dev/null 2>&1 || true
truncate -s -$((200 * 1024)) "$WORK/filler"
echo "--- full"
status $TRAIN
ls "$WORK/run/checkpoints"
rm "$WORK/filler"
echo "--- room again"
status $TRAIN
ls "$WORK/run/checkpoints"
cp -r "$WORK/run" "$KEEP"
"""
"""A disk fills up in the middle of a run, and is emptied again."""

READ_ONLY = """
set -e
mount --bind "$WORK" "$WORK"
mount -o remount,bind,ro "$WORK"
rc=0; $TRAIN || rc=$?; echo "status $rc"
"""


def in_own_mounts(place: Place, script: str, work: Path, **variables: str) -> str:
    """The output of a script that may mount file systems, which nobody else sees and which end with it."""
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("this system does not let us mount file systems of our own (unshare -Urm)")
    work.mkdir(exist_ok=True)
    # TensorBoard's writer has threads of its own, which complain in their own way.
    train = place.training(f"{work.name}/run", "--config.telemetry.tensorboard=off")
    environment = {
        **place.environment(),
        "WORK": str(work),
        "TRAIN": " ".join(place.command(*train)),
        "STOPPED_EARLY": " ".join(place.command(*train, kill=signal.SIGTERM, at=EVERY * 2 + 1)),
        **variables,
    }
    command = ["unshare", "-Urm", "bash", "-c", script]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_full_disk_stops_the_run_with_a_message_and_harms_nothing(place: Place) -> None:
    straight(place)
    out = in_own_mounts(place, FULL, place.root / "full", KEEP=str(place.root / "emptied"))
    before, full = out.split("--- full\n")
    full, after = full.split("--- room again\n")
    assert f"status {128 + signal.SIGTERM}" in before
    assert "Traceback" not in full, full
    (message,) = [line for line in full.splitlines() if line.startswith("wenlan train: ")]
    assert "No space left on device" in message
    assert "status 1\n" in full
    resumed = int(next(line for line in full.splitlines() if line.startswith("resumed at step ")).split()[3].strip(":"))
    assert str(resumed) in full.split("status 1\n")[1].split()
    assert "status 0\n" in after
    assert_same_bits(final_state(straight(place)), final_state(place.root / "emptied"))
    assert training_lines(place.root / "emptied") == training_lines(straight(place))


def test_a_directory_that_cannot_be_written_is_told_in_one_line(place: Place) -> None:
    straight(place)
    work = place.root / "read_only"
    shutil.copytree(straight(place), work / "run")
    out = in_own_mounts(place, READ_ONLY, work)
    assert "Traceback" not in out
    (message,) = [line for line in out.splitlines() if line.startswith("wenlan train: ")]
    assert "Read-only file system" in message
    assert str(work) in message
    assert out.endswith("status 1\n")
