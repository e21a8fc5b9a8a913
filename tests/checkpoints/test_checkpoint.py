"""Checkpoints: every bit comes back on any mesh; damage and failures are told and survived."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wenlan_jax.checkpoints import store
from wenlan_jax.checkpoints.store import CheckpointError, Checkpoints, DamagedError
from wenlan_jax.config import sections
from wenlan_jax.core import trees
from wenlan_jax.core.state import TrainState
from wenlan_jax.tasks import config_changes, experiment
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import setup as runs

# TensorStore reports the reads that fail beside the first one to nobody, whenever they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

Make = Callable[..., experiment.Config]
KEEP = sections.CheckpointConfig(keep=2)


@functools.cache
def set_up(config: experiment.Config, devices: int) -> Run:
    return runs.set_up(config, jax.devices()[:devices])


def random_state(current: Run, seed: int = 0) -> TrainState:
    """A state of the run's shapes with noise in every leaf, so that no two leaves can be confused."""
    rng = np.random.default_rng(seed)

    def noise(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        if jnp.issubdtype(shape.dtype, jnp.floating):
            return rng.normal(size=shape.shape).astype(shape.dtype)
        return rng.integers(0, 2**31 - 1, shape.shape).astype(shape.dtype)

    return jax.device_put(jax.tree.map(noise, current.shapes), current.shardings)


def abstract(current: Run) -> TrainState:
    return store.abstract_of(current.shapes, current.shardings)


def assert_same_bits(first: Any, second: Any) -> None:
    one, two = trees.flatten(first), trees.flatten(second)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert value.dtype == two[name].dtype, name
        np.testing.assert_array_equal(value, two[name], err_msg=name)


@functools.cache
def written(config: experiment.Config, directory: Path) -> tuple[Run, TrainState]:
    """Step 3 of a model, written by eight devices."""
    current = set_up(config, 8)
    state = random_state(current)
    with Checkpoints(directory, KEEP) as checkpoints:
        checkpoints.save(3, state, current.config, "tokens")
    return current, state


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("original") / "checkpoints"


@pytest.fixture
def saved(tiny: Make, original: Path, tmp_path: Path) -> tuple[Path, Run, TrainState]:
    """A copy of the checkpoint of the tiny model, and what it was made from."""
    current, state = written(tiny(mesh__data=2, mesh__fsdp=4), original)
    return shutil.copytree(original, tmp_path / "checkpoints"), current, state


@pytest.mark.parametrize(
    "axes",
    [
        {"mesh__data": 1},
        {"mesh__data": 4},
        {"mesh__data": 1, "mesh__fsdp": 4},
        {"mesh__data": 2, "mesh__fsdp": 4},
    ],
    ids=["1", "4", "4 fsdp", "8"],
)
def test_every_leaf_comes_back_bit_for_bit_on_another_mesh(saved: Any, tiny: Make, axes: dict[str, int]) -> None:
    directory, _, state = saved
    other = set_up(tiny(**axes), axes["mesh__data"] * axes.get("mesh__fsdp", 1))
    with Checkpoints(directory, KEEP) as checkpoints:
        step, restored = checkpoints.restore(abstract(other))
    assert step == 3
    assert_same_bits(state, restored)
    assert jax.tree.structure(restored) == jax.tree.structure(other.shapes)
    places = trees.flatten(other.shardings)
    for name, leaf in trees.flatten(restored).items():
        assert leaf.sharding.is_equivalent_to(places[name], leaf.ndim), name


def test_a_part_of_the_state_is_restored_by_itself(saved: Any) -> None:
    directory, current, state = saved
    shapes, places = {"params": current.shapes.params}, {"params": current.shardings.params}
    with Checkpoints(directory, KEEP) as checkpoints:
        _, part = checkpoints.restore(store.abstract_of(shapes, places))
    assert_same_bits({"params": state.params}, part)


def test_data_files_are_of_bounded_size_and_read_as_one(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held in memory while writing is a file's size; a leaf that is larger than a file is cut."""
    rng = np.random.default_rng(0)
    state = {f"leaf{number}": jnp.asarray(rng.random(2**18, np.float32)) for number in range(12)}
    state["large"] = jnp.asarray(rng.random((6, 2**18), np.float32))
    monkeypatch.setattr(store, "DATA_FILE_BYTES", 2**21)
    with Checkpoints(tmp_path, KEEP) as checkpoints:
        checkpoints.save(1, state, tiny(), "")
        checkpoints.wait()
        sizes = [path.stat().st_size for path in tmp_path.glob("1/state/ocdbt.process_0/d/*")]
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
        _, restored = checkpoints.restore(shapes)
    assert max(sizes) <= 2 * 2**21  # a file is closed once it is full, and the next chunk may be in it
    assert sum(sizes) > 18 * 2**20
    assert_same_bits(restored, state)


def test_the_note_tells_the_configuration_and_the_tokenizer(saved: Any) -> None:
    directory, current, _ = saved
    with Checkpoints(directory, KEEP) as checkpoints:
        step, note = checkpoints.note()
    assert (step, note.tokenizer, note.fingerprint) == (3, "tokens", experiment.fingerprint(current.config))
    assert experiment.parse(note.config) == current.config
    assert config_changes.changes(note.config, current.config) == []


def test_the_newest_checkpoints_are_kept(saved: Any, tiny: Make) -> None:
    directory, current, _ = saved
    with Checkpoints(directory, KEEP) as checkpoints:
        for step in (4, 6):
            checkpoints.save(step, random_state(current, step), current.config, "tokens")
        checkpoints.wait()
        assert checkpoints.latest() == 6
        assert_same_bits(checkpoints.restore(abstract(current), 4)[1], random_state(current, 4))
    assert sorted(path.name for path in directory.iterdir() if path.is_dir()) == ["4", "6"]


def test_a_checkpoint_of_another_model_is_refused_leaf_by_leaf(saved: Any, tiny: Make) -> None:
    directory, *_ = saved
    other = set_up(tiny(contrast__learnable_temperature=True, model__embedding=24), 1)
    with Checkpoints(directory, KEEP) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(abstract(other))
    lines = str(error.value).split("\n  ")
    assert lines[0].endswith("is of another model:")
    assert "params/logit_scale: missing, float32 () is needed" in lines
    assert "params/image/projection/fc2/kernel: float32 (16, 16), float32 (24, 24) is needed" in lines
    assert "banks/image/keys: float32 (3, 8, 16), float32 (3, 8, 24) is needed" in lines


def test_a_missing_checkpoint_is_told_with_those_that_exist(saved: Any, tmp_path: Path) -> None:
    directory, current, _ = saved
    with (
        Checkpoints(directory, KEEP) as checkpoints,
        pytest.raises(CheckpointError, match=r"no checkpoint 7 .* found: 3"),
    ):
        checkpoints.restore(abstract(current), 7)
    with Checkpoints(tmp_path / "empty", KEEP) as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(CheckpointError, match="found: none"):
            checkpoints.note()


def delete(*paths: Path) -> None:
    for path in paths:
        path.unlink()


def truncate(*paths: Path) -> None:
    for path in paths:
        os.truncate(path, path.stat().st_size // 2)


def all_data(step: Path) -> list[Path]:
    """The files of values; some of them may be left over from merging, so one alone may not matter."""
    return [path for path in step.glob("state/**/d/*") if path.is_file()]


DAMAGES: dict[str, Callable[[Path], None]] = {
    "metadata gone": lambda step: delete(step / "state" / "_METADATA"),
    "metadata cut": lambda step: truncate(step / "state" / "_METADATA"),
    "data gone": lambda step: delete(*all_data(step)),
    "data cut": lambda step: truncate(*all_data(step)),
    "manifest gone": lambda step: delete(step / "state" / "manifest.ocdbt"),
    "note gone": lambda step: delete(step / "note" / "metadata"),
    "note cut": lambda step: truncate(step / "note" / "metadata"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_as_such(saved: Any, damage: str) -> None:
    directory, current, _ = saved
    DAMAGES[damage](directory / "3")
    with Checkpoints(directory, KEEP) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(abstract(current))
    assert error.type is DamagedError
    assert f"checkpoint 3 under {directory} is damaged (" in str(error.value)
    assert "others there: none" in str(error.value)
    del error
    gc.collect()


def test_a_state_may_be_overwritten_as_soon_as_its_save_has_started(tiny: Make, tmp_path: Path) -> None:
    """The step donates the state whose checkpoint is still being written."""
    state = {f"leaf_{n}": jnp.full(500_000, float(n)) for n in range(16)}
    expected = jax.tree.map(np.array, state)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0)
    jax.block_until_ready(overwrite(jax.tree.map(jnp.copy, state)))
    with Checkpoints(tmp_path / "checkpoints", KEEP) as checkpoints:
        checkpoints.save(1, state, tiny(), "tokens")
        jax.block_until_ready(overwrite(state))
        checkpoints.wait()
        _, restored = checkpoints.restore(on_one_device(expected))
    assert_same_bits(expected, restored)


def on_one_device(tree: Any) -> Any:
    at = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), tree)


CHILD = """
import resource, sys, time
from pathlib import Path

import jax.numpy as jnp

from wenlan_jax import config
from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections

place, limit, polls = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "polls"
small = {"leaf": jnp.arange(10.0)}
big = {f"leaf_{n}": jnp.arange(4_000_000.0) + n for n in range(20)}
with store.Checkpoints(place, sections.CheckpointConfig()) as checkpoints:
    checkpoints.save(1, small, config.Config(), "tokens")
    checkpoints.wait()
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    print("saving", flush=True)
    try:
        checkpoints.save(2, big, config.Config(), "tokens")
        while polls:
            checkpoints.check()
            time.sleep(0.01)
        checkpoints.wait()
    except Exception as error:
        print(type(error).__name__, str(error).replace(chr(10), " "), flush=True)
    print("done", flush=True)
"""


def start_child(place: Path, limit: int, then: str = "waits") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(place), str(limit), then],
        env={**os.environ, "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        text=True,
    )


def assert_step_one_restores(place: Path) -> None:
    expected = {"leaf": np.arange(10.0, dtype=np.float32)}
    with Checkpoints(place, KEEP) as checkpoints:
        assert checkpoints.latest() == 1
        _, restored = checkpoints.restore(on_one_device(expected))
        assert_same_bits(expected, restored)
        checkpoints.save(2, jax.tree.map(jnp.asarray, expected), experiment.Config(), "tokens")
        checkpoints.wait()
        assert checkpoints.latest() == 2


def test_a_kill_while_writing_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    place = tmp_path / "checkpoints"
    child = start_child(place, 0)
    assert child.stdout is not None
    assert child.stdout.readline() == "saving\n"
    unfinished: list[Path] = []
    limit = time.monotonic() + 60
    while not unfinished and time.monotonic() < limit:
        unfinished = list(place.glob("2.*"))
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert unfinished
    assert not (place / "2").exists(), "the checkpoint was complete before the kill"
    assert_step_one_restores(place)


@pytest.mark.parametrize("then", ["waits", "polls"])
def test_a_write_that_fails_is_told_and_leaves_the_checkpoint_before(tmp_path: Path, then: str) -> None:
    """A limit on the size of a file stands for a full disk. A loop that goes on with its steps hears of it too."""
    place = tmp_path / "checkpoints"
    out, _ = start_child(place, 100_000, then).communicate(timeout=120)
    assert "CheckpointError a checkpoint could not be written under" in out
    assert "Earlier ones are intact" in out
    assert_step_one_restores(place)


LATE_REPORT = """
import asyncio, time
import tensorstore
from wenlan_jax.checkpoints import store as checkpoint

checkpoint._leave_out_echoes()

async def writing(of):
    await of

for loop in asyncio.new_event_loop(), None:
    promise, future = tensorstore.Promise.new()
    if loop:
        task = loop.create_task(writing(future))
        loop.call_soon(loop.stop)
        loop.run_forever()
        task._log_destroy_pending = False
        loop.close()
    else:
        future.add_done_callback(lambda _: 1 / 0)
    promise.set_result(1)
    time.sleep(0.1)
"""
"""A thread of TensorStore reports to a loop that is closed, and another error that nobody can catch."""


def test_of_writes_beside_a_failed_one_nothing_is_told_but_of_all_else() -> None:
    command = [sys.executable, "-c", LATE_REPORT]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "Event loop is closed" not in told
    assert "ZeroDivisionError" in told


# --- places, and whether what was written is there --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lr[1e-3]", "a[b", "a]b", "a\\b", "a*b", "a?b", "gs:", os.fsdecode(b"a\xffb")])
def test_a_path_from_under_which_nothing_is_read_back_is_refused(tmp_path: Path, name: str) -> None:
    """TensorStore takes brackets for a pattern: all is written without a fault, and nothing is found."""
    for place in (tmp_path / name, tmp_path / name / "below"):
        with pytest.raises(CheckpointError, match="cannot be read back"):
            store.check_place(place)
        with pytest.raises(CheckpointError, match="cannot be read back"):
            Checkpoints(place, KEEP)


@pytest.mark.parametrize(
    "name", ["a b", "a#b", "a%20b", "a{b}", "文澜", "é", "a:b", "-a", "~a", "a'b\"", "a&b;c", ".a"]
)
def test_any_other_path_serves(tiny: Make, tmp_path: Path, name: str) -> None:
    small = {"bank": np.arange(6, dtype=np.float32), "step": np.array(3, np.int32)}
    with Checkpoints(tmp_path / name, KEEP, host_arrays=True) as checkpoints:
        checkpoints.save(3, small, tiny(), "")
    with Checkpoints(tmp_path / name, KEEP) as checkpoints:
        _, found = checkpoints.restore(store.on_host(small))
    np.testing.assert_array_equal(found["bank"], small["bank"])


@pytest.mark.parametrize("gone", ["state/d", "state/manifest.ocdbt", "state", "."])
def test_what_is_not_there_after_a_save_is_told(tiny: Make, tmp_path: Path, gone: str) -> None:
    small = {"bank": np.arange(6, dtype=np.float32), "step": np.array(3, np.int32)}
    with Checkpoints(tmp_path, KEEP, host_arrays=True) as checkpoints:
        checkpoints.save(3, small, tiny(), "")
        checkpoints._manager.wait_until_finished()
        place = tmp_path / "3" / gone
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        with pytest.raises(CheckpointError, match="checkpoint 3 .* bank and 1 more cannot be found there"):
            checkpoints.wait()
        checkpoints.wait()  # told once
