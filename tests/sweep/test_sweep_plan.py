"""Tables: what is refused before anything starts, and which rows are one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wenlan_jax.sweep import folder, plan, table
from wenlan_jax.tasks import experiment


def test_a_run_is_a_row_with_a_seed_named_after_its_whole_configuration(sweeps: Any) -> None:
    planned = sweeps.plan()
    assert [place.seed for run in planned.runs.values() for place in run.places] == [0, 0, 1, 1]
    for run in planned.runs.values():
        assert run.name == experiment.fingerprint(run.config)
        assert run.config.seed == run.places[0].seed
    assert planned.at("queue", "K = 8", 1).config.contrast.bank_size == 8
    assert planned.at("queue", "K = 20", 1).config.contrast.bank_size == 20


def test_the_same_row_in_two_tables_is_one_run(sweeps: Any) -> None:
    rows = 'Row("K = 20"), Row("eight", {"contrast.bank_size": 8}), Row("K = 4", {"contrast.bank_size": 4})'
    sweeps.write_table("other", rows, "(1, 2)")
    planned = sweeps.plan("queue", "other")
    assert len(planned.names) == 10 and len(planned.runs) == 8  # seed 1 of two rows stands in both
    shared = planned.at("queue", "K = 8", 1)
    assert shared is planned.at("other", "eight", 1)
    assert {(place.table, place.row) for place in shared.places} == {("queue", "K = 8"), ("other", "eight")}


def test_a_row_of_the_same_name_with_another_configuration_is_another_run(sweeps: Any) -> None:
    before = sweeps.plan().at("queue", "K = 8", 0).name
    sweeps.write_table(rows='Row("K = 20"), Row("K = 8", {"contrast.bank_size": 9})')
    assert sweeps.plan().at("queue", "K = 8", 0).name != before
    sweeps.write_table()
    assert sweeps.plan().at("queue", "K = 8", 0).name == before
    sweeps.write_base(eval__every=2, optimizer__learning_rate=0.5)
    assert sweeps.plan().at("queue", "K = 8", 0).name != before


def test_seeds_of_the_call_replace_those_of_the_tables(sweeps: Any) -> None:
    planned = plan.make([table.load(sweeps.root / "queue.py")], (5,))
    assert [run.config.seed for run in planned.runs.values()] == [5, 5]


def test_every_fault_of_every_row_is_told_at_once(sweeps: Any) -> None:
    rows = (
        'Row("K = 20"), Row("a", {"contrast.bank_sizes": 8}), Row("b", {"contrast.momentum": 2.0}), '
        'Row("c", {"train.steps": "many"}), Row("d", {}, base="absent.py")'
    )
    sweeps.write_table(rows=rows)
    with pytest.raises(table.TableError) as error:
        sweeps.plan()
    text = str(error.value)
    assert text.startswith("4 faults in the tables, and nothing was started")
    assert "row 'a': contrast.bank_sizes: no such field; did you mean contrast.bank_size?" in text
    assert "row 'b': contrast.momentum: at most 1 is needed, not 2.0" in text
    assert "row 'c': train.steps: int is needed, not 'many'" in text
    assert "row 'd': absent.py: no such configuration file" in text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('Row("K = 20"), Row("K = 20")', "'K = 20' stands twice"),
        ('Row("K = 8", {}),', "baseline: 'K = 20' is none of the rows: 'K = 8'"),
        ('Row("K = 20", {"seed": 3}),', "seed comes from the table's seeds"),
        ("", "at least one of each is needed"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(sweeps: Any, rows: str, message: str) -> None:
    sweeps.write_table(rows=rows)
    with pytest.raises(table.TableError, match=message):
        sweeps.plan()


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    for text, message in [
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", r"has no get_table\(\)"),
        ("get_table = int", "not 0"),
    ]:
        (tmp_path / "bad.py").write_text(text)
        with pytest.raises(table.TableError, match=message):
            table.load(tmp_path / "bad.py")
    with pytest.raises(table.TableError, match=r"no table file .* is in this folder"):
        table.in_folder(tmp_path)
    with pytest.raises(table.TableError, match="no such table file"):
        table.load(tmp_path / "none.py")


def test_a_folder_stands_for_its_tables(sweeps: Any) -> None:
    sweeps.write_table("other")
    assert [path.name for path in table.in_folder(sweeps.root)] == ["other.py", "queue.py"]  # and not base.py


def test_the_reported_split_is_never_looked_at_while_training(sweeps: Any) -> None:
    sweeps.write_base(eval__every=2, eval__splits=("validation", "test"))
    with pytest.raises(table.TableError, match=r"eval\.splits and eval\.final_splits share test"):
        sweeps.plan()
    sweeps.write_base(eval__final_splits=("test", "train"))
    with pytest.raises(table.TableError, match=r"eval\.final_splits: train is trained on"):
        sweeps.plan()
    sweeps.write_base(eval__final_splits=("validation",), eval__splits=("test",))
    with pytest.raises(table.TableError, match="recall_at_1 is of none of eval.final_splits"):
        sweeps.plan()


def test_the_curve_is_of_the_validation_split(sweeps: Any) -> None:
    config = next(iter(sweeps.plan().runs.values())).config
    assert plan.curve_metric("retrieval/test/zh/mean_recall", config) == "retrieval/validation/zh/mean_recall"
    sweeps.write_base(eval__every=0)
    assert plan.curve_metric("retrieval/test/mean_recall", next(iter(sweeps.plan().runs.values())).config) is None


def test_the_base_is_found_from_the_table_wherever_the_call_is_made(
    sweeps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    path = sweeps.write_table("deep/er/queue")
    monkeypatch.chdir("/")
    file = table.load(path)
    assert file.base(file.table.rows[0]) == tmp_path.resolve() / "base.py"


def test_a_saved_configuration_is_what_the_training_command_reads(sweeps: Any) -> None:
    """The file beside the run, not the table's base, so that an edit in between changes no run under way."""
    made = sweeps.folders()[1]
    made.path.mkdir(parents=True)
    made.prepare()
    sweeps.write_base(contrast__bank_size=77)
    assert experiment.load(made.path / "config.py") == made.run.config
    note = json.loads((made.path / "run.json").read_text())
    assert note["overrides"] == {"contrast.bank_size": 8, "seed": 0}
    assert note["places"] == [{"table": "queue", "row": "K = 8", "seed": 0}]


def test_a_mixture_survives_being_saved(sweeps: Any) -> None:
    parts = "({'source': 'a', 'weight': 1.0}, {'source': 'b', 'weight': 2.0})"
    sweeps.write_table(rows='Row("K = 20", {"data.mixture": ' + parts + "}),")
    made = sweeps.folders()[0]
    made.path.mkdir(parents=True)
    made.prepare()
    assert experiment.load(made.path / "config.py") == made.run.config
    assert [part.source for part in made.run.config.data.mixture] == ["a", "b"]


def test_a_run_from_before_a_field_existed_is_found_again(sweeps: Any) -> None:
    run = next(iter(sweeps.plan().runs.values()))
    saved = json.loads(experiment.to_json(run.config))
    del saved["telemetry"]["wandb_project"]
    old = sweeps.out / "runs" / "an_older_name"
    old.mkdir(parents=True)
    (old / "config.json").write_text(json.dumps(saved))
    assert folder.RunStore(sweeps.out).folder(run).path == old
    saved["telemetry"]["wandb"] = "offline"
    (old / "config.json").write_text(json.dumps(saved))
    assert folder.RunStore(sweeps.out).folder(run).path == sweeps.out / "runs" / run.name
