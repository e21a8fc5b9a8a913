"""The training loop, written once for all tasks.

Order of operations of `train`:

 1. tokenizer, then the shapes and shardings of the state; nothing large exists yet
 2. the newest whole checkpoint of the work directory, after its configuration and its leaves were compared with
    ours, or a fresh state, which takes over the weights of `init_from`
 3. the data from that step on, and the compiled step
 4. for every step s: batch s is on the devices -> step s is dispatched -> the metrics of step s - 1 are read, while
    s computes -> log, evaluation and checkpoint where they are due
 5. the last checkpoint, evaluation of the final splits, result.json, images

Metrics are therefore read one step late, and a step that is not finite is noticed one step late. The state is safe
all the same: such a step changes nothing, and under `train.non_finite='stop'` neither does any step after it.

A batch is a function of (seed, step) and randomness of (seed, stream, step), so that a run that was stopped, killed
or resumed ends in the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from wenlan_jax import __version__
from wenlan_jax.checkpoints import store
from wenlan_jax.core import step, trees
from wenlan_jax.core.state import TrainState
from wenlan_jax.data import loader, text
from wenlan_jax.monitoring import curves, metrics_file, profiler, run_info, time_ledger, watchdog, writers
from wenlan_jax.monitoring.meter import Meter
from wenlan_jax.monitoring.step_timer import StepTimer
from wenlan_jax.parallel import compilation_cache, distributed
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.parallel.console import say
from wenlan_jax.parallel.stopping import StopAgreement, Stopped, StopSignal
from wenlan_jax.tasks import experiment, registry, run_evaluations
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import compiled_steps, data_note, init_from, prepared, resume, setup
from wenlan_jax.training import tokenizer as run_tokenizer
from wenlan_jax.util import atomic_files, json_files
from wenlan_jax.util.errors import WenlanError

LOCK_SECONDS = 60.0
"""How long a start waits for another job to leave the work directory."""

LEDGER = "ledger.jsonl"
"""In the work directory: where the time of all starts went."""


class NonFiniteError(WenlanError, RuntimeError):
    """A loss or a gradient was not finite, and the configuration says to stop."""


def train(config: experiment.Config, workdir: Path, began: float | None = None) -> dict[str, float]:
    """Trains to the end, from the newest checkpoint in the work directory if there is one.

    Args:
        config: the configuration.
        workdir: where the run keeps its checkpoints, metrics and pages.
        began: Unix time at which the process began, for the account of its time; None for now.

    Returns:
        The final metrics by name.

    Raises:
        Stopped: after a signal; the state is saved.
        NonFiniteError: if a loss or a gradient was not finite, and `train.non_finite` is `stop`.
        CheckpointError: if it is not safe to go on from the checkpoints.
        ConfigError: if the configuration cannot be used, or is not the one that the run began with.
    """
    clock = time_ledger.TimeLedger(began)
    experiment.require_data(config)
    store.check_place(workdir)
    writers.check(config.telemetry)
    same = distributed.comparable(dataclasses.asdict(config))
    distributed.start(config.distributed, {"--workdir": str(workdir), **same})
    print(distributed.introduction(meshes.create(config.mesh)), flush=True)
    compilation_cache.use_cache(config.compilation)
    workdir.mkdir(parents=True, exist_ok=True)
    with _alone(workdir):
        return _train_in(config, workdir, clock)


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """Holds the work directory against other jobs, which would remove what this one is writing.

    A job that was put back into a queue may start before its predecessor has ended.
    """
    with atomic_files.holding(workdir, LOCK_SECONDS) if jax.process_index() == 0 else contextlib.nullcontext():
        distributed.barrier("alone")
        yield


def _make_way(config: experiment.Config, workdir: Path) -> None:
    """Renames what stands in the place of the files of a run, before it is found out after a whole training."""
    known = [
        LEDGER,
        run_info.NAME,
        data_note.FILE,
        "metrics.jsonl",
        "result.json",
        "curves.png",
        "gallery.html",
        *registry.of(config).settled_files,
    ]
    for place in [*(workdir / name for name in known), *workdir.glob("ranks_*.npz")]:
        if (renamed := json_files.make_way(place)) is not None:
            say(f"{place}: is no file; renamed to {renamed}")


def _train_in(config: experiment.Config, workdir: Path, clock: time_ledger.TimeLedger) -> dict[str, float]:
    """`train` in a work directory that no other job uses."""
    say(f"wenlan {__version__}, {jax.device_count()} device(s) ({jax.default_backend()}), work directory {workdir}")
    if jax.process_index() == 0:
        _make_way(config, workdir)
    config, tokenizer = prepared.for_training(config, workdir)
    run_evaluations.check(config, training=True)
    if jax.process_index() == 0:
        data_note.check(config, workdir)
    say(f"configuration {experiment.fingerprint(config)}, task {config.task}, seed {config.seed}")
    if jax.process_index() == 0:
        run_info.write(workdir, config)
    current = setup.set_up(config)
    with (
        clock,
        watchdog.Watchdog(clock, config.telemetry),
        store.Checkpoints(workdir / "checkpoints", config.checkpoint) as checkpoints,
        StopSignal() as stop,
    ):
        state = start_state(current, checkpoints, tokenizer)
        if jax.process_index() == 0:
            run_tokenizer.keep(tokenizer, workdir)
            data_note.keep(config, workdir)
        clock.go_on(int(state.step), workdir / LEDGER if jax.process_index() == 0 else None)
        recipe = dataclasses.replace(current.recipe, skipped_before=int(state.skipped))
        current = dataclasses.replace(current, recipe=recipe)
        return Loop(current, workdir, tokenizer, checkpoints, clock, stop).run(state)


def start_state(current: Run, checkpoints: store.Checkpoints, tokenizer: text.Tokenizer) -> TrainState:
    """Reads the newest whole checkpoint's state, or makes a fresh one, with the weights of `init_from`.

    Args:
        current: the run.
        checkpoints: of its work directory.
        tokenizer: of the run.

    Returns:
        The state to go on from.

    Raises:
        CheckpointError: if a checkpoint is of another run, or weights do not fit.
    """
    state = resume.resume(current, checkpoints, tokenizer.fingerprint)
    if state is not None:
        say(f"resumed at step {int(state.step)}: {describe_parameters(current)}")
        return state
    say(f"a new run: {describe_parameters(current)}")
    if current.config.init_from:
        return init_from.load(current, tokenizer.fingerprint)
    init_from.check_frozen(current, ())
    return setup.fresh_state(current)


def describe_parameters(current: Run) -> str:
    """Says how many parameters each tower has, and how many of them are trained."""
    params = current.shapes.params
    trained, _ = trees.split(params, current.recipe.is_trained)
    parts = []
    for tower in (name for name in params if isinstance(params[name], dict)):
        whole, part = trees.size(params[tower]), trees.size(trained.get(tower, {}))
        parts.append(f"{tower} tower {whole:,} parameters ({part:,} trained)")
    return ", ".join(parts)


def train_maker(current: Run, tokenizer: text.Tokenizer) -> loader.TrainMaker:
    """Makes this process's part of every training batch.

    Args:
        current: the run.
        tokenizer: of the run.

    Returns:
        A maker of batches by step.
    """
    share = meshes.share(current.mesh, current.config.train.batch_size)
    return registry.of(current.config).batches(current.config, tokenizer, share)


class PendingMetrics(NamedTuple):
    """The metrics of a step that is under way.

    Attributes:
        metrics: scalars by name, which may not be computed yet.
        model_flops: the model FLOPs of the step.
    """

    metrics: dict[str, jax.Array]
    model_flops: float


@dataclasses.dataclass
class Loop:
    """The running parts of one training; `run` goes through the steps.

    Attributes:
        current: the run.
        workdir: its work directory.
        tokenizer: its tokenizer.
        checkpoints: of the work directory.
        clock: the account of time.
        stop: the signals that ask to stop.
    """

    current: Run
    workdir: Path
    tokenizer: text.Tokenizer
    checkpoints: store.Checkpoints
    clock: time_ledger.TimeLedger
    stop: StopSignal

    def run(self, state: TrainState) -> dict[str, float]:
        """Steps to the configured end, then evaluates.

        Args:
            state: the state to go on from.

        Returns:
            The final metrics by name.

        Raises:
            Stopped: after a signal; the state is saved.
            NonFiniteError: if a step is not finite, and `train.non_finite` is `stop`.
        """
        config = self.current.config
        first = int(state.step)
        self.maker = train_maker(self.current, self.tokenizer)
        self.evaluation = run_evaluations.create(self.current, self.tokenizer)
        self.programs = compiled_steps.Programs(self.current)
        say(
            f"{self.maker.mixture.name}: {len(self.maker.mixture):,} training records; step {first} of "
            f"{config.train.steps}, {config.train.batch_size} pairs a step"
        )
        if first == config.train.steps:
            say("every step is done: evaluating again; a larger train.steps would continue the training")
        with writers.Writers(config, self.workdir, first) as self.writers:
            state = self._steps(state, first)
            self.save(state)
            return self._finish(state)

    def _steps(self, state: TrainState, first: int) -> TrainState:
        config, end = self.current.config, self.current.config.train.steps
        asked_to_stop = StopAgreement(self.stop, self.current.mesh)
        self.meter = Meter(config, first, self.clock)
        with (
            loader.train_batches(self.maker, first, config.data.workers, config.data.prefetch) as self.batches,
            StepTimer() as self.step_timer,
            profiler.Profiler(config.telemetry.profile, self.workdir / "profile") as self.profiler,
        ):
            late = None
            for number in range(first, end):
                on_device = self._next_batch()
                program = self._program(on_device)
                if number == first:
                    self.profiler.turn(first)
                with self.clock(time_ledger.STEPS):
                    with jax.profiler.StepTraceAnnotation("train", step_num=number + 1):
                        state, fresh = program.step(state, on_device)
                    self.step_timer.watch(fresh)
                    self._read(number - 1, late, state)
                late = PendingMetrics(fresh, program.model_flops)
                self.checkpoints.check()
                signalled = asked_to_stop()
                if signalled or self._due(number + 1):
                    with self.clock(time_ledger.STEPS):
                        self._read(number, late, state)
                    late = None
                    self._pause(number + 1, state, signalled)
            with self.clock(time_ledger.STEPS):
                self._read(end - 1, late, state)
            return state

    def _next_batch(self) -> dict[str, jax.Array]:
        """The next batch on the devices. The wait for it counts as one only while no step is under way."""
        began = time.perf_counter()
        with self.clock(time_ledger.WAIT):
            _, batch = next(self.batches)
            on_device = meshes.to_devices(self.current.mesh, batch)
        self.clock.move(time_ledger.WAIT, time_ledger.STEPS, self.step_timer.busy_seconds(began, time.perf_counter()))
        return on_device

    def _program(self, batch: dict[str, jax.Array]) -> compiled_steps.Program:
        """The step for batches of this kind, compiled when the first one comes."""
        if batch not in self.programs:
            with self.clock(time_ledger.COMPILE):
                self.programs.compile(batch)
            self.clock.stepping()
            self.meter.restart()
        return self.programs[batch]

    def _due(self, done: int) -> bool:
        config = self.current.config
        evaluate_now = config.eval.every > 0 and done % config.eval.every == 0 and done < config.train.steps
        others = done % config.checkpoint.every == 0 or self.profiler.due(done)
        return evaluate_now or (others and done < config.train.steps)

    def _pause(self, done: int, state: TrainState, signalled: int) -> None:
        """What is due after `done` steps besides going on; `signalled`: the signal that all processes stop by, or 0."""
        config = self.current.config
        if signalled:
            self.save(state)
            self._wait_for_checkpoints()
            raise Stopped(
                f"stopped by {signal.Signals(signalled).name} after step {done} of {config.train.steps}; "
                "the state is saved, the same command continues",
                signalled,
            )
        if done % config.checkpoint.every == 0:
            self.save(state)
        if config.eval.every > 0 and done % config.eval.every == 0:
            self.evaluate(state, config.eval.splits)
        self.profiler.turn(done)
        self.meter.restart()

    def save(self, state: TrainState) -> None:
        """Starts a checkpoint of `state`, unless its step is there already."""
        with self.clock(time_ledger.CHECKPOINTS):
            at = int(state.step)
            self.clock.write()
            if at != self.checkpoints.latest():
                self.checkpoints.save(at, state, self.current.config, self.tokenizer.fingerprint)

    def _wait_for_checkpoints(self) -> None:
        with self.clock(time_ledger.CHECKPOINTS):
            self.checkpoints.wait()

    def evaluate(self, state: TrainState, splits: tuple[str, ...]) -> tuple[dict[str, float], list[Any]]:
        """Runs the task's evaluation and logs it.

        Args:
            state: the state to measure.
            splits: the splits to measure on.

        Returns:
            The metrics by name, and for each split what its pages show.
        """
        found: dict[str, float] = {}
        shown = []
        with self.clock(time_ledger.EVALUATION):
            for split in splits:
                say(f"evaluating {self.evaluation.what} on {split} ...")
                scores, what = self.evaluation.score(state.params, state.batch_stats, split)
                found |= scores
                shown.append(what)
                say(self.evaluation.one_line(scores, split))
        if found:
            self.writers.write(int(state.step), found)
        return found, shown

    def _read(self, number: int, late: PendingMetrics | None, state: TrainState) -> None:
        """Takes in the metrics of step `number`: logs them, or stops the run if the step was not finite."""
        if late is None:
            return
        values = {name: float(value) for name, value in jax.device_get(late.metrics).items()}
        if not values.pop("finite"):
            self._not_finite(number, state)
        self.clock.step_done(number + 1)
        line = self.meter.add(number + 1, values, late.model_flops, self.batches)
        if line is not None:
            say(self.meter.text(line, number + 1))
            seen = self.maker.mixture.progress((number + 1) * self.current.config.train.batch_size)
            named = {f"train/{name}": value for name, value in line.items()}
            self.writers.write(number + 1, named | {f"data/{name}": value for name, value in seen.items()})

    def _not_finite(self, number: int, state: TrainState) -> None:
        """Says which value of step `number` is not finite; under 'stop', saves the state before it and raises."""
        config = self.current.config
        if config.train.non_finite == "skip":
            say(f"step {number + 1} was skipped: its loss or gradient is not finite ({int(state.skipped)} so far)")
            return
        skipped = np.int32(self.current.recipe.skipped_before)
        before = state.replace(step=np.int32(number), skipped=skipped)
        batch = meshes.to_devices(
            self.current.mesh, {k: v for k, v in self.maker(number).items() if k != loader.REPLACED}
        )
        say("a value is not finite; looking for the first one ...")
        replicated = meshes.replicated(self.current.mesh)
        finite = jax.jit(functools.partial(step.finiteness, self.current.recipe), out_shardings=replicated)(
            before, batch
        )
        names = step.culprits(jax.device_get(finite))
        counters = {"step": before.step, "skipped": before.skipped}
        before = before.replace(**jax.device_put(counters, replicated))
        self.save(before)
        self._wait_for_checkpoints()
        raise NonFiniteError(
            f"step {number + 1} is not finite: first in {names[0] if names else 'the gradient norm'}"
            f"{f', then in {len(names) - 1} more values' if len(names) > 1 else ''}. The state before it is saved. "
            "Lower optimizer.learning_rate, set optimizer.clip_norm or model.dtype='float32', "
            "or skip such steps with train.non_finite='skip'"
        )

    def _finish(self, state: TrainState) -> dict[str, float]:
        """Final evaluation and the files a person looks at."""
        config = self.current.config
        scores, shown = self.evaluate(state, config.eval.final_splits)
        self._wait_for_checkpoints()
        spent = self.clock.account()
        result = {
            **scores,
            "train/steps": float(state.step),
            "train/pairs": float(state.step) * config.train.batch_size,
            "train/skipped_steps": float(state.skipped),
            "train/replaced_records": float(self.batches.replaced),
            "train/devices": float(self.current.mesh.size),
            **spent.fields(),
            **metrics_file.memory_gib(),
        }
        if jax.process_index() == 0:
            json_files.write_figures(self.workdir / "result.json", result)
            curves.plot_curves(self.workdir / "metrics.jsonl", self.workdir / "curves.png")
            self.evaluation.write_pages(self.workdir, shown)
            say(f"time: {spent.text()}")
            pages = sorted(page.name for page in self.workdir.glob("*.html"))
            say(f"{', '.join(['result.json', 'metrics.jsonl', 'curves.png', *pages])} are in {self.workdir}")
            say(self.evaluation.table(scores, config.eval.final_splits))
        return result
