"""`init_from`: a run starts from imports and runs of any mesh, and of scanned layers, with the very same numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections
from wenlan_jax.convert import weights
from wenlan_jax.core import trees
from wenlan_jax.tasks import experiment
from wenlan_jax.training import init_from
from wenlan_jax.training import setup as runs

Make = Callable[..., experiment.Config]
Made = Callable[..., dict[str, Any]]
Command = Callable[..., int]
State = dict[str, Any]

pytestmark = pytest.mark.usefixtures("drawn_fresh_states")

EIGHT = {"mesh__data": 2, "mesh__fsdp": 4}
DEPTHS = {"model__text__bert__layers": 3, "model__text__encoder__layers": 2, "model__image__encoder__layers": 2}
SCANS = {
    "model__text__bert__scan_segments": (2, 1),
    "model__text__encoder__scan": True,
    "model__image__encoder__scan": True,
}


@pytest.fixture
def imported(official: Made, command: Command, tmp_path: Path) -> Callable[..., Path]:
    """Imports the official state dict of one configuration for another; returns the directory."""

    def run(made_for: experiment.Config, config: experiment.Config) -> Path:
        file = tmp_path / "brivl.pth"
        weights.write_torch({"learnable": official(made_for)}, file)
        assert command(config, file, "brivl") == 0
        return tmp_path / "out"

    return run


def start(config: experiment.Config, source: Path, devices: int) -> State:
    """The leaves of the state that `init_from` starts from, on as many devices."""
    config = dataclasses.replace(config, init_from=str(source))
    return trees.flatten(init_from.load(runs.set_up(config, jax.devices()[:devices]), ""))


def assert_lies(state: State, devices: int) -> None:
    """Every leaf on all devices, and with several some of them in parts."""
    assert {len(leaf.sharding.device_set) for leaf in state.values()} == {devices}
    split = any(not leaf.sharding.is_fully_replicated for name, leaf in state.items() if name.startswith("params/"))
    assert split == (devices > 1)


def _unstacked(leaves: State) -> State:
    """Layers of scanned segments (`layers_0_1`: a leading axis of two) under their own numbers."""
    flat: State = {}
    for name, leaf in leaves.items():
        numbers = [part.split("_")[1:] for part in name.split("/") if part.startswith("layers_") and "_" in part[7:]]
        if not numbers:
            flat[name] = leaf
            continue
        (first, last) = numbers[0]
        for row, layer in zip(leaf, range(int(first), int(last) + 1), strict=True):
            flat[name.replace(f"layers_{first}_{last}", f"layers_{layer}")] = row
    return flat


def test_scanned_layers_are_those_of_the_file_in_order(tiny: Make, imported: Any, expected: Made) -> None:
    pytest.importorskip("torch")
    plain, scanned = tiny(**DEPTHS), tiny(**DEPTHS, **SCANS)
    begun = start(scanned, imported(plain, scanned), 1)
    taken = {name: np.asarray(leaf) for name, leaf in begun.items() if name.startswith(init_from.TAKEN)}
    stacked = {name.split("/layers_")[0]: leaf.shape[0] for name, leaf in taken.items() if "/layers_0_1/" in name}
    owners = ("params/text/backbone", "params/text/encoder", "params/image/encoder")
    assert stacked == {prefix + owner: 2 for prefix in ("", "momentum/") for owner in owners}
    found, wanted = _unstacked(taken), expected(plain)
    assert set(found) == set(wanted)
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


def test_scanned_layers_do_not_fit_others(tiny: Make, imported: Any) -> None:
    pytest.importorskip("torch")
    plain, scanned = tiny(**DEPTHS), tiny(**DEPTHS, **SCANS)
    source = imported(plain, scanned)
    with pytest.raises(store.CheckpointError) as error:
        start(plain, source, 1)
    message = str(error.value)
    assert "params/text/backbone/layers_0/linear1/kernel: missing, (16, 16) is needed" in message
    assert message.endswith(
        "Set model.* as the source's configuration has it, scans included, or import again for this"
    )


@pytest.mark.parametrize(("saved_on", "started_on"), [(8, 1), (1, 8), (8, 8)])
def test_a_run_starts_from_a_checkpoint_of_another_mesh(
    saved_on: int, started_on: int, tiny: Make, tmp_path: Path
) -> None:
    configurations = {1: tiny(), 8: tiny(**EIGHT)}
    theirs = runs.fresh_state(runs.set_up(configurations[saved_on], jax.devices()[:saved_on]))
    saved = {name: np.asarray(leaf) + 1 for name, leaf in trees.flatten(theirs).items() if name != "rng"}
    moved = trees.map_named(lambda name, leaf: jax.device_put(saved.get(name, leaf), leaf.sharding), theirs)
    assert_lies(trees.flatten(moved), saved_on)
    with store.Checkpoints(tmp_path / "run" / "checkpoints", sections.CheckpointConfig()) as checkpoints:
        checkpoints.save(3, moved, configurations[saved_on], "")
    begun = start(configurations[started_on], tmp_path / "run", started_on)
    assert_lies(begun, started_on)
    taken = [name for name in saved if name.startswith(init_from.TAKEN)]
    assert len(taken) > 100
    for name in taken:
        np.testing.assert_array_equal(np.asarray(begun[name]), saved[name], err_msg=name)


def test_an_import_starts_on_any_mesh(tiny: Make, imported: Any, expected: Made) -> None:
    """The configured mesh may be larger than the machine that imports."""
    pytest.importorskip("torch")
    source = imported(tiny(), tiny(mesh__fsdp=64))
    for devices, changes in ((1, {}), (8, EIGHT)):
        begun = start(tiny(**changes), source, devices)
        assert_lies(begun, devices)
        for name, leaf in expected(tiny()).items():
            np.testing.assert_array_equal(np.asarray(begun[name]), leaf, err_msg=name)
