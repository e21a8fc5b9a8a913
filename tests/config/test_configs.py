"""The files of configs/: each is documented, sound and buildable; the BriVL ones have the official sizes."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import shlex
import types
from pathlib import Path

import jax
import pytest
from annotations import unchecked
from repository import CONFIGS

from wenlan_jax.config import sections
from wenlan_jax.core import trees
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import setup as runs

OTHERS = ("clean", "ablations")
"""Folders of files of another kind: for `wenlan clean`, and the tables of `wenlan sweep`."""
FILES = sorted(path for path in CONFIGS.rglob("*.py") if path.parent.name not in OTHERS or path.stem == "base")
"""Of training runs."""
HEADER = ("Command", "Hardware", "Time", "Metric")


def name_of(path: Path) -> str:
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


@functools.cache
def built(path: Path) -> Run:
    """The run of a file on one device, as shapes; a vocabulary still to be trained has its full size."""
    config = experiment.load(path)
    tokenizer = types.SimpleNamespace(size=config.tokenizer.train_size)
    if not config.tokenizer.path and experiment.vocabulary(config)[1] == 0:
        with unchecked():
            config = runs.with_vocabulary(config, tokenizer)  # type: ignore[arg-type]
    return runs.set_up(dataclasses.replace(config, mesh=sections.MeshConfig()), jax.devices()[:1])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_configuration_is_documented(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    missing = [field for field in HEADER if not re.search(rf"^{field}\s+\S", text, re.MULTILINE)]
    assert not missing
    command = re.search(r"^Command\s+(.*)", text, re.MULTILINE)
    assert command is not None
    files = re.findall(r"(?:configs|launch)/[\w./-]+", command[1])
    assert files, "the command names no file"
    assert [file for file in files if not (CONFIGS.parent / file).is_file()] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_fields_that_a_header_sets_exist_and_take_these_values(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    given = [shlex.split(found)[0] for found in re.findall(r"""--config\.[\w.]+=(?:"[^"]*"|[^\s"`,;]+)""", text)]
    experiment.load(path, given)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_configuration_builds(path: Path) -> None:
    current = built(path)
    assert trees.size(current.shapes.params) > 0
    bank = current.shapes.banks.get("text")
    assert (bank is None) == (current.config.task != "brivl")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Parameters of a tower as the official code counts them, unused ones among them, and trained ones."""

    official: int
    unused: int
    trained: int


CLASSIFIER_B5, CLASSIFIER_B7 = 2048 * 1000 + 1000, 2560 * 1000 + 1000
POOLER_BASE, POOLER_LARGE = 768 * 768 + 768, 1024 * 1024 + 1024
B5_BASE = {
    "image": Sizes(143_724_056, CLASSIFIER_B5, 140_163_280),
    "text": Sizes(130_094_848, POOLER_BASE, 56_178_688),
}
B7_LARGE = {
    "image": Sizes(232_917_432, CLASSIFIER_B7, 227_730_644),
    "text": Sizes(368_302_080, POOLER_LARGE, 93_164_544),
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("brivl_1_released", B5_BASE),
        ("brivl_2_released", B5_BASE),
        ("brivl_1", B7_LARGE),
        ("brivl_2", B7_LARGE),
    ],
)
def test_parameters_are_those_of_the_official_models(name: str, expected: dict[str, Sizes]) -> None:
    """Without the ImageNet classifier and the BERT pooler, which the official modules carry and never use."""
    current = built(CONFIGS / f"{name}.py")
    trained, _ = trees.split(current.shapes.params, current.recipe.is_trained)
    for tower, sizes in expected.items():
        assert trees.size(current.shapes.params[tower]) == sizes.official - sizes.unused
        assert trees.size(trained[tower]) == sizes.trained


def test_parameters_of_uniter_are_those_of_its_code() -> None:
    """The base model with the heads of its pretraining; ours has no second row of zeros for regions that are seen."""
    uniter = built(CONFIGS / "uniter_base.py").shapes.params["single"]
    assert trees.size(uniter) == 112_938_887 - 2048
