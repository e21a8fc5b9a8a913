"""What hangs ends with its stacks, what is slow goes on. A whole run that hangs is in test_telemetry.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from wenlan_jax.config import sections
from wenlan_jax.monitoring import time_ledger, watchdog

# A clock and a watchdog; what is to hang comes after.
PREAMBLE = """
import sys, time
from wenlan_jax.monitoring import time_ledger as ledger
from wenlan_jax.config import sections as schema
from wenlan_jax.monitoring import watchdog
clock = ledger.TimeLedger()
clock.go_on(0, None)
clock.stepping()
settings = schema.TelemetryConfig(hang_seconds=float(sys.argv[1]), hang_seconds_between=float(sys.argv[2]))
"""

A_STEP_THAT_HANGS = """
import jax, numpy

def stuck_for_ever(x):
    time.sleep(600)
    return x

step = jax.jit(lambda x: jax.pure_callback(stuck_for_ever, jax.ShapeDtypeStruct((), "float32"), x))
with watchdog.Watchdog(clock, settings), clock(ledger.STEPS):
    print(float(step(numpy.float32(1))))
"""

STEPS_THAT_ARE_SLOW = """
with watchdog.Watchdog(clock, settings):
    for number in range(4):
        with clock(ledger.STEPS):
            time.sleep(0.6 * settings.hang_seconds)
        clock.step_done(number + 1)
    with clock(ledger.EVALUATION):
        time.sleep(2 * settings.hang_seconds)
time.sleep(2 * settings.hang_seconds)  # after the run there is no watchdog
"""

ONE_STEP = """
with watchdog.Watchdog(clock, settings), clock(ledger.STEPS):
    print("under way", flush=True)
    for _ in range(10):
        time.sleep(0.1)
"""

AN_EVALUATION_THAT_HANGS = """
with watchdog.Watchdog(clock, settings), clock(ledger.EVALUATION):
    time.sleep(600)
"""


def call(script: str, *limits: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PREAMBLE + script, *map(str, limits)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_step_that_hangs_ends_with_the_stacks_of_all_threads() -> None:
    done = call(A_STEP_THAT_HANGS, 3, 0)
    assert done.returncode == watchdog.EXIT_HUNG, done.stderr
    assert "hung in the phase 'steps' for 3 s, 0 steps done" in done.stderr
    assert "stuck_for_ever" in done.stderr
    assert "Current thread" in done.stderr


def test_a_slow_run_goes_on() -> None:
    done = call(STEPS_THAT_ARE_SLOW, 1, 60)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_phases_have_their_own_limit() -> None:
    done = call(AN_EVALUATION_THAT_HANGS, 600, 1)
    assert done.returncode == watchdog.EXIT_HUNG
    assert "hung in the phase 'evaluation' for 1 s" in done.stderr


def test_a_stopped_process_is_not_a_hung_one() -> None:
    """As by Ctrl-Z: the time in which nothing could run does not count."""
    command = [sys.executable, "-c", PREAMBLE + ONE_STEP, "2", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "under way\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_without_limits_nothing_watches() -> None:
    settings = sections.TelemetryConfig(hang_seconds=0, hang_seconds_between=0)
    dog = watchdog.Watchdog(time_ledger.TimeLedger(), settings)
    with dog:
        assert not dog._thread.is_alive()
