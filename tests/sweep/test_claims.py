"""Claims: one holder at a time, the dead are replaced, the living are not."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wenlan_jax.sweep import claims

ELSEWHERE = claims.Holder("elsewhere", "another machine", 1, "its token")
DEAD_PID = 2**22 + 1
"""Above the largest process number of Linux."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a-run-of-5f3c" / "claim"


def put(path: Path, holder: claims.Holder, age: float = 0.0) -> None:
    """A claim that was last seen alive `age` seconds ago."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(holder)))
    os.utime(path, (time.time() - age, time.time() - age))


def here(**changes: object) -> claims.Holder:
    return dataclasses.replace(claims.Holder(claims.HOST, claims.machine(), os.getpid(), "token"), **changes)  # type: ignore[arg-type]


def test_a_claim_keeps_others_out_until_it_is_released(path: Path) -> None:
    claim = claims.take(path)
    assert claim is not None and claims.take(path) is None
    assert claims.holder(path) == claim.holder
    claim.release()
    assert claims.holder(path) is None and not path.exists()
    assert claims.take(path) is not None


def test_the_silent_holder_of_another_machine_is_replaced_and_the_living_not(path: Path) -> None:
    put(path, ELSEWHERE, age=claims.STALE_SECONDS / 2)
    assert claims.take(path) is None and claims.holder(path) == ELSEWHERE
    put(path, ELSEWHERE, age=claims.STALE_SECONDS + 5)
    assert claims.holder(path) is None
    claim = claims.take(path)
    assert claim is not None and claims.holder(path) == claim.holder
    assert sorted(file.name for file in path.parent.iterdir()) == ["claim"]  # no lock, no fresh file is left


def test_a_dead_process_of_this_machine_is_replaced_at_once(path: Path) -> None:
    put(path, here(pid=DEAD_PID))
    assert claims.take(path) is not None


def test_a_training_that_outlived_its_sweep_keeps_the_claim(path: Path) -> None:
    words = [sys.executable, "-c", "import time; time.sleep(60)", "--workdir=out/a-run-of-5f3c"]
    with subprocess.Popen(words) as child:
        try:
            time.sleep(0.2)
            put(path, here(pid=DEAD_PID, child=child.pid), age=10 * claims.STALE_SECONDS)
            assert claims.take(path) is None
            put(path, here(pid=DEAD_PID, child=os.getpid()))  # a later process of the same number
            assert claims.take(path) is not None
        finally:
            child.kill()


def test_a_holder_that_was_replaced_notices_and_leaves_the_claim_alone(path: Path) -> None:
    claim = claims.take(path)
    assert claim is not None and claim.beat()
    put(path, ELSEWHERE)
    assert not claim.beat()
    claim.release()
    assert claims.holder(path) == ELSEWHERE


def test_a_beat_renews_the_claim(path: Path) -> None:
    claim = claims.take(path)
    assert claim is not None
    os.utime(path, (0, 0))
    assert claim.beat()
    assert time.time() - path.stat().st_mtime < 60


def test_a_claim_that_is_being_written_is_held(path: Path) -> None:
    put(path, ELSEWHERE)
    path.write_text("{")
    assert claims.take(path) is None
    os.utime(path, (0, 0))
    assert claims.take(path) is not None


def test_the_lock_of_a_takeover_that_was_killed_is_removed(path: Path) -> None:
    put(path, ELSEWHERE, age=claims.STALE_SECONDS + 5)
    lock = path.with_name("claim.lock")
    lock.touch()
    assert claims.take(path) is None
    os.utime(lock, (0, 0))
    assert claims.take(path) is None  # removes it
    assert claims.take(path) is not None


RACER = """\
import sys, time
from pathlib import Path
from wenlan_jax.sweep import claims
for line in sys.stdin:
    at, path = line.split()
    while time.time() < float(at):
        pass
    print(claims.take(Path(path)) is not None, flush=True)
"""


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_that_try_at_once_one_wins(path: Path, stale: bool) -> None:
    with contextlib.ExitStack() as stack:
        pipe = subprocess.PIPE
        words = [sys.executable, "-c", RACER]
        racers = [stack.enter_context(subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)) for _ in range(4)]
        for number in range(20):
            run = path.parent.with_name(str(number)) / path.name
            if stale:
                put(run, ELSEWHERE, age=claims.STALE_SECONDS + 5)
            at = time.time() + 0.02
            for racer in racers:
                print(at, run, file=racer.stdin, flush=True)
            assert sum(racer.stdout.readline() == "True\n" for racer in racers if racer.stdout) == 1
        for racer in racers:
            racer.communicate(timeout=30)
