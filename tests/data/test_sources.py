"""Sources: random access, laziness across processes and threads, and errors that name the file."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from wenlan_jax.data import sources
from wenlan_jax.data.records import Question, Record, Region, Text
from wenlan_jax.prepare import tfds_files


def _record(index: int) -> Record:
    pixels = np.random.default_rng(index).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Record(
        id=f"编号{index}",
        image=cv2.imencode(".png", pixels)[1].tobytes(),
        width=32,
        height=24,
        source="toy",
        texts=(Text("descriptive", "zh", f"第{index}张"), Text("weak", "en", f"no. {index}"))[: index % 3],
        regions=tuple(Region((0.5 * k, 1.0, 9.0, 12.25), f"label{k}", ("red", "big"), 0.5) for k in range(index % 2)),
        questions=(Question("en", "which?", str(index)),),
    )


RECORDS = [_record(index) for index in range(150)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    tfds_files.write(root / "toy", {"train": RECORDS[:130], "test": RECORDS[130:]}, "test")
    return root


def test_records_come_back_whole_and_in_order(data_dir: Path) -> None:
    source = sources.open_source("toy", "train", data_dir)
    assert (len(source), source.name) == (130, "toy/train")
    for row in (129, 0, 64, 63, 65, 1, 2):
        assert source[row] == RECORDS[row]
    assert source[np.int64(7)] == RECORDS[7]


def test_a_spec_is_a_path_or_a_name_below_the_data_directory(data_dir: Path, tmp_path: Path) -> None:
    assert sources.open_source(str(data_dir / "toy"), "test", tmp_path)[0] == RECORDS[130]
    shutil.copytree(data_dir / "toy", tmp_path / "named" / "1.0.0")
    assert len(sources.open_source("named", "test", tmp_path)) == 20
    shutil.copytree(data_dir / "toy", tmp_path / "named" / "2.0.0")
    with pytest.raises(sources.SourceError, match=r"holds 1\.0\.0, 2\.0\.0"):
        sources.open_source("named", "test", tmp_path)


def test_tfds_slices_select_rows(data_dir: Path) -> None:
    assert len(sources.open_source("toy", "train+test", data_dir)) == 150
    tail = sources.open_source("toy", "train[100:]", data_dir)
    assert [tail[row].id for row in range(len(tail))] == [record.id for record in RECORDS[100:130]]


@pytest.mark.parametrize("row", [-1, 130])
def test_rows_outside_are_refused(data_dir: Path, row: int) -> None:
    source = sources.open_source("toy", "train", data_dir)
    with pytest.raises(IndexError, match="130 records"):
        source[row]


def test_an_open_source_pickles_small_and_closed(data_dir: Path) -> None:
    source = sources.open_source("toy", "train", data_dir)
    assert source[5] == RECORDS[5]
    data = pickle.dumps(source)
    assert len(data) < 1000
    assert pickle.loads(data)[6] == RECORDS[6]


def test_remembered_records_are_read_once_and_so_many_at_most(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read = [], sources.TfdsSource.__getitem__
    monkeypatch.setattr(sources.TfdsSource, "__getitem__", lambda self, row: reads.append(row) or read(self, row))
    remembered = sources.CachedSource(sources.open_source("toy", "train", data_dir), 3)
    assert (len(remembered), remembered.name) == (130, "toy/train")
    for _ in range(2):
        for row in (5, 0, 7, 9):
            assert remembered[row] == RECORDS[row]
    assert reads == [5, 0, 7, 9, 9], "the last one had no room"
    data = pickle.dumps(remembered)
    assert len(data) < 1200, "records do not travel to data workers"
    assert pickle.loads(data)[7] == RECORDS[7]


def test_threads_read_the_same_records(data_dir: Path) -> None:
    source = sources.open_source("toy", "train", data_dir)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.__getitem__, range(130))) == RECORDS[:130]


def test_missing_data_and_splits_are_named(data_dir: Path) -> None:
    with pytest.raises(sources.SourceError, match=r"'nowhere' not found.*wenlan pack"):
        sources.open_source("nowhere", "train", data_dir)
    with pytest.raises(sources.SourceError, match=r"no split 'validation'; it has .*train \(130\)"):
        sources.open_source("toy", "validation", data_dir)
    with pytest.raises(sources.SourceError, match=r"empty"):
        sources.open_source("toy", "train[:0]", data_dir)


def _shard(directory: Path) -> Path:
    return next(directory.glob("*-train.array_record*"))


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "swapped"])
def test_damaged_shards_are_found_on_opening(data_dir: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(data_dir / "toy", tmp_path / "toy")
    shard = _shard(tmp_path / "toy")
    if damage == "missing":
        shard.unlink()
    elif damage == "swapped":
        shard.write_bytes(next((tmp_path / "toy").glob("*-test.array_record*")).read_bytes())
    else:
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2 if damage == "truncated" else 0])
    with pytest.raises(sources.SourceError, match=r"20 records, not 130|missing|truncated") as caught:
        sources.open_source("toy", "train", tmp_path)
    assert str(shard) in str(caught.value)
    assert len(sources.open_source("toy", "test", tmp_path)) == 20


def test_a_hole_in_a_shard_is_found_on_reading(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "toy", tmp_path / "toy")
    shard = _shard(tmp_path / "toy")
    content = bytearray(shard.read_bytes())
    # array_record starts blocks of 64 KiB; the first two hold the head of the file.
    content[2 << 16 : 3 << 16] = bytes(1 << 16)
    shard.write_bytes(content)
    source = sources.open_source("toy", "train", tmp_path)
    with pytest.raises(sources.SourceError, match=r"row \d+ of split 'train' cannot be read"):
        for row in range(len(source)):
            source[row]


def test_a_foreign_schema_and_a_damaged_directory_are_explained(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "toy", tmp_path / "toy")
    info = tmp_path / "toy" / "dataset_info.json"
    info.write_text(info.read_text()[:100])
    with pytest.raises(sources.SourceError, match="cannot be opened"):
        sources.open_source("toy", "train", tmp_path)

    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.dataset_info import DatasetIdentity

    other = tmp_path / "other"
    other.mkdir()
    identity = DatasetIdentity(name="other", version=tfds.core.Version("1.0.0"), data_dir=str(other), module_name="m")
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": np.int64})
    description = tfds.core.DatasetInfo(builder=identity, features=features)
    tfds.core.SequentialWriter(description, 10, file_format="array_record").close_all()
    with pytest.raises(sources.SourceError, match="lacks .*texts"):
        sources.open_source("other", "train", tmp_path)


MANY = """
import resource, sys
from pathlib import Path
from wenlan_jax.data import sources

resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
source = sources.open_source(sys.argv[1], "train", Path("."))
for turn in range(2):
    assert [source[row].id for row in range(len(source))] == [f"{row}" for row in range(len(source))]
print("read", len(source))
"""


def test_more_shards_than_a_process_may_open_are_read(tmp_path: Path) -> None:
    """Readers that were not used for long are closed."""
    written = []
    for number in range(300):
        shard = tfds_files.PartWriter(tmp_path / "many", number)
        shard.add("train", dataclasses.replace(RECORDS[0], id=f"{number}"))
        written.append(shard.close())
    tfds_files.assemble(tmp_path / "many", written, "test")
    command = [sys.executable, "-c", MANY, str(tmp_path / "many")]
    done = subprocess.run([*command, "260"], capture_output=True, text=True)
    assert done.stdout == "read 300\n", done.stderr
    few = subprocess.run([*command, "40"], capture_output=True, text=True)
    assert "Too many open files" in few.stderr
    assert "damaged" not in few.stderr


def test_a_shard_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    for turn in range(2):
        shutil.rmtree(tmp_path / "toy", ignore_errors=True)
        tfds_files.write(tmp_path / "toy", {"train": RECORDS[turn : turn + 1]}, "test")
        assert sources.open_source(str(tmp_path / "toy"), "train", tmp_path)[0] == RECORDS[turn]
