"""The PyTorch modules against the JAX towers at the papers' sizes, under random weights that keep inputs apart.

Random networks of this depth bring all inputs nearly to one point, where errors hide, unless signals keep their size:
kernels are scaled by their fan-in, residual branches are small, and the running statistics of the batch normalisations
are those of the images that are compared. That inputs then differ, and that single faults would be seen, is tested.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from repository import CONFIGS

pytest.importorskip("torch")

import torch
from torch.nn import functional as F  # noqa: N812, the usual name

from wenlan_jax.convert import torch_modules
from wenlan_jax.convert.architecture import architecture_of
from wenlan_jax.convert.brivl import QUERY_TOWERS, brivl_table
from wenlan_jax.convert.rules import to_flax, to_torch, unflatten
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower.towers import Towers

SMALLER = {
    "data.image_size": 92,  # the strided convolutions meet even and odd sides, so all kinds of padding
    "data.text_length": 16,
    "model.text.bert.vocab_size": 21128,
    "model.dtype": "float32",
}
"""What differs from the configurations' files; all widths and depths are theirs."""

COMPARED, CALIBRATING = 3, 8
"""Images that are compared, and those, the same among them, that the running statistics are taken from."""

TOWERS = {"image": torch_modules.ImageTower, "text": torch_modules.TextTower}
PREFIX = {name: prefix for prefix, name in QUERY_TOWERS.items()}

STAGES = {
    "image": {"features": "backbone", "inputs": "learnable.max_pool", "tokens": "learnable.imgAtt"},
    "text": {"inputs": "backbone.bert", "tokens": "learnable.textAtt"},
}
"""The PyTorch module whose result is a field of `TowerOutput`."""

RELATIVE = {"image": 1.5e-4, "text": 1e-5}
"""Largest difference of a stage over its largest value: over three times the largest measured (4.4e-5, 2.6e-6)."""

ABSOLUTE = {"image": 6e-6, "text": 5e-7}
"""Largest difference of an embedding's coordinate, chosen likewise (measured 1.7e-6, 1.3e-7)."""

RESIDUAL = re.compile(r"blocks\.\d+\.[1-9]\d*\.bn3\.weight|(output\.dense|out_proj|linear2)\.weight")
"""The last weights of what is added to the input of a block or layer, drawn small: in deep stacks, rounding then does
not grow and tokens stay apart."""

Outputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Pair:
    """One tower in both frameworks: `variables` are the converted `state`, which `module` holds."""

    kind: str
    config: experiment.Config
    module: torch.nn.Module
    state: dict[str, np.ndarray]
    variables: dict[str, Any]
    ignored: set[str]


def random_state(shapes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights that keep the size of a signal, beside biases and norms that are nowhere neutral."""
    rng = np.random.default_rng(0)

    def draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
        if key.endswith("num_batches_tracked"):
            return np.zeros(shape, np.int64)
        if key.endswith(("running_mean", "running_var")):
            return np.full(shape, key.endswith("var"), np.float32)
        noise = rng.standard_normal(shape, np.float32)
        if key.endswith("bias"):
            return noise * np.float32(0.01)
        size = np.float32(0.3 if RESIDUAL.search(key) else 1.0)
        if len(shape) == 1:
            return size * np.exp(np.float32(0.2) * noise)
        if "_embeddings." in key:  # words further apart than places, and the whole as small as in BERT
            return noise * np.float32(0.05 if "word" in key else 0.02)
        return size * noise * np.float32(1.5 * np.prod(shape[1:]) ** -0.5)

    return {key: torch.from_numpy(draw(key, tuple(leaf.shape))) for key, leaf in shapes.items()}


def images_of(config: experiment.Config) -> torch.Tensor:
    """Normalised images, channels first, with structure at all scales: their own colours, patches and noise."""
    rng, side = np.random.default_rng(1), config.data.image_size
    images = torch.zeros(CALIBRATING, 3, side, side)
    for size, contrast in ((1, 1.0), (4, 1.0), (side, 0.3)):
        drawn = torch.from_numpy(rng.standard_normal((CALIBRATING, 3, size, size), np.float32))
        images += contrast * F.interpolate(drawn, (side, side), mode="bilinear")
    return images


@torch.no_grad()
def calibrate(backbone: torch.nn.Module, images: torch.Tensor) -> None:
    """Sets all running statistics to those of the images."""
    norms = [module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches so far
    backbone.train()(images)
    assert all(norm.num_batches_tracked == 1 for norm in norms)


def config_of(name: str) -> experiment.Config:
    return experiment.load(CONFIGS / f"{name}.py", [f"--config.{field}={value}" for field, value in SMALLER.items()])


def make_pair(name: str, kind: str) -> Pair:
    config = config_of(name)
    with torch.device("meta"):
        module = TOWERS[kind](architecture_of(config))
    module.load_state_dict(random_state(module.state_dict()), strict=True, assign=True)
    if kind == "image":
        calibrate(module.backbone, images_of(config))
    state = {f"{PREFIX[kind]}.{key}": value.numpy() for key, value in module.eval().state_dict().items()}
    shapes = jax.eval_shape(Towers(config).init, jax.random.key(0))
    template = {kind: {collection: trees[kind] for collection, trees in shapes.items() if kind in trees}}
    imported = to_flax(state, brivl_table({PREFIX[kind]: kind}), template)
    return Pair(kind, config, module, state, unflatten(imported.leaves)[kind], set(imported.ignored))


SLOW = pytest.mark.slow
RELEASED = {
    "B5 with boxes": ("brivl_1_released", "image"),
    "B5 with a grid": pytest.param(("brivl_2_released", "image"), marks=SLOW),
    "base": ("brivl_1_released", "text"),
    "B7": pytest.param(("brivl_2", "image"), marks=SLOW),
    "large": pytest.param(("brivl_2", "text"), marks=SLOW),
}


@pytest.fixture(scope="module", params=list(RELEASED.values()), ids=list(RELEASED))
def pair(request: pytest.FixtureRequest) -> Pair:
    return make_pair(*request.param)


def inputs_of(pair: Pair) -> tuple[np.ndarray, ...]:
    """Texts with and without padding; or images, channels first, and boxes where there are any: none up to all."""
    rng, config = np.random.default_rng(2), pair.config
    if pair.kind == "text":
        mask = np.arange(config.data.text_length) < np.array([[config.data.text_length], [9], [3]])
        ids = rng.integers(1, config.model.text.bert.vocab_size, mask.shape)
        return np.where(mask, ids, 0).astype(np.int32), mask
    images, regions = images_of(config)[:COMPARED].numpy(), config.model.image.regions
    if regions.kind == "grid":
        return (images,)
    corners = np.sort(rng.random((COMPARED, regions.boxes, 2, 2), np.float32), axis=2)
    counts = np.linspace(0, regions.boxes, COMPARED).astype(int)[:, None]
    return images, corners.reshape(COMPARED, -1, 4), np.arange(regions.boxes) < counts


@torch.no_grad()
def run_torch(pair: Pair, inputs: tuple[np.ndarray, ...]) -> Outputs:
    """The stages and the embedding of the PyTorch tower, with channels last."""
    seen: Outputs = {}

    def keep(stage: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, arguments: tuple, result: torch.Tensor) -> None:
            seen[stage] = np.moveaxis(result.numpy(), 1, -1) if result.ndim == 4 else result.numpy()

        return hook

    stages = STAGES[pair.kind].items()
    handles = [pair.module.get_submodule(path).register_forward_hook(keep(stage)) for stage, path in stages]
    embedding = pair.module(*map(torch.from_numpy, inputs)).numpy()
    for handle in handles:
        handle.remove()
    return {**seen, "embedding": embedding}


def run_jax(pair: Pair, inputs: tuple[np.ndarray, ...]) -> Outputs:
    """The same of the JAX tower."""
    tower = getattr(Towers(pair.config), pair.kind)
    if pair.kind == "image":
        inputs = (np.moveaxis(inputs[0], 1, -1), *inputs[1:])
    outputs = jax.jit(functools.partial(tower.apply, train=False))(pair.variables, *inputs)
    return {stage: np.asarray(getattr(outputs, stage)) for stage in (*STAGES[pair.kind], "embedding")}


def differences(ours: Outputs, theirs: Outputs) -> dict[str, float]:
    """The largest difference by stage, over the largest value but for embeddings."""
    found = {stage: float(np.abs(theirs[stage].reshape(value.shape) - value).max()) for stage, value in ours.items()}
    return {stage: d if stage == "embedding" else d / float(np.abs(ours[stage]).max()) for stage, d in found.items()}


def assert_apart(embeddings: np.ndarray) -> None:
    """Inputs that differ must embed apart for a comparison to say anything about them."""
    cosines = (embeddings @ embeddings.T)[np.triu_indices(len(embeddings), 1)]
    assert cosines.max() < 0.9, cosines  # measured: at most 0.852


def test_towers_agree_on_inputs_that_embed_apart(pair: Pair):
    theirs = run_torch(pair, inputs_of(pair))
    assert_apart(theirs["embedding"])
    found = differences(run_jax(pair, inputs_of(pair)), theirs)
    print(theirs["embedding"] @ theirs["embedding"].T)
    print(found)
    assert found.pop("embedding") < ABSOLUTE[pair.kind]
    assert max(found.values()) < RELATIVE[pair.kind], found


def test_state_dicts_come_back_bit_for_bit(pair: Pair):
    back = to_torch({pair.kind: pair.variables}, brivl_table({PREFIX[pair.kind]: pair.kind}))
    assert set(back) == set(pair.state) - pair.ignored
    assert all(key.endswith("num_batches_tracked") for key in pair.ignored)
    for key, value in back.items():
        was = pair.state[key]
        assert (value.dtype, value.shape, value.tobytes()) == (was.dtype, was.shape, was.tobytes()), key


Fault = Callable[[torch.nn.Module, pytest.MonkeyPatch], None]


def another_batch_norm_epsilon(tower: torch.nn.Module, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tower.get_submodule("backbone.blocks.3.1.bn2"), "eps", 1e-5)


def one_relu_for_swish(tower: torch.nn.Module, patch: pytest.MonkeyPatch) -> None:
    calls, swish = itertools.count(), F.silu
    patch.setattr(F, "silu", lambda x: F.relu(x) if next(calls) == 40 else swish(x))


def padding_at_the_start(tower: torch.nn.Module, patch: pytest.MonkeyPatch) -> None:
    conv = tower.get_submodule("backbone.blocks.1.0.conv_dw")
    patch.setattr(
        conv, "forward", lambda x: F.conv2d(F.pad(x, (1, 0, 1, 0)), conv.weight, None, 2, groups=len(conv.weight))
    )


def other_coordinates(tower: torch.nn.Module, patch: pytest.MonkeyPatch) -> None:
    regions = tower.sizes["regions"]
    patch.setitem(regions, "coordinates", "official" if regions["coordinates"] == "corrected" else "corrected")


def another_number_of_heads(tower: torch.nn.Module, patch: pytest.MonkeyPatch) -> None:
    *_, attention = (module for module in tower.modules() if isinstance(module, torch_modules.SelfAttention))
    patch.setattr(attention, "heads", 2 * attention.heads)


def a_query_of_another_head(tower: torch.nn.Module, patch: pytest.MonkeyPatch) -> None:
    query = tower.get_submodule("backbone.bert.encoder.layer.5.attention.self.query")
    width = tower.sizes["bert"]["width"] // tower.sizes["bert"]["heads"]
    patch.setattr(query, "forward", lambda x: F.linear(x, query.weight, query.bias).roll(width, -1))


def tanh_gelu(tower: torch.nn.Module, patch: pytest.MonkeyPatch) -> None:
    exact = F.gelu
    patch.setattr(F, "gelu", lambda x: exact(x, approximate="tanh"))


def another_layer_norm_epsilon(tower: torch.nn.Module, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tower.get_submodule("backbone.bert.embeddings.LayerNorm"), "eps", 1e-5)


def positions_from_one(tower: torch.nn.Module, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(tower.sizes["bert"], "first_position", 1)


def padding_hidden_or_not(tower: torch.nn.Module, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(tower.sizes["bert"], "attention_mask", not tower.sizes["bert"]["attention_mask"])


FAULTS: dict[str, list[Fault]] = {
    "image": [
        another_batch_norm_epsilon,
        one_relu_for_swish,
        padding_at_the_start,
        other_coordinates,
        another_number_of_heads,
    ],
    "text": [
        a_query_of_another_head,
        tanh_gelu,
        another_layer_norm_epsilon,
        positions_from_one,
        padding_hidden_or_not,
        another_number_of_heads,
    ],
}


@pytest.mark.slow
def test_single_faults_would_be_seen(pair: Pair):
    inputs = inputs_of(pair)
    sound = run_torch(pair, inputs)
    for fault in FAULTS[pair.kind]:
        with pytest.MonkeyPatch.context() as patch:
            fault(pair.module, patch)
            moved = differences(sound, run_torch(pair, inputs))
        assert moved["embedding"] > 5 * ABSOLUTE[pair.kind], f"{fault.__name__} is hardly seen: {moved}"
    again = differences(sound, run_torch(pair, inputs))
    assert max(again.values()) < 1e-7, "a fault was not taken back"


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [("brivl_1_released", 143_724_056, 130_094_848), ("brivl_2", 232_917_432, 368_302_080)],
    ids=["B5 and base", "B7 and large"],
)
def test_sizes_have_the_official_number_of_parameters(name: str, image: int, text: int):
    """The figures of the official code, less what no embedding depends on: classifier and pooler."""
    architecture = architecture_of(config_of(name))
    with torch.device("meta"):
        model = torch_modules.WenLan(architecture)
    features, width = architecture["image"]["features"], architecture["text"]["bert"]["width"]
    assert count(model.imgencoder) in (image, image - (features + 1) * 1000)
    assert count(model.textencoder) in (text, text - (width + 1) * width)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
