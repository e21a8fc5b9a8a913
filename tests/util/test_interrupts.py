"""Ctrl-C at any time from the first import on: one line and status 130, in the workers, too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLOW = """
import importlib.abc, signal, sys, time

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            print("within", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
late = sys.argv[1]
sys.argv = ["wenlan", late, "fields"]
from wenlan_jax.cli import main
sys.exit(main(["fields"]))
"""


@pytest.mark.parametrize(
    "late", ["argparse", "wenlan_jax.commands.process", "wenlan_jax.commands.fields", "wenlan_jax.config"]
)
def test_while_modules_are_imported(late: str) -> None:
    code = SLOW.replace("sys.argv[1]", repr(late))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "within\n"
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in rest and rest.count("\n") == 1, rest


def test_where_it_is_ignored_it_stays_so() -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.argv = ['wenlan']; import wenlan_jax.cli"
        "; assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_program_that_imports_the_package_keeps_its_own() -> None:
    code = "import signal, wenlan_jax.cli; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code, "wenlan"], check=True)


WORKERS = """
import os, sys, time
from wenlan_jax import cli
from wenlan_jax.commands import fields
from wenlan_jax.util import resumable_jobs as units

def work(number, unit):
    print("within", flush=True)
    time.sleep(60)

def run(*_):
    units.run(work, [0, 1], __import__("pathlib").Path(sys.argv[1]), {}, 2, "job")

if __name__ == "__main__":
    fields.run = run
    sys.exit(cli.main(["fields"]))
"""


@pytest.mark.parametrize("wait", [True, False])
def test_workers_end_without_a_word(wait: bool, tmp_path: Path) -> None:
    """Also while they start."""
    (tmp_path / "job.py").write_text(WORKERS)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "job.py"), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    if wait:
        assert process.stdout.readline() == "within\n"
    else:
        while not (tmp_path / "out" / "job").exists():  # workers are about to be started
            assert process.poll() is None
            time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "Traceback" not in rest and rest.splitlines()[-1] == "wenlan fields: interrupted", rest


def test_processes_that_make_batches_leave_it_to_the_first() -> None:
    """A training that is asked to stop needs the batches of the step that it is in."""
    code = (
        "import os, signal; from wenlan_jax.data import loader; loader._start_worker(0, 1); "
        "os.kill(os.getpid(), signal.SIGINT); print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "goes on\n"
