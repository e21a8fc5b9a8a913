"""Whole runs of the single tower through the command line: pretraining, both fine-tunings, and a run cut in two."""

from __future__ import annotations

import functools
import json
import signal
from pathlib import Path

import pytest
from single_runs import tiny_single
from whole_runs import Place, assert_same_bits, final_state, training_lines

from wenlan_jax.tasks.single_tower.batch import FIELDS

PARTS = (
    {"source": "wenlan_scenes/tiny", "kinds": ("descriptive",), "weight": 0.5},
    {"source": "wenlan_scenes/tiny", "kinds": ("weak",), "weight": 0.5, "objectives": ("itm",)},
)
"""One source with strong and one with weak texts, which train matching alone."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("single")


@pytest.fixture
def place(root: Path) -> Place:
    config = tiny_single(
        data__dir=str(root / "data"),
        data__mixture=PARTS,
        tokenizer__train_size=1000,
        single__vocab_size=0,
        data__remembered=10,
        single__dropout=0.1,
        optimizer__name="muon",
        train__steps=16,
        checkpoint__every=4,
        checkpoint__keep=10,
        eval__batches=2,
        eval__languages=("zh", "en"),
    )
    return Place.make(root, config)


@functools.cache
def straight(place: Place) -> Path:
    """The work directory of a pretraining from beginning to end."""
    done = place.train("straight")
    assert done.returncode == 0, done.stderr
    assert "compiling the training step for itm, 12 tokens and 4 regions" in done.stdout
    return place.root / "straight"


@pytest.mark.slow
def test_every_step_trains_one_objective_and_the_log_tells_each_apart(place: Place) -> None:
    lines = training_lines(straight(place))
    seen = [[name for name in FIELDS if f"train/{name}_loss" in line] for line in lines]
    assert all(len(names) == 1 for names in seen)
    assert {names[0] for names in seen} == {"itm", "mlm", "mrfr", "mrc"}
    result = json.loads((straight(place) / "result.json").read_text())
    for name in ("itm", "mlm", "mrfr", "mrc"):
        assert result[f"pretrain/test/{name}/loss"] > 0
        assert result[f"pretrain/test/{name}/constant_loss"] > 0
        assert result[f"pretrain/test/{name}/zh/loss"] > 0
        assert (f"pretrain/test/{name}/mismatched_loss" in result) == (name != "itm")


@pytest.mark.slow
def test_a_run_that_is_stopped_and_continued_ends_in_the_same_bits(place: Place) -> None:
    assert place.train("cut", kill=signal.SIGTERM, at=6).returncode == 128 + signal.SIGTERM
    assert place.train("cut", "--config.data.workers=2").returncode == 0
    assert_same_bits(final_state(place.root / "cut"), final_state(straight(place)))
    assert training_lines(place.root / "cut") == training_lines(straight(place))


def fine_tuned(place: Place, task: str, *fields: str) -> tuple[Path, str]:
    """The work directory and what was said."""
    start = straight(place)
    done = place.train(
        task,
        f"--config.task={task}",
        "--config.data.mixture=()",
        f"--config.init_from={start}",
        f"--config.tokenizer.path={start}",
        "--config.train.steps=3",
        *fields,
    )
    assert done.returncode == 0, done.stderr
    return place.root / task, done.stdout


@pytest.mark.slow
def test_fine_tuning_for_retrieval_on_one_language_is_measured_in_all(place: Place) -> None:
    workdir, said = fine_tuned(
        place,
        "rank",
        "--config.data.languages=('en',)",
        "--config.eval.rank_images=6",
        "--config.eval.languages=()",
        "--config.eval.one_text_per_image=false",
    )
    assert "params/single/rank_head" in said.split("fresh:")[1]
    result = json.loads((workdir / "result.json").read_text())
    averages = [name for name in result if name.endswith("/average_recall")]
    assert len(averages) == 8, "seven languages, and all of them"
    assert result["retrieval/test/text_to_image/candidates"] == 6
    told = place.call("eval", f"--workdir={workdir}")
    assert told.returncode == 0, told.stderr
    again = json.loads((workdir / "eval" / "result.json").read_text())
    assert {name: again[name] for name in averages} == {name: result[name] for name in averages}


def test_answers_are_counted_once_and_belong_to_the_run(place: Place) -> None:
    workdir, said = fine_tuned(place, "vqa", "--config.vqa.answers=40")
    assert "answers can be given" in said
    result = json.loads((workdir / "result.json").read_text())
    assert 0 <= result["vqa/test/all/accuracy"] <= result["vqa/test/all/best_possible"] <= 1
    assert result["vqa/test/all/majority"] <= result["vqa/test/all/question_alone"] + 0.2
    answers = workdir / "answers.json"
    known = json.loads(answers.read_text())
    answers.write_text(json.dumps(known[::-1]))
    refused = place.call("eval", f"--workdir={workdir}")
    assert refused.returncode == 1
    assert "is not the list of answers that this model was trained with" in refused.stderr
