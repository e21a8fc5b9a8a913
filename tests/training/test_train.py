"""Whole runs through the command line, each in a process of its own, on the smallest data set and one device.

A run is made once, by a function with a cache, and looked at by several tests.
"""

from __future__ import annotations

import functools
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from whole_runs import Place, assert_same_bits, final_state, training_lines

from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections
from wenlan_jax.data import sources
from wenlan_jax.monitoring import curves
from wenlan_jax.tasks import experiment
from wenlan_jax.training import setup as runs

STEPS = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def place(root: Path, tiny: Callable[..., experiment.Config]) -> Place:
    config = tiny(
        data__dir=str(root / "data"),
        tokenizer__train_size=1000,
        model__text__bert__vocab_size=0,
        model__image__encoder__dropout=0.1,
        train__steps=STEPS,
        checkpoint__every=2,
        checkpoint__keep=10,
        eval__every=4,
        eval__splits=("validation",),
    )
    return Place.make(root, config)


@functools.cache
def straight(place: Place) -> Path:
    """The work directory of a run from beginning to end."""
    done = place.train("straight")
    assert done.returncode == 0, done.stderr
    return place.root / "straight"


@functools.cache
def interrupted(place: Place) -> list[subprocess.CompletedProcess[str]]:
    """The same run stopped by SIGTERM, then killed, then finished with two data processes."""
    straight(place)
    return [
        place.train("interrupted", kill=signal.SIGTERM, at=1),
        place.train("interrupted", kill=signal.SIGKILL, at=5),
        place.train("interrupted", "--config.data.workers=2"),
    ]


@functools.cache
def diverged(place: Place) -> subprocess.CompletedProcess[str]:
    return place.train("diverged", "--config.optimizer.learning_rate=1e30")


@pytest.mark.slow
def test_a_run_leaves_what_a_person_looks_at(place: Place) -> None:
    workdir = straight(place)
    result = json.loads((workdir / "result.json").read_text())
    assert result["train/steps"] == STEPS
    assert result["train/pairs"] == STEPS * 8
    assert result["train/skipped_steps"] == result["train/replaced_records"] == 0
    # One text of each record, in turn; a text that other records have, too, is a query with several truths.
    records = list(sources.open_source("wenlan_scenes/tiny", "test", place.root / "data"))
    having = {text: [record for record in records if text in record.texts] for one in records for text in one.texts}
    truths = [len(having[record.texts[row % len(record.texts)]]) for row, record in enumerate(records)]
    for way in ("text_to_image", "image_to_text"):
        at = f"retrieval/test/{way}"
        assert result[f"{at}/queries"] == result[f"{at}/candidates"] == 16
        np.testing.assert_allclose(result[f"{at}/chance_recall_at_1"], np.mean(truths) / 16)
        assert 0 <= result[f"{at}/recall_at_1"] <= result[f"{at}/recall_at_5"] <= result[f"{at}/recall_at_10"] <= 1
    parts = {name: value for name, value in result.items() if name.startswith("seconds/")}
    total = parts.pop("seconds/total")
    assert {"seconds/compile", "seconds/steps", "seconds/wait_for_data", "seconds/evaluation"} <= parts.keys()
    assert all(value >= 0 for value in parts.values())
    np.testing.assert_allclose(sum(parts.values()), total)
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "What the model retrieves" in (workdir / "gallery.html").read_text()
    assert (workdir / "tokenizer.model").is_file()


def test_every_step_is_a_line_of_metrics(place: Place) -> None:
    workdir = straight(place)
    lines = training_lines(workdir)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    expected = {
        *("loss", "loss_image_to_text", "loss_text_to_image", "loss_reference"),
        *("accuracy_image_to_text", "accuracy_text_to_image", "masked_negatives", "temperature"),
        *("grad_norm", "learning_rate", "bank_fill", "bank_oldest_age", "skipped", "replaced_records"),
    }
    for line in lines:
        source = "data/wenlan_scenes/tiny/train"
        assert line.keys() == {f"train/{name}" for name in expected} | {"step", f"{source}/pairs", f"{source}/epochs"}
        assert (line[f"{source}/pairs"], line[f"{source}/epochs"]) == (8 * line["step"], line["step"] / 8)
        fill = min(8 * line["step"], 20)
        assert line["train/bank_fill"] == fill
        np.testing.assert_allclose(line["train/loss_reference"], 2 * np.log1p(fill), rtol=1e-6)
        both = line["train/loss_image_to_text"] + line["train/loss_text_to_image"]
        np.testing.assert_allclose(line["train/loss"], both, rtol=1e-5)
    drawn = curves.read_metrics(workdir / "metrics.jsonl")
    assert list(drawn["retrieval/validation/mean_recall"]) == [4]
    assert list(drawn["retrieval/test/mean_recall"]) == [STEPS]


@pytest.mark.slow
def test_sigterm_saves_the_state_and_ends_with_its_status(place: Place) -> None:
    stopped, *_ = interrupted(place)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    found = [line for line in stopped.stdout.splitlines() if line.startswith("stopped by SIGTERM after step")]
    assert len(found) == 1
    step = int(found[0].split()[5])
    assert 1 <= step <= 2
    assert "the state is saved, the same command continues" in found[0]
    assert "Traceback" not in stopped.stderr
    resumed = interrupted(place)[1]
    assert f"resumed at step {step}:" in resumed.stdout
    assert_same_bits(final_state(straight(place), 2), final_state(place.root / "interrupted", 2))


def test_a_killed_run_resumes_from_its_last_whole_checkpoint(place: Place) -> None:
    _, killed, resumed = interrupted(place)
    assert killed.returncode == -signal.SIGKILL
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed at step 2:" in resumed.stdout or "resumed at step 4:" in resumed.stdout


def test_a_stopped_and_killed_run_ends_in_the_bits_of_a_straight_one(place: Place) -> None:
    """With data processes instead of threads after the kill."""
    interrupted(place)
    other = place.root / "interrupted"
    one, two = final_state(straight(place)), final_state(other)
    assert int(one["step"]) == STEPS
    assert_same_bits(one, two)
    assert training_lines(straight(place)) == training_lines(other)
    figures = [
        {n: v for n, v in json.loads((d / "result.json").read_text()).items() if n.startswith("retrieval/")}
        for d in (straight(place), other)
    ]
    assert figures[0] == figures[1]


def test_training_moves_the_towers_and_their_averages_apart(place: Place) -> None:
    """So that equal bits above mean something."""
    early, late = (final_state(straight(place), step) for step in (2, STEPS))
    name = "params/image/projection/fc1/kernel"
    assert not np.array_equal(early[name], late[name])
    assert not np.array_equal(late[name], late["momentum/" + name])


def test_a_changed_configuration_is_refused_by_name(place: Place) -> None:
    straight(place)
    refused = place.train("straight", "--config.optimizer.learning_rate=0.02", "--config.train.log_every=3")
    assert refused.returncode == 1
    assert "optimizer.learning_rate: saved 0.01, now 0.02" in refused.stderr
    assert "checkpoint.accept_changes=true" in refused.stderr
    assert "log_every" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_changed_configuration_is_accepted_on_request(place: Place) -> None:
    shutil.copytree(straight(place), place.root / "accepted", dirs_exist_ok=True)
    accepted = place.train(
        "accepted", "--config.optimizer.learning_rate=0.02", "--config.checkpoint.accept_changes=true"
    )
    assert accepted.returncode == 0, accepted.stderr
    assert f"resumed at step {STEPS}:" in accepted.stdout


def test_eval_gives_the_figures_of_the_end_of_training(place: Place) -> None:
    workdir, out = straight(place), place.root / "evaluated"
    done = place.call("eval", f"--workdir={workdir}", f"--out={out}", "--config.eval.final_splits=('test',)")
    assert done.returncode == 0, done.stderr
    trained = json.loads((workdir / "result.json").read_text())
    expected = {name: value for name, value in trained.items() if name.startswith("retrieval/")}
    assert len(expected) > 20
    assert json.loads((out / "result.json").read_text()) == {**expected, "train/steps": STEPS}
    assert (out / "gallery.html").is_file()


def test_eval_of_an_earlier_step_in_one_language(place: Place) -> None:
    workdir, out = straight(place), place.root / "evaluated early"
    fields = ["--config.eval.final_splits=('validation',)", "--config.eval.languages=('zh',)"]
    done = place.call("eval", f"--workdir={workdir}", "--step=4", f"--out={out}", *fields)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "result.json").read_text())
    assert found["train/steps"] == 4
    assert {name.split("/")[1] for name in found if name.startswith("retrieval/")} == {"validation"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step=5"], "no checkpoint 5"),
        (["--config.model.embedding=8"], "model.embedding=8: only fields of data., eval., mesh. can be set"),
    ],
)
def test_eval_refuses_what_it_cannot_do(place: Place, arguments: list[str], message: str) -> None:
    done = place.call("eval", f"--workdir={straight(place)}", f"--out={place.root / 'refused'}", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_embeddings_are_written_for_every_text_and_can_be_scored(place: Place) -> None:
    workdir, out, data = straight(place), place.root / "embedded", place.root / "data"
    embed = ["embed", f"--workdir={workdir}", f"--out={out}", "--splits", "test", "--config.eval.batch_size=5"]
    done = place.call(*embed)
    assert done.returncode == 0, done.stderr
    source = sources.open_source("wenlan_scenes/tiny", "test", data)
    images, texts = (np.load(out / f"test.{name}.npy") for name in ("images", "texts"))
    assert images.shape == (16, 16) and texts.shape == (sum(len(record.texts) for record in source), 16)
    for rows in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-5)
    # Evaluation takes one text of each record, in turn: its figure follows from these arrays.
    trained = json.loads((workdir / "result.json").read_text())
    counts = np.array([len(record.texts) for record in source])
    queries = np.cumsum(counts) - counts + np.arange(16) % counts
    found = np.argmax(texts[queries] @ images.T, axis=1) == np.arange(16)
    np.testing.assert_allclose(found.mean(), trained["retrieval/test/text_to_image/recall_at_1"])
    other = place.call(*embed, "--step=4")
    assert other.returncode == 1
    assert "holds embeddings of" in other.stderr and "Traceback" not in other.stderr


def test_eval_of_a_directory_without_a_run(place: Place) -> None:
    done = place.call("eval", f"--workdir={place.root / 'nowhere'}")
    assert done.returncode == 1
    assert "is it the --workdir of a training run?" in done.stderr


@pytest.mark.slow
def test_a_step_that_is_not_finite_stops_the_run_and_is_named(place: Place) -> None:
    done = diverged(place)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "is not finite: first in " in line]
    step = int(line.split("step ")[1].split()[0])
    assert 2 <= step <= STEPS
    origin = line.split("first in ")[1].split(", then")[0].split(". The state")[0]
    assert origin.split(" ")[0] in ("params", "batch_stats", "momentum", "keys", "metrics", "gradient"), origin
    assert "train.non_finite='skip'" in line
    assert "Traceback" not in done.stderr


def test_the_state_before_a_step_that_is_not_finite_is_saved(place: Place) -> None:
    line = diverged(place).stderr
    before = int(line.split("step ")[1].split()[0]) - 1
    state = final_state(place.root / "diverged")
    assert (int(state["step"]), int(state["skipped"])) == (before, 0)
    floating = {name: leaf for name, leaf in state.items() if leaf.dtype == np.float32}
    assert all(np.isfinite(leaf).all() for name, leaf in floating.items() if name.startswith("banks/"))


@pytest.mark.slow
def test_steps_skipped_earlier_do_not_stop_a_run(place: Place) -> None:
    """`train.non_finite` may change from 'skip' to 'stop' on resume."""
    workdir = place.root / "skipped"
    with store.Checkpoints(straight(place) / "checkpoints", sections.CheckpointConfig()) as checkpoints:
        _, note = checkpoints.note(4)
        config = experiment.parse(note.config)
        current = runs.set_up(config, jax.devices()[:1])
        _, state = checkpoints.restore(store.abstract_of(current.shapes, current.shardings), 4)
    with store.Checkpoints(workdir / "checkpoints", sections.CheckpointConfig()) as checkpoints:
        checkpoints.save(4, state.replace(skipped=state.skipped + 3), config, note.tokenizer)
    shutil.copy(straight(place) / "tokenizer.model", workdir)
    done = place.train("skipped", "--config.train.non_finite=stop")
    assert done.returncode == 0, done.stderr
    assert (int(final_state(workdir)["step"]), int(final_state(workdir)["skipped"])) == (STEPS, 3)


@pytest.mark.slow
def test_clip_trains_in_the_same_loop(place: Place) -> None:
    done = place.train("clip", "--config.task=clip", "--config.train.steps=3")
    assert done.returncode == 0, done.stderr
    lines = training_lines(place.root / "clip")
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        np.testing.assert_allclose(line["train/loss_reference"], 2 * np.log(8), rtol=1e-6)
    assert not [name for name in final_state(place.root / "clip") if name.startswith(("banks", "momentum"))]
    assert "retrieval/test/text_to_image/recall_at_1" in json.loads((place.root / "clip/result.json").read_text())
