"""`wenlan attention`: weights are those of the model on each text alone, for every kind of regions; the pages."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import html
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from jobs import launch, without_devices
from saved_models import SINGLE, TWO_TOWERS, save

from wenlan_jax.applications import attention_job
from wenlan_jax.applications.loaded_model import LoadedModel
from wenlan_jax.applications.requests import AttentionRequest
from wenlan_jax.commands import attention as attention_command
from wenlan_jax.data import records, sources, text
from wenlan_jax.models.single_tower import attention
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.registry import TaskError
from wenlan_jax.tasks.single_tower import data
from wenlan_jax.tasks.single_tower.tower import Tower
from wenlan_jax.tasks.two_tower.towers import image_backbone
from wenlan_jax.training import setup
from wenlan_jax.training import tokenizer as run_tokenizer

FIELDS = ("--config.eval.kinds=('descriptive',)",)
TEXTS = (("en", "the red circle is left"), ("zh", "左边有一个红色的圆"), ("de", "ein roter Kreis"))
BOXES = ((0, 0, 12, 9), (3, 3, 20, 16), (8, 1, 14, 6))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attention")


@pytest.fixture
def single(root: Path, tiny: Callable[..., experiment.Config]) -> Path:
    """The work directory of a single tower on the pixels of boxes."""
    return save(tiny(**SINGLE, data__dir=str(root / "data")), root / "single")


def _record() -> records.Record:
    """An image of three boxes with a feature each, and a text in three languages."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    return records.Record(
        id="image",
        image=cv2.imencode(".png", pixels)[1].tobytes(),
        width=20,
        height=16,
        texts=tuple(records.Text("descriptive", *said) for said in TEXTS),
        regions=tuple(records.Region(tuple(map(float, box)), "", score=1.0) for box in BOXES),
        region_features=np.random.default_rng(1).standard_normal((3, 12)).astype(np.float16),
    )


@dataclasses.dataclass
class _OneRecord:
    """A source of a single record."""

    name: str = "one"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, row: int, /) -> records.Record:
        return _record()


KINDS: dict[str, dict[str, Any]] = {
    "pixels": {},
    "stored": {"single__regions__features": "stored"},
    "map": {
        "single__regions__features": "map",
        "single__regions__boxes": "grid",
        "single__regions__grid": 2,
        "model__freeze": ("image/",),
        "model__image__batch_norm__mode": "frozen",
        "pretrain__region_buckets": (6,),
    },
}


def _model(config: experiment.Config, workdir: Path) -> LoadedModel:
    tokenizer = run_tokenizer.saved(config, workdir)
    assert tokenizer is not None
    current = setup.set_up(setup.with_vocabulary(config, tokenizer))
    state = setup.fresh_state(current)
    return LoadedModel(current, tokenizer, state.params, state.batch_stats, 0)


def _expected(model: LoadedModel, said: str) -> tuple[np.ndarray, np.ndarray]:
    """Attention from the tokens of one text, without padding, to the regions; and their boxes."""
    config = model.run.config
    ids, mask = model.tokenizer.encode([said], config.data.text_length)
    written = data.regions(config).empty(1, 6, with_classes=False)
    data.regions(config).write(_OneRecord(), 0, _record(), written, 0)
    seen = written["region_mask"][0]
    batch = {name: jnp.asarray(value if name == "image" else value[:, seen]) for name, value in written.items()}
    tower = Tower(config)
    features = tower.features(model.params, model.batch_stats, batch)
    inputs = (ids[:, mask[0]], mask[:, mask[0]], features, batch["region_boxes"], batch["region_mask"])
    heads = attention(tower.module, model.params["single"], *inputs)[-1, 0]
    return np.asarray(heads).mean(axis=0)[: mask.sum(), mask.sum() :], written["region_boxes"][0][seen]


@pytest.mark.parametrize("kind", KINDS)
def test_words_look_where_the_model_looks_on_their_text_alone(
    root: Path, single: Path, tiny: Callable[..., experiment.Config], kind: str
) -> None:
    """Texts are padded, run together and spread over devices; none of it counts."""
    config = tiny(**{**SINGLE, **KINDS[kind], "data__dir": str(root / "data")})
    if kind == "map":
        regions = dataclasses.replace(config.single.regions, width=image_backbone(config.model).head_width)
        config = dataclasses.replace(config, single=dataclasses.replace(config.single, regions=regions))
    model = _model(config, single)
    viewer = attention_job.Viewer(model)
    said = _record().texts
    view, renormalised = (viewer.look(_OneRecord(), 0, said, renormalise) for renormalise in (False, True))
    assert len(view.boxes) == (5 if kind == "map" else 3)
    assert [reading.text for reading in view.readings] == [item.text for item in said]
    for reading, shares, item in zip(view.readings, renormalised.readings, said, strict=True):
        weights, boxes = _expected(model, item.text)
        np.testing.assert_array_equal(view.boxes, boxes)
        expected = [weights[list(word.places)].mean(axis=0) for word in reading.words]
        np.testing.assert_allclose(reading.weights, expected, rtol=1e-4, atol=1e-6)
        assert (reading.weights > 0).all() and (reading.weights.sum(axis=1) < 1).all()
        np.testing.assert_allclose(shares.weights.sum(axis=1), 1, rtol=1e-5)
        shown = "".join(word.text for word in reading.words)
        assert shown and item.text.replace(" ", "").startswith(shown), "a long text is cut"


def test_the_pages_hold_every_language_of_their_records(root: Path, single: Path) -> None:
    arguments = [f"--workdir={single}", f"--out={root / 'out'}", "--rows", "1", "3", "--languages", "en", "ja"]
    parser = argparse.ArgumentParser()
    attention_command.add_arguments(parser)
    assert attention_command.run(parser.parse_args(arguments), FIELDS) == 0
    assert sorted(file.name for file in (root / "out").iterdir()) == ["test.1.html", "test.3.html"]
    source = sources.open_source("wenlan_scenes/tiny", "test", root / "data")
    for row in (1, 3):
        page = (root / "out" / f"test.{row}.html").read_text()
        said = {text.language: text.text for text in source[row].texts if text.kind == "descriptive"}
        assert html.escape(said["en"]) in page and html.escape(said["ja"]) in page and said["zh"] not in page
        assert f"{len(source[row].regions[:4])} regions" in page and "not renormalised" in page


@pytest.mark.slow
def test_two_processes_write_the_pages_of_one(root: Path, single: Path) -> None:
    """Each holds the rows of its devices; process 0 alone writes."""
    attention_job.run(dataclasses.replace(_request(single, root / "by one"), rows=(1,)))
    command = [sys.executable, "-m", "wenlan_jax.cli", "attention", f"--workdir={single}", "--rows", "1"]
    job = launch(root / "logs", *command, f"--out={root / 'by two'}", *FIELDS, environment=without_devices())
    assert job.status == 0, job.logs
    pages = [(root / name / "test.1.html").read_text() for name in ("by one", "by two")]
    assert pages[0] == pages[1]


def test_the_command_line_says_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[AttentionRequest] = []
    monkeypatch.setattr(attention_job, "run", asked.append)
    parser = argparse.ArgumentParser()
    attention_command.add_arguments(parser)
    places = ["--workdir=w", "--out=o"]
    attention_command.run(parser.parse_args([*places, "--split=validation", "--step=3", "--renormalise"]), ["f"])
    attention_command.run(parser.parse_args(places), [])
    first, second = asked
    assert (first.workdir, first.out, first.rows) == (Path("w"), Path("o"), (0, 1, 2))
    assert (first.split, first.step, first.renormalise, first.fields) == ("validation", 3, True, ("f",))
    assert (second.split, second.step, second.renormalise, second.languages) == (None, None, False, ())


@functools.cache
def _request(single: Path, out: Path) -> AttentionRequest:
    return AttentionRequest(single, out, None, (0,), None, (), False, FIELDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": (0, 16)}, "--rows: wenlan_scenes/tiny/test has rows 0 to 15, not 16"),
        ({"rows": (-1,)}, "has rows 0 to 15, not -1"),
        ({"languages": ("en", "es")}, r"row 0: no text of kinds \['descriptive'\] in es; it has .*descriptive/zh"),
        ({"fields": ("--config.eval.kinds=('title',)",)}, r"row 0: no text of kinds \['title'\] in any language"),
    ],
)
def test_records_that_are_not_there_are_named(root: Path, single: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(attention_job.AttentionError, match=message):
        attention_job.run(dataclasses.replace(_request(single, root / "refused"), **changes))


def test_two_towers_have_no_such_attention(root: Path, tiny: Callable[..., experiment.Config]) -> None:
    two = save(tiny(**TWO_TOWERS, data__dir=str(root / "data")), root / "two")
    with pytest.raises(TaskError, match="two is two towers of task 'brivl', and a single tower is needed"):
        attention_job.run(_request(two, root / "refused"))


def test_words_of_each_kind_of_tokenizer(single: Path, tmp_path: Path) -> None:
    """The special tokens at both ends are no words; what the pieces are joined by is the tokenizer's."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "snow", "##man", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    made = [text.load_tokenizer(tmp_path), text.load_tokenizer(single)]
    for tokenizer in made:
        ids, mask = tokenizer.encode(["a snowman"], 12)
        words = attention_job.words_of(tokenizer, ids[0][mask[0]].tolist())
        assert [word.text for word in words] == ["a", "snowman"]
        assert [place for word in words for place in word.places] == list(range(1, int(mask.sum()) - 1))
