"""Made-up PyTorch weights for a tiny configuration, and what they are in the train state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from whole_runs import CONFIG

from wenlan_jax import cli
from wenlan_jax.convert import brivl
from wenlan_jax.convert.rules import FlatTree, to_torch
from wenlan_jax.core import trees
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import setup as runs

TOWERS = {**brivl.QUERY_TOWERS, **brivl.MOMENTUM_TOWERS}


@pytest.fixture
def drawn_fresh_states(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh states drawn by NumPy and shapes found once a configuration: compiling and tracing take seconds a test."""

    def draw(current: Run) -> Any:
        rng = np.random.default_rng(9)

        def leaf(shape: Any, place: Any) -> Any:
            floating = shape.dtype == np.float32
            value = rng.normal(size=shape.shape).astype(np.float32) if floating else np.zeros(shape.shape, shape.dtype)
            return jax.device_put(value, place)

        return jax.tree.map(leaf, current.shapes, current.shardings)

    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(runs, "fresh_state", draw)
        monkeypatch.setattr(runs, "set_up", _set_up_once)


_found: dict[tuple[experiment.Config, int], Run] = {}
_set_up = runs.set_up


def _set_up_once(config: experiment.Config, devices: Sequence[jax.Device] | None = None) -> Run:
    key = (config, len(jax.devices() if devices is None else devices))
    if key not in _found:
        _found[key] = _set_up(config, devices)
    return _found[key]


@pytest.fixture
def tower_trees() -> Callable[..., dict[str, Any]]:
    """Random query towers and key encoders by name, with collections."""
    return _tower_trees


def _tower_trees(config: experiment.Config, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = runs.set_up(config, jax.devices()[:1]).shapes
    parts = {"params": shapes.params, "batch_stats": shapes.batch_stats}
    draw = {
        tower: {name: tree[tower.split("_")[0]] for name, tree in parts.items() if tower.split("_")[0] in tree}
        for tower in TOWERS.values()
    }

    def leaf(name: str, shape: Any) -> np.ndarray:
        value = rng.normal(size=shape.shape).astype(np.float32)
        return np.abs(value) + 1 if name.endswith("/var") else value

    return trees.map_named(leaf, draw)


@pytest.fixture
def official() -> Callable[..., FlatTree]:
    """A made-up official state dict, with the layers that BriVL does not use."""

    def make(config: experiment.Config, towers: Mapping[str, str] = TOWERS, seed: int = 0) -> FlatTree:
        drawn = _tower_trees(config, seed)
        state = to_torch({name: drawn[name] for name in towers.values()}, brivl.brivl_table(towers))
        extra = {"imgencoder.backbone.classifier.bias": np.ones(7, np.float32)} if "imgencoder" in towers else {}
        return {**brivl.with_batch_counters(state), **extra}

    return make


@pytest.fixture
def expected() -> Callable[..., FlatTree]:
    """The same towers by their path in the train state."""

    def make(config: experiment.Config, seed: int = 0) -> FlatTree:
        flat = trees.flatten(_tower_trees(config, seed))
        return {_state_path(name): leaf for name, leaf in flat.items()}

    return make


def _state_path(path: str) -> str:
    """`image_momentum/params/...` is `momentum/params/image/...`."""
    tower, collection, rest = path.split("/", 2)
    query = tower.removesuffix("_momentum")
    return ("" if query == tower else "momentum/") + f"{collection}/{query}/{rest}"


@pytest.fixture
def config_file(tmp_path: Path) -> Callable[[experiment.Config], Path]:
    """Writes the file that `--config` reads."""

    def write(config: experiment.Config) -> Path:
        path = tmp_path / "config.py"
        path.write_text(CONFIG.format(text=experiment.to_json(config)))
        return path

    return write


@pytest.fixture
def command(tmp_path: Path, config_file: Callable[[experiment.Config], Path]) -> Callable[..., int]:
    """Runs `wenlan import` into `out`; returns its exit status."""

    def run(config: experiment.Config, source: Path, name: str, *options: str) -> int:
        paths = (f"--from={source}", f"--config={config_file(config)}", f"--out={tmp_path / 'out'}")
        return cli.main(["import", f"--format={name}", *paths, *options])

    return run
