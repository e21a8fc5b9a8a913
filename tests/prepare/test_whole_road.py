"""The whole road, by commands: dirty WebDataset shards, pack, inspect, clean, train, embed, score, clean by scores.

The shards are made of drawn images, with dirt planted so that every count at every stage is known beforehand. Each
stage runs once; the tests look at what it left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dirty_shards import LAST, TEST, WHOLE, Planted, plant, write_shards
from repository import CONFIGS
from whole_runs import Place

from wenlan_jax import cli
from wenlan_jax.data import images, records, sources
from wenlan_jax.monitoring import metrics_file
from wenlan_jax.prepare.clean import job, scores
from wenlan_jax.tasks import experiment

pytestmark = pytest.mark.slow

THRESHOLDS = CONFIGS / "clean" / "web_zh.py"
MAX_IMAGES = 5
STEPS, BATCH = 3, 8
KILLED_AT = 70
"""Records written when the pack is killed."""

# The command line, which kills itself when it has written so many records.
KILLED = """
import os
import signal
import sys

from wenlan_jax import cli
from wenlan_jax.prepare import tfds_files as parts

add, written = parts.PartWriter.add, []


def add_and_die(writer, split, record):
    add(writer, split, record)
    written.append(record.id)
    if len(written) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)


parts.PartWriter.add = add_and_die
sys.exit(cli.main(sys.argv[2:]))
"""


def wenlan(*arguments: object) -> str:
    """What a command prints that must end well."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.main([str(argument) for argument in arguments]) == 0
    return printed.getvalue()


def read_all(place: Path) -> dict[str, list[records.Record]]:
    """The records of every split."""
    names = sources.split_sizes(str(place), place)
    opened = {split: sources.TfdsSource(place, split, place.name) for split in names}
    return {split: [source[row] for row in range(len(source))] for split, source in opened.items()}


def texts_of(place: Path) -> dict[str, tuple[str, ...]]:
    """The texts of every record by its id."""
    return {one.id: tuple(text.text for text in one.texts) for rows in read_all(place).values() for one in rows}


def total(counts: dict[str, int]) -> int:
    return sum(counts.values())


@dataclasses.dataclass(frozen=True)
class Road:
    """The places of the stages below `root`, and what was planted."""

    root: Path
    raw: str
    planted: Planted
    printed: dict[str, str]

    @property
    def packed(self) -> Path:
        return self.root / "packed"

    @property
    def cleaned(self) -> Path:
        return self.root / "cleaned"

    def pack(self, out: Path) -> list[str]:
        """The arguments of the pack."""
        return ["pack", self.raw, "--out", str(out), "--language", "zh", "--source", "web"]

    def clean(self, source: Path, out: Path, *fields: str) -> str:
        """Runs the cleaning; what it prints."""
        return wenlan("clean", source, "--out", out, "--workers", 0, f"--config={THRESHOLDS}", *fields)


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """Shards made, packed, looked at and cleaned."""
    for package in ("datasketch", "opencc", "py3langid"):
        pytest.importorskip(package, reason="needs the extra `clean`")
    root, planted = tmp_path_factory.mktemp("road"), plant()
    made = Road(root, write_shards(root / "raw", planted.shards), planted, {})
    made.printed["pack"] = wenlan(*made.pack(made.packed), "--workers", 0)
    look = ("data", "inspect", "--decode", "--json")
    made.printed["raw"] = wenlan(*look, made.raw, "--language", "zh")
    made.printed["packed"] = wenlan(*look, made.packed, "--out", root / "sheet")
    made.printed["clean"] = made.clean(made.packed, made.cleaned, f"--config.repeats.max_images={MAX_IMAGES}")
    return made


@pytest.fixture
def place(road: Road, tiny: Callable[..., experiment.Config]) -> Place:
    config = tiny(
        data__source=str(road.cleaned),
        tokenizer__train_size=1200,
        model__text__bert__vocab_size=0,
        train__steps=STEPS,
        train__batch_size=BATCH,
    )
    return Place.make(road.root, config)


@functools.cache
def trained(place: Place) -> Path:
    """The work directory of a run on the cleaned directory."""
    done = place.train("run")
    assert done.returncode == 0, done.stderr
    return place.root / "run"


@functools.cache
def scored(place: Place) -> tuple[Path, Path]:
    """The embeddings and the scores of the cleaned directory."""
    arrays, out = place.root / "embeddings", place.root / "scores"
    done = place.call("embed", f"--workdir={trained(place)}", f"--out={arrays}")
    assert done.returncode == 0, done.stderr
    wenlan("score", place.root / "cleaned", "--embeddings", arrays, "--out", out)
    return arrays, out


def test_pack_accounts_for_every_sample(road: Road) -> None:
    report = json.loads((road.packed / "pack.json").read_text("utf-8"))["report"]
    assert Counter(report["rejected"]) == road.planted.rejected
    # Of the shard that is cut off, the whole samples and the one damage are all that can be seen.
    assert report["read"] == sum(map(len, road.planted.shards)) - (LAST - WHOLE) + 1
    assert report["read"] == report["packed"] + total(report["rejected"])
    assert total(report["records"]) == total(report["texts"]) == report["packed"]
    for parts_of in (report["sources"], report["shards"]):
        assert sum(of["read"] for of in parts_of.values()) == report["read"]
        assert all(of["read"] == of["packed"] + of["rejected"] for of in parts_of.values())
    named = [json.loads(line) for line in (road.packed / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert Counter(line["reason"] for line in named) == road.planted.rejected
    assert f"{report['read']} read = {report['packed']} packed" in road.printed["pack"]


def test_inspect_finds_raw_what_the_pack_rejects_and_packed_nothing_broken(road: Road) -> None:
    report = json.loads((road.packed / "pack.json").read_text("utf-8"))["report"]
    raw, packed = json.loads(road.printed["raw"]), json.loads(road.printed["packed"])
    assert Counter(raw["broken"]) == road.planted.rejected
    assert raw["layout"] == "webdataset" and packed["layout"] == "packed"
    assert packed["broken"] == {}
    assert packed["looked_at"] == total(packed["records"]) == report["packed"]
    assert packed["records"] == report["records"] and packed["languages"] == report["texts"]
    assert packed["sources"] == {name: of["packed"] for name, of in report["sources"].items()}
    assert images.decode((road.root / "sheet" / "contact_sheet.jpg").read_bytes()).shape[1] > 8 * 160


def test_cleaning_takes_the_planted_dirt_and_nothing_else(road: Road) -> None:
    counts = json.loads((road.cleaned / job.REPORT_NAME).read_text("utf-8"))["report"]["counts"]
    assert Counter(counts["records_dropped"]) == road.planted.records_dropped
    assert Counter(counts["texts_dropped"]) == road.planted.texts_dropped
    for what in ("records", "texts"):
        assert total(counts[f"{what}_in"]) == total(counts[f"{what}_out"]) + total(counts[f"{what}_dropped"])
    packed = json.loads((road.packed / "pack.json").read_text("utf-8"))["report"]
    assert counts["records_in"] == packed["records"] and total(counts["texts_in"]) == total(packed["texts"])
    stays = {
        f"{shard:05d}/{index:09d}": one.stays
        for shard, samples in enumerate(road.planted.shards)
        for index, one in enumerate(samples)
        if one.stays
    }
    assert texts_of(road.cleaned) == stays
    assert f"= {len(stays)} out" in road.printed["clean"]


def test_training_reads_the_cleaned_directory(road: Road, place: Place) -> None:
    workdir = trained(place)
    result = json.loads((workdir / "result.json").read_text())
    assert (result["train/steps"], result["train/pairs"]) == (STEPS, STEPS * BATCH)
    assert result["train/replaced_records"] == 0
    lines = [row for row in metrics_file.read(workdir / "metrics.jsonl") if "train/loss" in row]
    count = len(read_all(road.cleaned)["train"])
    assert [line["data/cleaned/train/epochs"] for line in lines] == pytest.approx(
        [BATCH * step / count for step in range(1, STEPS + 1)]
    )
    assert result["retrieval/test/image_to_text/queries"] == TEST


def test_scores_are_of_all_pairs(road: Road, place: Place) -> None:
    arrays, out = scored(place)
    report = json.loads((out / scores.REPORT_NAME).read_text("utf-8"))
    rows = read_all(road.cleaned)
    for split, of in rows.items():
        seen, texts = (np.load(arrays / f"{split}.{name}.npy") for name in ("images", "texts"))
        assert (len(seen), len(texts)) == (len(of), sum(len(one.texts) for one in of))
        np.testing.assert_allclose(np.linalg.norm(np.concatenate([seen, texts]), axis=1), 1.0, atol=1e-5)
    pairs = Counter(one.source for of in rows.values() for one in of for _ in one.texts)
    assert {name: of["pairs"] for name, of in report["sources"].items()} == pairs
    for of in report["sources"].values():
        assert sum(of["histogram"]) == sum(of["shuffled_histogram"]) == of["pairs"]
    assert images.decode((out / scores.FIGURE_NAME).read_bytes()).size


def test_cleaning_by_scores_drops_what_scores_low(road: Road, place: Place) -> None:
    arrays, out = scored(place)
    limits = {
        name: of["shuffled_quantiles"][500]
        for name, of in json.loads((out / scores.REPORT_NAME).read_text("utf-8"))["sources"].items()
    }
    fields = (f"--config.scores.directories=('{out}',)", "--config.scores.quantile=0.5")
    road.clean(road.cleaned, road.root / "scored", *fields)
    wanted: dict[str, tuple[str, ...]] = {}
    for split, of in read_all(road.cleaned).items():
        seen, texts = (np.load(arrays / f"{split}.{name}.npy") for name in ("images", "texts"))
        cosines = iter(np.sum(np.repeat(seen, [len(one.texts) for one in of], axis=0) * texts, axis=1))
        for one in of:
            scores_of = [next(cosines) for _ in one.texts]
            kept = [split == "test" or score > limits[one.source] for score in scores_of]  # that split is protected
            wanted[one.id] = tuple(text.text for text, keep in zip(one.texts, kept, strict=True) if keep)
    counts = json.loads((road.root / "scored" / job.REPORT_NAME).read_text("utf-8"))["report"]["counts"]
    before = texts_of(road.cleaned)
    lost = sum(map(len, before.values())) - sum(map(len, wanted.values()))
    assert 0 < lost < sum(map(len, before.values()))
    assert counts["texts_dropped"] == {"low_score": lost}
    assert counts["records_dropped"] == {"no_text_left": sum(not said for said in wanted.values())}
    assert texts_of(road.root / "scored") == {name: said for name, said in wanted.items() if said}


def test_a_killed_pack_goes_on_and_gives_the_same(road: Road) -> None:
    out = road.root / "again"
    killed = [sys.executable, "-c", KILLED, str(KILLED_AT), *road.pack(out), "--workers", "0"]
    assert subprocess.run(killed, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not out.exists()
    again = [sys.executable, "-m", "wenlan_jax.cli", *road.pack(out), "--workers", "2"]
    done = subprocess.run(again, check=True, capture_output=True, text=True)
    assert "pack: 1 of 6 units were done before" in done.stderr
    assert read_all(out) == read_all(road.packed)
    one, two = (json.loads((place / "pack.json").read_text("utf-8"))["report"] for place in (out, road.packed))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}
    named = [(place / "rejected.jsonl").read_text("utf-8").splitlines() for place in (out, road.packed)]
    assert named[0] == named[1]
    assert not list(road.root.glob(".again*"))
