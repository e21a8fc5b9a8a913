"""The single tower's objectives on held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from wenlan_jax.data import loader, sources
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.shared_data import data_dir
from wenlan_jax.tasks.single_tower import baselines, data, objectives
from wenlan_jax.tasks.single_tower.batch import FIELDS, of_batch
from wenlan_jax.tasks.single_tower.input.batches import FixedBatches
from wenlan_jax.tasks.single_tower.tower import Tower


class MeasuredObjective(NamedTuple):
    """An objective in one language.

    Attributes:
        sums: of its metrics by name.
        weight: what the sums are divided by.
    """

    sums: dict[str, float]
    weight: float


class Pretraining:
    """Measures loss and accuracy of each objective and language, beside the best constant guess of the same batches.

    Args:
        run: the run.
        tokenizer: its tokenizer.
    """

    what = "the objectives"

    def __init__(self, run: Run, tokenizer: Tokenizer) -> None:
        self._run, self._tokenizer = run, tokenizer
        self._tower = Tower(run.config, run.mesh)
        self._jitted = jax.jit(self._sums, out_shardings=meshes.replicated(run.mesh))

    def score(self, params: PyTree, batch_stats: PyTree, split: str) -> tuple[dict[str, float], None]:
        """Measures a split.

        Args:
            params: the parameters of the tower.
            batch_stats: the running statistics of an image backbone, if there is one.
            split: the name of a split.

        Returns:
            `pretrain/<split>/<objective>/<metric>`, and with the language before the metric where there are several.
            `mismatched_loss` is the loss with the other side of another pair, see `objectives.mismatched`. There are no
            pages.
        """
        config, mesh = self._run.config, self._run.mesh
        source = sources.open_source(config.data.source, split, data_dir(config))
        share = meshes.share(mesh, config.eval.batch_size)
        makers = data.held_out(config, self._tokenizer, source, config.eval.languages, share)
        found: dict[str, float] = {}
        for name in dict.fromkeys(objective for objective, _ in makers):
            constant = baselines.of(name)
            parts = {
                language: self._measure(params, batch_stats, maker, constant)
                for (objective, language), maker in makers.items()
                if objective == name
            }
            place = f"pretrain/{split}/{name}"
            found |= _means(place, list(parts.values()))
            if len(parts) > 1:
                for language, part in parts.items():
                    found |= _means(f"{place}/{language}", [part])
            found |= _of_constant(place, constant, objectives.elements(config, name))
        return found, None

    def _measure(
        self, params: PyTree, batch_stats: PyTree, maker: FixedBatches, constant: baselines.Constant | None
    ) -> MeasuredObjective:
        config, mesh = self._run.config, self._run.mesh
        sums: dict[str, float] = {}
        count = len(maker) if not config.eval.batches else min(config.eval.batches, len(maker))
        with loader.Batches(maker, 0, count, config.data.workers, config.data.prefetch) as batches:
            for _, batch in batches:
                on_devices = meshes.to_devices(mesh, batch)
                if constant is not None:
                    constant.add({name: meshes.to_host(value) for name, value in on_devices.items()})
                for name, value in jax.device_get(self._jitted(params, batch_stats, on_devices)).items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        return MeasuredObjective(sums, sums.pop("weight"))

    def _sums(self, params: PyTree, batch_stats: PyTree, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        config = self._run.config
        name = of_batch(batch)
        objective = objectives.OBJECTIVES[name]
        given = objectives.ObjectiveInput(config, self._tower, params, batch_stats, batch, None)
        sums = objective.sums(given)
        found = {**sums.metrics, "loss": sums.loss, "weight": jnp.sum(objective.weights(config, batch))}
        if name in objectives.OTHER_SIDE:
            found["mismatched_loss"] = objective.sums(given._replace(batch=objectives.mismatched(name, batch))).loss
        return found

    def one_line(self, scores: Mapping[str, float], split: str) -> str:
        """Writes loss and accuracy of each objective."""
        parts = []
        for name in _objectives_in(scores, split):
            at = f"pretrain/{split}/{name}"
            accuracy = f", {scores[f'{at}/accuracy']:.1%}" if f"{at}/accuracy" in scores else ""
            parts.append(f"{name} {scores[f'{at}/loss']:.4g}{accuracy}")
        return f"{split}: " + "; ".join(parts)

    def table(self, scores: Mapping[str, float], splits: Sequence[str]) -> str:
        """Writes each objective's loss and accuracy, beside those of a constant guess and of mismatched pairs."""
        lines = []
        for split in splits:
            lines.append(f"{split:<12}{'loss':>10}{'constant':>10}{'mismatch':>10}{'accuracy':>10}{'constant':>10}")
            for name in _objectives_in(scores, split):
                at = f"pretrain/{split}/{name}"
                losses = ("loss", "constant_loss", "mismatched_loss")
                cells = [_cell(scores, f"{at}/{metric}", "{:.4f}") for metric in losses]
                cells += [_cell(scores, f"{at}/{metric}", "{:.1%}") for metric in ("accuracy", "constant_accuracy")]
                lines.append(f"{name:<12}" + "".join(f"{cell:>10}" for cell in cells))
        return "\n".join(lines)

    def write_pages(self, out: Path, found: Sequence[None]) -> None:
        """Writes nothing: `wenlan attention` draws what the tower looks at."""


def _objectives_in(scores: Mapping[str, float], split: str) -> list[str]:
    return [name for name in FIELDS if f"pretrain/{split}/{name}/loss" in scores]


def _cell(scores: Mapping[str, float], name: str, form: str) -> str:
    return form.format(scores[name]) if name in scores else ""


def _means(place: str, parts: Sequence[MeasuredObjective]) -> dict[str, float]:
    weight = sum(part.weight for part in parts)
    return {f"{place}/{name}": sum(part.sums[name] for part in parts) / weight for name in parts[0].sums}


def _of_constant(place: str, constant: baselines.Constant | None, scale: float) -> dict[str, float]:
    if constant is None:
        return {}
    accuracy = constant.accuracy()
    found = {f"{place}/constant_loss": constant.loss() / scale}
    return found if accuracy is None else found | {f"{place}/constant_accuracy": accuracy}
