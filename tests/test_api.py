"""`wenlan_jax.load`: images and texts of any kind and number, equal to what `wenlan embed` writes."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
import pytest
from annotations import unchecked
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


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """Without the checks of annotations: what the package says itself of values of other types."""
    with unchecked():
        yield


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
    np.testing.assert_allclose(images, np.load(tmp_path / f"{SPLIT}.images.npy"), rtol=0, atol=2e-6)
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


def test_every_way_to_give_an_image_or_many(model: api.Model, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), pixels[..., ::-1])
    data = path.read_bytes()
    wanted = model.preprocess(pixels)["image"]
    assert wanted.shape[0] == 1
    at_end = io.BytesIO(data)
    at_end.read()
    with path.open("rb") as opened:
        ones: list[Any] = [bytearray(data), memoryview(data), io.BytesIO(data), at_end, opened, np.str_(path)]
        for one in [*ones, np.ma.array(pixels), jax.numpy.asarray(pixels)]:
            for way in (one, [one], (image for image in [one])):
                np.testing.assert_array_equal(model.preprocess(way)["image"], wanted)
    twice = np.concatenate([wanted, wanted])
    for many in (np.stack([pixels, pixels]), np.array([str(path)] * 2), (data for _ in range(2)), (path, data)):
        np.testing.assert_array_equal(model.preprocess(many)["image"], twice)
    grey = pixels[..., 0].copy()
    np.testing.assert_array_equal(model.preprocess(grey.view(np.matrix))["image"], model.preprocess(grey)["image"])


def test_deep_images_of_pil_are_read_as_files_are(model: api.Model) -> None:
    pil = pytest.importorskip("PIL.Image")
    deep = np.random.default_rng(0).integers(0, 2**16, (30, 40), np.uint16)
    wanted = model.preprocess([cv2.imencode(".png", deep)[1].tobytes()])["image"]
    assert 60 < wanted.mean() < 200  # not clipped to white
    for mode, kind in (("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2")):
        image = pil.frombytes(mode, (40, 30), deep.astype(kind).tobytes())
        np.testing.assert_array_equal(model.preprocess(image)["image"], wanted)
    for values in (deep.astype(np.int32), (deep / 65535).astype(np.float32)):
        with pytest.raises(api.ModelError, match="image 0: .*of mode '[IF]', whose range is not known; give its file"):
            model.preprocess(pil.fromarray(values))


def test_premultiplied_images_of_pil_keep_their_transparency(model: api.Model) -> None:
    pil = pytest.importorskip("PIL.Image")
    clear = pil.fromarray(np.full((20, 30, 4), (0, 0, 0, 0), np.uint8), "RGBA")
    for image in (clear, clear.convert("RGBa"), clear.convert("LA").convert("La"), clear.convert("PA")):
        assert (model.preprocess(image)["image"] == 255).all(), image.mode
    closed, empty = pil.new("RGB", (3, 3)), pil.new("RGB", (0, 0))
    closed.close()
    for wrong in (closed, empty):
        with pytest.raises(api.ModelError, match="image 1: .*cannot be used"):
            model.preprocess([clear, wrong])
    with pytest.raises(api.ModelError, match="image 0: .*not the class Image"):
        model.preprocess(pil.Image)


def test_every_way_to_give_texts(model: api.Model) -> None:
    ids, mask = model.tokenize(["a dog"])
    for way in ("a dog", ("a dog",), (text for text in ["a dog"]), np.array(["a dog"])):
        found = model.tokenize(way)
        np.testing.assert_array_equal(found[0], ids)
        np.testing.assert_array_equal(found[1], mask)
    assert model.tokenize(text for text in "ab")[0].shape[0] == 2


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


@pytest.mark.usefixtures("as_users_run_it")
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


WRONG_IMAGES: tuple[tuple[Any, str], ...] = (
    ("", "image 0: .*empty text"),
    ("a\0b.jpg", "image 0: .*NUL"),
    ("\ud800.jpg", "image 0: .*is no path"),
    ("~nobody-of-this-name/x.jpg", "image 0: .*is no path"),
    ("https://example.org/a.jpg", "image 0: .*is a URL"),
    ("data:image/png;base64,AAAA", "image 0: .*is a URL"),
    ("/dev/zero", "image 0: .*no regular file"),
    ("/", "image 0: .*no regular file"),
    (None, "image 0: .*not NoneType"),
    ([["a.jpg"]], "image 0: .*not list"),
    ({"a.jpg": 1}, "images: a sequence is needed, not dict"),
    ({"a.jpg"}, "images: a sequence is needed, not set"),
    (io.StringIO("text"), "image 0: .*open it with 'rb'"),
    (np.ma.array(np.zeros((8, 8), np.uint8), mask=True), "image 0: .*masked"),
    (np.zeros((2, 8, 8), np.uint8), "image 0: .*not uint8"),
)


@pytest.mark.parametrize(("wrong", "message"), WRONG_IMAGES, ids=[message for _, message in WRONG_IMAGES])
def test_what_is_no_image_is_named(model: api.Model, wrong: Any, message: str) -> None:
    for use in (model.encode_images, model.preprocess):
        with pytest.raises(api.ModelError, match=message):
            use(wrong)


def test_a_closed_file_is_named(model: api.Model) -> None:
    file = io.BytesIO(b"a")
    file.close()
    with pytest.raises(api.ModelError, match="image 0: .*closed"):
        model.preprocess([file])


@pytest.mark.usefixtures("as_users_run_it")
def test_what_is_no_text_is_named(model: api.Model) -> None:
    wrongs: list[tuple[Any, str]] = [
        (None, "texts: .*not NoneType"),
        (5, "texts: .*not int"),
        (b"a", "texts: .*not bytes"),
        ({"a"}, "texts: .*not set"),
        (np.array("a"), "texts: .*not ndarray"),
        (["a", None], "text 1: .*not NoneType"),
        ([["a"]], "text 0: .*not list"),
    ]
    for wrong, message in wrongs:
        for use in (model.encode_texts, model.tokenize):
            with pytest.raises(api.ModelError, match=message):
                use(wrong)


@pytest.mark.usefixtures("as_users_run_it")
def test_what_cannot_be_compared_is_named(model: api.Model) -> None:
    rows = np.eye(3, 8, dtype=np.float32)
    assert model.similarity(rows[0], rows).shape == (3,) and model.similarity(rows.tolist(), rows).shape == (3, 3)
    wrongs: list[tuple[Any, str]] = [(rows[:, :5], "width 5, .*width 8"), ("a", "queries: "), (rows[None], "queries: ")]
    for wrong, message in [*wrongs, (None, "queries: "), ([[1.0], [1.0, 2.0]], "queries: ")]:
        with pytest.raises(api.ModelError, match=message):
            model.similarity(wrong, rows)


@pytest.mark.usefixtures("as_users_run_it")
def test_arguments_of_load_are_checked(workdir: Path) -> None:
    assert wenlan_jax.load(workdir, overrides="eval.batch_size=2").config.eval.batch_size == 2
    for place in (None, 5, b"runs/a", "", "~nobody-of-this-name/a", "a\0b", "\ud800", "gs://bucket/run"):
        with pytest.raises(api.ModelError, match="place: "):
            wenlan_jax.load(place)  # type: ignore[arg-type]
    for step in ("2", 2.0, True):
        with pytest.raises(api.ModelError, match="step: the number of a checkpoint is needed"):
            wenlan_jax.load(workdir, step)  # type: ignore[arg-type]
    for overrides in (None, 5, [5], {"eval.batch_size": 2}):
        with pytest.raises(api.ModelError, match="overrides: "):
            wenlan_jax.load(workdir, overrides=overrides)  # type: ignore[arg-type]


@pytest.mark.usefixtures("as_users_run_it")
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
    np.testing.assert_array_equal(model.encode_images(iter(images), iter([one, other])), found)
    for wrong, message in (
        ([one, "a"], "boxes of image 1: numbers"),
        ([one, [1, 2, 3]], "boxes of image 1: .boxes, 4"),
    ):
        with pytest.raises(api.ModelError, match=message):
            model.encode_images(images, wrong)


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
