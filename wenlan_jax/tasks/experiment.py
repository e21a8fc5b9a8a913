"""The configuration: defaults, validation, canonical text and hash.

Every field is declared once, with its default: in `config/sections.py`, and those of a task in its own folder. A file
in `configs/` starts from `default()`, changes what its experiment changes and returns an ml_collections
`ConfigDict`; the command line overrides single fields; `parse` checks the whole and returns the typed, frozen
`Config` that the package reads. Nothing in the package reads a field by a string or supplies a default of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import config_dict

from wenlan_jax.config import sections, settings
from wenlan_jax.config.sections import DataConfig, MeshConfig, MixturePartConfig
from wenlan_jax.tasks import registry
from wenlan_jax.tasks.schema import Config

ConfigError = settings.ConfigError


def default() -> config_dict.ConfigDict:
    """Makes a ConfigDict of the defaults, to be changed: the released BriVL 2 recipe as far as it is known."""
    return FORM.default()


def vocabulary(c: Config) -> tuple[str, int]:
    """Says how many rows the word table of the task has.

    Args:
        c: the configuration.

    Returns:
        The name of the field, and its value; 0 fits the tokenizer.
    """
    field = registry.of(c).vocabulary
    return field, settings.value_of(c, field)


def with_vocabulary(c: Config, rows: int) -> Config:
    """Sets the number of rows in the word table of the task.

    Args:
        c: the configuration.
        rows: the number of rows.

    Returns:
        The changed configuration.
    """
    return settings.replaced(c, {registry.of(c).vocabulary: rows})


def require_vocabulary(c: Config, what: str) -> None:
    """Checks that the size of the vocabulary is given, for what has no tokenizer to ask.

    Args:
        c: the configuration.
        what: who needs the size, for the message.

    Raises:
        ConfigError: if the size is left to the tokenizer.
    """
    field, rows = vocabulary(c)
    if rows == 0:
        raise ConfigError(
            f"{field}: 0 takes its rows from a tokenizer, and {what} has none; give a number of rows, e.g. "
            f"--config.{field}=2500"
        )


def require_data(c: Config) -> None:
    """Checks that a data set is named: what a model learns from has no default.

    Args:
        c: the configuration.

    Raises:
        ConfigError: if none is named.
    """
    if not c.data.source:
        raise ConfigError(
            "data.source: name a data set, e.g. --config.data.source=DIR that `wenlan pack` wrote, one of `wenlan data "
            "list`, or the drawn scenes, wenlan_scenes/s64"
            + (". data.mixture is trained on, and data.source is what is evaluated" if c.data.mixture else "")
        )


def with_length(c: Config, records: int) -> Config:
    """Works out in steps what a configuration counts in epochs.

    Args:
        c: the configuration.
        records: the number of training records.

    Returns:
        The configuration with `train.steps`, `optimizer.warmup_steps` and `eval.every` set.

    Raises:
        ConfigError: if no step is left after the warm-up, or if epochs are more steps than a run can have.
    """
    train, optimizer, evaluation = c.train, c.optimizer, c.eval
    of_epoch = records / train.batch_size
    if train.epochs:
        train = dataclasses.replace(train, steps=_steps("train.epochs", train.epochs, of_epoch))
    if optimizer.warmup_fraction:
        optimizer = dataclasses.replace(optimizer, warmup_steps=round(optimizer.warmup_fraction * train.steps))
    if evaluation.every_epochs:
        every = _steps("eval.every_epochs", evaluation.every_epochs, of_epoch)
        evaluation = dataclasses.replace(evaluation, every=every)
    if optimizer.warmup_steps >= train.steps:
        raise ConfigError(
            f"optimizer.warmup_steps: {optimizer.warmup_steps} in a run of {train.steps} steps; give "
            "optimizer.warmup_fraction instead"
        )
    return dataclasses.replace(c, train=train, optimizer=optimizer, eval=evaluation)


def _steps(field: str, epochs: float, of_epoch: float) -> int:
    """So many epochs in steps, at least one; no more than `train.steps` and `eval.every` can say."""
    steps = epochs * of_epoch
    if steps > settings.LARGEST_WHOLE:
        raise ConfigError(f"{field}: {epochs:g} epochs are {steps:.3g} steps here, and a run has at most 2^31")
    return max(1, round(steps))


def _clashes(c: Config) -> list[str]:
    """Faults that concern several fields together."""
    faults = settings.Faults()
    check = faults.check

    faults += _mixture_clashes(c.data)
    check(
        c.train.batch_size % c.train.accumulation == 0,
        "train.accumulation: must divide train.batch_size",
    )
    faults += registry.of(c).clashes(c)
    settled = not (c.train.epochs or c.optimizer.warmup_fraction)  # otherwise both are worked out later
    check(
        not settled or c.optimizer.warmup_steps < c.train.steps,
        "optimizer.warmup_steps: must be less than train.steps",
    )
    check(len(c.augment.mean) == 3 and len(c.augment.std) == 3, "augment.mean, augment.std: three numbers each")
    check(all(value > 0 for value in c.augment.std), "augment.std: must be positive")
    axes = (c.mesh.replica, c.mesh.data, c.mesh.fsdp, c.mesh.tensor)
    check(axes.count(-1) <= 1, "mesh: only one axis may be -1")
    check(0 not in axes, "mesh: an axis cannot be 0")
    default = MeshConfig()
    check(
        not c.mesh.preset or axes == (default.replica, default.data, default.fsdp, default.tensor),
        "mesh.preset: gives the sizes of all axes; leave replica, data, fsdp and tensor alone, or the preset out",
    )
    check(
        re.fullmatch(r"([1-9]\d*:[1-9]\d*)?", c.telemetry.profile) is not None,
        "telemetry.profile: FIRST:COUNT is needed, e.g. 10:5, with steps numbered from 1",
    )
    for pattern in c.model.freeze:
        try:
            re.compile(pattern)
        except re.error as error:
            faults.append(f"model.freeze: {pattern!r} is not a regular expression ({error})")
    return faults


def _mixture_clashes(data: DataConfig) -> list[str]:
    """Faults of the rules for texts and of the parts of a mixture."""
    faults: list[str] = []
    named: list[tuple[str, DataConfig | MixturePartConfig]] = [("data", data)]
    named += [(f"data.mixture[{at}]", part) for at, part in enumerate(data.mixture)]
    for path, rule in named:
        if rule.kind_choice == "any" and rule.kind_weights:
            faults.append(f"{path}.kind_weights: is for {path}.kind_choice='weighted'")
        if rule.kind_choice != "any" and not rule.kinds:
            faults.append(f"{path}.kinds: list the kinds that kind_choice={rule.kind_choice!r} chooses among")
        if rule.kind_choice == "weighted" and (
            len(rule.kind_weights) != len(rule.kinds) or min(rule.kind_weights, default=0) <= 0
        ):
            faults.append(f"{path}.kind_weights: a positive number for each of {path}.kinds is needed")
    faults += [f"data.mixture[{at}].source: name a data set" for at, part in enumerate(data.mixture) if not part.source]
    if len({part.weight > 0 for part in data.mixture}) > 1:
        faults.append("data.mixture: give every part a positive weight, or none")
    if data.mixture and (data.kinds or data.languages or data.kind_choice != "any"):
        faults.append("data.kinds, .kind_choice, .languages: with data.mixture, each part has its own; leave these out")
    return faults


FORM = settings.SettingsForm(Config, "configs/", _clashes)


def fields() -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Iterates over the leaf fields of the configuration, in the order of the schema.

    Returns:
        An iterator over dotted path, dataclass field and declared type of each.
    """
    return settings.fields(Config)


def describe(word: str = "") -> str:
    """Writes the reference of the fields: what the tags mean, the tasks, then name, default and meaning of each field.

    Args:
        word: only fields with this in their name or meaning; all by default.

    Returns:
        The text.

    Raises:
        ConfigError: no field has the word.
    """
    found = FORM.describe(word)
    if not found:
        raise ConfigError(f"no field has {word!r} in its name or meaning; `wenlan fields` lists all")
    tags = "\n".join(f"  [{tag}]".ljust(8) + meaning for tag, meaning in sections.SOURCES.items())
    tasks = "\n".join(f"  {name:8}{registry.named(name).meaning}" for name in registry.names())
    return f"Where values come from:\n{tags}\n\nTasks:\n{tasks}\n\nFields:\n{found}"


def parse(source: config_dict.ConfigDict | Mapping[str, Any]) -> Config:
    """Checks a configuration and makes it typed.

    Args:
        source: a ConfigDict, or nested mappings.

    Returns:
        The frozen configuration.

    Raises:
        ConfigError: lists every unknown, missing, mistyped or clashing field.
    """
    return FORM.parse(source)


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Loads and checks the configuration of a file; see `settings.SettingsForm.load`.

    Args:
        path: a Python file with `get_config`.
        overrides: `--config.field=value` each.

    Returns:
        The frozen configuration.

    Raises:
        ConfigError: lists what is wrong.
    """
    return FORM.load(path, overrides)


def override(base: config_dict.ConfigDict, overrides: Sequence[str]) -> Config:
    """Overrides fields of a configuration and checks it; see `settings.SettingsForm.override`.

    Args:
        base: the configuration to change.
        overrides: `--config.field=value` each.

    Returns:
        The frozen configuration.

    Raises:
        ConfigError: lists what is wrong.
    """
    return FORM.override(base, overrides)


def to_json(config: Config) -> str:
    """Writes the canonical text: every field, sorted, so that equal configurations have equal texts."""
    return _canonical(dataclasses.asdict(config))


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, sort_keys=True)


def from_json(text: str) -> Config:
    """Reads a configuration from its canonical text.

    Args:
        text: what `to_json` wrote.

    Returns:
        The configuration.

    Raises:
        ConfigError: see `parse`.
    """
    return parse(json.loads(text))


def fingerprint(config: Config) -> str:
    """Computes the first 16 hexadecimal digits of the SHA-256 of the canonical text."""
    return fingerprint_of(dataclasses.asdict(config))


def fingerprint_of(saved: Mapping[str, Any]) -> str:
    """Computes the fingerprint that the version that saved a configuration gave it.

    Args:
        saved: the saved configuration, as nested mappings.

    Returns:
        16 hexadecimal digits.
    """
    return hashlib.sha256(_canonical(saved).encode()).hexdigest()[:16]
