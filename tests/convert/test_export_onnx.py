"""The export for onnxruntime: parity at several batch sizes, lengths, precision, and refusal of wrong artefacts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from wenlan_jax.convert import export_onnx, exporting, parity
from wenlan_jax.data import images, vocab
from wenlan_jax.data.text import SentencePiece, Tokenizer, WordPiece
from wenlan_jax.tasks import experiment  # noqa: E402
from wenlan_jax.tasks.two_tower.towers import Towers  # noqa: E402

CAPTIONS = ["一只猫坐在红色沙发上", "a cat sat on the sofa", "the red circle on the left of that yellow square"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "一", "只", "猫"]
HALF = onnx.TensorProto.FLOAT16
KINDS = ("grid", pytest.param("boxes", marks=pytest.mark.slow))
VARIANTS = {
    "grid": {"model__image__regions__coordinates": "official", "model__text__bert__attention_mask": False},
    "boxes": {
        "model__image__regions__kind": "boxes",
        "model__image__regions__boxes": 5,
        "model__image__regions__coordinates": "corrected",
        "model__text__bert__attention_mask": True,
        "data__antialias": False,
    },
}


class Exported(NamedTuple):
    model: exporting.ExportedModel
    folder: Path
    report: dict[str, Any]


def tokenizer(kind: str, folder: Path) -> Tokenizer:
    if kind == "grid":
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS), "utf-8")
        return WordPiece(folder / "vocab.txt", lower_case=True)
    vocab.train_sentencepiece(CAPTIONS * 20, folder / "p.model", 295, 0.99, 1000)
    return SentencePiece(folder / "p.model")


def make_model(tiny: Callable[..., experiment.Config], kind: str, folder: Path) -> exporting.ExportedModel:
    """Random weights with nothing at its neutral start."""
    config = tiny(**VARIANTS[kind])
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: Any) -> np.ndarray:
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        if path[-1].key == "var":
            return np.exp(0.3 * noise)
        scale = np.float32(0.3 if leaf.ndim > 1 else 0.1)
        return noise * scale + np.float32(path[-1].key == "scale")

    shapes = jax.eval_shape(Towers(config).init, jax.random.key(0))
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    towers = exporting.by_tower(variables["params"], variables["batch_stats"])
    return exporting.ExportedModel(
        config, 3, towers.__getitem__, towers, False, tokenizer(kind, folder), {}, {}, "float32"
    )


_done: dict[str, Exported] = {}


@pytest.fixture
def exported(tiny: Callable[..., experiment.Config], tmp_path_factory: Any) -> Callable[[str], Exported]:
    """One export of each kind for the whole module; tests do not change it."""

    def get(kind: str) -> Exported:
        if kind not in _done:
            folder = tmp_path_factory.mktemp(kind)
            model, out = make_model(tiny, kind, folder), folder / "out"
            _done[kind] = Exported(model, out, exporting.export(model, "onnx", export_onnx.write, out, 1e-4))
        return _done[kind]

    return get


def session(folder: Path, tower: str) -> Any:
    return export_onnx.open_session(folder / f"{tower}_tower.onnx")


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_equal_the_jax_towers_at_every_batch_size(exported: Callable[[str], Exported], kind: str):
    model, folder, report = exported(kind)
    assert (report["format"], report["tolerance"], report["ranking"]) == ("onnx", 1e-4, 1.0)
    batch = parity.fixed_batch(model.config, 8)
    ours = parity.jax_embeddings(model.config, model.tower, batch)
    for items in (1, 3, 8):
        rows = parity.FixedBatch(*(None if value is None else value[-items:] for value in batch))
        theirs = export_onnx.run(folder, model.config, rows)
        assert theirs.image.shape == theirs.text.shape == (items, 16)
        np.testing.assert_allclose(theirs.image, ours.image[-items:], atol=1e-4)
        np.testing.assert_allclose(theirs.text, ours.text[-items:], atol=1e-4)
    # The comparison sees something: items of the fixed batch differ by more than its tolerance.
    assert np.abs(ours.image[0] - ours.image[1]).max() > 1e-3 < np.abs(ours.text[0] - ours.text[1]).max()


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_have_the_documented_names_shapes_and_types(exported: Callable[[str], Exported], kind: str):
    _, folder, _ = exported(kind)
    card = (folder / "README.md").read_text("utf-8")
    for tower in ("image", "text"):
        loaded = session(folder, tower)
        for value in (*loaded.get_inputs(), *loaded.get_outputs()):
            shape, dtype = ", ".join(map(str, value.shape)), {"float": "float32", "int64": "int64"}[value.type[7:-1]]
            assert f"| `{tower}_tower.onnx` | `{value.name}` | ({shape}) | {dtype} |" in card
        assert loaded.get_inputs()[0].shape[0] == "batch"
    assert "wenlan_scenes/tiny" in card  # what it was trained on
    assert ("box_mask" in [value.name for value in session(folder, "image").get_inputs()]) == (kind == "boxes")


@pytest.mark.slow
def test_texts_have_any_length_where_padding_does_not_matter(exported: Callable[[str], Exported]):
    ids, text = np.arange(5, 12, dtype=np.int64)[None], session(exported("boxes").folder, "text")
    padded = np.pad(ids, ((0, 0), (0, 9)))
    short = text.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    long = text.run(None, {"input_ids": padded, "attention_mask": (padded > 0).astype(np.int64)})[0]
    np.testing.assert_allclose(short, long, atol=1e-6)


def test_texts_have_the_length_of_the_training_where_padding_matters(exported: Callable[[str], Exported]):
    ids = np.ones((1, 7), np.int64)
    with pytest.raises(Exception, match="invalid dimensions"):
        session(exported("grid").folder, "text").run(None, {"input_ids": ids, "attention_mask": ids})


@pytest.mark.slow
def test_images_have_any_number_of_boxes(exported: Callable[[str], Exported]):
    model, folder, _ = exported("boxes")
    graph = export_onnx.graphs(model.config)[0]
    feeds = export_onnx.feeds_of(parity.fixed_batch(model.config, 2), graph, model.config)
    feeds["box_mask"][:] = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]
    fewer = {**feeds, "boxes": feeds["boxes"][:, :2], "box_mask": feeds["box_mask"][:, :2]}
    image = session(folder, "image")
    np.testing.assert_allclose(image.run(None, fewer)[0], image.run(None, feeds)[0], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_prints_the_similarity_of_the_jax_towers(exported: Callable[[str], Exported], kind: str):
    model, folder, _ = exported(kind)
    side, length = model.config.data.image_size, model.config.data.text_length
    noise = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8), (50, 41))
    cv2.imwrite(str(folder / "image.jpg"), noise)
    done = subprocess.run([sys.executable, "example.py"], cwd=folder, capture_output=True, text=True, check=True)
    data, pixels = model.config.data, np.empty((side, side, 3), np.uint8)
    images.read_square((folder / "image.jpg").read_bytes(), data.antialias, data.averaging == "exact", pixels)
    ids, mask = model.words.encode(["一只猫"], length)
    boxes = (np.array([[[0.1, 0.2, 0.6, 0.9]]], np.float32), np.ones((1, 1), bool)) if kind == "boxes" else (None, None)
    batch = parity.FixedBatch(pixels[None], ids, mask, *boxes)
    image, text = parity.jax_embeddings(model.config, model.tower, batch)
    assert float(done.stdout.split()[-1]) == pytest.approx((image @ text.T).item(), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_say_nothing_of_the_machine_they_were_made_on(exported: Callable[[str], Exported], kind: str):
    for path in exported(kind).folder.glob("*.onnx"):
        content = path.read_bytes()
        assert str(Path(export_onnx.__file__).parent).encode() not in content
        assert b"stack_trace" not in content and b"site-packages" not in content


def change_a_weight(path: Path) -> None:
    """Adds to the largest weight of a graph, as a wrong conversion would."""
    graph = onnx.load(path)
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values + np.float32(0.05) * np.sign(values), weight.name))
    onnx.save(graph, path)


@pytest.mark.parametrize("file", ["image_tower.onnx", "text_tower.onnx"])
def test_a_graph_with_a_changed_weight_is_refused_and_nothing_stays(
    exported: Callable[[str], Exported], tmp_path: Path, file: str
):
    model, folder, _ = exported("grid")

    def writer(model: exporting.ExportedModel, staging: Path) -> exporting.Runner:
        for path in folder.glob("*.onnx"):
            (staging / path.name).write_bytes(path.read_bytes())
        change_a_weight(staging / file)
        return lambda batch: export_onnx.run(staging, model.config, batch)

    with pytest.raises(exporting.ExportError, match="nothing was left behind"):
        exporting.export(model, "onnx", writer, tmp_path / "out", 1e-4)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_differs_from_pytorch_is_refused_by_the_writer(exported: Callable[[str], Exported]):
    model, folder, _ = exported("grid")
    module = export_onnx.torch_module(model)
    graph = export_onnx.graphs(model.config)[1]
    export_onnx.check_batches(module.textencoder, graph, folder / graph.file, model.config)
    with torch.no_grad():
        module.textencoder.learnable["textFC"].fc2.bias[0] += 1.0
    with pytest.raises(exporting.ExportError, match=r"text_tower\.onnx: with a batch of 1, onnxruntime and PyTorch"):
        export_onnx.check_batches(module.textencoder, graph, folder / graph.file, model.config)


@pytest.mark.slow
def test_half_precision_halves_the_weights_and_computes_in_float32(exported: Callable[[str], Exported], tmp_path: Path):
    model = dataclasses.replace(exported("grid").model, dtype="float16")
    graph, module = export_onnx.graphs(model.config)[1], export_onnx.torch_module(model)
    export_onnx.save(export_onnx.trace(module.textencoder, graph, model), tmp_path / graph.file)
    onnx.checker.check_model(str(tmp_path / graph.file), full_check=True)
    weights = {tensor.name: tensor for tensor in onnx.load(tmp_path / graph.file).graph.initializer}
    assert max(weights.values(), key=lambda tensor: np.prod(tensor.dims)).data_type == HALF
    # Equal to PyTorch in float32 with the rounded weights, so nothing but the weights was rounded.
    export_onnx.check_batches(module.textencoder, graph, tmp_path / graph.file, model.config)


@pytest.mark.slow
def test_weights_beyond_the_limit_of_a_file_go_into_a_second_one(
    exported: Callable[[str], Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = exported("grid").model
    graph, module = export_onnx.graphs(model.config)[1], export_onnx.torch_module(model)
    monkeypatch.setattr(export_onnx, "LARGEST_FILE", 10_000)
    export_onnx.save(export_onnx.trace(module.textencoder, graph, model), tmp_path / graph.file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text_tower.onnx", "text_tower.onnx.data"]
    assert (tmp_path / "text_tower.onnx.data").stat().st_size > (tmp_path / "text_tower.onnx").stat().st_size
    export_onnx.check_batches(module.textencoder, graph, tmp_path / graph.file, model.config)
