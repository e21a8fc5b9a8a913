"""`wenlan eval`: retrieval of a checkpoint, with its own configuration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from ml_collections import config_dict

from wenlan_jax import checkpoint, run, schema, train, trees
from wenlan_jax import config as configs
from wenlan_jax.eval import evaluate, report
from wenlan_jax.progress import say

SECTIONS = ("data.", "eval.", "mesh.")
"""Fields that may differ from those of the training run."""


def run_settings(saved: dict[str, object], overrides: Sequence[str]) -> schema.Config:
    """The saved configuration with the overrides, which may only concern data, evaluation and mesh."""
    outside = [field for field in overrides if not field.removeprefix("--config.").startswith(SECTIONS)]
    if outside:
        raise configs.ConfigError(f"{outside[0]}: only fields of {', '.join(SECTIONS)} can be set for an evaluation")
    # Through `parse`, as JSON has no tuples and ml_collections overrides no lists.
    return configs.override(config_dict.ConfigDict(dataclasses.asdict(configs.parse(saved))), overrides)


def run_eval(workdir: Path, step: int | None, out: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Evaluates checkpoint `step` (the newest by default) and writes result.json and the gallery into `out`."""
    place = workdir / "checkpoints"
    if not place.is_dir():
        raise checkpoint.CheckpointError(f"{workdir}: holds no checkpoints; is it the --workdir of a training run?")
    with checkpoint.Checkpoints(place, schema.Checkpoint()) as checkpoints:
        at, note = checkpoints.note(step)
        config = run_settings(note.config, overrides)
        tokenizer = train.prepare_tokenizer(config, workdir)
        current = run.set_up(config)
        wanted = {"params": current.shapes.params, "batch_stats": current.shapes.batch_stats}
        places = {"params": current.shardings.params, "batch_stats": current.shardings.batch_stats}
        _, state = checkpoints.restore(checkpoint.abstract_of(wanted, places), at)
    say(f"checkpoint {at} of {workdir}: {trees.size(state['params']):,} parameters")
    evaluator = evaluate.Evaluator(current, tokenizer)
    result: dict[str, float] = {"train/steps": float(at)}
    embedded = []
    for split in config.eval.final_splits:
        say(f"evaluating retrieval on {split} ...")
        scores, what = evaluator.score(state["params"], state["batch_stats"], split)
        result |= scores
        embedded.append(what)
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    report.write_gallery(out, config, embedded)
    say(report.table(result, config.eval.final_splits, config.eval.ks))
    return result
