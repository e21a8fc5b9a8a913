"""Exports from image files and raw texts: the shipped example reads both as the training does, or is refused."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from vocabularies import tokenizer  # noqa: E402

from wenlan_jax.convert import (
    example,
    export_torch,
    exporting,
    image_modules,
    sample_inputs,
    text_modules,
    torch_modules,
)
from wenlan_jax.core import rngs
from wenlan_jax.data import images
from wenlan_jax.prepare import raw_images
from wenlan_jax.tasks import experiment  # noqa: E402
from wenlan_jax.tasks.two_tower.towers import Towers  # noqa: E402

KINDS = ("cased", "lower", "pieces", "other_ids", "xlm_roberta")


@pytest.fixture
def model(tiny: Callable[..., experiment.Config], tmp_path: Path) -> Callable[..., exporting.ExportedModel]:
    """A model with random weights and a tokenizer of a kind."""

    def make(kind: str, **changes: Any) -> exporting.ExportedModel:
        words = tokenizer(kind, tmp_path)
        lower = kind != "cased"
        config = tiny(model__text__bert__vocab_size=words.size, tokenizer__lower_case=lower, **changes)
        tree = jax.tree.map(np.asarray, Towers(config).init(rngs.root(0)))
        towers = exporting.by_tower(tree["params"], tree["batch_stats"])
        return exporting.ExportedModel(config, 7, towers.__getitem__, towers, False, words, {}, {}, "float32")

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_code_reads_texts_as_the_training_does(model: Any, tmp_path: Path, kind: str) -> None:
    given = model(kind)
    export_torch.write_tokenizer(given, tmp_path)
    ids, mask = text_modules.load(tmp_path).encode([*sample_inputs.TEXTS, "lone \ud800 surrogate"])
    ours = given.words.encode([*sample_inputs.TEXTS, "lone \ud800 surrogate"], given.config.data.text_length)
    np.testing.assert_array_equal(ids, ours[0])
    np.testing.assert_array_equal(mask, ours[1])
    assert len({tuple(row) for row in ids[:7]}) == 7


@pytest.mark.parametrize("kind", ["xlm_roberta", "cased"])
def test_an_export_begins_with_files_and_raw_texts(model: Any, tmp_path: Path, kind: str) -> None:
    report = exporting.export(model(kind), "torch", export_torch.write, tmp_path / "out", 1e-5)
    assert report["example"]["files"] >= 12
    assert report["example"]["texts"] == len(sample_inputs.TEXTS)
    assert report["example"]["largest_level_difference"] <= 2.01


CLEAR = "    clear = image.mode.upper() in"
FAULTS = {
    "another_id": (
        "wenlan_text.py",
        '[self.settings["cls"], *',
        '[self.settings["cls"] + 1, *',
        "input_ids of '一只",
    ),
    "cut_early": ("wenlan_text.py", "pieces[: length - 2]", "pieces[: length - 3]", "texts unlike the training"),
    "case": ("wenlan_text.py", 'lowercase=settings["do_lower_case"]', "lowercase=True", "of 11 texts unlike"),
    "channels": ("wenlan_torch.py", '["averaging"])[None]', '["averaging"]).flip(-1)[None]', "unlike .* large.jpg"),
    "turned": (
        "wenlan_torch.py",
        CLEAR,
        f"    image = __import__('PIL.ImageOps').ImageOps.exif_transpose(image)\n{CLEAR}",
        "unlike the training: turned.jpg",
    ),
    "depth": ("wenlan_torch.py", "+ 128) // 257", "+ 128) // 300", "unlike the training: deep_grey.png"),
    "library": ("example.py", "import torch\n", "import torch, no_such_module\n", "No module named 'no_such_module'"),
    "ours": ("example.py", "import torch\n", "import torch, wenlan_jax\n", "import of wenlan_jax halted"),
    "tower": (
        "example.py",
        "model.encode_image(pixel_values)",
        "-model.encode_image(pixel_values)",
        "image unlike",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_example_that_disagrees_leaves_nothing_behind(model: Any, tmp_path: Path, fault: str) -> None:
    name, old, new, told = FAULTS[fault]

    def writer(given: exporting.ExportedModel, folder: Path) -> exporting.Runner:
        runner = export_torch.write(given, folder)
        code = (folder / name).read_text("utf-8")
        assert old in code
        (folder / name).write_text(code.replace(old, new), "utf-8")
        return runner

    with pytest.raises(exporting.ExportError, match=told):
        exporting.export(model("cased"), "torch", writer, tmp_path / "out", 1e-4)
    assert not list(tmp_path.glob("*out*"))


def drawn(height: int, width: int) -> np.ndarray:
    """A smooth image with an edge."""
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8))
    pixels = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    pixels[: height // 3, : width // 3] = (250, 20, 90)
    return pixels


def saved(folder: Path, height: int, width: int) -> list[Path]:
    """Files of the modes and containers that decoders treat differently."""
    base, grey = Image.fromarray(drawn(height, width)), Image.fromarray(drawn(height, width)[..., 0])
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(np.array(grey).astype(np.uint16) * 257 + 7)
    files: dict[str, tuple[Any, dict[str, Any]]] = {
        "colour.jpg": (base, {"quality": 90}),
        "full_chroma.jpg": (base, {"subsampling": 0}),
        "progressive.jpg": (base, {"progressive": True}),
        "grey.jpg": (grey, {}),
        "turned.jpg": (base, {"exif": turned}),
        "cmyk.jpg": (base.convert("CMYK"), {"quality": 95}),
        "turned.png": (base, {"exif": turned}),
        "turned.webp": (base, {"exif": turned, "lossless": True}),
        "lossy.webp": (base, {}),
        "deep.png": (deep, {}),
        "deep.tiff": (deep, {}),
        "palette.png": (base.quantize(16), {}),
        "clear_palette.png": (base.quantize(16), {"transparency": 3}),
        "clear_colour.png": (base, {"transparency": (250, 20, 90)}),
        "clear_grey.png": (grey, {"transparency": 250}),
        "grey_alpha.png": (Image.merge("LA", (grey, base.split()[1])), {}),
        "alpha.png": (Image.merge("RGBA", (*base.split(), grey)), {}),
        "black_white.png": (base.convert("1"), {}),
        "palette.gif": (base.quantize(16), {}),
        "plain.bmp": (base, {}),
        "cmyk.tiff": (base.convert("CMYK"), {}),
    }
    for name, (image, options) in files.items():
        image.save(folder / name, **options)
    return [folder / name for name in files]


@pytest.mark.parametrize(("antialias", "averaging"), [(True, "fast"), (True, "exact"), (False, "fast")])
@pytest.mark.parametrize("shape", [(200, 140), (61, 45), (11, 300), (20, 13)])
def test_files_are_read_as_packed_and_trained(
    tmp_path: Path, shape: tuple[int, int], antialias: bool, averaging: str
) -> None:
    side = 24
    settings = {"size": {"height": side, "width": side}, "antialias": antialias, "averaging": averaging}
    for file in saved(tmp_path, *shape):
        stored = raw_images.checked(file.read_bytes(), raw_images.ImageOptions(), Counter())
        ours = np.empty((side, side, 3), np.uint8)
        images.read_square(stored.data, antialias, averaging == "exact", ours)
        readers = {
            "torch": torch_modules.read_square(file, side, antialias, averaging).numpy(),
            "onnx": image_modules.Images(settings).square(file.read_bytes()),
        }
        for name, theirs in readers.items():
            apart = np.abs(theirs.astype(int) - ours.astype(int))
            # Of CMYK the two decoders make colours that round apart before they are stored.
            assert apart.max() <= (6 if file.name.startswith("cmyk") else 2), (file.name, name)
            assert apart.mean() <= (1.5 if file.name.startswith("cmyk") else 0.5), (file.name, name)


def test_open_images_are_averaged_over_areas(tmp_path: Path) -> None:
    for file in saved(tmp_path, 61, 45):
        stored = raw_images.checked(file.read_bytes(), raw_images.ImageOptions(), Counter())
        ours = images.resize(images.decode(stored.data), 24, antialias=True)
        with Image.open(file) as image:
            theirs = torch_modules.resize(torch_modules.pixels_of(image), 24, True).numpy()
        assert np.abs(theirs - ours.astype(int)).max() <= (6 if file.name.startswith("cmyk") else 2), file.name


@pytest.mark.parametrize("mode", ["I", "F", "LAB", "HSV"])
def test_modes_without_a_known_range_are_refused_by_name(mode: str) -> None:
    base = Image.fromarray(drawn(9, 9))
    image = base.convert("L").convert(mode) if mode in ("I", "F") else base.convert("RGB").convert(mode)
    with pytest.raises(ValueError, match=f"mode '{mode}'"):
        torch_modules.pixels_of(image)


def test_grey_images_of_sixteen_bits_as_older_pillow_opens_them(tmp_path: Path) -> None:
    deep = np.array([[0, 128, 129, 65535]], np.int32)
    image = Image.fromarray(deep)
    image.format = "PNG"
    assert torch_modules.pixels_of(image)[0, :, 1].tolist() == [0, 0, 1, 255]


NAMES = {"PIL": "pillow", "cv2": "opencv-python-headless"}


def needed(folder: Path) -> set[str]:
    """Libraries that the example and what it loads of its folder import, by their names on PyPI."""
    found = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).split(".")[0])
    ours = {path.stem for path in folder.glob("*.py")}
    return {NAMES.get(name, name) for name in found - ours - sys.stdlib_module_names}


@pytest.mark.parametrize("kind", ["lower", "xlm_roberta"])
def test_requirements_are_what_is_imported(model: Any, tmp_path: Path, kind: str) -> None:
    given = model(kind)
    for form in ("torch", "onnx"):
        folder = tmp_path / form
        folder.mkdir()
        if form == "torch":
            export_torch.write(given, folder)
        else:
            from wenlan_jax.convert import export_onnx

            export_onnx.write_inputs(given, folder)
            example.write(given, form, folder)
        listed = {line.split(">")[0] for line in (folder / "requirements.txt").read_text().split()}
        # The reader of texts has one branch for each kind of vocabulary.
        other = {"tokenizers", "sentencepiece"} - listed
        assert needed(folder) - other == listed


def test_an_export_in_half_precision_has_an_example_that_runs(model: Any, tmp_path: Path) -> None:
    given = dataclasses.replace(model("lower"), dtype="float16")
    exporting.export(given, "torch", export_torch.write, tmp_path / "out", 1e-2)
    Image.fromarray(drawn(40, 30)).save(tmp_path / "out" / "image.jpg")
    command = [sys.executable, "example.py"]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True, check=True)
    assert -1 <= float(done.stdout.split("similarity")[1]) <= 1


@pytest.mark.parametrize("changes", [{}, {"data__languages": ("zh", "cs")}])
def test_the_card_has_what_hugging_face_reads(model: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    yaml = pytest.importorskip("yaml")
    given = dataclasses.replace(model("lower", **changes), license="apache-2.0")
    export_torch.write(given, tmp_path)
    head = yaml.safe_load((tmp_path / "README.md").read_text("utf-8").split("---\n")[1])
    assert head.get("language", []) == list(changes.get("data__languages", ()))
    assert (head["license"], head["pipeline_tag"]) == ("apache-2.0", "zero-shot-image-classification")
    assert (head["library_name"], "brivl" in head["tags"]) == ("pytorch", True)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["do_lower_case"] is True
