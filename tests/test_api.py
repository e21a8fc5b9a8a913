"""`wenlan_jax.load`: images and texts of any kind and number, equal to what `wenlan embed` writes."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ml_collections import config_dict
from saved_models import SINGLE, TWO_TOWERS, save
from whole_runs import CONFIG

import wenlan_jax
from wenlan_jax import api, cli
from wenlan_jax.data import sources
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.experiment import Config, ConfigError

SPLIT = "test"
SOURCE = "wenlan_scenes/tiny"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory, data_dir: Path, tiny_of: Callable[..., Config]) -> Path:
    return save(tiny_of(**TWO_TOWERS, data__dir=str(data_dir)), tmp_path_factory.mktemp("api") / "run")


@pytest.fixture(scope="module")
def model(workdir: Path) -> api.Model:
    return wenlan_jax.load(workdir, overrides=["eval.batch_size=8"])


@pytest.fixture(scope="module")
def source(workdir: Path, data_dir: Path) -> sources.Source:
    return sources.open_source(SOURCE, SPLIT, data_dir)


def test_equal_to_the_command(model: api.Model, workdir: Path, source: sources.Source, tmp_path: Path) -> None:
    assert cli.main(["embed", f"--workdir={workdir}", f"--out={tmp_path}", "--splits", SPLIT]) == 0
    images = model.encode_images([source[row].image for row in range(len(source))])
    texts = model.encode_texts([text.text for row in range(len(source)) for text in source[row].texts])
    np.testing.assert_allclose(images, np.load(tmp_path / f"{SPLIT}.pictures.npy"), rtol=0, atol=2e-6)
    np.testing.assert_allclose(texts, np.load(tmp_path / f"{SPLIT}.texts.npy"), rtol=0, atol=2e-6)
    assert images.dtype == texts.dtype == np.float32 and images.shape[1] == model.dim
    scores = model.similarity(texts[:3], images)
    assert scores.shape == (3, len(images)) and np.abs(scores).max() <= 1 + 1e-5
    np.testing.assert_allclose(scores, texts[:3] @ images.T)


def test_an_image_may_be_given_in_any_way(model: api.Model, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), pixels[..., ::-1])
    wanted = model.preprocess([path.read_bytes()])["image"]
    ways: list[Any] = [path, str(path), path.read_bytes(), pixels]
    pil = pytest.importorskip("PIL.Image")
    ways += [pil.open(path), pil.fromarray(pixels)]
    for way in ways:
        np.testing.assert_array_equal(model.preprocess([way])["image"], wanted)
        assert model.encode_images(way).shape == (1, model.dim)


def test_transparency_and_grey_follow_the_rules_of_files(model: api.Model) -> None:
    pil = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for mode, shape in (("L", (20, 30)), ("LA", (20, 30, 2)), ("RGBA", (20, 30, 4))):
        image = pil.fromarray(rng.integers(0, 256, shape, np.uint8), mode)
        with io.BytesIO() as file:
            image.save(file, "PNG")
            np.testing.assert_array_equal(
                model.preprocess([image])["image"], model.preprocess([file.getvalue()])["image"]
            )
    grey = rng.integers(0, 256, (20, 30), np.uint8)
    np.testing.assert_array_equal(
        model.preprocess([grey])["image"], model.preprocess([np.stack([grey] * 3, axis=2)])["image"]
    )


@pytest.mark.parametrize("count", [0, 1, 3, 8, 9, 21])
def test_the_number_changes_no_embedding(model: api.Model, count: int) -> None:
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (count, 24, 24, 3), np.uint8))
    texts = [f"一个红色的圆形 {number}" for number in range(count)]
    alone = [model.encode_images(image) for image in images], [model.encode_texts(text) for text in texts]
    for found, single in ((model.encode_images(images), alone[0]), (model.encode_texts(texts), alone[1])):
        assert found.shape == (count, model.dim)
        np.testing.assert_allclose(found, np.concatenate([np.zeros((0, model.dim)), *single]), rtol=0, atol=2e-6)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)


def test_few_programs_are_compiled(model: api.Model) -> None:
    """One for each power of two up to the batch, whatever numbers are asked for."""
    parts = [[size for _, size in _sizes(model, count)] for count in range(1, 30)]
    assert {size for sizes in parts for size in sizes} == {1, 2, 4, 8}


def _sizes(model: api.Model, count: int) -> list[tuple[int, int]]:
    found = model._parts(lambda rows: {"token_ids": np.zeros((rows.stop - rows.start, 4), np.int32)}, count)
    return [(rows, len(part["token_ids"])) for part, rows in found]


def test_faulty_input_is_named(model: api.Model, workdir: Path, tmp_path: Path) -> None:
    good = np.zeros((8, 8, 3), np.uint8)
    (tmp_path / "text.jpg").write_text("no image")
    for wrong, message in (
        (tmp_path / "none.jpg", "image 1: .*No such file"),
        (tmp_path / "text.jpg", "image 1: "),
        (good.astype(np.float32), "image 1: .*of uint8 is needed, not float32"),
        (np.zeros((8, 8, 4), np.uint8), r"image 1: .*not uint8\(8, 8, 4\)"),
        (3, "image 1: .*not int"),
    ):
        with pytest.raises(api.ModelError, match=message):
            model.encode_images([good, wrong])
    with pytest.raises(api.ModelError, match="text 1: a text is needed, not bytes"):
        model.encode_texts(["a", b"b"])  # type: ignore[list-item]
    with pytest.raises(api.ModelError, match="boxes: this model takes none"):
        model.encode_images([good], [np.zeros((1, 4))])
    with pytest.raises(wenlan_jax.WenlanError, match="batch_size"):
        wenlan_jax.load(workdir, overrides=["eval.batch_size=0"])
    with pytest.raises(api.ModelError, match="image 9: "):  # of the second part
        model.encode_images([good] * 9 + [3])
    with pytest.raises(wenlan_jax.WenlanError, match="holds no checkpoints"):
        wenlan_jax.load(tmp_path)
    with pytest.raises(wenlan_jax.WenlanError, match="only fields of"):
        wenlan_jax.load(workdir, overrides=["seed=1"])


def test_boxes_are_those_of_each_image(tmp_path: Path, data_dir: Path, tiny_of: Callable[..., Config]) -> None:
    config = tiny_of(
        **TWO_TOWERS, data__dir=str(data_dir), model__image__regions__kind="boxes", model__image__regions__boxes=3
    )
    model = wenlan_jax.load(save(config, tmp_path / "run"))
    images = list(np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8))
    one, other = np.array([[2.0, 2.0, 12.0, 20.0]]), np.array([[0.0, 0.0, 24.0, 24.0], [4.0, 4.0, 8.0, 8.0]])
    found = model.encode_images(images, [one, other])
    np.testing.assert_allclose(found[1], model.encode_images([images[1]], [other])[0], atol=2e-6)
    assert np.abs(found[1] - model.encode_images([images[1]], [one])[0]).max() > 1e-3
    with pytest.raises(api.ModelError, match="needs those of each image"):
        model.encode_images(images)
    with pytest.raises(api.ModelError, match="2 images have 1 sets"):
        model.encode_images(images, [one])


def test_a_single_tower_is_refused(tmp_path: Path, data_dir: Path, tiny_of: Callable[..., Config]) -> None:
    place = save(tiny_of(**SINGLE, data__dir=str(data_dir)), tmp_path / "single")
    with pytest.raises(api.ModelError, match="scores pairs"):
        wenlan_jax.load(place)


def test_the_package_imports_nothing_before_it_is_asked_for() -> None:
    code = (
        "import sys, wenlan_jax; assert 'jax' not in sys.modules and 'numpy' not in sys.modules; "
        "wenlan_jax.WenlanError; assert 'jax' not in sys.modules; assert callable(wenlan_jax.load); "
        "assert 'jax' in sys.modules and set(wenlan_jax.__all__) <= set(dir(wenlan_jax))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        wenlan_jax.nothing_of_ours  # noqa: B018


@pytest.mark.slow
def test_a_training_from_python_is_that_of_the_command(
    tmp_path: Path, data_dir: Path, tiny_of: Callable[..., Config]
) -> None:
    """Given as a configuration, as what its file returns or as the file; in any thread; continued where it stopped."""
    changes = {"data__dir": str(data_dir), "mesh__data": -1, "train__steps": 2, "eval__gallery": 0}
    config = tiny_of(**TWO_TOWERS | changes)
    found: list[dict[str, float]] = []
    thread = threading.Thread(target=lambda: found.append(wenlan_jax.train(config, tmp_path / "run")))
    thread.start()
    thread.join()
    (first,) = found
    assert first["train/steps"] == 2 and f"retrieval/{SPLIT}/mean_recall" in first
    dictionary = config_dict.ConfigDict(dataclasses.asdict(config))
    again = wenlan_jax.train(dictionary, str(tmp_path / "run"))
    assert again[f"retrieval/{SPLIT}/mean_recall"] == first[f"retrieval/{SPLIT}/mean_recall"]
    file = tmp_path / "config.py"
    file.write_text(CONFIG.format(text=experiment.to_json(config)))
    with pytest.raises(ConfigError, match="train.steps"):
        wenlan_jax.train(file, tmp_path / "run", overrides=["train.steps=no"])
    longer = ["--config.train.steps=3", "checkpoint.accept_changes=true"]
    assert wenlan_jax.train(file, tmp_path / "run", overrides=longer)["train/steps"] == 3
