"""Long calls: their results and errors come through, they say that they go on, and signals are heard in them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from wenlan_jax.parallel import interruptible_calls, stopping


def test_results_and_errors_come_through() -> None:
    assert interruptible_calls.aloud("adding", lambda: 1 + 1) == 2

    def fails() -> None:
        raise KeyError("which")

    with pytest.raises(KeyError, match="which"):
        interruptible_calls.aloud("failing", fails)
    assert not interruptible_calls.abandoned()


def test_a_call_that_goes_on_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(interruptible_calls, "SAY_SECONDS", 0.0)
    ended = threading.Event()

    def until_it_was_said() -> bool:
        while "goes on" not in said[0]:
            said[0] += capsys.readouterr().out
            time.sleep(0.01)
        ended.set()
        return True

    said = [""]
    assert interruptible_calls.aloud("compiling", until_it_was_said)
    assert "compiling goes on, 0 s so far" in said[0]


HANGS = """
import signal, sys, time
from wenlan_jax import cli
from wenlan_jax.commands import fields
from wenlan_jax.parallel import stopping
from wenlan_jax.parallel import interruptible_calls

def hang():
    print("within", flush=True)
    time.sleep(600)

def run(*_):
    if sys.argv[1] == "train":
        with stopping.StopSignal():
            interruptible_calls.aloud("compiling", hang)
    interruptible_calls.aloud("compiling", hang)

fields.run = run
sys.exit(cli.main(["fields"]))
"""


@pytest.mark.parametrize(
    ("command", "number", "status", "said"),
    [
        ("train", signal.SIGTERM, 143, "stopped by SIGTERM during compiling"),
        ("train", signal.SIGINT, 130, "stopped by SIGINT during compiling"),
        ("eval", signal.SIGINT, 130, "interrupted"),
    ],
)
def test_a_signal_ends_the_process_although_the_call_goes_on(
    command: str, number: signal.Signals, status: int, said: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS, command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "within\n"
    process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == status, rest
    assert said in rest
    assert "will be saved" not in rest
    assert "Traceback" not in rest


def test_signals_are_asked_for_only_while_they_are_caught() -> None:
    assert stopping.asked() == 0
    with stopping.StopSignal() as stop:
        stop.number = int(signal.SIGTERM)
        assert stopping.name(stopping.asked()) == "SIGTERM"
    assert stopping.asked() == 0
