"""`wenlan export`: a checkpoint as an artefact for PyTorch users, run beside the JAX towers before it appears.

A format writes its files into a staging folder and returns a function that runs what it wrote. Only when that agrees
with our towers does the folder get its name, with `parity.json` in it.
"""

from __future__ import annotations

import argparse
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

from wenlan_jax import __version__, host_memory, restore, schema
from wenlan_jax.convert import EXPORT_FORMATS, UNUSED_LAYERS, parity, weights
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.mesh import AXES
from wenlan_jax.progress import say

ONE_DEVICE = tuple(f"--config.mesh.{axis}=1" for axis in AXES) + ("--config.mesh.preset=",)
"""An export needs no mesh: checkpoints of any mesh are read onto one device."""

REPORT = "parity.json"


class ExportError(RuntimeError):
    """An export that was refused, or whose result does not agree with the JAX towers."""


@dataclasses.dataclass(frozen=True)
class Model:
    """What there is to export.

    tower: reads the `params` and `batch_stats` of a tower, `image`, `text` or their `_momentum` copies. It reads anew
        each time, so that an export holds no more than it is working on.
    momentum: whether there are momentum towers.
    tokenizer: None where none was configured; only formats that hold one ask for it.
    result: the newest `result.json` of the run, empty without one.
    unused_layers: what an official file that the run started from holds beside BriVL's own weights.
    dtype: of the exported weights, `float32` or `float16`.
    """

    config: schema.Config
    step: int
    tower: Callable[[str], dict[str, Any]]
    momentum: bool
    tokenizer: Tokenizer | None
    result: dict[str, float]
    unused_layers: dict[str, np.ndarray]
    dtype: str

    @property
    def words(self) -> Tokenizer:
        """The tokenizer. Raises ExportError where there is none."""
        if self.tokenizer is None:
            raise ExportError(
                "this format holds a tokenizer, and this checkpoint was imported without one: import again with "
                "--config.tokenizer.path, or export with --format=brivl"
            )
        return self.tokenizer


Runner = Callable[[parity.FixedBatch], parity.Embeddings]
"""Runs the artefact that a format has written."""

Writer = Callable[[Model, Path], Runner]
"""A format: writes its files into a folder."""


def run(arguments: argparse.Namespace) -> int:
    """Runs `wenlan export` with parsed arguments and returns the exit status."""
    form = EXPORT_FORMATS[arguments.format]
    missing = [name for name in form.libraries if importlib.util.find_spec(name) is None]
    if missing:
        needed = f"--format={arguments.format} needs {', '.join(missing)}"
        raise ExportError(f"{needed}: pip install 'wenlan_jax[{form.extra}]'")
    if arguments.out.exists():
        raise ExportError(f"{arguments.out} exists; remove it or choose another --out")
    writer = importlib.import_module(f"wenlan_jax.convert.export_{arguments.format}").write
    model = load(arguments.workdir, arguments.step, arguments.dtype)
    if form.tokenizer:
        _ = model.words
    say(f"checkpoint {model.step} of {arguments.workdir}: writing {arguments.format} ...")
    export(model, arguments.format, writer, arguments.out, arguments.tolerance or parity.TOLERANCES[arguments.dtype])
    return 0


def by_tower(params: dict[str, Any], batch_stats: dict[str, Any], suffix: str = "") -> dict[str, dict[str, Any]]:
    """Trees by tower, as `Model.tower` gives them, under the towers' names and `suffix`."""
    return {
        tower + suffix: {"params": params[tower]}
        | ({"batch_stats": batch_stats[tower]} if tower in batch_stats else {})
        for tower in params
    }


def load(workdir: Path, step: int | None, dtype: str) -> Model:
    """The model of a work directory or of an import, on one device whatever mesh it was trained on."""
    trained = restore.load(workdir, step, ONE_DEVICE, ("mesh.",), jax.devices()[:1])
    config = trained.current.config
    return Model(
        config=config,
        step=trained.step,
        tower=trained.tower,
        momentum=trained.current.shapes.momentum is not None,
        tokenizer=trained.tokenizer,
        result=_result(workdir / "result.json"),
        unused_layers=unused_layers(workdir) or unused_layers(config.init_from),
        dtype=dtype,
    )


def unused_layers(place: Path | str) -> dict[str, np.ndarray]:
    """Layers that an official file holds beside BriVL's own weights, kept by the import at `place`, if it is one."""
    path = Path(place).expanduser() / UNUSED_LAYERS
    return weights.read(path) if str(place) and path.is_file() else {}


def _result(path: Path) -> dict[str, float]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be read ({error}); remove it to export without results") from error


def export(model: Model, name: str, writer: Writer, out: Path, tolerance: float) -> dict[str, Any]:
    """Writes `out` in one format and returns what `parity.json` says.

    Raises ExportError, and leaves nothing at `out`, if the artefact disagrees by more than `tolerance`.
    """
    staging = out.with_name(f".{out.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        batch = parity.fixed_batch(model.config)
        ours = Witness(model, batch)
        run_artefact = writer(dataclasses.replace(model, tower=ours.tower), staging)
        host_memory.release_freed_memory()
        report = check(model, name, ours.embeddings(), run_artefact(batch), tolerance)
        (staging / REPORT).write_text(json.dumps(report, indent=1) + "\n")
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for side in parity.Embeddings._fields:
        figures = report[side]
        say(
            f"{side}: largest difference {figures['largest_difference']:.1e}, least cosine {min(figures['cosine']):.7f}"
        )
    say(f"ranking agreement {report['ranking']:.4f}; {out} is ready")
    return report


class Witness:
    """Embeds the batch with each query tower as the writer reads it, so that no tower is read twice."""

    def __init__(self, model: Model, batch: parity.FixedBatch) -> None:
        self._model, self._batch = model, batch
        self._seen: dict[str, np.ndarray] = {}

    def tower(self, name: str) -> dict[str, Any]:
        """What `Model.tower` gives."""
        variables = self._model.tower(name)
        if name in parity.Embeddings._fields and name not in self._seen:
            self._seen[name] = parity.jax_embedding(self._model.config, name, variables, self._batch)
            host_memory.release_freed_memory()
        return variables

    def embeddings(self) -> parity.Embeddings:
        """Those of both towers; one that the writer did not ask for is read now."""
        for name in set(parity.Embeddings._fields) - set(self._seen):
            self.tower(name)
        return parity.Embeddings(**self._seen)


def check(
    model: Model, name: str, ours: parity.Embeddings, theirs: parity.Embeddings, tolerance: float
) -> dict[str, Any]:
    """The report on the artefact's embeddings beside ours; raises ExportError above the tolerance."""
    image, text, ranking = parity.compare(ours, theirs)
    report = {
        "format": name,
        "dtype": model.dtype,
        "tolerance": tolerance,
        "items": len(ours.image),
        "image": dataclasses.asdict(image),
        "text": dataclasses.asdict(text),
        "ranking": ranking,
        "step": model.step,
        "wenlan_jax": __version__,
        "jax": jax.__version__,
    }
    worst = float(np.max([image.largest_difference, text.largest_difference]))  # NaN if either is
    if not worst <= tolerance:
        raise ExportError(
            f"the exported {name} artefact differs from the JAX towers by {worst:.2e} (images"
            f" {image.largest_difference:.2e}, texts {text.largest_difference:.2e}), more than {tolerance:.0e};"
            " nothing was left behind"
        )
    return report
