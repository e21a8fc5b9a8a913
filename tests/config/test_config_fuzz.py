"""Mutated configurations: each is taken and keeps its meaning, or refused with every fault by the name of its field.

`python tests/config/test_config_fuzz.py [NUMBER]` prints what became of so many (default 1,000) as a table.
"""

from __future__ import annotations

import collections
import dataclasses
import random
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from conftest import tiny_dict
from ml_collections import config_dict

from wenlan_jax.core.step import FreezeError
from wenlan_jax.parallel.mesh import MeshError
from wenlan_jax.tasks import config_changes, experiment
from wenlan_jax.training import setup as runs
from wenlan_jax.util.errors import counted

NUMBER = 1000
BUILT = 60
"""Of the configurations that are taken, those whose model is traced, which takes most of a second."""

NAMES = [path for path, _, _ in experiment.fields()]
VALUES: list[Any] = [
    *(0, 1, -1, 2, 3, 7, 64, 10**6, 2**31 - 1, 2**31, 2**32, 2**63, 10**40, -(2**63)),
    *(0.0, -0.0, 0.5, 1.0, 1e-30, 1e300, -1e300, float("nan"), float("inf"), -float("inf")),
    *(
        True,
        False,
        None,
        "",
        " ",
        "zh",
        "brivl",
        "clip",
        "rank",
        "adamw",
        "[",
        "(",
        "$HOME",
        "..",
        "/",
        "\x00",
        "文澜",
        "é",
    ),
    *((), (1,), (0,), (-1,), (1, 5), (1.5,), ("zh",), ("xx",), ("",), ((3, 1, 1, 8, 1),), ((3, 1, 1),), ((),), (None,)),
    *(
        [],
        [1],
        {},
        {"source": "a"},
        [{"source": "a"}],
        ({"source": "a", "weight": 0.5},),
        {"x": {"y": 1}},
        b"bytes",
        1j,
    ),
]
EXPLAINED = (experiment.ConfigError, FreezeError, MeshError)


def mutated(seed: int) -> dict[str, Any]:
    """The tiny configuration as a plain dict with one to three faults, of which some are none."""
    rng = random.Random(seed)
    values: dict[str, Any] = tiny_dict().to_dict()
    for _ in range(rng.randint(1, 3)):
        *sections, field = rng.choice(NAMES).split(".")
        place = values
        for section in sections:
            place = place.get(section, {}) if isinstance(place, dict) else {}
        match rng.randrange(40) if isinstance(place, dict) else 0:
            case 0:
                values[rng.choice(["seed", "model", "data", "nothing"])] = rng.choice(VALUES)
            case 1:
                place.pop(field, None)
            case 2:
                place[f"{field}x"] = place.get(field)
            case 3 | 4 | 5 | 6 | 7:
                place[field] = rng.choice(VALUES)
            case _:
                place[field] = near(place.get(field), rng)
    return values


def near(value: Any, rng: random.Random) -> Any:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return rng.choice([value + 1, value - 1, 2 * value, value // 2, 0, 1, 3])
        case float():
            return rng.choice([value / 2, 2 * value, value + 0.125, 0.0, 1.0])
        case tuple():
            return rng.choice([value[1:], value + value[:1], tuple(near(item, rng) for item in value), ()])
        case str():
            return rng.choice([*(one for one in VALUES if isinstance(one, str)), value])
    return rng.choice(VALUES)


def outcome(values: dict[str, Any], build: bool) -> tuple[str, str]:
    """`taken` or `refused`, with the message of a refusal. Anything else that is raised is a bug."""
    try:
        config = experiment.parse(values)
    except experiment.ConfigError as error:
        return "refused", str(error)
    assert experiment.from_json(experiment.to_json(config)) == config
    assert config_changes.changes(dataclasses.asdict(config), config) == []
    if not build or experiment.vocabulary(config)[1] == 0:
        return "taken", ""
    try:
        runs.set_up(dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=-1)), jax.devices()[:1])
    except EXPLAINED as error:
        return "refused when built", str(error)
    return "taken and built", ""


def outcomes(number: int) -> Iterator[tuple[str, str]]:
    """Of so many configurations; the model of every few is built."""
    for seed in range(number):
        yield outcome(mutated(seed), build=seed % max(1, number // BUILT) == 0)


@pytest.mark.slow
def test_every_mutated_configuration_is_accounted_for() -> None:
    found = collections.Counter()
    for kind, message in outcomes(NUMBER):
        found[kind] += 1
        if kind == "refused":
            head, *lines = message.split("\n  ")
            assert head == f"{counted(len(lines))} in the configuration:"
            assert all(re.match(r"[\w.\[\]]+(, \.?[\w.]+)*: ", line) for line in lines), message
    assert found.total() == NUMBER
    assert found["refused"] > NUMBER / 3 and found["taken"] + found["taken and built"] > NUMBER / 5


@pytest.mark.parametrize("seed", range(0, NUMBER, 10))
def test_mutated_overrides_are_accounted_for(seed: int) -> None:
    """The same values as they are typed after a field's name."""
    rng = random.Random(seed)
    given = [f"--config.{rng.choice(NAMES)}={rng.choice(VALUES)}" for _ in range(rng.randint(1, 3))]
    try:
        config = experiment.override(config_dict.ConfigDict(tiny_dict().to_dict()), given)
    except experiment.ConfigError as error:
        head, *lines = str(error).split("\n  ")
        assert head == f"{counted(len(lines))} in the configuration:"
    else:
        assert experiment.from_json(experiment.to_json(config)) == config


def test_sizes_that_only_the_model_sees_are_told_with_their_section() -> None:
    values = tiny_dict(model__image__encoder__heads=3)
    with pytest.raises(
        experiment.ConfigError, match=r"model\.\*: this model cannot be built: Attention: a width of 64 does"
    ):
        runs.set_up(experiment.parse(values), jax.devices()[:1])


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else NUMBER
    table = collections.Counter(kind for kind, _ in outcomes(wanted))
    for name, count in table.most_common():
        print(f"{name:<20}{count:>8}")
    print(f"{'accounted':<20}{table.total():>8} of {wanted}")
