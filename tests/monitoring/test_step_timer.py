"""When the step under way is done, as seen from the thread that dispatches."""

from __future__ import annotations

import threading
import time

import jax
import jax.numpy as jnp
import pytest
from annotations import unchecked

from wenlan_jax.monitoring.step_timer import StepTimer


class Step:
    """A step that is done when told so."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.stamped = threading.Event()


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "block_until_ready", lambda step: step["loss"].done.wait(10))


def settle(clock: StepTimer, since: float) -> None:
    """Waits until the clock has seen the end of its last step."""
    deadline = time.perf_counter() + 10
    while clock.busy_seconds(since, time.perf_counter() + 100) > 50:
        assert time.perf_counter() < deadline
        time.sleep(0.001)


@pytest.mark.usefixtures("waiting")
def test_a_wait_is_hidden_as_long_as_the_step_goes_on() -> None:
    with StepTimer() as clock:
        step, begin = Step(), time.perf_counter()
        with unchecked():
            clock.watch({"loss": step})  # type: ignore[dict-item]
        assert clock.busy_seconds(begin, begin + 5) == 5
        step.done.set()
        settle(clock, begin)
        busy = clock.busy_seconds(begin, begin + 50)
        assert 0 < busy < 50
        assert clock.busy_seconds(begin + 40, begin + 50) == 0  # it was done before that wait began


@pytest.mark.usefixtures("waiting")
def test_the_step_dispatched_last_counts() -> None:
    with StepTimer() as clock:
        steps, begin = [Step(), Step()], time.perf_counter()
        for step in steps:
            with unchecked():
                clock.watch({"loss": step})  # type: ignore[dict-item]
        steps[0].done.set()
        time.sleep(0.05)
        assert clock.busy_seconds(begin, begin + 5) == 5
        steps[1].done.set()
        settle(clock, begin)


def test_without_a_step_no_wait_is_hidden() -> None:
    with StepTimer() as clock:
        assert clock.busy_seconds(time.perf_counter(), time.perf_counter() + 3) == 0


def test_a_step_that_fails_ends_all_the_same() -> None:
    deleted = jnp.zeros(3)
    deleted.delete()
    with StepTimer() as clock:
        begin = time.perf_counter()
        clock.watch({"loss": deleted})
        settle(clock, begin)
