"""The PyTorch modules of exports: parity with JAX and the official numbers, files, images, torch.export."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import official_brivl
import pytest
from backbones import OTHER_BACKBONES, TINY

pytest.importorskip("torch")

import safetensors.torch
import torch
from PIL import Image

from wenlan_jax.convert import torch_modules
from wenlan_jax.convert.architecture import architecture_of
from wenlan_jax.convert.brivl import QUERY_TOWERS, brivl_table, with_batch_counters
from wenlan_jax.convert.rules import to_torch
from wenlan_jax.data import images as image_files
from wenlan_jax.models.efficientnet import BASE_STAGES, efficientnet_sizes
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower.towers import Towers

# A block without expansion, a residual one, odd kernels of two sizes; 30 px give maps of 15, 8 and uneven padding.
BACKBONE = {
    "data__image_size": 30,
    "model__image__backbone__stages": ((3, 1, 1, 8, 1), (5, 2, 4, 8, 2)),
    "model__image__backbone__width_multiplier": 1.0,
    "model__image__backbone__stem": 8,
    "model__image__backbone__head": 24,
}
REGIONS = {
    "grid": {"grid": (2,), "coordinates": "official"},
    "corrected grid": {"grid": (6,), "coordinates": "corrected"},
    "two scales, no projection": {"grid": (1, 5), "whole_image": False, "project": False, "coordinates": "official"},
    "boxes": {"kind": "boxes", "boxes": 5, "coordinates": "official"},
    "boxes only": {"kind": "boxes", "boxes": 5, "whole_image": False, "samples": 3, "coordinates": "corrected"},
}


def random_weights(shapes: Any, seed: int = 0) -> Any:
    """A tree of random arrays with nothing at its neutral start, in which no bias drowns the signal of the inputs."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: Any) -> np.ndarray:
        noise, name = rng.standard_normal(leaf.shape, np.float32), path[-1].key
        if name in ("var", "scale"):
            return np.exp(np.float32(0.2) * noise)
        if name == "kernel":
            return noise * np.float32(2.0 * np.prod(leaf.shape[:-1]) ** -0.5)
        return noise if name == "embedding" else noise * np.float32(0.3 * leaf.shape[-1] ** -0.5)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def tower_shapes(towers: Towers, tower: str) -> Any:
    shapes = jax.eval_shape(towers.init, jax.random.key(0))
    return {kind: trees[tower] for kind, trees in shapes.items() if tower in trees}


def official_state(
    variables: Mapping[str, Any], prefix: str, backbone: str = "efficientnet"
) -> dict[str, torch.Tensor]:
    """One tower's variables as its state dict in the official layout, without the tower's prefix."""
    state = with_batch_counters(to_torch({QUERY_TOWERS[prefix]: variables}, brivl_table(backbone=backbone)))
    return {key.removeprefix(prefix + "."): torch.from_numpy(value) for key, value in state.items()}


def both_image_towers(config: experiment.Config) -> tuple[Callable[..., np.ndarray], torch_modules.ImageTower]:
    """The JAX image tower as a function of channel-last images, and the PyTorch one of the same random weights."""
    towers = Towers(config)
    variables = random_weights(tower_shapes(towers, "image"))
    with torch.device("meta"):
        theirs = torch_modules.ImageTower(architecture_of(config))
    state = official_state(variables, "imgencoder", config.model.image.architecture)
    theirs.load_state_dict(state, strict=True, assign=True)
    ours = jax.jit(lambda *inputs: towers.image.apply(variables, *inputs, train=False).embedding)
    return ours, theirs.eval()


def both_text_towers(config: experiment.Config) -> tuple[Callable[..., np.ndarray], torch_modules.TextTower]:
    towers = Towers(config)
    variables = random_weights(tower_shapes(towers, "text"))
    with torch.device("meta"):
        theirs = torch_modules.TextTower(architecture_of(config))
    theirs.load_state_dict(official_state(variables, "textencoder"), strict=True, assign=True)
    ours = jax.jit(lambda *inputs: towers.text.apply(variables, *inputs, train=False).embedding)
    return ours, theirs.eval()


def image_inputs(config: experiment.Config, batch: int = 3) -> list[np.ndarray]:
    """Channel-first images and, for boxes, some boxes of which every image has another number."""
    rng, regions = np.random.default_rng(1), config.model.image.regions
    side = config.data.image_size
    # Colours that differ: random networks bring images of noise alone together.
    colours = 3 * rng.standard_normal((batch, 3, 1, 1), np.float32)
    inputs = [colours + rng.standard_normal((batch, 3, side, side), np.float32)]
    if regions.kind == "boxes":
        corners = np.sort(rng.random((batch, regions.boxes, 2, 2), np.float32), axis=2)
        counts = np.arange(batch)[:, None] if regions.whole_image else 1 + np.arange(batch)[:, None]
        inputs += [corners.reshape(batch, -1, 4), np.arange(regions.boxes)[None] < counts]
    return inputs


def text_inputs(config: experiment.Config, lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng, bert = np.random.default_rng(2), config.model.text.bert
    mask = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    return np.where(mask, rng.integers(1, bert.vocab_size, mask.shape), 0).astype(np.int32), mask


@torch.no_grad()
def run(tower: torch.nn.Module, *inputs: np.ndarray) -> np.ndarray:
    return tower(*map(torch.from_numpy, inputs)).numpy()


def assert_same_embeddings(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(theirs, ours, atol=tolerance)
    np.testing.assert_allclose(np.linalg.norm(theirs, axis=1), 1.0, atol=1e-5)
    apart = np.abs(theirs[:, None] - theirs).max(-1)[~np.eye(len(theirs), dtype=bool)]
    assert np.all(apart > 100 * tolerance), "inputs that differ must embed apart for parity to mean anything"


def assert_image_parity(config: experiment.Config, batch: int, tolerance: float) -> None:
    ours, theirs = both_image_towers(config)
    images, *boxes = image_inputs(config, batch)
    assert_same_embeddings(
        np.asarray(ours(images.transpose(0, 2, 3, 1), *boxes)), run(theirs, images, *boxes), tolerance
    )


def assert_text_parity(config: experiment.Config, lengths: tuple[int, ...], tolerance: float) -> None:
    ours, theirs = both_text_towers(config)
    inputs = text_inputs(config, lengths)
    assert_same_embeddings(np.asarray(ours(*inputs)), run(theirs, *inputs), tolerance)


@pytest.mark.parametrize("name", REGIONS)
def test_image_towers_agree(name: str, tiny: Callable[..., experiment.Config]):
    regions = {f"model__image__regions__{field}": value for field, value in REGIONS[name].items()}
    assert_image_parity(tiny(**BACKBONE, **regions), batch=3, tolerance=1e-5)


@pytest.mark.parametrize("name", OTHER_BACKBONES)
def test_image_towers_of_other_backbones_agree(name: str, tiny: Callable[..., experiment.Config]):
    assert_image_parity(tiny(**TINY[name]), batch=3, tolerance=1e-5)


@pytest.mark.parametrize("attention_mask", [True, False])
@pytest.mark.parametrize("lengths", [(9, 9, 9), (3, 12, 7)], ids=["unpadded", "padded"])
def test_text_towers_agree(attention_mask: bool, lengths: tuple[int, ...], tiny: Callable[..., experiment.Config]):
    config = tiny(model__text__bert__attention_mask=attention_mask, model__text__bert__layers=2)
    assert_text_parity(config, lengths, tolerance=1e-5)


def test_scanned_layers_agree(tiny: Callable[..., experiment.Config]):
    encoder = {"model__text__encoder__scan": True, "model__text__encoder__layers": 2}
    bert = {"model__text__bert__layers": 3, "model__text__bert__scan_segments": (2, 1)}
    assert_text_parity(tiny(**encoder, **bert), (5, 8), tolerance=1e-5)


def test_padding_changes_an_embedding_only_without_attention_mask(tiny: Callable[..., experiment.Config]):
    for attention_mask in (True, False):
        config = tiny(model__text__bert__attention_mask=attention_mask)
        _, tower = both_text_towers(config)
        ids, mask = text_inputs(config, (6, 6))
        padded = [np.pad(values, ((0, 0), (0, 5))) for values in (ids, mask)]
        same = np.allclose(run(tower, ids, mask), run(tower, *padded), atol=1e-6)
        assert same == attention_mask


def test_a_text_without_tokens_and_an_image_without_boxes_stay_finite(tiny: Callable[..., experiment.Config]):
    regions = {"model__image__regions__kind": "boxes", "model__image__regions__whole_image": False}
    config = tiny(**BACKBONE, **regions)
    ours, theirs = both_image_towers(config)
    images, boxes, mask = image_inputs(config)
    mask = np.zeros_like(mask)
    np.testing.assert_allclose(
        run(theirs, images, boxes, mask), ours(images.transpose(0, 2, 3, 1), boxes, mask), atol=1e-5
    )
    ours, theirs = both_text_towers(config)
    ids, mask = text_inputs(config, (4, 4))
    np.testing.assert_allclose(run(theirs, ids, mask & False), ours(ids, mask & False), atol=1e-5)


def test_wrong_use_is_refused_by_name(tiny: Callable[..., experiment.Config]):
    grid = torch_modules.ImageTower(architecture_of(tiny(**BACKBONE)))
    images = torch.zeros(1, 3, 30, 30)
    with pytest.raises(ValueError, match="fixed grid"):
        grid(images, torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))
    boxes = torch_modules.ImageTower(architecture_of(tiny(**BACKBONE, model__image__regions__kind="boxes")))
    with pytest.raises(ValueError, match="boxes and box_mask"):
        boxes(images)
    text = torch_modules.TextTower(architecture_of(tiny()))
    with pytest.raises(ValueError, match="17 word pieces do not fit 16 positions"):
        text(torch.zeros(1, 17, dtype=torch.long), torch.ones(1, 17, dtype=torch.bool))
    with pytest.raises(ValueError, match="vocab_size is 0"):
        architecture_of(tiny(model__text__bert__vocab_size=0))


def fixture_architecture(sizes: dict[str, Any]) -> torch_modules.Architecture:
    """The tiny official model: B0 of a tenth of its width and half its depth, detector boxes, no attention mask."""
    net, text = efficientnet_sizes(0.1, 0.5, BASE_STAGES), sizes["text"]
    c = experiment.default()
    c.data.image_size, c.data.text_length = sizes["image_size"], sizes["max_text_len"]
    c.model.embedding = sizes["feature_dim"]
    c.model.image.regions.kind, c.model.image.regions.whole_image = "boxes", False
    c.model.image.regions.coordinates, c.model.text.bert.attention_mask = "official", False
    c.model.image.backbone.width_multiplier, c.model.image.backbone.depth_multiplier = 0.1, 0.5
    bert = c.model.text.bert
    bert.vocab_size, bert.positions, bert.types = (
        text[f"{name}_size" if name == "vocab" else name]
        for name in ("vocab", "max_position_embeddings", "type_vocab_size")
    )
    bert.width, bert.layers, bert.heads, bert.feed_forward = (
        text[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    )
    architecture = architecture_of(experiment.parse(c))
    assert architecture["image"]["backbone"]["stages"] == [list(stage) for stage in net.stages]
    return architecture


@torch.no_grad()
def test_official_weights_give_the_official_numbers():
    sizes = official_brivl.facts()
    model = torch_modules.WenLan(fixture_architecture(sizes)).eval()
    weights = {key: torch.tensor(value).float() for key, value in official_brivl.arrays("weights").items()}
    unused = {key for key in weights if ".classifier." in key or ".pooler." in key}
    model.load_state_dict({key: value for key, value in weights.items() if key not in unused}, strict=True)
    data = {key: torch.tensor(value) for key, value in official_brivl.arrays("inference").items()}
    boxes = data["boxes"] / sizes["image_size"]
    seen, read = model(data["images"], data["ids"], data["tmask"], boxes, data["imask"])
    tokens = model.imgencoder.region_tokens(data["images"], boxes)
    np.testing.assert_allclose(tokens, data["region_tokens"], atol=2e-5 * data["region_tokens"].abs().max())
    np.testing.assert_allclose(
        model.textencoder.hidden_states(data["ids"], data["tmask"]), data["bert_hidden"], atol=2e-5
    )
    np.testing.assert_allclose(seen, data["image_embedding"], atol=2e-5)
    np.testing.assert_allclose(read, data["text_embedding"], atol=2e-5)


def exported_folder(config: experiment.Config, folder: Path) -> torch_modules.WenLan:
    model = torch_modules.WenLan(architecture_of(config))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.architecture))
    return model.eval()


def test_a_folder_is_loaded_as_it_was_saved_and_can_be_trained(tiny: Callable[..., experiment.Config], tmp_path: Path):
    config = tiny(**BACKBONE)
    saved, loaded = exported_folder(config, tmp_path), torch_modules.load(tmp_path)
    inputs = [torch.from_numpy(x) for x in (*image_inputs(config), *text_inputs(config, (4, 7, 5)))]
    for one, other in zip(saved(*inputs), loaded(*inputs), strict=True):
        assert torch.equal(one, other)
    assert not loaded.training
    images, texts = loaded.train()(*inputs)
    torch.nn.functional.cross_entropy(images @ texts.T, torch.arange(3)).backward()
    unused = [name for name, parameter in loaded.named_parameters() if parameter.grad is None]
    assert unused == []


def test_a_folder_that_lacks_a_weight_or_has_another_shape_is_refused(
    tiny: Callable[..., experiment.Config], tmp_path: Path
):
    state = exported_folder(tiny(**BACKBONE), tmp_path).state_dict()
    name = "imgencoder.learnable.imgFC.fc1.bias"
    for fault in ({}, {name: torch.zeros(5)}):
        rest = {key: value for key, value in state.items() if key != name}
        safetensors.torch.save_file({**rest, **fault}, tmp_path / "model.safetensors")
        with pytest.raises(RuntimeError, match=name):
            torch_modules.load(tmp_path)


def test_safetensors_are_read_as_the_library_reads_them(tmp_path: Path):
    rng, path = np.random.default_rng(0), tmp_path / "some.safetensors"
    state = {
        str(dtype): torch.tensor(
            rng.integers(0, 2, (3, 5)) if dtype == torch.bool else rng.normal(size=(3, 5)) * 50
        ).to(dtype)
        for dtype in torch_modules.TYPES.values()
    }
    state |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 4, dtype=torch.float16)}
    safetensors.torch.save_file(state, path, {"note": "a map beside the tensors"})
    read, expected = torch_modules.read_safetensors(path), safetensors.torch.load_file(path)
    assert set(read) == set(expected) == set(state)
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name
    whole = path.read_bytes()
    for kept in (0, 4, 60, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="some.safetensors"):
            torch_modules.read_safetensors(path)


@pytest.mark.parametrize("kind", ["grid", "boxes"])
def test_the_model_exports_with_a_dynamic_batch(kind: str, tiny: Callable[..., experiment.Config]):
    config = tiny(**BACKBONE, model__image__regions__kind=kind, model__image__regions__boxes=3)
    images, *boxes = image_inputs(config)
    inputs = tuple(map(torch.from_numpy, (images, *text_inputs(config, (4, 7, 5)), *boxes)))
    model = torch_modules.WenLan(architecture_of(config)).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    for size in (1, 7):
        some = [x[torch.arange(size) % len(x)] for x in inputs]
        torch.testing.assert_close(program.module()(*some), model(*some), atol=1e-6, rtol=0)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("shape", [(100, 140), (31, 17), (90, 20), (48, 48), (32, 32)], ids=str)
def test_images_are_resized_as_in_training(shape: tuple[int, int], antialias: bool):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    resized = torch_modules.resize(torch.from_numpy(pixels), 32, antialias).numpy()
    difference = np.abs(resized - image_files.resize(pixels, 32, antialias))
    averaged = antialias and min(shape) >= 32
    assert difference.max() <= (0 if averaged else 1)
    assert (difference == 0).mean() > 0.85


def test_images_are_normalised_as_in_training(tiny: Callable[..., experiment.Config]):
    config = tiny(**BACKBONE)
    model = torch_modules.WenLan(architecture_of(config))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 30, 30, 3)).astype(np.uint8)
    expected = Towers(config).prepare({"image": pixels}, None)["image"]
    normalised = model.normalise(torch.from_numpy(pixels))
    np.testing.assert_allclose(normalised.permute(0, 2, 3, 1), expected, atol=1e-6)
    assert torch.equal(model.preprocess(Image.fromarray(pixels[1])), normalised[1:])
    assert torch.equal(model.preprocess(torch.from_numpy(pixels[1])), normalised[1:])


def test_transparent_images_are_laid_on_white(tiny: Callable[..., experiment.Config], tmp_path: Path):
    model = torch_modules.WenLan(architecture_of(tiny(**BACKBONE)))
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 4)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    opaque = torch.from_numpy(image_files.decode((tmp_path / "a.png").read_bytes()))
    assert torch.equal(model.preprocess(Image.open(tmp_path / "a.png")), model.normalise(opaque[None]))


ALONE = """
import pathlib, sys
source, folder = sys.argv[1:]
NEEDS = "torch torchgen functorch sympy mpmath networkx jinja2 markupsafe filelock fsspec typing_extensions".split()

class Refuse:
    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        known = root in sys.stdlib_module_names or root.startswith("_sysconfigdata") or root in NEEDS
        if not known and root != "wenlan_torch":
            raise ModuleNotFoundError(f"{name} is no part of Python or torch")

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, str(pathlib.Path(source).parent))
import torch
import wenlan_torch
model = wenlan_torch.load(folder)
image = model.preprocess(torch.zeros(40, 50, 3, dtype=torch.uint8))
with torch.no_grad():
    images, texts = model(image, torch.ones(1, 5, dtype=torch.long), torch.ones(1, 5, dtype=torch.bool))
print((images @ texts.T).shape)
"""


def test_the_file_needs_nothing_but_torch(tiny: Callable[..., experiment.Config], tmp_path: Path):
    exported_folder(tiny(**BACKBONE), tmp_path)
    source = tmp_path / "wenlan_torch.py"
    source.write_text(Path(torch_modules.__file__).read_text())
    command = [sys.executable, "-c", ALONE, str(source), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 1])" in done.stdout
