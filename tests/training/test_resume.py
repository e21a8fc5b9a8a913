"""Going on from a checkpoint: on other devices, past damaged ones, and not where it would not be safe."""

from __future__ import annotations

import dataclasses
import errno
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wenlan_jax.checkpoints import store
from wenlan_jax.checkpoints.errors import DamagedError, is_damage
from wenlan_jax.checkpoints.store import CheckpointError, Checkpoints
from wenlan_jax.core import bank as ring
from wenlan_jax.core import trees
from wenlan_jax.core.state import TrainState
from wenlan_jax.data import loader
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks.experiment import Config
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import loop
from wenlan_jax.training import resume as recovery
from wenlan_jax.training import setup as runs
from wenlan_jax.training import tokenizer as run_tokenizer

# TensorStore reports the reads that fail beside the first one to nobody, whenever they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

Make = Callable[..., Config]


# --- another number of devices ---------------------------------------------------------------------------------------

MESHES = (
    {"data": 8},
    {"data": 2, "fsdp": 2},
    {"data": 2},
    {"data": 1},
    {"data": 2, "fsdp": 4},
)
"""One after another, in an elastic run: 8, 4, 2, 1 and 8 devices."""

SEGMENT = 2
"""Steps on each of them: together ten pushes of 8 keys into banks of 20, which go round three times."""

LOSS_ROUNDING = 2e-6
"""Largest relative difference of a loss of ten steps of SGD on changing and on unchanging devices (measured: 2e-7)."""

STATE_ROUNDING = 5e-4
"""Likewise of a leaf of the state after them, relative to its largest value (measured: 8e-5)."""


@dataclasses.dataclass
class History:
    """What a run did: its losses, the ids of its batches, and its state after each segment."""

    losses: list[float] = dataclasses.field(default_factory=list)
    ids: list[np.ndarray] = dataclasses.field(default_factory=list)
    states: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elastic")


@pytest.fixture
def config(tiny: Make, place: Path) -> Config:
    """With dropout and jitter: they are drawn alike on any number of devices."""
    return tiny(
        data__dir=str(place / "data"),
        tokenizer__train_size=1000,
        model__text__bert__vocab_size=1000,
        optimizer__name="sgd",
        optimizer__learning_rate=0.1,
        model__image__encoder__dropout=0.1,
        model__text__encoder__dropout=0.1,
        train__steps=SEGMENT * len(MESHES),
    )


@functools.cache
def tokenizer_of(config: Config, place: Path) -> Tokenizer:
    return run_tokenizer.prepare(config, place)


@functools.cache
def run_on(config: Config, axes: tuple[tuple[str, int], ...]) -> Run:
    mesh = dataclasses.replace(config.mesh, **dict(axes))
    number = int(np.prod([size for _, size in axes]))
    return runs.set_up(dataclasses.replace(config, mesh=mesh), jax.devices()[:number])


@functools.cache
def segment(config: Config, place: Path, name: str, axes: tuple[tuple[str, int], ...], until: int) -> History:
    """Goes on with the run `name` on a mesh, from its newest checkpoint to step `until`, and saves it there."""
    current, tokenizer, history = run_on(config, axes), tokenizer_of(config, place), History()
    with Checkpoints(place / name, config.checkpoint) as checkpoints:
        state = loop.start_state(current, checkpoints, tokenizer)
        compiled, first = None, int(state.step)
        with loader.train_batches(loop.train_maker(current, tokenizer), first, 0, 2) as batches:
            for _ in range(first, until):
                _, batch = next(batches)
                history.ids.append(batch["id"])
                on_device = meshes.to_devices(current.mesh, batch)
                compiled = compiled or runs.compile_step(current, on_device)
                state, metrics = compiled(state, on_device)
                history.losses.append(float(metrics["loss"]))
                if (int(state.step)) % SEGMENT == 0:
                    history.states.append({n: np.array(leaf) for n, leaf in trees.flatten(state).items()})
        checkpoints.save(until, state, current.config, tokenizer.fingerprint)
    return history


@functools.cache
def steady(config: Config, place: Path) -> History:
    """On eight devices from beginning to end."""
    return segment(config, place, "steady", tuple(MESHES[0].items()), SEGMENT * len(MESHES))


@functools.cache
def elastic(config: Config, place: Path) -> History:
    """On all meshes in turn, each from the checkpoint of the one before."""
    whole = History()
    for number, axes in enumerate(MESHES):
        part = segment(config, place, "elastic", tuple(axes.items()), SEGMENT * (number + 1))
        whole.losses += part.losses
        whole.ids += part.ids
        whole.states += part.states
    return whole


@pytest.mark.slow
def test_an_elastic_run_sees_the_same_batches_in_the_same_order(config: Config, place: Path) -> None:
    one, other = steady(config, place), elastic(config, place)
    assert len(other.ids) == SEGMENT * len(MESHES)
    np.testing.assert_array_equal(one.ids, other.ids)
    assert len({tuple(ids) for ids in one.ids}) == len(one.ids)


@pytest.mark.slow
def test_an_elastic_run_has_the_losses_of_a_steady_one(config: Config, place: Path) -> None:
    one, other = steady(config, place), elastic(config, place)
    assert one.losses[0] == other.losses[0] == 0, "the banks are empty yet"
    worst = np.max(np.abs(np.array(other.losses[1:]) / one.losses[1:] - 1))
    print(f"largest relative difference of a loss: {worst:.1e}")
    np.testing.assert_allclose(other.losses, one.losses, rtol=LOSS_ROUNDING)
    assert np.ptp(one.losses[3:]) > 1000 * LOSS_ROUNDING * one.losses[3], "losses that do not move prove nothing"


@pytest.mark.slow
def test_banks_are_laid_out_anew_without_losing_or_reordering_an_entry(config: Config, place: Path) -> None:
    one, other = steady(config, place), elastic(config, place)
    for number, (kept, moved) in enumerate(zip(one.states, other.states, strict=True)):
        done = SEGMENT * (number + 1)
        slots = kept["banks/image/ids"].shape[0]
        for bank in ("banks/image", "banks/text"):
            for field in ("ids", "pushed_at", "cursor", "fill"):
                np.testing.assert_array_equal(
                    moved[f"{bank}/{field}"], kept[f"{bank}/{field}"], f"{done} {bank} {field}"
                )
            for step in range(max(done - slots, 0), done):
                np.testing.assert_array_equal(moved[f"{bank}/ids"][step % slots], other.ids[step])
                assert moved[f"{bank}/pushed_at"][step % slots] == step
            keys = moved[f"{bank}/keys"]
            np.testing.assert_allclose(keys, kept[f"{bank}/keys"], rtol=0, atol=2e-5)
            norms = np.linalg.norm(keys[: min(done, slots)], axis=-1)
            np.testing.assert_allclose(norms, 1, rtol=1e-5)


@pytest.mark.slow
def test_every_leaf_of_an_elastic_run_is_that_of_a_steady_one(config: Config, place: Path) -> None:
    one, other = steady(config, place).states[-1], elastic(config, place).states[-1]
    worst = {}
    for name, leaf in one.items():
        if np.issubdtype(leaf.dtype, np.floating):
            worst[name] = np.max(np.abs(other[name] - leaf)) / max(np.max(np.abs(leaf)), 1e-3)
        else:
            np.testing.assert_array_equal(other[name], leaf, name)
    name = max(worst, key=lambda name: worst[name])
    print(f"largest relative difference of a leaf: {worst[name]:.1e} of {name}")
    assert worst[name] < STATE_ROUNDING, name


# --- damaged checkpoints ---------------------------------------------------------------------------------------------


@functools.cache
def small_run(config: Config) -> Run:
    return runs.set_up(config, jax.devices()[:1])


def state_of(current: Run, step: int) -> TrainState:
    """Noise that is another one at each step."""
    rng = np.random.default_rng(step)

    def noise(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        if jnp.issubdtype(shape.dtype, jnp.floating):
            return rng.normal(size=shape.shape).astype(shape.dtype)
        return rng.integers(0, 100, shape.shape).astype(shape.dtype)

    state: TrainState = jax.device_put(jax.tree.map(noise, current.shapes), current.shardings)
    return state.replace(step=jnp.asarray(step, jnp.int32))


@functools.cache
def written(config: Config, directory: Path) -> Run:
    """A run with checkpoints 1, 2 and 3."""
    current = small_run(config)
    with Checkpoints(directory, config.checkpoint) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state_of(current, step), config, "tokens")
    return current


@pytest.fixture
def three(tiny: Make, place: Path, tmp_path: Path) -> tuple[Run, Path]:
    """A run with checkpoints 1, 2 and 3, and a copy of them."""
    current = written(tiny(), place / "original")
    return current, shutil.copytree(place / "original", tmp_path / "checkpoints")


def resume(current: Run, directory: Path, tokenizer: str = "tokens") -> TrainState | None:
    with Checkpoints(directory, current.config.checkpoint) as checkpoints:
        return recovery.resume(current, checkpoints, tokenizer)


def assert_is(state: TrainState | None, current: Run, step: int) -> None:
    assert state is not None
    expected = trees.flatten(state_of(current, step))
    for name, leaf in trees.flatten(state).items():
        np.testing.assert_array_equal(leaf, expected[name], name)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flip_value(step: Path, leaf: np.ndarray) -> None:
    """Flips a bit in the middle of the stored values of a leaf."""
    for path in step.glob("state/**/d/*"):
        at = path.read_bytes().find(leaf.tobytes())
        if at >= 0:
            return flip(path, at + leaf.nbytes // 2)
    raise AssertionError("the leaf is not stored as it is")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def data_of(step: Path) -> list[Path]:
    return [path for path in step.glob("state/**/d/*") if path.is_file()]


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "metadata gone": lambda step: (step / "state" / "_METADATA").unlink(),
    "metadata cut": lambda step: cut(step / "state" / "_METADATA"),
    "data gone": lambda step: [path.unlink() for path in data_of(step)],
    "data cut": lambda step: [cut(path) for path in data_of(step)],
    "manifest flipped": lambda step: flip(step / "state" / "manifest.ocdbt", 50),
    "note cut": lambda step: cut(step / "note" / "metadata"),
    "note changed": lambda step: (step / "note" / "metadata").write_text(
        (step / "note" / "metadata").read_text().replace('"seed": 0', '"seed": 1')
    ),
    "empty folder": lambda step: [path.unlink() for path in step.rglob("*") if path.is_file()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(
    three: tuple[Run, Path], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    current, directory = three
    DAMAGES[damage](directory / "3")
    assert_is(resume(current, directory), current, 2)
    said = capsys.readouterr().out.splitlines()
    (line,) = [one for one in said if not one.startswith("reading checkpoint ")]
    assert line.startswith("checkpoint 3 is damaged (")
    assert line.endswith("set aside as broken-3, using the one before")
    assert names(directory) == ["1", "2", "broken-3"]


def test_a_flipped_bit_is_noticed_and_its_leaf_named(
    three: tuple[Run, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    current, directory = three
    name = "params/image/projection/fc1/kernel"
    flip_value(directory / "3", np.asarray(trees.flatten(state_of(current, 3))[name]))
    assert_is(resume(current, directory), current, 2)
    assert f"checkpoint 3 is damaged ({name}: another checksum than was written)" in capsys.readouterr().out


def test_a_run_saves_the_step_of_a_checkpoint_that_was_set_aside_again(three: tuple[Run, Path]) -> None:
    current, directory = three
    for again in ("broken-3", "broken-3.1"):
        cut(directory / "3" / "note" / "metadata")
        with Checkpoints(directory, current.config.checkpoint) as checkpoints:
            assert_is(recovery.resume(current, checkpoints, "tokens"), current, 2)
            assert (directory / again).is_dir()
            checkpoints.save(3, state_of(current, 3), current.config, "tokens")
            checkpoints.wait()
            assert checkpoints.latest() == 3
        assert_is(resume(current, directory), current, 3)
    with Checkpoints(directory, current.config.checkpoint) as checkpoints:
        for step in (4, 5):
            checkpoints.save(step, state_of(current, step), current.config, "tokens")
    assert names(directory) == ["3", "4", "5", "broken-3", "broken-3.1"]


def test_a_run_without_a_whole_checkpoint_does_not_start_anew(three: tuple[Run, Path]) -> None:
    current, directory = three
    for step in (1, 2, 3):
        cut(directory / str(step) / "note" / "metadata")
    for _ in range(2):  # the second time, nothing but what was set aside is found
        with pytest.raises(CheckpointError, match="no whole checkpoint is left .* only broken-1, broken-2, broken-3"):
            resume(current, directory)
    assert names(directory) == ["broken-1", "broken-2", "broken-3"]


def test_what_an_unfinished_save_left_is_removed(three: tuple[Run, Path], capsys: pytest.CaptureFixture[str]) -> None:
    current, directory = three
    (directory / "3").rename(directory / "3.orbax-checkpoint-tmp")
    assert_is(resume(current, directory), current, 2)
    said = "removed 3.orbax-checkpoint-tmp, which was never finished\nreading checkpoint 2 ...\n"
    assert capsys.readouterr().out == said
    assert names(directory) == ["1", "2"]


def test_a_reader_leaves_everything_as_it_is(three: tuple[Run, Path]) -> None:
    """`wenlan eval` and `wenlan export` may read beside a run that saves."""
    current, directory = three
    cut(directory / "3" / "note" / "metadata")
    (directory / "4.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(directory, current.config.checkpoint) as checkpoints:
        with pytest.raises(DamagedError, match="checkpoint 3 .* is damaged .*others there: 1, 2.* by --step"):
            checkpoints.note()
        assert checkpoints.note(2)[0] == 2
    assert names(directory) == ["1", "2", "3", "4.orbax-checkpoint-tmp"]


# --- where going on would not be safe --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOSPC, errno.ESTALE], ids=errno.errorcode.get)
def test_a_fault_that_may_pass_stops_the_run_and_changes_nothing(
    three: tuple[Run, Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    current, directory = three

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(number, "as the system says")

    with Checkpoints(directory, current.config.checkpoint) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", fail)
        with pytest.raises(CheckpointError, match="cannot be read .*as the system says.*left as it is") as error:
            recovery.resume(current, checkpoints, "tokens")
    assert not isinstance(error.value, DamagedError)
    assert names(directory) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("error", "damage"),
    [
        (ValueError("NOT_FOUND: Error opening zarr driver: Metadata at local file does not exist"), True),
        (ValueError("DATA_LOSS: Error reading ocdbt: CRC-32C checksum verification failed"), True),
        (ValueError("PERMISSION_DENIED: Error opening file: Permission denied [os_error_code='13']"), False),
        (ValueError("FAILED_PRECONDITION: Error reading file: Input/output error [os_error_code='5']"), False),
        (ValueError("UNKNOWN: Error opening file: No such file or directory [os_error_code='2']"), True),
        (FileNotFoundError(errno.ENOENT, "gone"), True),
        (PermissionError(errno.EACCES, "not yours"), False),
        (MemoryError(), False),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"), False),
    ],
)
def test_damage_is_told_from_what_may_pass(error: Exception, damage: bool) -> None:
    assert is_damage(error) == damage


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__batch_size": 16}, "train.batch_size: saved 8, now 16"),
        ({"contrast__bank_size": 40}, "contrast.bank_size: saved 20, now 40"),
    ],
)
def test_another_batch_or_bank_is_refused_with_what_to_do(
    three: tuple[Run, Path], tiny: Make, changes: dict[str, int], message: str
) -> None:
    _, directory = three
    with pytest.raises(CheckpointError) as error:
        resume(small_run(tiny(**changes)), directory)
    assert f"checkpoint 3 under {directory} was made by another configuration:\n  {message}\n" in str(error.value)
    assert "Use another --workdir, or --config.checkpoint.accept_changes=true" in str(error.value)
    assert names(directory) == ["1", "2", "3"]


def test_another_tokenizer_is_refused(three: tuple[Run, Path]) -> None:
    current, directory = three
    with pytest.raises(CheckpointError, match="the tokenizer's file is another one"):
        resume(current, directory, "other tokens")


def test_a_checkpoint_without_checksums_is_still_read(three: tuple[Run, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a version that did not write them."""
    current, directory = three
    monkeypatch.setattr(store.checksums, "of_tree", lambda tree: {})
    monkeypatch.setattr(store.CheckpointNote, "summed", lambda note: note)
    with Checkpoints(directory, current.config.checkpoint) as checkpoints:
        checkpoints.save(4, state_of(current, 4), current.config, "tokens")
    monkeypatch.undo()
    assert_is(resume(current, directory), current, 4)


# --- banks of another size -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"train__batch_size": 4}, {"contrast__bank_size": 12}, {"contrast__bank_size": 50}]
)
def test_banks_are_laid_out_anew_where_the_change_is_accepted(
    tiny: Make, config: Config, place: Path, tmp_path: Path, changes: dict[str, int]
) -> None:
    before = run_on(config, (("data", 1),))
    tokenizer = tokenizer_of(config, place)
    with Checkpoints(tmp_path, config.checkpoint) as checkpoints:
        old = runs.fresh_state(before)
        for step in range(3):
            keys = np.random.default_rng(step).normal(size=(8, 16)).astype(np.float32)
            ids = np.arange(8 * step, 8 * step + 8, dtype=np.int32)
            old = old.replace(banks={name: ring.push(one, keys, ids, step) for name, one in old.banks.items()})
        checkpoints.save(3, old.replace(step=np.int32(3)), before.config, tokenizer.fingerprint)
    contrast = dataclasses.replace(config.contrast, bank_size=changes.get("contrast__bank_size", 20))
    train_settings = dataclasses.replace(config.train, batch_size=changes.get("train__batch_size", 8))
    other = dataclasses.replace(config, contrast=contrast, train=train_settings)
    with Checkpoints(tmp_path, other.checkpoint) as checkpoints:
        with pytest.raises(CheckpointError, match="was made by another configuration"):
            loop.start_state(run_on(other, (("data", 1),)), checkpoints, tokenizer)
        accepted = dataclasses.replace(other, checkpoint=dataclasses.replace(other.checkpoint, accept_changes=True))
        current = run_on(accepted, (("data", 4),))
        state = loop.start_state(current, checkpoints, tokenizer)
    assert int(state.step) == 3
    for name, one in state.banks.items():
        expected = jax.device_get(old.banks[name])
        kept = min(20, contrast.bank_size)
        order, valid = np.asarray(ring.ranks(one)), np.asarray(ring.valid(one))
        newest = np.asarray(one.ids)[valid][np.argsort(order[valid])]
        assert newest.tolist() == list(range(23, 23 - kept, -1))
        assert int(one.fill) == kept
        assert one.keys.sharding == current.shardings.banks[name].keys
        was, valid_before = np.asarray(ring.ranks(expected)), np.asarray(ring.valid(expected))
        newest_before = np.asarray(expected.keys)[valid_before][np.argsort(was[valid_before])]
        np.testing.assert_array_equal(np.asarray(one.keys)[valid][np.argsort(order[valid])], newest_before[:kept])
    batch = {name: value for name, value in loop.train_maker(current, tokenizer)(3).items() if name != loader.REPLACED}
    on_device = meshes.to_devices(current.mesh, batch)
    after, metrics = runs.compile_step(current, on_device)(state, on_device)
    assert np.isfinite(float(metrics["loss"])) and int(after.step) == 4
