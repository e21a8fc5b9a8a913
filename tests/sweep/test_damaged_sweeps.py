"""Sweeps whose notes were damaged, or whose folders hold another run, go on with the other rows and say so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import damage
import pytest
from conftest import tiny_dict

from wenlan_jax.monitoring import run_info
from wenlan_jax.sweep import claims, folder
from wenlan_jax.tasks import experiment
from wenlan_jax.util import json_files

NOTES = ("result.json", "ledger.jsonl", "config.json", "run.json", "failure.json", "start.json", "claim")


def _complete(path: Path, config: experiment.Config) -> None:
    """Adds the notes that the stand-in does not write."""
    run_info.write(path, config)
    (path / "failure.json").write_text(json.dumps({"reason": "x", "host": "y", "id": "z"}))


@pytest.mark.parametrize("how", damage.params(damage.JSON))
def test_a_damaged_note_is_made_anew_while_the_other_rows_go_on(sweeps: Any, how: str, monkeypatch: Any) -> None:
    """One note of each of several runs, all at once; a claim of another machine is waited for until it is stale."""
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.0)
    sweeps.write_table(seeds="(0, 1, 2, 3)")
    sweeps.call("--jobs=2")
    done = [made.result() for made in sweeps.folders()]
    assert None not in done
    for made, name in zip(sweeps.folders(), NOTES, strict=False):
        _complete(made.path, made.run.config)
        if name == "claim":
            (made.path / name).write_text(json.dumps(dataclasses.asdict(claims.Holder("other", "other", 5, "t"))))
            (made.path / "result.json").unlink()
        damage.JSON[how](made.path / name)
        if name == "failure.json":
            (made.path / "result.json").unlink()
        else:
            (made.path / "failure.json").unlink()
    sweeps.call("--dry-run")
    sweeps.call("--table-only", status=1)
    for made in sweeps.folders():  # as a start does, which writes it anew
        json_files.make_way(made.path / "start.json")
    sweeps.call("--jobs=2")
    assert [made.result() for made in sweeps.folders()] == done
    assert [line.rsplit(",", 1)[1] for line in (sweeps.out / "queue.csv").read_text().splitlines()[-2:]] == ["done"] * 2


@pytest.mark.parametrize("name", ["metrics.jsonl", "ranks_test.npz", "train.log", "config.py"])
@pytest.mark.parametrize("how", damage.params(damage.BYTES))
def test_a_table_is_written_without_what_a_damaged_file_would_tell(sweeps: Any, name: str, how: str) -> None:
    sweeps.call("--jobs=2")
    made = sweeps.folders()[1]
    damage.BYTES[how](made.path / name)
    sweeps.call()
    page = (sweeps.out / "queue.md").read_text()
    assert (f"{made.path / name}: not a whole file of ranks" in page) == (name == "ranks_test.npz")


@pytest.mark.parametrize("name", ["result.json", "ledger.jsonl"])
def test_the_damaged_file_is_named(sweeps: Any, name: str) -> None:
    sweeps.call("--only=K = 8", "--seeds", "0")
    made = sweeps.folders()[1]
    damage.JSON["a directory"](made.path / name)
    assert str(made.path / name) in sweeps.call("--dry-run")
    assert made.state().kind == folder.HALF
    assert f"{made.path / name}: is no regular file; it is made anew" in sweeps.call("--only=K = 8", "--seeds", "0")


def test_a_file_in_the_place_of_a_run_fails_that_run_alone(sweeps: Any) -> None:
    first = sweeps.folders()[0].path
    first.parent.mkdir(parents=True)
    first.write_text("no directory")
    printed = sweeps.call(status=1)
    assert f"failed: {first}" in printed
    assert [made.state().kind for made in sweeps.folders()[1:]] == [folder.DONE] * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__learning_rate": 0.5},
        {"seed": 17},
        {"eval__ks": (1, 2)},
        {"train__steps": 9},
        {"data__source": "wenlan_scenes/small"},
    ],
)
def test_a_run_of_another_configuration_is_not_counted_and_not_touched(sweeps: Any, changes: dict[str, Any]) -> None:
    sweeps.call()
    made = sweeps.folders()[0]
    other = experiment.parse(tiny_dict(eval__every=2, **changes))
    run_info.write(made.path, other)
    before = sweeps.starts()
    assert made.result() is None
    state = made.state()
    field = next(iter(changes)).replace("__", ".")
    assert state.kind == folder.OTHER and field in state.text() and "remove" in state.text()
    printed = sweeps.call(status=1)
    assert "of another configuration" in printed and sweeps.starts() == before
    assert "of another configuration" in (sweeps.out / "queue.md").read_text()


def test_what_a_start_works_out_or_does_not_change_a_result_is_no_other_configuration(sweeps: Any) -> None:
    sweeps.call()
    for made in sweeps.folders():
        config = made.run.config
        bert = dataclasses.replace(config.model.text.bert, vocab_size=321)
        text = dataclasses.replace(config.model.text, bert=bert)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, text=text))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=7))
        run_info.write(made.path, config)
        wanted = made.run.config.model.text.bert.vocab_size
        assert made.differing() == ([] if wanted == 0 else [f"model.text.bert.vocab_size: saved 321, now {wanted}"])


def test_a_note_whose_fingerprint_is_not_of_its_configuration_is_damaged(sweeps: Any) -> None:
    sweeps.call()
    made = sweeps.folders()[0]
    run_info.write(made.path, made.run.config)
    note = json.loads((made.path / "start.json").read_text())
    (made.path / "start.json").write_text(json.dumps({**note, "fingerprint": "0" * 16}))
    with pytest.raises(json_files.NoteError, match="fingerprint is not that of its configuration"):
        run_info.read(made.path)
    assert made.result() is None and "start.json" in made.state().text()


def test_a_run_counted_in_epochs_is_done_at_the_steps_that_its_start_worked_out(sweeps: Any) -> None:
    sweeps.call("--only=K = 8", "--seeds", "0")
    made = sweeps.folders()[1]
    train = dataclasses.replace(made.run.config.train, epochs=0.5, steps=1000)
    config = dataclasses.replace(made.run.config, train=train)
    counted = folder.RunFolder(made.path, dataclasses.replace(made.run, config=config))
    run_info.write(made.path, dataclasses.replace(config, train=dataclasses.replace(train, steps=6)))
    assert counted.result() is not None
    run_info.write(made.path, dataclasses.replace(config, train=dataclasses.replace(train, steps=7)))
    assert counted.result() is None
