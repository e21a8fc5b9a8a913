"""`wenlan import`: PyTorch weights as a checkpoint that training starts from (`init_from`).

What is written is a part of the train state: the leaves that the files gave, and no others. One directory can take
several files in turn, say the image backbone from one and the text backbone from another. Everything is checked
against the configuration's shapes before anything is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections
from wenlan_jax.convert import UNUSED_LAYERS, import_formats, weights
from wenlan_jax.convert.brivl import is_unused_layer
from wenlan_jax.convert.import_formats import (
    FORMATS,
    WHOLE_MODEL,
    FoundWeights,
    ImportFormat,
    ImportingError,
    ImportTarget,
)
from wenlan_jax.convert.requests import ImportRequest
from wenlan_jax.convert.rules import ConversionError, FlatTree, flatten, unflatten
from wenlan_jax.core.state import TrainState
from wenlan_jax.data import text
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks import config_changes, experiment, registry
from wenlan_jax.tasks.single_tower.spec import TOWER
from wenlan_jax.training import init_from, setup
from wenlan_jax.training import tokenizer as run_tokenizer

BOTH = "both"

MOST_KINDS = 12
"""Kinds of ignored keys listed for one reason; more are those of whole towers, which are named instead."""


def run_import(config: experiment.Config, request: ImportRequest) -> None:
    """Reads a file, checks it against the configuration, writes the checkpoint and prints what came from where.

    A directory that did not exist is not made where this fails.

    Args:
        config: the configuration.
        request: what to import.

    Raises:
        ImportingError: lists every fault found.
        WeightsError: for a file that cannot be read.
        ConfigError: for a configuration that cannot be used.
        CheckpointError: for what is in `out` already.
    """
    tokenizer = _tokenizer(config, request)
    target = _target(config, request, tokenizer)
    state = import_formats.load(request.format, request.source, request.trust_pickle)
    found = _read(state, target, request)
    unused = _unused(state) if "text" in registry.of(config).towers else {}
    del state
    stored = _stored(request.out, target)
    merged = _merge(stored, found.leaves, request)
    kept = _words_of(request.out, stored.keys() - found.leaves.keys())
    if kept is not None and tokenizer is not None and kept.fingerprint != tokenizer.fingerprint:
        raise ImportingError(
            f"{request.out} has words of another tokenizer than {config.tokenizer.path}; give that one with "
            "--config.tokenizer.path, import the text side again with --replace, or choose another --out"
        )
    if kept is not None and tokenizer is None:
        config = dataclasses.replace(config, tokenizer=kept.settings)
    fingerprint = tokenizer.fingerprint if tokenizer else kept.fingerprint if kept else ""
    _write(request.out, merged, unused, config, tokenizer, fingerprint)
    say(summary(found, target.shapes, merged))
    with_words = f" --config.tokenizer.path={request.out}" if tokenizer is not None or kept is not None else ""
    say(f"start from it with: wenlan train --config=... --config.init_from={request.out}{with_words}")


def _unused(state: weights.StateDict) -> FlatTree:
    """The layers of an official file that BriVL does not compute with."""
    return {key.removeprefix(WHOLE_MODEL): array for key, array in state.items() if is_unused_layer(key)}


def _tokenizer(config: experiment.Config, request: ImportRequest) -> text.Tokenizer | None:
    """The configured tokenizer, or the one in the file of weights; None where the run is to train its own."""
    settings, own = config.tokenizer, FORMATS[request.format].tokenizer
    if settings.path:
        return text.load_tokenizer(Path(settings.path).expanduser(), settings.lower_case)
    return None if own is None else own(request.source)


def _target(config: experiment.Config, request: ImportRequest, tokenizer: text.Tokenizer | None) -> ImportTarget:
    wanted = _towers(request, config)
    field, rows = experiment.vocabulary(config)
    if tokenizer is not None and 0 < rows < tokenizer.size:
        raise ImportingError(
            f"{field} is {rows}, and the tokenizer {config.tokenizer.path} has {tokenizer.size} pieces: both must be "
            "those of the weights. `wenlan import --write-config FILE` writes a configuration of the weights' sizes; "
            "if it is right, give the weights' own tokenizer"
        )
    if tokenizer is not None:
        config = setup.with_vocabulary(config, tokenizer)
    elif rows == 0 and list(wanted) == ["image"]:
        some = experiment.with_vocabulary(config, config.tokenizer.train_size)  # shapes of images do not depend on it
        return dataclasses.replace(_target(some, request, None), config=config)
    elif rows == 0:
        raise experiment.ConfigError(
            f"{field}: 0 leaves the size to a tokenizer that is still to be trained; give the "
            "imported model's with --config.tokenizer.path=vocab.txt, or set the number of its rows"
        )
    # Shapes do not depend on the mesh, and the machine that imports need not be the one that trains.
    one_device = dataclasses.replace(config, mesh=sections.MeshConfig())
    return ImportTarget(config, setup.set_up(one_device, jax.devices()[:1]).shapes, wanted)


def _towers(request: ImportRequest, config: experiment.Config) -> Sequence[str]:
    """The towers asked for, as far as task and format have them."""
    there = registry.of(config).importable_towers(config)
    asked = there if request.tower == BOTH else (request.tower,)
    wanted = [tower for tower in asked if tower in FORMATS[request.format].towers]
    if not wanted and not set(FORMATS[request.format].towers) & set(there):
        raise ImportingError(
            f"--format={request.format} gives {' and '.join(FORMATS[request.format].towers)}, and task "
            f"{config.task!r} has {' and '.join(there)}; choose the configuration of the other kind of model"
        )
    if not wanted:
        raise ImportingError(f"--format={request.format} holds no {request.tower} tower; leave --tower out")
    return wanted


def _read(state: weights.StateDict, target: ImportTarget, request: ImportRequest) -> FoundWeights:
    """What the reader of the format finds; raises ImportingError with all faults, the file and the remedy."""
    chosen = FORMATS[request.format]
    try:
        return chosen.read(state, target, request.source)
    except ConversionError as error:
        raise ImportingError(
            f"{request.source} does not fit the configuration:\n  {error}\n{_remedy(str(error), target, chosen)}"
        ) from error


def _remedy(faults: str, target: ImportTarget, chosen: ImportFormat) -> str:
    """What helps: where shapes differ other sizes do; a fault that names its own remedy needs no second one."""
    of_sizes = (" has shape ", " has no PyTorch key ", " the Flax model does not have", "; set ")
    if not any(sign in faults for sign in of_sizes):
        return "No size in the configuration changes that; give the weights of another model."
    sizes = registry.of(target.config).sizes if TOWER in target.towers else chosen.sizes
    return (
        f"Set {sizes} to the sizes of this model, which `wenlan import --write-config FILE` writes for you, or give a "
        "file that holds all of the configured one."
    )


def _stored(out: Path, target: ImportTarget) -> FlatTree:
    """What earlier imports left in `out`, checked against the shapes of this configuration."""
    place = out / "checkpoints"
    if not place.is_dir():
        return {}
    with store.Checkpoints(place, target.config.checkpoint) as checkpoints:
        if checkpoints.latest() is None:
            return {}
        _, stored = checkpoints.stored()
        if init_from.is_whole(stored):
            raise ImportingError(f"{out} is the work directory of a training run; choose another --out")
        at = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = init_from.matching(target.shapes, stored, out, target.config)
        placed = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at) for name, leaf in abstract.items()}
        _, tree = checkpoints.restore(unflatten(placed))
    return {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}


class _Words(NamedTuple):
    """The tokenizer of an earlier import."""

    settings: sections.TokenizerConfig
    fingerprint: str


def _words_of(out: Path, kept: Iterable[str]) -> _Words | None:
    """The tokenizer that the word table in `out` was imported with, if it is among the kept leaves and known."""
    if not any(init_from.is_word_table(name) for name in kept):
        return None
    with store.Checkpoints(out / "checkpoints", sections.CheckpointConfig()) as checkpoints:
        _, note = checkpoints.note()
    settings = experiment.parse(config_changes.completed(note.config)).tokenizer
    return _Words(settings, note.tokenizer) if note.tokenizer else None


def _merge(stored: FlatTree, new: FlatTree, request: ImportRequest) -> FlatTree:
    """The earlier leaves and the new ones. Replaced leaves take their momentum copies and the banks with them."""
    again = stored.keys() & new.keys()
    if again and not request.replace:
        parts = ", ".join(sorted({init_from.part_of(name) for name in again}))
        raise ImportingError(f"{request.out} has {parts} already; pass --replace, or choose another --out")
    outdated = {f"momentum/{name}" for name in again}
    kept = {
        name: leaf
        for name, leaf in stored.items()
        if name not in outdated and not (again and name.startswith("banks/"))
    }
    return {**kept, **new}


def _write(
    out: Path,
    leaves: FlatTree,
    unused: FlatTree,
    config: experiment.Config,
    tokenizer: text.Tokenizer | None,
    fingerprint: str,
) -> None:
    """Writes the next checkpoint of `out`, which holds all that the earlier ones do, so that they go.

    tokenizer: kept beside it; None leaves what is there. fingerprint: of the one that the words are of.
    """
    with (
        _directory(out) as folder,
        store.Checkpoints(
            folder / "checkpoints", dataclasses.replace(config.checkpoint, keep=1), host_arrays=True
        ) as checkpoints,
    ):
        if unused:
            weights.write_safetensors(unused, folder / UNUSED_LAYERS, {})
        latest = checkpoints.latest()
        if tokenizer is not None:
            run_tokenizer.keep(tokenizer, folder)
        checkpoints.save(0 if latest is None else latest + 1, unflatten(leaves), config, fingerprint)


@contextlib.contextmanager
def _directory(out: Path) -> Iterator[Path]:
    """A directory to write into: `out`, or one beside it that gets its name once all is written."""
    if out.exists():
        yield out
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir()
        yield part
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def summary(found: FoundWeights, shapes: TrainState, stored: Mapping[str, np.ndarray]) -> str:
    """Writes the table that the command prints: loaded parts, ignored keys by reason, and what starts fresh.

    Args:
        found: what the file gave.
        shapes: the train state, abstract.
        stored: all leaves that are stored now.

    Returns:
        The table.
    """
    lines = [f"{'loaded':<34}{'leaves':>8}{'numbers':>16}"]
    lines += _rows(found.leaves)
    lines += _ignored_lines(found.ignored)
    lines += [f"not checked: {what}" for what in found.unchecked]
    initial = init_from.initial_leaves(shapes)
    fresh = {name: leaf for name, leaf in initial.items() if name not in stored and not name.startswith("momentum/")}
    if fresh:
        lines += [f"{'freshly initialised by train':<34}{'leaves':>8}{'numbers':>16}", *_rows(fresh)]
    if shapes.momentum is not None and not any(name.startswith("momentum/") for name in stored):
        lines.append("key encoders start as copies of the query towers")
    return "\n".join(lines)


def _ignored_lines(ignored: Mapping[str, str]) -> list[str]:
    """The keys left out, by reason; those that differ in the number of a layer alone are listed as one."""
    lines = []
    for reason in sorted(set(ignored.values()) - {""}):
        keys = [key for key in ignored if ignored[key] == reason]
        kinds = dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", key) for key in keys)
        if len(kinds) > MOST_KINDS:
            kinds = dict.fromkeys(f"{key.partition('.')[0]}.*" for key in keys)
        lines += [f"ignored: {len(keys)} key(s), {reason}", *(f"  {kind}" for kind in kinds)]
    return lines


def _rows(leaves: Mapping[str, Any]) -> list[str]:
    parts: dict[str, list[int]] = {}
    for name, leaf in leaves.items():
        parts.setdefault(init_from.part_of(name), []).append(int(np.prod(leaf.shape)))
    return [f"  {part:<32}{len(sizes):>8,}{sum(sizes):>16,}" for part, sizes in parts.items()]
