"""Runs on this machine: as many trainings side by side as asked for, each a process of its own.

One loop does it all, without threads: it collects trainings that ended, starts others, and keeps the claims alive.
A signal is passed on to the trainings, which save their state. What another machine has claimed is waited for, and
taken over if that machine dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from wenlan_jax.sweep import claims
from wenlan_jax.sweep.folder import RunFolder
from wenlan_jax.util.errors import WenlanError

POLL_SECONDS = 0.1
"""Between two looks at the trainings of this process."""

LOOK_SECONDS = 5.0
"""Between two looks at runs that others have claimed."""


class Interrupted(RuntimeError):  # noqa: N818 - not a fault
    """The sweep was asked to stop by a signal; its trainings have ended.

    Attributes:
        signal: the number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class Signals:
    """While entered, requests to stop are only counted, and the last one is remembered.

    SIGHUP, of a terminal that is closed, is one of them unless it is ignored, as under nohup.
    """

    def __init__(self) -> None:
        self.number = self.count = 0

    def __enter__(self) -> Signals:
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        taken = (signal.SIGINT, signal.SIGTERM, *(() if ignored else (signal.SIGHUP,)))
        self._before = {number: signal.signal(number, self._take) for number in taken}
        return self

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.count += 1

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@dataclasses.dataclass
class Training:
    """A training of this process.

    Attributes:
        folder: of the run.
        claim: on the run.
        process: of the training.
        slot: which of the slots it has.
        began: when it was started.
        lost: the claim was taken over by somebody who thought us dead.
    """

    folder: RunFolder
    claim: claims.Claim
    process: subprocess.Popen[bytes]
    slot: int
    began: float
    lost: bool = False


@dataclasses.dataclass
class RunPool:
    """Works through runs; `run` returns when each of them is done or has failed.

    Attributes:
        waiting: the runs that are not settled yet.
        slots: the environment variables of each of the trainings that may go on side by side, beside those of this
            process.
        wenlan: the words that start the command line.
        say: takes a line for the person at the terminal.
    """

    waiting: list[RunFolder]
    slots: Sequence[Mapping[str, str]]
    wenlan: Sequence[str]
    say: Callable[[str], None] = print

    def run(self) -> None:
        """Works through the runs.

        Raises:
            Interrupted: after a signal, when the trainings have saved their state and ended.
        """
        self.total, self.settled = len(self.waiting), 0
        self.trainings: list[Training] = []
        self.told: set[str] = set()
        # A failure of an earlier call is tried again; one that comes while this call runs, here or elsewhere, is not.
        self.known_failures = {folder.path: folder.failure() for folder in self.waiting}
        self.beaten = time.monotonic()
        with Signals() as self.signals:
            try:
                self._loop()
            finally:
                for training in self.trainings:  # only after an error of ours: nothing is left running unseen
                    training.process.terminate()
                    training.process.wait()
                    training.claim.release()

    def _loop(self) -> None:
        look = 0.0
        while self.waiting or self.trainings:
            if self._collect():
                look = 0.0
            if self.signals.count:
                self._stop()
            self._beat()
            if len(self.trainings) < len(self.slots) and time.monotonic() >= look:
                self._look()
                look = time.monotonic() + LOOK_SECONDS
            time.sleep(POLL_SECONDS)

    def _tell(self, folder: RunFolder, message: str) -> None:
        self.say(f"[{self.settled}/{self.total}] {folder.run.label()}: {message}")

    def _look(self) -> None:
        """Starts what can be started, and drops from `waiting` what others have settled."""
        for folder in list(self.waiting):
            if len(self.trainings) == len(self.slots) or self.signals.count:
                return
            try:
                self._look_at(folder)
            except OSError as error:  # of this run's directory; the other runs go on
                self.waiting.remove(folder)
                self.settled += 1
                self._tell(folder, f"failed: {error.filename or folder.path}: {error.strerror or error}")

    def _look_at(self, folder: RunFolder) -> None:
        claim = None if self._settled(folder) else claims.take(folder.claim)
        if claim is None:
            self._wait_for_others(folder)
        elif self._settled(folder):  # between our look and our claim
            claim.release()
        else:
            self._start(folder, claim)

    def _settled(self, folder: RunFolder) -> bool:
        """Whether the run is done, or has failed elsewhere since this call began."""
        if folder not in self.waiting:
            return True
        failure = folder.failure()
        if folder.result() is not None:
            message = "done"
        elif folder.differing():
            message = folder.state().text()
        elif failure is not None and failure != self.known_failures[folder.path]:
            message = f"failed on {failure.get('host')}: {failure.get('reason')}; see {folder.log}"
        else:
            return False
        self.waiting.remove(folder)
        self.settled += 1
        self._tell(folder, message)
        return True

    def _wait_for_others(self, folder: RunFolder) -> None:
        holder = claims.holder(folder.claim)
        if holder is not None and folder in self.waiting and holder.token not in self.told:
            self.told.add(holder.token)
            self._tell(folder, f"running on {holder}; waiting for it when the rest is done")

    def _start(self, folder: RunFolder, claim: claims.Claim) -> None:
        slot = min(set(range(len(self.slots))) - {training.slot for training in self.trainings})
        faults = folder.faults()
        try:
            process = self._spawn(folder, slot)
        except BaseException:
            claim.release()
            raise
        claim.name_child(process.pid)
        self.waiting.remove(folder)
        self.trainings.append(Training(folder, claim, process, slot, time.monotonic()))
        self._tell(folder, f"started; log {folder.log}")
        for fault in faults:
            self._tell(folder, f"{fault}; it is made anew")

    def _spawn(self, folder: RunFolder, slot: int) -> subprocess.Popen[bytes]:
        folder.prepare()
        command = folder.command(self.wenlan)
        with folder.log.open("ab") as log:
            log.write(os.fsencode(f"=== {datetime.datetime.now():%F %T} {claims.HOST}: {shlex.join(command)}\n"))
            log.flush()
            # A session of its own: Ctrl-C at the terminal reaches the sweep alone, which passes it on once.
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **self.slots[slot]},
            )

    def _collect(self) -> bool:
        """Takes in trainings that have ended; whether there were any."""
        ended = [training for training in self.trainings if training.process.poll() is not None]
        for training in ended:
            self.trainings.remove(training)
            self._ended(training)
            training.claim.release()
        return bool(ended)

    def _ended(self, training: Training) -> None:
        folder, status = training.folder, training.process.returncode
        if folder.result() is not None:
            self.settled += 1
            self._tell(folder, f"done in {time.monotonic() - training.began:.0f} s")
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(training.process.pid, signal.SIGKILL)  # data workers of a training that was killed
        if self.signals.count:
            self._tell(folder, "stopped")
        elif training.lost:
            self.waiting.append(folder)
            self._tell(folder, "was taken over by another process")
        else:
            folder.fail(ended_with(status))
            self.settled += 1
            self._tell(folder, f"failed: {ended_with(status)}; the end of {folder.log}:\n{folder.log_tail()}")

    def _beat(self) -> None:
        """Keeps the claims alive, and ends a training that somebody else has taken over."""
        if time.monotonic() - self.beaten < claims.BEAT_SECONDS:
            return
        self.beaten = time.monotonic()
        for training in self.trainings:
            if not training.lost and not training.claim.beat():
                training.lost = True
                training.process.terminate()

    def _stop(self) -> None:
        """Passes the signal on and waits; a second one ends the trainings at once. Raises Interrupted."""
        first = self.signals.number
        self.say(
            f"passing {signal.Signals(first).name} on to {len(self.trainings)} training(s), which save their state "
            "(again: end them at once, without)"
        )
        for training in self.trainings:
            training.process.send_signal(signal.SIGINT if first == signal.SIGINT else signal.SIGTERM)
        while self.trainings:
            self._collect()
            self._beat()
            if self.signals.count > 1:
                for training in self.trainings:
                    os.killpg(training.process.pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        raise Interrupted(
            f"stopped by {signal.Signals(first).name} with {len(self.waiting)} run(s) not started; "
            "the same command continues",
            first,
        )


def ended_with(status: int) -> str:
    """Says how a process ended, by its status as `Popen` gives it."""
    number = -status if status < 0 else status - 128
    with contextlib.suppress(ValueError):
        return f"{'killed' if status < 0 else 'stopped'} by {signal.Signals(number).name}"
    return f"ended with status {status}" + (" and without a result" if status == 0 else "")


def slots(jobs: int, gpus_per_run: int, visible: str | None) -> list[dict[str, str]]:
    """Divides the GPUs among trainings.

    Args:
        jobs: trainings side by side.
        gpus_per_run: of each; 0 leaves all to each.
        visible: $CUDA_VISIBLE_DEVICES of this process.

    Returns:
        The environment variables of each training.

    Raises:
        SlotsError: where too few GPUs are visible.
    """
    if not gpus_per_run:
        return [{} for _ in range(jobs)]
    known = visible.split(",") if visible else [str(number) for number in range(jobs * gpus_per_run)]
    if len(known) < jobs * gpus_per_run:
        raise SlotsError(
            f"--jobs={jobs} with --gpus-per-run={gpus_per_run} needs {jobs * gpus_per_run} GPUs; CUDA_VISIBLE_DEVICES "
            f"names {len(known)}"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(part)} for part in _groups(known, jobs, gpus_per_run)]


def _groups(known: Sequence[str], jobs: int, each: int) -> Iterator[Sequence[str]]:
    return (known[job * each : (job + 1) * each] for job in range(jobs))


class SlotsError(WenlanError, ValueError):
    """More trainings side by side than there are devices for."""
