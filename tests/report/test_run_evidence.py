"""What is read of a work directory: what Orbax wrote without Orbax, what is damaged with a remark, and no jax."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import damage
import jax
import pytest
import report_runs
from conftest import tiny_dict
from report_runs import STEPS

from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections
from wenlan_jax.evaluation import statistics
from wenlan_jax.monitoring import run_info
from wenlan_jax.report import evidence, page
from wenlan_jax.tasks import experiment


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "run"
    root.mkdir()
    report_runs.make(root)
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run, to be damaged; its intervals are drawn with fewer resamples."""
    monkeypatch.setattr(statistics, "RESAMPLES", 50)
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_whole_run_needs_no_remark(finished: Path) -> None:
    found = evidence.read(finished)
    assert found.remarks == ()
    assert found.steps_done == STEPS
    assert found.ranks.keys() == {"test"}


def test_the_note_is_that_of_the_checkpoints(finished: Path) -> None:
    with store.Checkpoints(finished / "checkpoints", sections.CheckpointConfig()) as checkpoints:
        step, note = checkpoints.note()
    saved = evidence.read(finished).saved
    assert saved == evidence.Saved(step, note.version, note.fingerprint, note.tokenizer, note.config)


def test_behind_a_damaged_note_the_one_before_is_read(run: Path) -> None:
    (run / "checkpoints" / str(STEPS) / "note" / "metadata").write_text('{"config": {"tas')
    found = evidence.read(run)
    assert found.saved is not None
    assert found.saved.step == 3
    assert any(f"The note of checkpoint {STEPS} cannot be read" in text for text in found.remarks)


def test_before_a_checkpoint_the_note_of_the_start_holds_the_configuration(run: Path) -> None:
    config = experiment.parse(tiny_dict())
    run_info.write(run, config)
    shutil.rmtree(run / "checkpoints")
    found = evidence.read(run)
    assert found.config == json.loads(experiment.to_json(config))
    assert found.fingerprint == experiment.fingerprint(config)
    text = page.render(found)
    assert "There is no checkpoint yet." in text
    assert "As start.json holds it." in text
    for name in ("jax", "optax"):
        assert f"{name} {importlib.metadata.version(name)}" in text
    assert f"{jax.device_count()} x {jax.devices()[0].device_kind}" in text
    (run / run_info.NAME).unlink()
    text = page.render(evidence.read(run))
    assert "Neither a checkpoint nor the note of a start" in text


def test_a_note_of_a_start_that_is_cut_off_is_left_out(run: Path) -> None:
    (run / run_info.NAME).write_text('{"version": "1"')
    found = evidence.read(run)
    assert found.start is None
    assert any("start.json is not the note of a start" in text for text in found.remarks)


def test_lines_that_a_kill_cut_off_are_counted(run: Path) -> None:
    metrics = run / "metrics.jsonl"
    whole = metrics.read_text().splitlines()
    metrics.write_text("\n".join([*whole[:2], whole[2][:20], "", whole[3]]))
    found = evidence.read(run)
    assert any("metrics.jsonl: 1 of 4 lines are not whole" in text for text in found.remarks)
    assert sorted(found.series["train/loss"]) == [1, 2, 4]


@pytest.mark.parametrize(
    ("name", "content", "remark"),
    [
        ("result.json", b'{"a": ', "result.json cannot be read"),
        ("result.json", b"[1]", "result.json cannot be read"),
        ("ranks_test.npz", b"PK\x03\x04 cut", "There are no intervals"),
        ("ledger.jsonl", b"", "where the time went is not known"),
        ("gallery.html", b"<html><body>cut", "gallery.html is not a whole gallery"),
    ],
)
def test_a_damaged_file_is_left_out_with_a_remark(run: Path, name: str, content: bytes, remark: str) -> None:
    (run / name).write_bytes(content)
    found = evidence.read(run)
    assert any(remark in text for text in found.remarks)
    assert remark in page.render(found)


def test_a_run_that_has_written_nothing_but_its_ledger_is_one(tmp_path: Path) -> None:
    report_runs.write_ledger(tmp_path, [report_runs.snapshot(0)])
    text = page.render(evidence.read(tmp_path))
    assert "0 steps are done" in text
    assert "Nothing was evaluated yet." in text
    assert "metrics.jsonl holds no step yet." in text


def test_a_directory_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        evidence.ReportError, match="holds no run: none of checkpoints/, metrics.jsonl and ledger.jsonl"
    ):
        evidence.read(tmp_path)
    with pytest.raises(evidence.ReportError, match="no such directory"):
        evidence.read(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(evidence.ReportError, match="no such directory"):
        evidence.read(tmp_path / "file")


def test_a_report_imports_neither_jax_nor_orbax(run: Path) -> None:
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom wenlan_jax.report import page\n"
        f"page.write(Path({str(run)!r}))\nprint(json.dumps([m for m in ('jax', 'orbax', 'flax') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert (run / page.NAME).is_file()


@pytest.mark.parametrize(
    "name",
    ["result.json", "ledger.jsonl", "metrics.jsonl", "start.json", "ranks_test.npz", "gallery.html", "note"],
)
@pytest.mark.parametrize("how", damage.params(damage.JSON))
def test_a_damaged_file_is_a_remark_and_the_rest_of_the_page_stands(run: Path, name: str, how: str) -> None:
    run_info.write(run, experiment.parse(tiny_dict()))
    newest = max((path for path in (run / "checkpoints").iterdir()), key=lambda path: int(path.name))
    place = newest / "note" / "metadata" if name == "note" else run / name
    if name in ("ranks_test.npz", "gallery.html") and how not in damage.BYTES:
        pytest.skip("no JSON")
    damage.JSON[how](place)
    found = evidence.read(run)
    assert "<svg" in page.render(found) or name == "metrics.jsonl"
    shown = newest.name if name == "note" else name
    if (name, how) in (("result.json", "no fields"), ("metrics.jsonl", "empty"), ("ledger.jsonl", "cut")):
        return  # nothing was measured or logged, or the second line is gone whole
    assert any(shown in remark for remark in found.remarks)
