"""The training loop, written once for all tasks.

Order of operations of `train`:

 1. tokenizer, then the shapes and shardings of the state; nothing large exists yet
 2. the newest checkpoint of the work directory, after its configuration and its leaves were compared with ours,
    or a fresh state, which takes over the weights of `init_from`
 3. the data from that step on, and the compiled step
 4. for every step s: batch s is on the devices -> step s is dispatched -> the metrics of step s - 1 are read, while
    s computes -> log, evaluation and checkpoint where they are due
 5. the last checkpoint, evaluation of the final splits, result.json, pictures

Metrics are therefore read one step late, and a step that is not finite is noticed one step late. The state is safe
all the same: such a step changes nothing, and under `train.non_finite='stop'` neither does any step after it.

A batch is a function of (seed, step) and randomness of (seed, stream, step), so that a run that was stopped, killed
or resumed ends in the same bits as one that was not.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wenlan_jax import __version__, checkpoint, curves, metrics, run, schema, step, trees, warm_start
from wenlan_jax import config as configs
from wenlan_jax import mesh as meshes
from wenlan_jax.data import loader, order, sources, text, vocab
from wenlan_jax.eval import evaluate, report
from wenlan_jax.progress import Meter, say
from wenlan_jax.state import TrainState
from wenlan_jax.stopping import Stopped, StopSignal

TOKENIZER = "tokenizer.model"
"""In the work directory: the vocabulary trained for a run that was configured without one."""


class NonFiniteError(RuntimeError):
    """A loss or a gradient was not finite, and the configuration says to stop."""


def train(config: schema.Config, workdir: Path) -> dict[str, float]:
    """Trains to the end, from the newest checkpoint in `workdir` if there is one; returns the final metrics.

    Raises Stopped after a signal, NonFiniteError, CheckpointError, and the errors of configuration and data.
    """
    ledger = metrics.Ledger()
    workdir.mkdir(parents=True, exist_ok=True)
    say(f"wenlan {__version__}, {jax.device_count()} device(s) ({jax.default_backend()}), work directory {workdir}")
    tokenizer = prepare_tokenizer(config, workdir)
    config = run.with_vocabulary(config, tokenizer)
    say(f"configuration {configs.fingerprint(config)}, task {config.task}, seed {config.seed}")
    current = run.set_up(config)
    with (
        checkpoint.Checkpoints(workdir / "checkpoints", config.checkpoint) as checkpoints,
        StopSignal() as stop,
    ):
        with ledger("initialise or restore"):
            state = start_state(current, checkpoints, tokenizer)
        recipe = dataclasses.replace(current.recipe, skipped_before=int(state.skipped))
        current = dataclasses.replace(current, recipe=recipe)
        loop = Loop(current, workdir, tokenizer, checkpoints, ledger, stop)
        return loop.run(state)


def prepare_tokenizer(config: schema.Config, workdir: Path) -> text.Tokenizer:
    """The tokenizer of the configuration, or one trained on the training texts and kept in `workdir`."""
    tokenizer = saved_tokenizer(config, workdir)
    return train_tokenizer(config, workdir / TOKENIZER) if tokenizer is None else tokenizer


def saved_tokenizer(config: schema.Config, workdir: Path) -> text.Tokenizer | None:
    """The tokenizer of the configuration, or the one that a run has trained and left in `workdir`, if there is one."""
    settings = config.tokenizer
    if settings.path:
        return text.load_tokenizer(Path(settings.path).expanduser(), settings.lower_case)
    return text.load_tokenizer(workdir / TOKENIZER) if (workdir / TOKENIZER).exists() else None


def train_tokenizer(config: schema.Config, path: Path) -> text.Tokenizer:
    """Trains a vocabulary on the training texts and keeps it at `path`."""
    settings = config.tokenizer
    if jax.process_count() > 1:
        raise configs.ConfigError(
            "tokenizer.path: a run of several processes needs a vocabulary; make one with `wenlan vocab`"
        )
    say(f"training a vocabulary of {settings.train_size} pieces on the training texts ...")
    source = sources.open_source(config.data.source, config.data.train_split, run.data_dir(config))
    wanted = loader.Wanted(config.data.kinds, config.data.languages)
    found = (item.text.text for item in loader.list_texts(source, wanted))
    try:
        vocab.train_sentencepiece(
            found,
            path,
            settings.train_size,
            settings.character_coverage,
            settings.train_texts,
            settings.algorithm,
            settings.split_han,
        )
    except vocab.VocabularySizeError as error:
        raise configs.ConfigError(f"tokenizer.train_size: {error}") from error
    return text.load_tokenizer(path)


def start_state(current: run.Run, checkpoints: checkpoint.Checkpoints, tokenizer: text.Tokenizer) -> TrainState:
    """The newest checkpoint's state, if it fits this configuration, or a fresh one, with the weights of `init_from`."""
    if checkpoints.latest() is None:
        say(f"a new run: {describe_parameters(current)}")
        if current.config.init_from:
            return warm_start.load(current, tokenizer.fingerprint)
        return run.fresh_state(current)
    at, note = checkpoints.note()
    changed = configs.changes(note.config, current.config)
    if note.tokenizer != tokenizer.fingerprint:
        changed.append("the tokenizer's file is another one")
    if changed and not current.config.checkpoint.accept_changes:
        raise checkpoint.CheckpointError(
            f"checkpoint {at} under {checkpoints.directory} was made by another configuration:\n  "
            + "\n  ".join(changed)
            + "\nUse another --workdir, or --config.checkpoint.accept_changes=true to go on with the new values"
        )
    _, state = checkpoints.restore(checkpoint.abstract_of(current.shapes, current.shardings))
    say(f"resumed at step {at}: {describe_parameters(current)}")
    return state


def describe_parameters(current: run.Run) -> str:
    """How many parameters each tower has, and how many of them are trained."""
    trained, _ = trees.split(current.shapes.params, current.recipe.is_trained)
    parts = []
    for tower in ("image", "text"):
        whole, part = trees.size(current.shapes.params[tower]), trees.size(trained[tower])
        parts.append(f"{tower} tower {whole:,} parameters ({part:,} trained)")
    return ", ".join(parts)


def train_maker(config: schema.Config, tokenizer: text.Tokenizer) -> loader.TrainBatches:
    """This process's part of every training batch."""
    source = sources.open_source(config.data.source, config.data.train_split, run.data_dir(config))
    return loader.TrainBatches(
        source=source,
        tokenizer=tokenizer,
        order=order.Order(len(source), config.seed, shuffle=True),
        batch_size=config.train.batch_size,
        process=jax.process_index(),
        processes=jax.process_count(),
        pictures=evaluate.pictures(config),
        wanted=loader.Wanted(config.data.kinds, config.data.languages),
        text_length=config.data.text_length,
        bad_records=config.data.bad_records,  # type: ignore[arg-type]
    )


@dataclasses.dataclass
class Loop:
    """The running parts of one training; `run` goes through the steps."""

    current: run.Run
    workdir: Path
    tokenizer: text.Tokenizer
    checkpoints: checkpoint.Checkpoints
    ledger: metrics.Ledger
    stop: StopSignal

    def run(self, state: TrainState) -> dict[str, float]:
        """Steps from `state` to the configured end, then the final evaluation."""
        config = self.current.config
        first = int(state.step)
        self.maker = train_maker(config, self.tokenizer)
        self.evaluator = evaluate.Evaluator(self.current, self.tokenizer)
        say(
            f"{self.maker.source.name}: {len(self.maker.source):,} training records; step {first} of "
            f"{config.train.steps}, {config.train.batch_size} pairs a step"
        )
        self.writer = metrics.MetricsWriter(self.workdir, first) if jax.process_index() == 0 else None
        try:
            state = self._steps(state, first)
            self.save(state)
            return self._finish(state)
        finally:
            if self.writer:
                self.writer.close()

    def _steps(self, state: TrainState, first: int) -> TrainState:
        config, end = self.current.config, self.current.config.train.steps
        self.meter = Meter(config, first)
        with loader.train_batches(self.maker, first, config.data.workers, config.data.prefetch) as batches:
            self.batches, compiled, late = batches, None, None
            for number in range(first, end):
                with self.ledger("wait for data"):
                    _, batch = next(batches)
                with self.ledger("to devices"):
                    on_device = meshes.to_devices(self.current.mesh, batch)
                if compiled is None:
                    compiled = self._compile(on_device)
                with self.ledger("steps"):
                    state, fresh = compiled(state, on_device)
                    self._read(number - 1, late, state)
                late = fresh
                if self.stop.number or self._due(number + 1):
                    with self.ledger("steps"):
                        self._read(number, late, state)
                    late = None
                    self._pause(number + 1, state)
            with self.ledger("steps"):
                self._read(end - 1, late, state)
            return state

    def _compile(self, batch: dict[str, jax.Array]) -> Any:
        say("compiling the training step, once a start ...")
        with self.ledger("compile"):
            began = time.perf_counter()
            compiled = run.compile_step(self.current, batch)
            say(f"compiled in {time.perf_counter() - began:.0f} s")
        self.meter.restart()
        return compiled

    def _due(self, done: int) -> bool:
        config = self.current.config
        evaluate_now = config.eval.every > 0 and done % config.eval.every == 0 and done < config.train.steps
        return evaluate_now or (done % config.checkpoint.every == 0 and done < config.train.steps)

    def _pause(self, done: int, state: TrainState) -> None:
        """What is due after `done` steps besides going on."""
        config = self.current.config
        if self.stop.number:
            self.save(state)
            self.checkpoints.wait()
            raise Stopped(
                f"stopped by {signal.Signals(self.stop.number).name} after step {done} of {config.train.steps}; "
                "the state is saved, the same command continues",
                self.stop.number,
            )
        if done % config.checkpoint.every == 0:
            self.save(state)
        if config.eval.every > 0 and done % config.eval.every == 0:
            self.evaluate(state, config.eval.splits)
        self.meter.restart()

    def save(self, state: TrainState) -> None:
        """Starts a checkpoint of `state`, unless its step is there already."""
        with self.ledger("checkpoints"):
            at = int(state.step)
            if at != self.checkpoints.latest():
                self.checkpoints.save(at, state, self.current.config, self.tokenizer.fingerprint)

    def evaluate(self, state: TrainState, splits: tuple[str, ...]) -> tuple[dict[str, float], list[evaluate.Embedded]]:
        """Retrieval on `splits`, logged."""
        found: dict[str, float] = {}
        embedded = []
        with self.ledger("evaluation"):
            for split in splits:
                say(f"evaluating retrieval on {split} ...")
                scores, what = self.evaluator.score(state.params, state.batch_stats, split)
                found |= scores
                embedded.append(what)
                say(report.one_line(scores, split))
        if self.writer and found:
            self.writer.write(int(state.step), found)
        return found, embedded

    def _read(self, number: int, late: dict[str, jax.Array] | None, state: TrainState) -> None:
        """Takes in the metrics of step `number`: logs them, or stops the run if the step was not finite."""
        if late is None:
            return
        values = {name: float(value) for name, value in jax.device_get(late).items()}
        if not values.pop("finite"):
            self._not_finite(number, state)
        line = self.meter.add(number + 1, values, self.batches)
        if line is not None:
            say(self.meter.text(line, number + 1))
            if self.writer:
                self.writer.write(number + 1, {f"train/{name}": value for name, value in line.items()})

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
        finite = jax.jit(functools.partial(step.finiteness, self.current.recipe))(before, batch)
        names = step.culprits(jax.device_get(finite))
        counters = {"step": before.step, "skipped": before.skipped}
        before = before.replace(**jax.device_put(counters, meshes.replicated(self.current.mesh)))
        self.save(before)
        self.checkpoints.wait()
        raise NonFiniteError(
            f"step {number + 1} is not finite: first in {names[0] if names else 'the gradient norm'}"
            f"{f', then in {len(names) - 1} more values' if len(names) > 1 else ''}. The state before it is saved. "
            "Lower optimizer.learning_rate, set optimizer.clip_norm or model.dtype='float32', "
            "or skip such steps with train.non_finite='skip'"
        )

    def _finish(self, state: TrainState) -> dict[str, float]:
        """Final evaluation and the files a person looks at."""
        config = self.current.config
        scores, embedded = self.evaluate(state, config.eval.final_splits)
        self.checkpoints.wait()
        result = {
            **scores,
            "train/steps": float(state.step),
            "train/pairs": float(state.step) * config.train.batch_size,
            "train/skipped_steps": float(state.skipped),
            "train/replaced_records": float(self.batches.replaced),
            **{f"seconds/{name.replace(' ', '_')}": value for name, value in self.ledger.summary().items()},
            **metrics.memory_gib(),
        }
        if jax.process_index() == 0:
            (self.workdir / "result.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
            curves.plot_curves(self.workdir / "metrics.jsonl", self.workdir / "curves.png")
            report.write_gallery(self.workdir, config, embedded)
            spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.ledger.summary().items())
            say(f"time: {spent}")
            say(f"result.json, metrics.jsonl, curves.png and gallery.html are in {self.workdir}")
            say(report.table(scores, config.eval.final_splits, config.eval.ks))
        return result
