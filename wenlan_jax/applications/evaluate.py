"""`wenlan eval`'s work: a checkpoint measured with its own configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax

from wenlan_jax.applications.loaded_model import SECTIONS
from wenlan_jax.checkpoints.store import CheckpointError
from wenlan_jax.config import sections
from wenlan_jax.core import trees
from wenlan_jax.parallel import compilation_cache, distributed
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks import run_evaluations
from wenlan_jax.training import data_note
from wenlan_jax.training import restore as restore
from wenlan_jax.util import json_files


def run_eval(workdir: Path, step: int | None, out: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Evaluates a checkpoint and writes result.json and pages.

    Args:
        workdir: of a training run or an import.
        step: the checkpoint; None for the newest.
        out: the folder for the results.
        overrides: `--config.field=value` each.

    Returns:
        The figures by name.
    """
    same = {"--workdir": str(workdir), "--step": step, "fields": list(overrides)}
    distributed.start(
        sections.DistributedConfig(), same
    )  # the configuration lies in a checkpoint, which needs the devices
    trained = restore.load(workdir, step, overrides, SECTIONS)
    print(distributed.introduction(trained.current.mesh), flush=True)
    compilation_cache.use_cache(trained.current.config.compilation)
    if trained.tokenizer is None:
        raise CheckpointError(f"{workdir}: was imported without a tokenizer; import again with --config.tokenizer.path")
    run_evaluations.check(trained.current.config)
    for name in data_note.differing(trained.current.config, workdir):
        say(f"note: {name} was made anew since this model was trained on it: a split may hold pairs it has seen")
    config, state = trained.current.config, trained.read("params", "batch_stats")
    say(f"checkpoint {trained.step} of {workdir}: {trees.size(state['params']):,} parameters")
    evaluation = run_evaluations.create(trained.current, trained.tokenizer)
    result: dict[str, float] = {"train/steps": float(trained.step)}
    found = []
    for split in config.eval.final_splits:
        say(f"evaluating {evaluation.what} on {split} ...")
        scores, what = evaluation.score(state["params"], state["batch_stats"], split)
        result |= scores
        found.append(what)
    if jax.process_index() == 0:
        out.mkdir(parents=True, exist_ok=True)
        json_files.write_figures(out / "result.json", result)
        evaluation.write_pages(out, found)
    say(evaluation.table(result, config.eval.final_splits))
    say(f"result.json{' and pages' if config.eval.gallery else ''} are in {out}")
    return result
