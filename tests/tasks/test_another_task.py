"""A task of another package: registered by an entry point, it goes through every command, and the package knows it not.

The task learns how many tokens a caption has from the mean colour of its image, by a linear map.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from repository import ROOT

from wenlan_jax.core.task import MicroLoss, MicroPairs, NewState
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.tasks import batch, experiment, registry, shared_data
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.spec import EvaluationSpec, TaskSpec


class Lengths:
    """The task."""

    def __init__(self, config: Any, mesh: Any) -> None:
        self.config = config

    def kind_of(self, batch: Mapping[str, Any]) -> str:
        return ""

    def fresh(self, rng: Any) -> NewState:
        return NewState({"lengths": {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)}}, {}, None, {})

    def derive(self, params: Any, taken: Collection[str]) -> Any:
        return params

    def prepare(self, micro: Any, rng: Any, positions: Any) -> Any:
        return micro

    def advance(self, state: Any) -> None:
        return None

    def encode_keys(self, state: Any, micro: Any, rng: Any) -> Any:
        return {"id": micro["id"]}, {}

    def micro_loss(self, params: Any, state: Any, micro: Any, pairs: MicroPairs, keys: Any, rng: Any) -> MicroLoss:
        loss = jnp.sum(squared_errors(params, micro)) / keys["id"].shape[0]
        return MicroLoss(loss, {"loss": loss}, {})

    def push(self, banks: Any, rows: Any, step: Any) -> Any:
        return banks

    def describe(self, state: Any) -> dict[str, Any]:
        return {}


def squared_errors(params: Any, micro: Any) -> Any:
    colours = jnp.mean(micro["image"].astype(jnp.float32), axis=(1, 2)) / 255
    guess = (colours @ params["lengths"]["kernel"])[:, 0] + params["lengths"]["bias"][0]
    return (guess - jnp.sum(micro["token_mask"], axis=1)) ** 2


class SquaredError:
    """The evaluation, beside the error of the mean length."""

    what = "lengths"

    def __init__(self, run: Run, tokenizer: Tokenizer) -> None:
        self.run, self.tokenizer = run, tokenizer
        self.errors = jax.jit(squared_errors)

    def score(self, params: Any, batch_stats: Any, split: str) -> tuple[dict[str, float], None]:
        config = self.run.config
        data = dataclasses.replace(config.data, train_split=split)
        share = tuple(range(config.train.batch_size))
        maker = shared_data.batches(dataclasses.replace(config, data=data), self.tokenizer, share)
        held_out = [maker(number) for number in range(2)]
        errors = [self.errors(params, {k: v for k, v in one.items() if k != "replaced"}) for one in held_out]
        lengths = np.concatenate([one["token_mask"].sum(axis=1) for one in held_out])
        found = {"squared_error": float(np.mean(errors)), "constant_squared_error": float(np.var(lengths))}
        return {f"lengths/{split}/{name}": value for name, value in found.items()}, None

    def one_line(self, scores: Mapping[str, float], split: str) -> str:
        return f"{split}: squared error {scores[f'lengths/{split}/squared_error']:.3g}"

    def table(self, scores: Mapping[str, float], splits: Sequence[str]) -> str:
        return "\n".join(self.one_line(scores, split) for split in splits)

    def write_pages(self, out: Path, found: Sequence[Any]) -> None:
        pass


def batch_spec(config: Any) -> batch.BatchSpec:
    size, side, length = config.train.batch_size, config.data.image_size, config.data.text_length
    return {
        "image": batch.Field((size, side, side, 3), np.uint8, "RGB", batch.below(256)),
        "token_ids": batch.Field((size, length), np.int32, "of the caption", batch.ids(600)),
        "token_mask": batch.Field((size, length), np.bool_, "True at tokens", batch.full),
        "id": batch.Field((size,), np.int32, "of the image", batch.numbered),
    }


SPEC = TaskSpec(
    name="lengths",
    meaning="how many tokens a caption has",
    model="a linear map",
    sizes="data.image_size",
    vocabulary="model.text.bert.vocab_size",
    towers=("lengths",),
    create=Lengths,
    batches=shared_data.batches,
    batch_spec=batch_spec,
    evaluations=(EvaluationSpec(SquaredError),),
    transformers=False,
)

TABLE = """
\"\"\"A larger learning rate learns lengths sooner.\"\"\"

from wenlan_jax.sweep.table import Row
from wenlan_jax.sweep.table import Table


def get_table():
    return Table(
        title="Learning rate",
        base="config.py",
        rows=(Row("small"), Row("large", {"optimizer.learning_rate": 0.3})),
        seeds=(0, 1),
        baseline="small",
        metrics=("lengths/test/squared_error",),
    )
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that counts as an installed package with the entry point, and a configuration of the task."""
    from conftest import tiny_dict  # here, as the commands import this file, and conftest simulates eight devices
    from whole_runs import CONFIG

    root = tmp_path_factory.mktemp("another")
    info = root / "installed" / "lengths-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lengths\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\nlengths = {Path(__file__).stem}:SPEC\n")
    changes: dict[str, Any] = {
        "data__dir": str(root / "data"),
        "tokenizer__train_size": 1000,
        "model__freeze": (),
        "model__text__bert__vocab_size": 1000,
        "optimizer__learning_rate": 0.1,
        "train__steps": 12,
        "eval__every": 4,
        "eval__splits": ("validation",),
    }
    text = experiment.to_json(experiment.parse(tiny_dict(**changes)))
    (root / "config.py").write_text(CONFIG.format(text=text.replace('"task": "brivl"', '"task": "lengths"')))
    (root / "table.py").write_text(TABLE)
    return root


def wenlan(place: Path, *words: str, fails: bool = False) -> str:
    """What the command says, in a process of its own."""
    tests = ROOT / "tests"
    path = [str(place / "installed"), str(tests / "tasks"), str(tests), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "XLA_FLAGS": " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag),
        "JAX_COMPILATION_CACHE_DIR": str(place / "compiled"),
    }
    found = subprocess.run(
        [sys.executable, "-m", "wenlan_jax.cli", *words],
        env=environment,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (found.returncode != 0) == fails, found.stdout
    return found.stdout


def train(place: Path, workdir: str, *more: str) -> str:
    return wenlan(place, "train", "--config=config.py", f"--workdir={workdir}", *more)


def figures(place: Path, workdir: str) -> dict[str, float]:
    return dict(json.loads((place / workdir / "result.json").read_text()))


@pytest.mark.slow
def test_it_trains_and_resumes_to_the_same_bits(place: Path) -> None:
    assert "task lengths" in train(place, "whole")
    train(place, "parts", "--config.train.steps=5")
    assert "resumed at step 5" in train(place, "parts", "--config.checkpoint.accept_changes=true")
    whole, parts = figures(place, "whole"), figures(place, "parts")
    assert whole["lengths/test/squared_error"] == parts["lengths/test/squared_error"]
    first = json.loads((place / "whole" / "metrics.jsonl").read_text().splitlines()[0])
    assert whole["lengths/test/squared_error"] < first["train/loss"]
    assert (place / "whole" / "curves.png").stat().st_size > 10_000

    assert "test: squared error" in wenlan(place, "eval", "--workdir=whole", "--out=again")
    assert figures(place, "again")["lengths/test/squared_error"] == whole["lengths/test/squared_error"]

    wenlan(place, "report", "whole")
    page = (place / "whole" / "report.html").read_text()
    assert "constant squared error" in page and f"{whole['lengths/test/squared_error']:.4g}" in page

    message = wenlan(place, "embed", "--workdir=whole", "--out=vectors", fails=True)
    assert "is a linear map of task 'lengths', and two towers are needed" in message, message
    if importlib.util.find_spec("torch") is None:
        return  # which an export asks for before it looks at the model
    message = wenlan(place, "export", "--workdir=whole", "--format=torch", "--out=exported", fails=True)
    assert "--format=torch is for two towers, and this is a linear map of task 'lengths'" in message, message


@pytest.mark.slow
def test_it_is_planned_and_timed(place: Path) -> None:
    said = wenlan(place, "plan", "--config=config.py", "--topology=h100:2", "--config.mesh.data=2")
    assert "recomputed in the backward pass: nothing" in said
    said = wenlan(place, "plan", "--config=config.py", "--topology=h100:2", "--config.mesh.data=2", "--explain")
    assert "params/lengths/kernel" in said and "token_mask" in said and "True at tokens" in said
    wenlan(place, "bench", "--config=config.py", "--steps=1", "--json=bench.json")
    timed = json.loads((place / "bench.json").read_text())
    assert {name for name in timed if name.startswith("part/")} == {
        "part/preparation",
        "part/loss_both_ways",
        "part/optimiser",
    }
    assert "there is a PyTorch reference for task brivl and mlmm, not lengths" in wenlan(
        place, "bench", "--config=config.py", "--against=torch", fails=True
    )


@pytest.mark.slow
def test_it_is_swept(place: Path) -> None:
    wenlan(place, "sweep", "table.py", "--out=tables", "--jobs=1")
    page = next((place / "tables").rglob("*.md")).read_text()
    assert "lengths: squared error (test)" in page and "2 of 2" in page and "Failed" not in page


def test_what_is_registered_wrongly_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(place / "installed"))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert registry.names()[-1] == "lengths"
    assert registry.named("lengths").model == "a linear map"
    entry = place / "installed" / "lengths-1.dist-info" / "entry_points.txt"
    right = entry.read_text()
    try:
        entry.write_text(right.replace("SPEC", "TABLE"))
        with pytest.raises(registry.TaskError, match="'lengths' is registered as .* which is no TaskSpec"):
            registry.named("lengths")
    finally:
        entry.write_text(right)
    with pytest.raises(registry.TaskError, match="one of brivl, clip, mlmm, rank, vqa, lengths is needed, not 'x'"):
        registry.named("x")
