"""The tables of configs/ablations/: every row can be run, and rows of one table differ in what its title says alone."""

from __future__ import annotations

import dataclasses
import functools
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import pytest
from annotations import unchecked
from repository import CONFIGS

from wenlan_jax.config import sections as schema
from wenlan_jax.core import trees
from wenlan_jax.sweep import batch_size, plan
from wenlan_jax.sweep.table import Row, TableError, TableFile, load
from wenlan_jax.tasks import experiment
from wenlan_jax.training import setup as runs

ABLATIONS = CONFIGS / "ablations"
BASE = ABLATIONS / "base.py"
FILES = sorted(path for path in ABLATIONS.glob("*.py") if path != BASE)

IN_PAIRS = {"train.steps", "checkpoint.every", "eval.every", "contrast.bank_from_step", "optimizer.warmup_steps"}
BERT = "model.text.bert"
REGIONS = "model.image.regions"
VARIED = {
    "attention_block": {"model.image.encoder.layers", "model.text.encoder.layers"},
    "batch_norm": {"model.image.batch_norm.mode", "model.image.batch_norm.group_size"},
    "batch_size": {"task", "train.batch_size", "optimizer.learning_rate", *IN_PAIRS},
    "batch_size_steps": {"task", "train.batch_size", "optimizer.learning_rate", *IN_PAIRS},
    "captions": {"data.kinds", "data.kind_choice", "data.kind_weights"},
    "clip": {"task", "contrast.learnable_temperature", "train.steps", "checkpoint.every"},
    "coordinates": {f"{REGIONS}.coordinates", f"{REGIONS}.kind", f"{REGIONS}.boxes"},
    "false_negatives": {"contrast.mask_false_negatives", "contrast.bank_size"},
    "in_batch": {"contrast.in_batch_negatives", "contrast.bank_from_step"},
    "momentum": {"contrast.momentum"},
    "multi_label": {"contrast.multi_label_top_k"},
    "queue": {"contrast.bank_size", "contrast.bank_from_step"},
    "regions": {f"{REGIONS}.{name}" for name in ("kind", "grid", "boxes", "whole_image")},
    "temperature": {"contrast.temperature", "contrast.learnable_temperature"},
    "text_encoder": {f"{BERT}.width", f"{BERT}.layers", f"{BERT}.feed_forward"},
    "unfrozen_blocks": {"model.freeze", "model.random_frozen"},
}
"""The fields that the rows of each table may differ in."""


@functools.cache
def table(path: Path) -> TableFile:
    return load(path)


@functools.cache
def base() -> experiment.Config:
    return experiment.load(BASE)


def config_of(row: Row) -> experiment.Config:
    return plan.with_overrides(base(), row.overrides)


def values(config: experiment.Config) -> dict[str, Any]:
    return dict(leaves(dataclasses.asdict(config)))


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_every_table_is_known() -> None:
    assert {path.stem for path in FILES} == VARIED.keys()


def test_all_tables_can_be_planned_together() -> None:
    """Every field exists and fits, no clash, and what is reported is not seen while training."""
    made = plan.make([table(path) for path in FILES])
    assert len(made.runs) < sum(3 * len(table(path).table.rows) for path in FILES)  # what tables share is run once


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rows_differ_in_what_the_title_says_alone(path: Path) -> None:
    rows = table(path).table.rows
    assert all(table(path).base(row).resolve() == BASE for row in rows)
    found = [values(config_of(row)) for row in rows]
    differing = {name for name in found[0] if any(one[name] != found[0][name] for one in found)}
    assert differing == VARIED[path.stem]
    assert len({experiment.fingerprint(config_of(row)) for row in rows}) == len(rows)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_table_says_what_it_tests_and_reports_at_least_three_seeds(path: Path) -> None:
    file = table(path)
    for heading in ("Tested", "Measured"):
        assert re.search(rf"^{heading}\s+\S", file.statement, re.MULTILINE), heading
    assert len(file.table.seeds) >= 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_base_is_a_row_of_every_table(path: Path) -> None:
    assert experiment.fingerprint(base()) in {experiment.fingerprint(config_of(row)) for row in table(path).table.rows}


@pytest.mark.parametrize("name", ["batch_size", "batch_size_steps"])
def test_rows_of_other_batch_sizes_keep_every_share_of_the_run(name: str) -> None:
    """Warm-up, the banks' start, the curve and the learning rate are those of the base, by pairs and by batch."""
    for row in table(ABLATIONS / f"{name}.py").table.rows:
        found = config_of(row)
        ratio = found.train.batch_size / base().train.batch_size
        longer = found.train.steps / base().train.steps
        for field in IN_PAIRS:
            if field == "contrast.bank_from_step" and row.name.endswith("no bank"):
                continue  # it never counts, see below
            assert values(found)[field] == values(base())[field] * longer, (row.name, field)
        assert found.optimizer.learning_rate == pytest.approx(base().optimizer.learning_rate * min(ratio, 1) ** 0.5)
        assert found.contrast.bank_size == base().contrast.bank_size


def test_rows_of_other_batch_sizes_see_the_pairs_and_steps_that_they_say() -> None:
    most = 256 * base().train.steps
    for name in ("batch_size", "batch_size_steps"):
        for row in table(ABLATIONS / f"{name}.py").table.rows:
            train = config_of(row).train
            pairs = train.steps * train.batch_size
            if name == "batch_size":
                assert pairs == base().train.steps * base().train.batch_size
            elif row.name.endswith("pairs"):
                assert pairs == most and f"{pairs:,} pairs" in row.name
            else:
                assert train.steps == base().train.steps


def test_a_share_that_is_no_whole_number_of_steps_is_refused() -> None:
    with pytest.raises(TableError, match=r"train\.steps: its share of 15,360 pairs is no whole number of steps of 7"):
        batch_size.resized(base(), 7, 15_360)


@pytest.mark.slow
def test_the_model_of_every_row_can_be_built() -> None:
    """A configuration may be sound field by field and still describe a model that cannot be."""
    rows = (row for path in FILES for row in table(path).table.rows)
    models = {(found.task, found.model): found for found in map(config_of, rows)}
    assert len(models) > 15
    for found in models.values():
        with unchecked():
            sized = runs.with_vocabulary(found, types.SimpleNamespace(size=found.tokenizer.train_size))  # type: ignore[arg-type]
        current = runs.set_up(dataclasses.replace(sized, mesh=schema.MeshConfig()), jax.devices()[:1])
        assert trees.size(current.shapes.params) > 0


def test_banks_that_never_count_start_after_the_last_step() -> None:
    never = (("queue", "no bank"), ("in_batch", "batch alone"), ("batch_size", "BriVL, batch 16, no bank"))
    for name, label in never:
        row = next(row for row in table(ABLATIONS / f"{name}.py").table.rows if row.name == label)
        assert config_of(row).contrast.bank_from_step >= config_of(row).train.steps


def test_the_results_page_has_a_section_for_every_table() -> None:
    """With the statement, the command and the figures, or the words that there are none."""
    text = (ABLATIONS / "RESULTS.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for path in FILES:
        section = sections[table(path).table.title]
        assert f"wenlan sweep configs/ablations/{path.name}" in section
