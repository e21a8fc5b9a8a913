"""Where the time of a run went, over all its starts: `ledger.jsonl` in the work directory, and its account.

A line is a snapshot of one start: the seconds by phase since it began, and the steps it has done. The newest line of
a start counts, so that a kill loses what came since: as no clock ran on, that time is found again as a gap before the
next start. Lines are added and never changed.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from wenlan_jax.util import json_files

_log = logging.getLogger(__name__)

START, COMPILE, WAIT, STEPS = "start", "compile", "wait for data", "steps"
EVALUATION, CHECKPOINTS, OTHER, LOST = "evaluation", "checkpoints", "other", "lost to restarts"
PHASES = (START, COMPILE, WAIT, STEPS, EVALUATION, CHECKPOINTS, OTHER)
"""What a start spends its time on. WAIT is time in which the devices had no step to compute."""

SECONDS_BETWEEN_LINES = 10.0
"""At least, of the lines that steps add; a start, a checkpoint and an end always add one."""

RUNNING, FINISHED = "running", "finished"
"""How a snapshot found its start: under way, or at the end of the run. Any other end is the name of its exception."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """One line of the ledger.

    Attributes:
        start: the number of the start.
        began: when it began, Unix time.
        first: the steps that were done when it went on.
        done: those that are done now.
        seconds: by phase, for every phase.
        state: `RUNNING`, `FINISHED`, or the name of the exception that ended the start.
    """

    start: int
    began: float
    first: int
    done: int
    seconds: dict[str, float]
    state: str

    @property
    def total(self) -> float:
        """Seconds since the start began."""
        return sum(self.seconds.values())


@dataclasses.dataclass(frozen=True)
class TimeAccount:
    """The time of a run; the parts add up to the wall time from its first start to now.

    Attributes:
        seconds: by phase and `LOST`.
    """

    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """The wall time, seconds. What lies between the end of a finished run and its next start is not part of it."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """The share of the wall time in which steps were computed that count in the run."""
        return self.seconds[STEPS] / self.total if self.total > 0 else 0.0

    def fields(self) -> dict[str, float]:
        """Returns the account as metrics."""
        named = {f"seconds/{name.replace(' ', '_')}": value for name, value in self.seconds.items()}
        return {**named, "seconds/total": self.total, "goodput": self.goodput}

    def text(self) -> str:
        """Writes the account for a person."""
        spent = ", ".join(f"{name} {value:.0f} s" for name, value in self.seconds.items())
        return f"{spent}; goodput {self.goodput:.1%}"


def account(lines: Sequence[Snapshot]) -> TimeAccount:
    """Makes the account of a run.

    Lost is what steps and their data took after the step that a later start went on from, and the time between the
    last line of a start and the beginning of the next one, unless the run was finished.

    Args:
        lines: of its ledger.

    Returns:
        The account.
    """
    starts = [list(group) for _, group in itertools.groupby(lines, key=lambda line: line.start)]
    seconds = dict.fromkeys((*PHASES, LOST), 0.0)
    kept = float("inf")
    following: float | None = None
    for start in reversed(starts):
        last = start[-1]
        if following is not None and last.state != FINISHED:
            seconds[LOST] += max(following - last.began - last.total, 0.0)
        for phase, spent in last.seconds.items():
            again = _spent_after(start, kept, phase) if phase in (STEPS, WAIT) else 0.0
            seconds[phase] += spent - again
            seconds[LOST] += again
        kept = min(kept, last.first)
        following = last.began
    return TimeAccount(seconds)


def _spent_after(start: Sequence[Snapshot], step: float, phase: str) -> float:
    """Seconds of a start on `phase` after `step` steps were done, between two lines in proportion to the steps."""
    last = start[-1]
    if last.done <= step:
        return 0.0
    points = [(last.first, 0.0), *((line.done, line.seconds[phase]) for line in start)]
    # Of lines about the same step the last one: it includes what reading and logging that step took.
    where = bisect.bisect_right([done for done, _ in points], step) - 1
    if where < 0:
        return last.seconds[phase]
    (done, spent), (later, more) = points[where], points[where + 1]
    return last.seconds[phase] - (spent + (more - spent) * (step - done) / (later - done))


class TimeLedger:
    """The clock of one start: every moment since it began belongs to one phase.

    A context manager that adds the last snapshot, with the state it ended in. Called with a phase, it counts the time
    inside the block to that phase: `with ledger(CHECKPOINTS): ...`.

    Args:
        began: Unix time at which the process began its work, so that imports count; None for now.
    """

    def __init__(self, began: float | None = None) -> None:
        self.path: Path | None = None
        self.earlier: list[Snapshot] = []
        self.number = 0
        self.began = time.time() if began is None else began
        self.first = self.done = 0
        self.phase = START
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.seconds[START] = time.time() - self.began
        self._since = self._written = time.perf_counter()
        self._rest = START
        self._own: list[Snapshot] = []

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Counts the time inside the block to `phase`, and not to the phase around it."""
        around = self.phase
        self._enter(phase)
        try:
            yield
        finally:
            self._enter(around if around != START else self._rest)

    def _enter(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[self.phase] += now - self._since
        self.phase, self._since = phase, now

    def move(self, source: str, target: str, seconds: float) -> None:
        """Counts seconds to another phase after all.

        Args:
            source: the phase that has them.
            target: the phase that gets them.
            seconds: how many.
        """
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    def go_on(self, step: int, path: Path | None) -> None:
        """Adds snapshots to a file from now on, as the state is there.

        What the file holds are the earlier starts. A start that ends before this is a gap between two others.

        Args:
            step: the steps that are done.
            path: the file; None for none.
        """
        self.first = self.done = step
        self.path, self.earlier = path, read(path) if path else []
        self.number = self.earlier[-1].start + 1 if self.earlier else 0
        self.write()

    def stepping(self) -> None:
        """Ends the start-up: time that nothing claims is OTHER from now on."""
        self._rest = OTHER
        if self.phase == START:
            self._enter(OTHER)

    def step_done(self, done: int) -> None:
        """Notes that `done` steps are done, and adds a snapshot where one is due."""
        self.done = done
        if time.perf_counter() - self._written >= SECONDS_BETWEEN_LINES:
            self.write()

    def snapshot(self, state: str = RUNNING) -> Snapshot:
        """Returns a snapshot of this start up to now."""
        self._enter(self.phase)
        return Snapshot(self.number, self.began, self.first, self.done, dict(self.seconds), state)

    def write(self, state: str = RUNNING) -> None:
        """Adds a snapshot to the file, on disk at once as far as the process is concerned."""
        line = self.snapshot(state)
        self._written = time.perf_counter()
        if self.path:
            self._own.append(line)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dataclasses.asdict(line)) + "\n")

    def account(self) -> TimeAccount:
        """Returns the account of the run up to now; of this start alone where there is no file."""
        return account([*self.earlier, *self._own, self.snapshot()])

    def __enter__(self) -> TimeLedger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.write(FINISHED if kind is None else kind.__name__)


def read(path: Path) -> list[Snapshot]:
    """Reads the lines of a ledger; a missing file is empty. A damaged line is left out with a warning.

    Args:
        path: the file.

    Returns:
        The lines.

    Raises:
        NoteError: where something else than a file stands in its place.
    """
    lines, damaged = json_files.read_lines(path, Snapshot)
    for number in damaged:
        _log.warning("%s: line %d is not a whole line of a ledger and is left out", path, number)
    found: list[Snapshot] = []
    for line in lines:
        if _is_possible(line) and (not found or _may_follow(found[-1], line)):
            found.append(line)
        else:
            _log.warning("%s: a line of start %d contradicts those before it and is left out", path, line.start)
    return found


def _is_possible(line: Snapshot) -> bool:
    """Whether the numbers of a line may be true by themselves."""
    return (
        set(line.seconds) == set(PHASES)
        and 0 <= line.first <= line.done
        and line.start >= 0
        and all(-1.0 < time < _LONGEST for time in [line.began, *line.seconds.values()])  # below 0 by rounding
    )


def _may_follow(before: Snapshot, line: Snapshot) -> bool:
    """Whether a line may stand below another one: within a start steps are only added."""
    if line.start != before.start:
        return line.start > before.start
    return (line.first, line.began) == (before.first, before.began) and line.done >= before.done


_LONGEST = 1e10
"""Seconds, some three hundred years: above every time of a ledger."""
