"""What the table of weights of an image backbone gives to `wenlan import` and `wenlan export`.

`tasks/two_tower/backbones.py` lists the backbones. Each has a module here with a `CONVERSION`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from wenlan_jax.convert import weights
from wenlan_jax.convert.bert import DESCRIPTION, read_description
from wenlan_jax.convert.rules import ConversionError, WeightRule, WeightTable
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower import backbones

Family = TypeVar("Family", bound=str)

Fields = dict[str, Any]
"""Values by dotted path of the configuration."""

SCOPE = "image/{collection}/backbone/"
"""Of the Flax paths of an image backbone."""

PROCESSOR = "preprocessor_config.json"
"""Beside weights of Hugging Face: how images are prepared."""


@dataclasses.dataclass(frozen=True)
class BackboneWeights:
    """Weights of a backbone, ready to be converted.

    Attributes:
        state: arrays by key; what the module has in another form is changed.
        table: the rules for them.
        faults: what they would be computed with otherwise than the configuration says, one message each.
        unchecked: what nothing tells about them, in words; "" if all is known.
    """

    state: weights.StateDict
    table: WeightTable
    faults: Sequence[str]
    unchecked: str


class Conversion(NamedTuple):
    """The table of weights of an image backbone.

    Attributes:
        detect: finds the layout of keys; raises ConversionError for keys of another network.
        read: prepares weights for a configuration whose architecture is this; takes the arrays, the configuration and
            the file, whose neighbours say more. Raises ConversionError for weights that no configuration can take.
        sizes: the fields that weights settle, from the arrays, the file and the configuration that is changed.
        rules: those of our own exports, from the prefix of the keys and the scope of the Flax paths, with
            `{collection}` for the name of the collection.
        architecture: the sizes of a module, as `torch_modules` wants them.
    """

    detect: Callable[[Iterable[str]], Any]
    read: Callable[[weights.StateDict, experiment.Config, Path], BackboneWeights]
    sizes: Callable[[weights.StateDict, Path, experiment.Config], Fields]
    rules: Callable[[str, str], list[WeightRule]]
    architecture: Callable[[Any], Any]


def of(name: str) -> Conversion:
    """Finds the table of the backbone of a name."""
    found: Conversion = backbones.BACKBONES[name].conversion.resolve()
    return found


def sole_prefix(keys: Iterable[str], stems: Mapping[Family, str], what: str) -> tuple[Family, str]:
    """Finds whose names keys have, by a key that each family of names has once.

    Args:
        keys: of a state dict.
        stems: that key by family, without what may stand before it.
        what: the network, for messages.

    Returns:
        The family, and what stands before all its keys.

    Raises:
        ConversionError: if they hold no such key, or several.
    """
    found = [
        (family, key.removesuffix(stem))
        for key in keys
        for family, stem in stems.items()
        if key == stem or key.endswith("." + stem)
    ]
    if not found:
        raise ConversionError(f"not {what}: no key ends in {' or '.join(stems.values())}")
    if len(found) > 1:
        places = ", ".join(sorted(prefix or "the top level" for _, prefix in found))
        raise ConversionError(f"several image networks, under {places}: give a file with one of them")
    return found[0]


def size_faults(settings: Any, path: str, found: Mapping[str, Any]) -> list[str]:
    """Lists where a section has other sizes than weights.

    Args:
        settings: the section.
        path: its dotted path.
        found: what the weights have, by field.

    Returns:
        One message a field.
    """
    return [
        f"these weights have {field}={value}; set {path}.{field}={value!r}, which is {getattr(settings, field)!r}"
        for field, value in found.items()
        if getattr(settings, field) != value
    ]


def normalisation(source: Path) -> dict[str, tuple[float, ...]]:
    """Reads how images were normalised, from what lies beside weights.

    Args:
        source: a directory of weights, or a file of them.

    Returns:
        `mean` and `std` by channel, those that `config.json` of timm or `preprocessor_config.json` say.

    Raises:
        ConversionError: for a file that cannot be read.
    """
    inner = read_description(source).get("pretrained_cfg")
    told = inner if isinstance(inner, Mapping) else {}
    path = (source if source.is_dir() else source.parent) / PROCESSOR
    if path.is_file():
        try:
            stored = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise ConversionError(f"{path} is not a JSON object ({error}); download it again") from error
        told = {name: stored[f"image_{name}"] for name in ("mean", "std") if f"image_{name}" in stored} or told
    return {name: tuple(told[name]) for name in ("mean", "std") if isinstance(told.get(name), list | tuple)}


def normalisation_faults(source: Path, config: experiment.Config) -> list[str]:
    """Lists where `augment.mean` and `augment.std` differ from what lies beside weights."""
    return [
        f"{DESCRIPTION} or {PROCESSOR} says that images are normalised by {name}={values}; set augment.{name} so, "
        f"which is {tuple(getattr(config.augment, name))}"
        for name, values in normalisation(source).items()
        if tuple(getattr(config.augment, name)) != values
    ]


def said_otherwise(description: Mapping[str, Any], computed: Mapping[str, tuple[Any, ...]], what: str) -> list[str]:
    """Lists what a `config.json` asks of a network that ours does not compute.

    Args:
        description: the fields of `config.json`.
        computed: the values that are computed, by field.
        what: our network, for messages.

    Returns:
        One message a fault.
    """
    return [
        f"{DESCRIPTION} says {field}={description[field]}; {what} computes {values[0]} only"
        for field, values in computed.items()
        if field in description and description[field] not in values
    ]


def called(description: Mapping[str, Any], said: Mapping[str, str], source: Path, pattern: str) -> str:
    """Finds what a network is called: by its config.json, the metadata of its file, or the names of file and folder.

    Args:
        description: the fields of config.json.
        said: the metadata of the file.
        source: the file.
        pattern: a regular expression of names of such networks.

    Returns:
        The name; empty where none of them names one.
    """
    inner = description.get("pretrained_cfg")
    described = [description.get("architecture"), inner.get("architecture") if isinstance(inner, Mapping) else None]
    candidates = [*described, *said.values(), source.name, source.absolute().parent.name]
    found = (re.search(pattern, candidate) for candidate in candidates if isinstance(candidate, str))
    return next((match[0] for match in found if match), "")


def rows(state: Mapping[str, np.ndarray], key: str, axis: int = 0) -> int:
    """Counts the numbers along an axis of an array.

    Raises:
        ConversionError: where there is none.
    """
    if key not in state or state[key].ndim <= axis:
        raise ConversionError(f"no sizes in it: no key {key}, or without its axes")
    return state[key].shape[axis]


def count(keys: Iterable[str], before: str) -> int:
    """Counts the different numbers that follow `before` in keys."""
    pattern = re.compile(re.escape(before) + r"(\d+)\.")
    return len({match[1] for match in map(pattern.match, keys) if match})
