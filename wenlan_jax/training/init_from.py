"""Starting a run from weights that exist: `init_from`, an import or the work directory of another run.

Taken over are parameters, batch statistics and key encoders, and from an import also the banks. The step count,
the optimiser and the root key are always fresh, and so are the banks after a training run, whose keys come from other
data. What the source does not hold keeps its fresh value; a key encoder it does not hold becomes a copy of
the query tower.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections
from wenlan_jax.core import trees
from wenlan_jax.core.state import TrainState
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks import experiment, registry
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import setup

TAKEN = ("params/", "batch_stats/", "momentum/params/", "momentum/batch_stats/")
BANKS = "banks/"
MOMENTUM = "momentum/"


def load(current: Run, tokenizer: str) -> TrainState:
    """Makes a fresh state with the leaves of `init_from` in their place.

    Args:
        current: the run; its configuration names the source.
        tokenizer: the fingerprint of its tokenizer.

    Returns:
        The state before the first step.

    Raises:
        CheckpointError: names every leaf that does not fit; or the source's ids meant other pieces of text.
        ConfigError: if frozen parameters would stay random, see `check_frozen`.
    """
    source = Path(current.config.init_from).expanduser()
    place = source / "checkpoints"
    if not place.is_dir():
        raise store.CheckpointError(
            f"init_from: {source} holds no checkpoints; give what `wenlan import` or `wenlan train` wrote"
        )
    with store.Checkpoints(place, sections.CheckpointConfig()) as checkpoints:
        step, stored = checkpoints.stored()
        wanted = matching(current.shapes, stored, source, current.config)
        _check_tokenizer(checkpoints.note(step)[1].tokenizer, tokenizer, wanted, current)
        check_frozen(current, wanted)
        places = trees.flatten(current.shardings)
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[name]) for name, leaf in wanted.items()
        }
        _, tree = checkpoints.restore(store.nested(abstract), step)
    state = _overlay(current, trees.flatten(tree))
    say(f"starts from checkpoint {step} of {source}: {_describe(wanted, current.shapes)}")
    return state


def check_frozen(current: Run, taken: Collection[str]) -> None:
    """Checks that no frozen parameters stay as they are drawn at random.

    A head of another task, which nothing reads, may be as it is.

    Args:
        current: the run.
        taken: the leaves that come from other weights.

    Raises:
        ConfigError: names the parts that would stay random, unless `model.random_frozen` allows it.
    """
    if current.config.model.random_frozen:
        return
    optional = may_lack(current.config)
    names = [f"params/{name}" for name in trees.flatten(current.shapes.params) if not current.recipe.is_trained(name)]
    fresh = [name for name in names if name not in taken and not optional(name)]
    if fresh:
        parts = ", ".join(dict.fromkeys(part_of(name).removeprefix("params/") for name in fresh))
        raise experiment.ConfigError(
            f"model.freeze: {len(fresh)} frozen parameters of {parts} would keep their random start. Begin with "
            "trained ones (--config.init_from=DIR, where `wenlan import` or `wenlan train` wrote them), train all with "
            "--config.model.freeze='()', or allow it with --config.model.random_frozen=true"
        )


def is_whole(stored: Iterable[str]) -> bool:
    """Says whether the leaves are those of a training run: an import holds no root key."""
    return "rng" in stored


def part_of(name: str) -> str:
    """Returns the part of the model that a leaf belongs to, such as `params/image/backbone` or `banks/text`."""
    return "/".join(name.split("/")[: _depth(name)])


def _depth(name: str) -> int:
    if name.startswith(BANKS):
        return 2
    return 4 if name.startswith((MOMENTUM, "params/single/embeddings/")) else 3


def _owner(name: str) -> str:
    """What a part belongs to, such as `params/image` or `banks`."""
    return "/".join(name.split("/")[: _depth(name) - 1])


def initial_leaves(shapes: TrainState) -> dict[str, Any]:
    """Lists the leaves of a train state that can be taken over."""
    return {name: leaf for name, leaf in trees.flatten(shapes).items() if name.startswith((*TAKEN, BANKS))}


def may_lack(config: experiment.Config) -> Callable[[str], bool]:
    """Makes a function that says whether a task can do without a leaf of a checkpoint, see `TaskSpec.may_lack`."""
    pattern = registry.of(config).may_lack
    return lambda name: bool(pattern) and re.match(pattern, name) is not None


def matching(shapes: TrainState, stored: Mapping[str, Any], source: Path, config: experiment.Config) -> dict[str, Any]:
    """Finds the leaves that a source gives, after a check of both sides.

    A tower that the model does not have is left out; a part of one that it has must be there as a whole.

    Args:
        shapes: the train state of the run, abstract.
        stored: the leaves of the source by name, abstract.
        source: where they lie, for the message.
        config: the configuration of the run.

    Returns:
        The leaves of `shapes` to take over, by name.

    Raises:
        CheckpointError: names every leaf that is missing, unknown or of another shape.
    """
    ours = initial_leaves(shapes)
    kinds = TAKEN if is_whole(stored) else (*TAKEN, BANKS)
    owners = {_owner(name) for name in ours}
    theirs = {name: leaf for name, leaf in stored.items() if name.startswith(kinds) and _owner(name) in owners}
    optional, parts = may_lack(config), {part_of(name) for name in ours}
    theirs = {name: leaf for name, leaf in theirs.items() if part_of(name) in parts or not optional(name)}
    given = {part_of(name) for name in theirs}
    needed = {name: leaf for name, leaf in ours.items() if part_of(name) in given}
    faults = [f"{name}: missing, {tuple(leaf.shape)} is needed" for name, leaf in needed.items() if name not in theirs]
    for name, leaf in theirs.items():
        shape = tuple(leaf.shape)
        if name not in ours:
            faults.append(f"{name}: shape {shape}, but the configured model has no such leaf")
        elif shape != tuple(ours[name].shape):
            faults.append(f"{name}: shape {shape}, {tuple(ours[name].shape)} is needed")
    if not theirs:
        faults.append("it has no part of the configured model")
    if faults:
        raise store.CheckpointError(
            f"{source} does not fit the configuration:\n  " + "\n  ".join(faults) + "\n"
            f"Set {registry.of(config).sizes} as the source's configuration has it, scans included, or import again "
            "for this"
        )
    return needed


def is_word_table(name: str) -> bool:
    """Says whether a leaf's meaning depends on the tokenizer."""
    return "/text/backbone/embeddings/" in name or "/single/embeddings/" in name


def _check_tokenizer(theirs: str, ours: str, wanted: Iterable[str], current: Run) -> None:
    """Word embeddings mean the pieces they were trained with; nothing is known where `theirs` is empty."""
    words = any(map(is_word_table, wanted))
    if words and theirs and theirs != ours and not current.config.checkpoint.accept_changes:
        raise store.CheckpointError(
            "init_from: its words were made for another tokenizer; set --config.tokenizer.path to that one, or "
            "--config.checkpoint.accept_changes=true to go on with other pieces"
        )


def _overlay(current: Run, leaves: Mapping[str, jax.Array]) -> TrainState:
    """The fresh state with `leaves` in their place, and momentum leaves not among them as copies of the query's."""
    fresh: TrainState = trees.map_named(lambda name, leaf: leaves.get(name, leaf), setup.fresh_state(current))
    derived = current.recipe.task.derive(fresh.params, leaves.keys())
    fresh = fresh.replace(params=jax.device_put(derived, current.shardings.params))
    if fresh.momentum is None:
        return fresh
    queries = trees.flatten({"params": fresh.params, "batch_stats": fresh.batch_stats})
    moving: Any = trees.map_named(
        lambda name, leaf: leaf if MOMENTUM + name in leaves else jnp.copy(queries[name]), fresh.momentum
    )
    return fresh.replace(momentum=jax.device_put(moving, current.shardings.momentum))


def _describe(taken: Mapping[str, Any], shapes: TrainState) -> str:
    """The parts taken over, and those that start fresh."""
    parts = list(dict.fromkeys(part_of(name) for name in taken))
    fresh = [part for part in dict.fromkeys(part_of(name) for name in initial_leaves(shapes)) if part not in parts]
    fresh = [part for part in fresh if not part.startswith((MOMENTUM, BANKS))]
    return ", ".join(parts) + (f"; fresh: {', '.join(fresh)}" if fresh else "")
