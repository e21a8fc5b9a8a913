"""What a start refuses before it costs anything, what it works out, and what it spares."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
import pytest
from saved_models import TWO_TOWERS, save

from wenlan_jax import cli
from wenlan_jax.checkpoints.store import CheckpointError
from wenlan_jax.data import loader, records, sources
from wenlan_jax.parallel import distributed
from wenlan_jax.prepare import tfds_files
from wenlan_jax.tasks import experiment, run_evaluations, shared_data
from wenlan_jax.tasks.experiment import Config, ConfigError
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import data_note, init_from, restore, tokenizer
from wenlan_jax.training import setup as runs
from wenlan_jax.util import atomic_files

Make = Callable[..., Config]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("data"))


# --- frozen parameters ------------------------------------------------------------------------------------------------


def names_of(current: Run) -> set[str]:
    return set(init_from.initial_leaves(current.shapes))


def test_frozen_parameters_that_would_stay_random_are_refused(tiny: Make) -> None:
    current = runs.set_up(tiny(model__random_frozen=False), jax.devices()[:1])
    with pytest.raises(ConfigError, match=r"model\.freeze: 3 frozen parameters of image/backbone would keep"):
        init_from.check_frozen(current, ())
    init_from.check_frozen(current, names_of(current))
    some = {name for name in names_of(current) if "bn1" not in name}
    with pytest.raises(ConfigError, match=r"model\.freeze: 2 frozen parameters"):
        init_from.check_frozen(current, some)
    init_from.check_frozen(runs.set_up(tiny(), jax.devices()[:1]), ())
    init_from.check_frozen(runs.set_up(tiny(model__freeze=(), model__random_frozen=False), jax.devices()[:1]), ())


def test_a_run_of_frozen_random_layers_does_not_start(tiny: Make, tmp_path: Path, capsys: Any) -> None:
    config = tmp_path / "config.py"
    text = experiment.to_json(tiny(**TWO_TOWERS, model__random_frozen=False, data__dir=str(tmp_path)))
    config.write_text(
        "import dataclasses\nfrom ml_collections import config_dict\nfrom wenlan_jax import config\n"
        f"def get_config():\n    return config_dict.ConfigDict(dataclasses.asdict(config.from_json({text!r})))\n"
    )
    assert cli.main(["train", f"--config={config}", f"--workdir={tmp_path / 'run'}"]) == 1
    assert (
        "model.freeze: 3 frozen parameters of image/backbone would keep their random start" in capsys.readouterr().err
    )


# --- data and evaluation ----------------------------------------------------------------------------------------------


def test_a_data_set_must_be_named(tiny: Make) -> None:
    with pytest.raises(ConfigError, match=r"data\.source: name a data set"):
        experiment.require_data(tiny(data__source=""))
    with pytest.raises(sources.SourceError, match=r"data\.source: names no data set"):
        sources.open_source("", "train", Path())
    assert experiment.default().data.source == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval__final_splits": ("tset",)}, r"eval\.final_splits: .*no split 'tset'; it has"),
        ({"eval__every": 2, "train__steps": 4, "eval__splits": ("valid",)}, r"eval\.splits: .*no split 'valid'"),
        ({"eval__languages": ("zh", "es")}, r"eval\.languages: wenlan_scenes/tiny/test has no text of 'es', but 'cs'"),
        ({"eval__kinds": ("title",)}, r"eval\.kinds: wenlan_scenes/tiny/test has no text of 'title', but"),
    ],
)
def test_what_an_evaluation_would_miss_is_told_before(
    tiny: Make, data_dir: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_evaluations.check(tiny(data__dir=data_dir, **changes), training=True)


def test_splits_that_are_not_evaluated_need_not_be_there(tiny: Make, data_dir: str) -> None:
    never = tiny(data__dir=data_dir, eval__every=0, eval__splits=("valid",), eval__languages=("zh", "cs"))
    run_evaluations.check(never, training=True)
    run_evaluations.check(
        tiny(data__dir=data_dir, eval__every=9, train__steps=9, eval__splits=("valid",)), training=True
    )
    run_evaluations.check(tiny(data__dir=data_dir, eval__every=2, eval__splits=("valid",)))  # as by `wenlan eval`


def test_data_that_were_made_anew_under_the_same_name_are_noticed(tiny: Make, tmp_path: Path) -> None:
    png = cv2.imencode(".png", np.zeros((24, 32, 3), np.uint8))[1].tobytes()
    made = [records.Record(f"{row}", png, 32, 24, "toy", (records.Text("weak", "en", "a" * row),)) for row in range(24)]
    config = tiny(data__source=str(tmp_path / "mine"), data__dir=str(tmp_path))
    tfds_files.write(tmp_path / "mine", {"train": made[:20], "test": made[20:24]}, "")
    data_note.check(config, tmp_path)  # nothing is known yet
    data_note.keep(config, tmp_path)
    shutil.copytree(tmp_path / "mine", tmp_path / "copy")  # another time of change
    shutil.rmtree(tmp_path / "mine")
    shutil.copytree(tmp_path / "copy", tmp_path / "mine")
    data_note.check(config, tmp_path)
    for name in ("notes.txt", "pack.json", "scores.json", "test.first.npy", ".DS_Store", "old.array_record-00000"):
        (tmp_path / "mine" / name).write_text("[]")
        data_note.check(config, tmp_path)
    noted = json.loads((tmp_path / data_note.FILE).read_text())
    noted[config.data.source].append(["rejected.jsonl", 0, 0])  # as earlier versions noted it
    (tmp_path / data_note.FILE).write_text(json.dumps(noted))
    data_note.check(config, tmp_path)
    shutil.rmtree(tmp_path / "mine")
    tfds_files.write(tmp_path / "mine", {"train": made[4:24], "test": made[:4]}, "")
    assert data_note.differing(config, tmp_path) == [config.data.source]
    with pytest.raises(ConfigError, match=r"mine: not the data that this run began with.*accept_changes=true"):
        data_note.check(config, tmp_path)
    accepted = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, accept_changes=True))
    data_note.check(accepted, tmp_path)
    data_note.keep(accepted, tmp_path)
    data_note.check(config, tmp_path)
    (tmp_path / data_note.FILE).write_text("[1")
    data_note.check(config, tmp_path)  # a damaged note tells nothing, and is written anew


# --- length -----------------------------------------------------------------------------------------------------------


def test_epochs_are_worked_out_in_steps(tiny: Make, data_dir: str) -> None:
    config = tiny(data__dir=data_dir, train__epochs=2.5, optimizer__warmup_fraction=0.1, eval__every_epochs=0.5)
    assert shared_data.records(config.data) == 64
    found = experiment.with_length(config, 64)  # 8 pairs a step: 8 steps an epoch
    assert (found.train.steps, found.optimizer.warmup_steps, found.eval.every) == (20, 2, 4)
    assert experiment.with_length(found, 64) == found
    assert experiment.with_length(tiny(), 10**6) == tiny()
    with pytest.raises(ConfigError, match="warmup_steps"):
        experiment.with_length(tiny(train__epochs=0.5, train__steps=100, optimizer__warmup_steps=50), 64)
    for field in ("train__epochs", "eval__every_epochs"):
        for epochs in (1e10, 1e308):  # more steps than a configuration can be read back with, and infinitely many
            with pytest.raises(ConfigError, match=f"{field.replace('__', '.')}: .* a run has at most"):
                experiment.with_length(tiny(**{field: epochs}), 64)


@pytest.mark.slow
def test_a_run_of_epochs_has_their_steps(tiny: Make, data_dir: str, tmp_path: Path) -> None:
    from wenlan_jax.training import loop

    config = tiny(
        data__dir=data_dir, tokenizer__train_size=1000, model__text__bert__vocab_size=0, train__epochs=0.25,
        train__steps=100, eval__final_splits=(), mesh__data=8,
    )  # fmt: skip
    assert loop.train(config, tmp_path / "run")["train/steps"] == 2
    assert loop.train(config, tmp_path / "run")["train/steps"] == 2  # and goes on as itself


# --- tokenizer --------------------------------------------------------------------------------------------------------

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "circle", "red", "left"]


@pytest.fixture
def with_vocabulary(tiny: Make, data_dir: str, tmp_path: Path) -> tuple[Config, Path, Path]:
    """A configuration with a vocab.txt, that file, and a work directory that was trained with it."""
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(PIECES) + "\n")
    config = tiny(**TWO_TOWERS, data__dir=data_dir, tokenizer__path=str(vocab))
    workdir = save(config, tmp_path / "run")
    tokenizer.keep(tokenizer.prepare(config, workdir), workdir)
    return config, vocab, workdir


def test_a_run_keeps_its_tokenizer(with_vocabulary: tuple[Config, Path, Path]) -> None:
    """Also when the file it was made from changes or goes."""
    _, vocab, workdir = with_vocabulary
    assert (workdir / "vocab.txt").read_bytes() == vocab.read_bytes()
    before = restore.load(workdir, None, (), ()).tokenizer
    assert before is not None
    vocab.write_text("\n".join([*PIECES[:5], *PIECES[:4:-1]]) + "\n")
    changed = restore.load(workdir, None, (), ()).tokenizer
    vocab.unlink()
    gone = restore.load(workdir, None, (), ()).tokenizer
    assert changed is not None and gone is not None
    assert before.fingerprint == changed.fingerprint == gone.fingerprint


@pytest.mark.parametrize("command", ["eval", "embed", "export"])
def test_every_command_refuses_another_tokenizer(
    with_vocabulary: tuple[Config, Path, Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
) -> None:
    if command == "export":
        pytest.importorskip("torch")
    _, vocab, workdir = with_vocabulary
    other = "\n".join([*PIECES[:5], *PIECES[:4:-1]]) + "\n"
    vocab.write_text(other)
    (workdir / "vocab.txt").write_text(other)
    rest = ["--format=torch"] if command == "export" else []
    assert cli.main([command, f"--workdir={workdir}", f"--out={tmp_path / 'out'}", *rest]) == 1
    assert "not the tokenizer that this model was trained with" in capsys.readouterr().err
    assert not (tmp_path / "out" / "result.json").exists()
    vocab.unlink()
    (workdir / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.path: .* is gone; put the right file there, or into"):
        restore.load(workdir, None, (), ())


def test_a_vocabulary_that_the_texts_do_not_fill_is_as_large_as_they_fill(
    tiny: Make, data_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"data__dir": data_dir, "tokenizer__path": "", "model__text__bert__vocab_size": 0}
    found = tokenizer.prepare(tiny(**TWO_TOWERS | fields | {"tokenizer__train_size": 100_000}), tmp_path)
    told = capsys.readouterr().out
    assert f"the training texts fill {found.size} pieces, fewer than tokenizer.train_size=100000" in told
    (tmp_path / "other").mkdir()
    as_many = tiny(**TWO_TOWERS | fields | {"tokenizer__train_size": found.size})
    assert tokenizer.prepare(as_many, tmp_path / "other").fingerprint == found.fingerprint


def test_only_one_tokenizer_is_kept(with_vocabulary: tuple[Config, Path, Path], tiny: Make, data_dir: str) -> None:
    config, _, workdir = with_vocabulary
    own = dataclasses.replace(config, tokenizer=dataclasses.replace(config.tokenizer, path=""))
    (workdir / "vocab.txt").unlink()
    tokenizer.keep(tokenizer.prepare(own, workdir), workdir)
    assert [name for name in tokenizer.KEPT if (workdir / name).exists()] == ["tokenizer.model"]
    assert not list(workdir.glob(".tokenizer-*"))


# --- one job a directory ----------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from wenlan_jax.util import atomic_files as places

with places.holding(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(place: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_directory_is_held_by_one_process_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    first = holder(tmp_path, 600)
    with (
        pytest.raises(atomic_files.BusyError, match=rf"process {first.pid} on .* is at work there; wait for it"),
        atomic_files.holding(tmp_path),
    ):
        pass
    first.kill()
    first.wait()
    with atomic_files.holding(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / atomic_files.LOCK).read_text()


def test_a_successor_waits_for_its_predecessor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = holder(tmp_path, 1)
    with atomic_files.holding(tmp_path, patience=60):
        assert first.wait() == 0
    assert f"process {first.pid} on" in capsys.readouterr().out


def test_a_second_training_does_not_touch_the_first(
    tiny: Make, data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wenlan_jax.training import loop

    monkeypatch.setattr(loop, "LOCK_SECONDS", 0.0)
    unfinished = tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp"
    unfinished.mkdir(parents=True)
    first = holder(tmp_path, 600)
    try:
        with pytest.raises(atomic_files.BusyError, match="is at work there"):
            loop.train(tiny(data__dir=data_dir, mesh__data=8), tmp_path)
    finally:
        first.kill()
        first.wait()
    assert unfinished.is_dir()


# --- the machine ------------------------------------------------------------------------------------------------------


def test_batches_that_do_not_fit_into_shared_memory_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that writes beyond the size of /dev/shm is killed without a word."""

    def maker(number: int) -> dict[str, np.ndarray]:
        return {"image": np.zeros((16, 1024, 1024), np.uint8)}  # 16 MiB

    monkeypatch.setattr(loader, "SHARED_MEMORY", tmp_path)
    free = types.SimpleNamespace(f_bavail=100, f_frsize=2**20)
    monkeypatch.setattr(os, "statvfs", lambda place: free)
    with pytest.raises(
        loader.SharedMemoryError, match=r"data\.workers: 2 processes need 128 MiB .* has 100 MiB free.*"
    ):
        loader._check_shared_memory(maker, 0, workers=2, each=2)
    free.f_bavail = 128
    loader._check_shared_memory(maker, 0, workers=2, each=2)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"http_proxy": "http://proxy:1"}, "node07"),
        ({"HTTPS_PROXY": "http://proxy:1", "no_proxy": "localhost,.local"}, "localhost,.local,node07"),
        ({"grpc_proxy": "http://proxy:1", "no_proxy": "node07"}, "node07"),
        ({"no_proxy": "localhost"}, "localhost"),
        ({}, None),
    ],
)
def test_the_coordinator_is_not_looked_for_behind_a_proxy(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None
) -> None:
    for name in (*distributed.PROXIES, *distributed.NO_PROXIES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in distributed.NO_PROXIES:  # so that what is set is taken back
        monkeypatch.setenv(name, os.environ[name]) if name in os.environ else monkeypatch.delenv(name, raising=False)
    distributed._spare_the_proxy("node07")
    assert os.environ.get("no_proxy") == expected
    for name in distributed.NO_PROXIES:
        os.environ.pop(name, None)


# --- embeddings -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_embeddings_of_something_else_are_not_kept(
    tiny: Make, data_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(**TWO_TOWERS, data__dir=data_dir)
    workdir, out = save(config, tmp_path / "run"), tmp_path / "out"
    command = ["embed", f"--workdir={workdir}", f"--out={out}", "--splits", "test"]
    assert cli.main(command) == 0
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert np.load(out / "test.images.npy").shape == (16, 16)
    np.testing.assert_allclose(np.linalg.norm(np.load(out / "test.texts.npy"), axis=1), 1, atol=1e-5)
    assert cli.main(command) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    for changes, word in (
        (["--config.data.image_size=24"], "data.image_size (16, now 24)"),
        (["--config.data.text_length=6"], "data.text_length (12, now 6)"),
        (["--config.data.antialias=false"], "data.antialias (True, now False)"),
    ):
        assert cli.main([*command, *changes]) == 1
        assert f"holds embeddings of another {word}; choose another --out" in capsys.readouterr().err
    (Path(data_dir) / "wenlan_scenes" / "tiny" / "notes.txt").write_text("of no account")
    note = json.loads((out / "embeddings.json").read_text())
    note["data"]["files"].append(["pack.json", 3, 4])  # as earlier versions noted it
    (out / "embeddings.json").write_text(json.dumps(note))
    assert cli.main(command) == 0
    shutil.rmtree(workdir)
    save(dataclasses.replace(config, seed=1), workdir)
    assert cli.main(command) == 1
    assert "holds embeddings of another model and weights" in capsys.readouterr().err
    (out / "embeddings.json").write_text("[1")
    assert cli.main(command) == 1
    assert "embeddings.json is damaged" in capsys.readouterr().err


def test_a_tokenizer_that_is_gone_is_told_as_gone(tiny: Make, data_dir: str, tmp_path: Path) -> None:
    workdir = save(tiny(**TWO_TOWERS, data__dir=data_dir), tmp_path / "run")
    assert restore.load(workdir, None, [], ()).tokenizer is not None
    for name in tokenizer.KEPT:
        (workdir / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="is gone .*; put it back into .*run as vocab.txt or tokenizer.model"):
        restore.load(workdir, None, [], ())


@pytest.mark.parametrize(
    "mark", ["dataset_info.json", "checkpoints/0/x", "start.json", "embeddings.json", "scores.json"]
)
def test_no_directory_is_of_two_kinds(mark: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atomic_files.write(tmp_path / "out" / mark, b"{}")
    commands = {
        "embeddings.json": ["embed", f"--workdir={tmp_path / 'none'}", f"--out={tmp_path / 'out'}"],
        "scores.json": ["score", str(tmp_path / "none"), f"--embeddings={tmp_path}", f"--out={tmp_path / 'out'}"],
    }
    for own, command in commands.items():
        assert cli.main(command) == 1
        told = capsys.readouterr().err
        assert ("name another --out" in told) == (own != mark), told
    assert [path.name for path in (tmp_path / "out").iterdir()] == [mark.split("/")[0]]


def test_a_checkpoint_of_a_path_that_cannot_be_read_back_is_refused_at_once(tiny: Make, tmp_path: Path) -> None:
    from wenlan_jax.training import loop

    with pytest.raises(CheckpointError, match="cannot be read back"):
        loop.train(tiny(), tmp_path / "lr[1e-3]")
    assert not (tmp_path / "lr[1e-3]").exists()
