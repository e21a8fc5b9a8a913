"""Long data jobs: parts of units, their joining, and going on after a stop."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT

from wenlan_jax.data import sources
from wenlan_jax.data.records import Record, Text
from wenlan_jax.prepare import tfds_files
from wenlan_jax.util import atomic_files, resumable_jobs

IMAGE = b"\xff\xd8 not looked at"


def record(unit: int, row: int) -> Record:
    return Record(f"{unit}/{row}", IMAGE, 4, 3, "toy", (Text("title", "zh", f"图{row}"),))


@dataclasses.dataclass(frozen=True)
class Write:
    """Writes the records of a unit and leaves a mark each time it is asked to."""

    directory: Path
    fails_at: int = -1
    dies_at: int = -1

    def __call__(self, number: int, rows: int) -> dict[str, Any]:
        with (self.directory / f"asked-{number}").open("a") as marks:
            marks.write("x")
        output = tfds_files.PartWriter(self.directory, number)
        for row in range(rows):
            output.add("test" if row % 3 == 0 else "train", record(number, row))
            if number == self.dies_at:
                os._exit(9)
        if number == self.fails_at:
            raise OSError("no space left")
        return output.close()


def _fail() -> Path:
    raise OSError("cut off")


def ids(place: Path, split: str) -> list[str]:
    source = sources.open_source(str(place), split, place.parent)
    return [source[row].id for row in range(len(source))]


@pytest.mark.parametrize("workers", [0, 2])
def test_records_keep_the_order_of_units_and_rows(tmp_path: Path, workers: int) -> None:
    sizes = [4, 0, 7, 1]
    with atomic_files.resumable(tmp_path / "out") as directory:
        reports = resumable_jobs.run(Write(directory), sizes, directory, {}, workers, "write")
        totals = tfds_files.assemble(directory, reports, "toy")
        resumable_jobs.clear(directory, "write")
    expected = [(unit, row) for unit, size in enumerate(sizes) for row in range(size)]
    assert ids(tmp_path / "out", "train") == [f"{u}/{r}" for u, r in expected if r % 3]
    assert ids(tmp_path / "out", "test") == [f"{u}/{r}" for u, r in expected if r % 3 == 0]
    assert totals == {"test": 6, "train": 6}
    assert not (tmp_path / "out" / "write").exists()


def test_a_stored_record_is_the_same(tmp_path: Path) -> None:
    output = tfds_files.PartWriter(tmp_path, 0)
    output.add("train", record(3, 5))
    tfds_files.assemble(tmp_path, [output.close()], "toy")
    assert sources.open_source(str(tmp_path), "train", tmp_path)[0] == record(3, 5)


def test_a_failed_job_goes_on_where_it_stopped(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with pytest.raises(OSError, match="no space"), atomic_files.resumable(place) as directory:
        resumable_jobs.run(Write(directory, fails_at=2), [2, 3, 4, 5], directory, {"a": 1}, 0, "write")
    assert not place.exists()
    with atomic_files.resumable(place) as directory:
        reports = resumable_jobs.run(Write(directory), [2, 3, 4, 5], directory, {"a": 1}, 0, "write")
        tfds_files.assemble(directory, reports, "toy")
    assert [len((place / f"asked-{unit}").read_text()) for unit in range(4)] == [1, 1, 2, 1]
    assert len(ids(place, "train")) + len(ids(place, "test")) == 14


def test_a_killed_worker_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with pytest.raises(resumable_jobs.JobError, match="killed"), atomic_files.resumable(place) as directory:
        resumable_jobs.run(Write(directory, dies_at=1), [2, 3, 4], directory, {}, 1, "write")
    with atomic_files.resumable(place) as directory:
        reports = resumable_jobs.run(Write(directory), [2, 3, 4], directory, {}, 0, "write")
        tfds_files.assemble(directory, reports, "toy")
    assert len((place / "asked-0").read_text()) == 1
    assert len(ids(place, "train")) + len(ids(place, "test")) == 9


def test_other_options_do_not_go_on(tmp_path: Path) -> None:
    resumable_jobs.run(Write(tmp_path), [1], tmp_path, {"side": 4, "same": 0}, 0, "write")
    with pytest.raises(resumable_jobs.JobError, match="side was 4, is 5"):
        resumable_jobs.run(Write(tmp_path), [1], tmp_path, {"side": 5, "same": 0}, 0, "write")


def test_a_second_attempt_leaves_nothing_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_files, "RECORDS_PER_FILE", 2)
    assert Write(tmp_path)(0, 9) == {"test": 3, "train": 6}
    report = Write(tmp_path)(0, 4)
    tfds_files.assemble(tmp_path, [report], "toy")
    assert ids(tmp_path, "train") == ["0/1", "0/2"]


def test_joining_may_be_cut_off_and_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_files, "RECORDS_PER_FILE", 1)
    reports = [Write(tmp_path)(unit, 4) for unit in range(2)]
    with monkeypatch.context() as patch:
        rename, calls = Path.rename, iter(range(99))
        patch.setattr(Path, "rename", lambda *a: rename(*a) if next(calls) < 3 else _fail())
        with pytest.raises(OSError):
            tfds_files.assemble(tmp_path, reports, "toy")
    tfds_files.assemble(tmp_path, reports, "toy")
    assert ids(tmp_path, "train") == ["0/1", "0/2", "1/1", "1/2"]
    assert ids(tmp_path, "test") == ["0/0", "0/3", "1/0", "1/3"]


def test_lost_parts_are_noticed(tmp_path: Path) -> None:
    reports = [Write(tmp_path)(unit, 4) for unit in range(2)]
    next((tmp_path / "parts").glob("train-000001-*")).unlink()
    with pytest.raises(tfds_files.PartError, match="hold 2 records, not 4"):
        tfds_files.assemble(tmp_path, reports, "toy")


def test_nothing_to_write_is_said(tmp_path: Path) -> None:
    with pytest.raises(tfds_files.PartError, match="no record"):
        tfds_files.assemble(tmp_path, [{}], "toy")


HELD = """
import sys, time
from pathlib import Path
from wenlan_jax.util import atomic_files as places
from wenlan_jax.util import resumable_jobs as units
from tests.util.test_resumable_jobs import Write

class Slow(Write):
    def __call__(self, number, rows):
        super().__call__(number, rows)
        (self.directory / f"busy-{number}").touch()
        time.sleep(3600)

if __name__ == "__main__":
    with places.resumable(Path(sys.argv[1])) as directory:
        units.run(Slow(directory), [1, 2], directory, {}, 2, "write")
"""


def _state(process: int) -> str:
    """The state of a process (proc(5)); X for one that is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _descendants(process: int) -> set[int]:
    found = set()
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found |= {child} | _descendants(child)
    return found


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes as Linux shows them")
def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script, place = tmp_path / "held.py", tmp_path / "out"
    script.write_text(HELD)
    root = str(ROOT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(ROOT / "tests")])}
    with subprocess.Popen([sys.executable, str(script), str(place)], env=environment, cwd=root) as parent:
        try:
            _until(lambda: all((atomic_files.unfinished(place) / f"busy-{unit}").exists() for unit in range(2)))
            workers = _descendants(parent.pid)
        finally:
            parent.kill()
    assert len(workers) >= 2
    _until(lambda: all(_state(worker) in "XZ" for worker in workers))
    with atomic_files.resumable(place):
        pass


def test_a_lock_that_workers_inherit_holds_while_they_live(tmp_path: Path) -> None:
    with atomic_files.resumable(tmp_path / "out"):
        kept = [os.dup(handle) for handle in atomic_files._held]  # as a worker has it
    (tmp_path / "out").rename(atomic_files.unfinished(tmp_path / "out"))
    with pytest.raises(atomic_files.BusyError), atomic_files.resumable(tmp_path / "out"):
        pass
    for handle in kept:
        os.close(handle)
    with atomic_files.resumable(tmp_path / "out"):
        pass


def test_the_locks_of_a_process_reach_its_workers(tmp_path: Path) -> None:
    with atomic_files.resumable(tmp_path / "out") as directory:
        (report,) = resumable_jobs.run(_locks, [0], directory, {}, 1, "write")
    assert report == {"held": [str(directory)]}


def _locks(number: int, unit: int) -> dict[str, Any]:
    return {"held": [os.readlink(f"/proc/self/fd/{handle}") for handle in atomic_files._held]}


def test_work_with_other_options_names_what_differs(tmp_path: Path) -> None:
    before = {
        "options": {"text": {"chinese": "t2s", "html": True}, "samples": 16, "sets": ["a"], "long": "x" * 500},
        "units": [["a", "train", 0, 5], ["b", "train", 0, 7]],
    }
    with atomic_files.resumable(tmp_path / "out") as directory:
        resumable_jobs.run(Write(directory), [1], directory, before, 0, "write")

        def told(change: Callable[[dict[str, Any]], None]) -> str:
            now = json.loads(json.dumps(before))
            change(now)
            with pytest.raises(resumable_jobs.JobError, match="unfinished work with other options") as caught:
                resumable_jobs.run(Write(directory), [1], directory, now, 0, "write")
            return str(caught.value).partition("other options (")[2].partition("); repeat")[0]

        assert (
            told(lambda now: now["options"]["text"].update(chinese="off")) == "options.text.chinese was 't2s', is 'off'"
        )
        assert told(lambda now: now["units"][1].__setitem__(3, 8)) == (
            "units[1] was ['b', 'train', 0, 7], is ['b', 'train', 0, 8]"
        )
        assert told(lambda now: now["options"].pop("samples")) == "options.samples was 16, is absent"
        assert told(lambda now: now["options"].update(sets=[])) == "options.sets was ['a'], is []"
        assert len(told(lambda now: now["options"].update(long="y" * 500))) < 200
        many = told(lambda now: now.update({f"n{k}": k for k in range(9)}))
        assert many.startswith("n0 was absent, is 0; ") and many.endswith("n4 was absent, is 4; 4 more")
