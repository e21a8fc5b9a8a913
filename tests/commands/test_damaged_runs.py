"""A training whose small files were damaged goes on as if they were whole, as far as they do not matter."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import damage
import pytest
from whole_runs import Place, assert_same_bits, final_state, training_lines

from wenlan_jax.monitoring import run_info, time_ledger
from wenlan_jax.tasks import experiment
from wenlan_jax.util import json_files

pytestmark = pytest.mark.slow

STEPS = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.fixture
def place(root: Path, tiny: Callable[..., experiment.Config]) -> Place:
    return Place.make(
        root,
        tiny(
            data__dir=str(root / "data"),
            tokenizer__train_size=1000,
            model__text__bert__vocab_size=0,
            train__steps=STEPS,
            checkpoint__every=2,
            eval__final_splits=("test",),
            telemetry__tensorboard="off",
        ),
    )


@functools.cache
def trained(place: Place) -> Path:
    done = place.train("run")
    assert done.returncode == 0, done.stderr
    return place.root / "run"


@pytest.mark.parametrize("how", ["a directory", "huge", "not UTF-8", "NaN", "cut"])
def test_a_run_with_damaged_notes_goes_on(place: Place, how: str) -> None:
    workdir = trained(place)
    state, lines = final_state(workdir), training_lines(workdir)
    figures = json_files.read_figures(workdir / "result.json")
    for name in ("result.json", "ledger.jsonl", "metrics.jsonl", run_info.NAME):
        damage.JSON[how](workdir / name)
    damage.BYTES["a directory" if how == "a directory" else "cut"](workdir / "ranks_test.npz")
    done = place.train("run")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    again = json_files.read_figures(workdir / "result.json")
    named = [name for name in figures if name.startswith("retrieval/")]
    assert {name: again[name] for name in named} == {name: figures[name] for name in named}
    assert_same_bits(state, final_state(workdir))
    note = run_info.read(workdir)
    assert note is not None and note.config["train"]["steps"] == STEPS
    assert time_ledger.read(workdir / "ledger.jsonl")[-1].state == time_ledger.FINISHED
    assert all(line in lines for line in training_lines(workdir))
    report = place.call("report", str(workdir))
    assert report.returncode == 0, report.stderr
    if how == "a directory":
        assert f"{workdir / 'result.json'}: is no file; renamed to result.json.damaged" in done.stdout


def test_embeddings_that_are_damaged_or_of_unknown_origin(place: Place) -> None:
    out = place.root / "embedded"
    command = ("embed", f"--workdir={trained(place)}", f"--out={out}", "--config.eval.batch_size=8")
    first = place.call(*command)
    assert first.returncode == 0, first.stderr
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for how in ("cut", "empty", "zeros"):
        damage.BYTES[how](out / "test.texts.npy")
        again = place.call(*command)
        assert again.returncode == 0, again.stderr
        assert "test.texts.npy" in again.stdout and "writing it again" in again.stdout
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    note = json.loads((out / "embeddings.json").read_text())
    (out / "embeddings.json").unlink()
    refused = place.call(*command)
    assert refused.returncode == 1 and "of unknown origin" in refused.stderr and "Traceback" not in refused.stderr
    for content in ("", "[1]", json.dumps({**note, "step": 99}), json.dumps({**note, "step": "x"})):
        (out / "embeddings.json").write_text(content)
        refused = place.call(*command)
        assert refused.returncode == 1 and "choose another --out" in refused.stderr, refused.stderr
