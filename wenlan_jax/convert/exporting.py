"""`wenlan export`: a checkpoint as an artefact for PyTorch users, run beside the JAX towers before it appears.

A format writes its files into a staging folder and returns a function that runs what it wrote. Only when that agrees
with our towers does the folder get its name, with `parity.json` in it.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wenlan_jax import __version__
from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections
from wenlan_jax.convert import EXPORT_FORMATS, UNUSED_LAYERS, example, example_proof, parity, weights
from wenlan_jax.convert.exported_model import ExportedModel, ExportError
from wenlan_jax.convert.proof import Proof, ProofFindings, TwoTowerProof
from wenlan_jax.convert.proof_single import SingleProof
from wenlan_jax.convert.requests import ExportRequest
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks import registry
from wenlan_jax.tasks.single_tower.spec import SINGLE_TOWER
from wenlan_jax.tasks.spec import TaskSpec
from wenlan_jax.tasks.two_tower.directions import read_scale
from wenlan_jax.tasks.two_tower.spec import TWO_TOWERS
from wenlan_jax.training import restore as restore

REPORT = "parity.json"
LOGIT_SCALE = "logit_scale"
"""The parameter of a learnable temperature."""

Runner = Callable[[Any], Any]
"""Runs the artefact that a format has written on the batch of a `Proof`."""

PROOFS: dict[str, Callable[[ExportedModel], Proof]] = {
    TWO_TOWERS: lambda model: TwoTowerProof(model.config, model.tower, model.shapes),
    SINGLE_TOWER: lambda model: SingleProof(model.config, model.tower),
}
"""By kind of model, what compares an artefact with the JAX model."""

Writer = Callable[[ExportedModel, Path], Runner]
"""A format: writes its files into a folder."""


def run_export(request: ExportRequest) -> None:
    """Exports a checkpoint and prints how well the artefact agrees.

    Args:
        request: what to export.

    Raises:
        ExportError: for a format that does not fit, a library that is missing, or an artefact that disagrees.
    """
    form = EXPORT_FORMATS[request.format]
    missing = [name for name in form.libraries if importlib.util.find_spec(name) is None]
    if missing:
        needed = f"--format={request.format} needs {', '.join(missing)}"
        raise ExportError(f"{needed}: pip install 'wenlan_jax[{form.extra}]'")
    if request.out.exists():
        raise ExportError(f"{request.out} exists; remove it or choose another --out")
    module, function = form.writer.split(":")
    writer = getattr(importlib.import_module(f"wenlan_jax.convert.{module}"), function)
    model = dataclasses.replace(load(request.workdir, request.step, request.dtype), license=request.license)
    _check_kind(request.format, registry.of(model.config))
    if form.tokenizer:
        _ = model.words
    say(f"checkpoint {model.step} of {request.workdir}: writing {request.format} ...")
    tolerance = parity.TOLERANCES[request.dtype] if request.tolerance is None else request.tolerance
    export(model, request.format, writer, request.out, tolerance)


def _check_kind(name: str, task: TaskSpec) -> None:
    """Raises ExportError for a format of another kind of model."""
    if EXPORT_FORMATS[name].model != task.model:
        fitting = " or ".join(other for other, form in EXPORT_FORMATS.items() if form.model == task.model)
        raise ExportError(
            f"--format={name} is for {EXPORT_FORMATS[name].model}, and this is {task.model} of task {task.name!r}; "
            + (f"choose --format={fitting}" if fitting else "no format is for these")
        )


def by_tower(params: dict[str, Any], batch_stats: dict[str, Any], suffix: str = "") -> dict[str, dict[str, Any]]:
    """Sorts trees by tower, as `ExportedModel.tower` gives them.

    Args:
        params: parameters by tower.
        batch_stats: running statistics by tower.
        suffix: added to the towers' names.

    Returns:
        `params` and `batch_stats` of each tower.
    """
    return {
        tower + suffix: {"params": params[tower]}
        | ({"batch_stats": batch_stats[tower]} if tower in batch_stats else {})
        for tower in params
    }


def load(workdir: Path, step: int | None, dtype: str) -> ExportedModel:
    """Opens the model of a work directory or of an import, on one device whatever mesh it was trained on.

    Args:
        workdir: the directory.
        step: the checkpoint; None for the newest.
        dtype: of the exported weights, `float32` or `float16`.

    Returns:
        The model; its arrays are read when they are asked for.
    """
    trained = restore.load(workdir, step, meshes.ONE_DEVICE, ("mesh.",), jax.devices()[:1])
    mesh = trained.checkpoints.note(trained.step)[1].config["mesh"]
    config = dataclasses.replace(
        trained.config, mesh=sections.MeshConfig(**mesh)
    )  # what is told is what it was trained with
    return ExportedModel(
        config=config,
        step=trained.step,
        tower=trained.tower,
        shapes={tower: trained.shapes(tower) for tower in registry.of(config).towers},
        momentum=trained.has_momentum(),
        tokenizer=trained.tokenizer,
        result=_result(workdir / "result.json"),
        unused_layers=unused_layers(workdir) or unused_layers(config.init_from),
        dtype=dtype,
        scale=_scale(trained),
        check=trained.check,
    )


def _scale(trained: restore.Trained) -> float:
    """What similarities are multiplied by: the learnt factor where one is stored, else the configuration's."""
    _, stored = trained.checkpoints.stored(trained.step)
    learnt = {path: stored[path] for path in (f"params/{LOGIT_SCALE}",) if path in stored}
    if not (learnt and trained.config.contrast.learnable_temperature):
        return 1.0 / trained.config.contrast.temperature
    _, leaves = trained.checkpoints.restore(store.on_host(learnt), trained.step)
    (leaf,) = leaves.values()
    return float(read_scale({LOGIT_SCALE: leaf}, trained.config.contrast))


def unused_layers(place: Path | str) -> dict[str, np.ndarray]:
    """Reads the layers that an official file holds beside BriVL's own weights.

    Args:
        place: the directory of an import; "" for none.

    Returns:
        The layers by key; none if `place` is no import of such a file.
    """
    path = Path(place).expanduser() / UNUSED_LAYERS
    return weights.read(path) if str(place) and path.is_file() else {}


def _result(path: Path) -> dict[str, float]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be read ({error}); remove it to export without results") from error


def export(model: ExportedModel, name: str, writer: Writer, out: Path, tolerance: float) -> dict[str, Any]:
    """Writes an export and proves it.

    Args:
        model: what is exported.
        name: of the format.
        writer: of the format.
        out: the directory to make.
        tolerance: the largest absolute difference that is accepted.

    Returns:
        What `parity.json` says.

    Raises:
        ExportError: if the artefact disagrees by more than `tolerance`; nothing is left at `out` then.
        CheckpointError: if towers are not stored whole.
    """

    staging = out.with_name(f".{out.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        proof = PROOFS[registry.of(model.config).model](model)
        run_artefact = writer(dataclasses.replace(model, tower=proof.tower), staging)
        theirs = run_artefact(proof.batch)
        findings = proof.compare(theirs)
        report = check(model, name, findings, tolerance)
        if isinstance(proof.batch, parity.FixedBatch) and (staging / example.FILE).is_file():
            report["example"] = example_proof.check(model, staging, proof.batch, theirs)
        (staging / REPORT).write_text(json.dumps(report, indent=1) + "\n")
        staging.rename(out)
    except Exception:
        # Weights that are missing or of another shape make anything fail; this names them all.
        model.check()
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for line in findings.lines[:-1]:
        say(line)
    say(f"{findings.lines[-1]}; {out} is ready")
    return report


def check(model: ExportedModel, name: str, findings: ProofFindings, tolerance: float) -> dict[str, Any]:
    """Makes the report on an artefact.

    Args:
        model: what is exported.
        name: of the format.
        findings: the comparison.
        tolerance: the largest difference that is accepted.

    Returns:
        The report.

    Raises:
        ExportError: above the tolerance.
    """
    report = {
        "format": name,
        "dtype": model.dtype,
        "tolerance": tolerance,
        "items": findings.items,
        **findings.figures,
        "step": model.step,
        "wenlan_jax": __version__,
        "jax": jax.__version__,
    }
    worst = float(np.max(list(findings.differences.values())))  # NaN if any is
    if not worst <= tolerance:
        each = ", ".join(f"{what} {difference:.2e}" for what, difference in findings.differences.items())
        raise ExportError(
            f"the exported {name} artefact differs from the JAX towers by {worst:.2e} ({each}), more than"
            f" {tolerance:.0e}; nothing was left behind"
        )
    return report
