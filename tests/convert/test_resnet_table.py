"""ResNets of torchvision, timm and Hugging Face: equal maps, training, round trips and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from wenlan_jax.convert import resnet, weights
from wenlan_jax.convert.brivl import with_batch_counters
from wenlan_jax.convert.rules import ConversionError, to_flax, to_torch, unflatten
from wenlan_jax.models.layers import BatchNormOptions
from wenlan_jax.models.resnet import ResNet
from wenlan_jax.tasks import experiment

WIDTH, BLOCKS = 4, (2, 3, 1)
SIDES = (32, 45)
"""Pixels; the second meets odd maps, whose padding is uneven."""


def block(inputs: int, width: int, stride: int, project: bool) -> torch.nn.Module:
    """torchvision's names of a bottleneck; `of_block` computes it."""
    made = torch.nn.Module()
    for number, (a, b, kernel, step) in enumerate(
        ((inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)), start=1
    ):
        made.add_module(f"conv{number}", torch.nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False))
        made.add_module(f"bn{number}", torch.nn.BatchNorm2d(b))
    if project:
        shortcut = torch.nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
        made.downsample = torch.nn.Sequential(shortcut, torch.nn.BatchNorm2d(4 * width))
    return made


def of_block(made: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.relu(made.bn1(made.conv1(x)))
    y = made.bn3(made.conv3(torch.relu(made.bn2(made.conv2(y)))))
    return torch.relu(y + (made.downsample(x) if hasattr(made, "downsample") else x))


class Reference(torch.nn.Module):
    """He et al. 2016 with torchvision's names; PyTorch's BatchNorm2d has eps 1e-5 unless told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = torch.nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(WIDTH)
        inputs = WIDTH
        for stage, count in enumerate(BLOCKS):
            width, layer = WIDTH * 2**stage, torch.nn.Sequential()
            for index in range(count):
                layer.append(block(inputs, width, 2 if stage and not index else 1, not index))
                inputs = 4 * width
            self.add_module(f"layer{stage + 1}", layer)
        self.fc = torch.nn.Linear(inputs, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pool = torch.nn.MaxPool2d(3, 2, 1)
        x = pool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(len(BLOCKS)):
            for made in self.get_submodule(f"layer{stage + 1}"):
                x = of_block(made, x)
        return x


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """The model in evaluation mode, with every norm and statistic away from its start."""
    torch.manual_seed(0)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.dim() == 4:
                value.normal_(std=(2.0 / value[0].numel()) ** 0.5)
            elif key.endswith("running_var") or (key.endswith("weight") and value.dim() == 1):
                value.uniform_(0.7, 1.3)
            elif value.is_floating_point():
                value.uniform_(-0.3, 0.3)
    return model.eval()


def of_transformers() -> Callable[..., torch.Tensor]:
    widths = [4 * WIDTH * 2**stage for stage in range(len(BLOCKS))]
    config = ResNetConfig(embedding_size=WIDTH, hidden_sizes=widths, depths=list(BLOCKS))
    return randomized(ResNetModel(config))


SOURCES: dict[str, Callable[[], Any]] = {
    "torchvision's names": lambda: randomized(Reference()),
    "transformers": of_transformers,
}


def images(side: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, side, side, 3)).astype(np.float32)


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {key: value.numpy().copy() for key, value in model.state_dict().items()}


NORM = BatchNormOptions(mode="batch", group_size=0, momentum=0.1, eps=1e-5, frozen_paths=(), scope="")


def network(**changes: Any) -> ResNet:
    options = {"blocks": BLOCKS, "width": WIDTH, "batch_norm": NORM, "dtype": jnp.float32}
    return ResNet(**{**options, "remat": False, "scan": False, **changes})


def imported(state: dict[str, np.ndarray], net: ResNet) -> dict[str, Any]:
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))
    template = {"image": {name: {"backbone": tree} for name, tree in shapes.items()}}
    return to_flax(state, resnet.resnet_table(resnet.detect(state), len(net.blocks)), template).leaves


def variables(leaves: dict[str, Any]) -> dict[str, Any]:
    return {name: tree["backbone"] for name, tree in unflatten(leaves)["image"].items()}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("side", SIDES)
def test_maps_are_those_of_the_source(name: str, side: int):
    model, net = SOURCES[name](), network()
    with torch.no_grad():
        found = model(channels_first(images(side)))
    theirs = getattr(found, "last_hidden_state", found).permute(0, 2, 3, 1).numpy()
    ours = jax.jit(lambda v, x: net.apply(v, x, False))(variables(imported(arrays(model), net)), images(side))
    assert ours.shape == theirs.shape == (2, -(-side // 16), -(-side // 16), net.channels)
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


def test_timms_resnet50_has_our_names_and_gives_the_same_map():
    timm = pytest.importorskip("timm")
    model = randomized(timm.create_model("resnet50"))
    state, net = arrays(model), network(blocks=(3, 4, 6, 3), width=64)
    with torch.no_grad():
        theirs = model.forward_features(channels_first(images(64))).permute(0, 2, 3, 1).numpy()
    ours = jax.jit(lambda v, x: net.apply(v, x, False))(variables(imported(state, net)), images(64))
    assert ours.shape == theirs.shape == (2, 2, 2, 2048)
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("changes", [{}, {"scan": True}, {"remat": True}, {"scan": True, "remat": True}])
def test_training_equals_torch_with_gradients_and_statistics(changes: dict[str, Any]):
    model, net, x = randomized(Reference()), network(**changes), images(45, batch=4)
    start = variables(imported(arrays(model), net))
    expected = model.train()(channels_first(x))
    weight = np.random.default_rng(1).normal(size=expected.permute(0, 2, 3, 1).shape).astype(np.float32)
    (expected * channels_first(weight)).sum().backward()

    def loss(params: Any) -> Any:
        y, updated = net.apply({**start, "params": params}, x, True, mutable=["batch_stats"])
        return jnp.sum(y * weight), (y, updated)

    (_, (y, updated)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(start["params"])
    np.testing.assert_allclose(y, expected.detach().permute(0, 2, 3, 1), atol=1e-4)
    trees = {"params": gradient, **updated}
    table = resnet.resnet_table(resnet.KeyLayout("torchvision", ""), len(BLOCKS))
    back = to_torch({"image": {name: {"backbone": tree} for name, tree in trees.items()}}, table)
    wanted = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    wanted |= {name: value for name, value in model.named_buffers() if not name.endswith("tracked")}
    assert back.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(back[key], value, atol=1e-4 * max(1.0, float(value.abs().max())), err_msg=key)


@pytest.mark.parametrize("name", SOURCES)
def test_state_dicts_come_back_bit_for_bit(name: str):
    state = arrays(SOURCES[name]())
    layout = resnet.detect(state)
    back = to_torch(imported(state, network()), resnet.resnet_table(layout, len(BLOCKS)))
    assert state.keys() - with_batch_counters(back).keys() <= {"fc.weight", "fc.bias"}
    assert back.keys() <= state.keys()
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_real_sizes_are_those_of_transformers():
    """ResNet-50 of He et al. 2016: 23,508,032 parameters without the classifier."""
    net = network(blocks=(3, 4, 6, 3), width=64)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), False))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 23_508_032
    assert net.channels == 2048


# Import of files -----------------------------------------------------------------------------------------------------


def file_in(folder: Path, model: Any, **description: Any) -> Path:
    folder.mkdir(exist_ok=True)
    weights.write_safetensors(arrays(model), folder / "model.safetensors", {"format": "pt"})
    if description:
        (folder / "config.json").write_text(json.dumps(description))
    return folder


def settled(source: Path, **changes: Any) -> experiment.Config:
    """The configuration of a file's own sizes, changed."""
    fields = resnet.sizes(weights.read(source, False), source, experiment.Config())
    c = experiment.default()
    c.update_from_flattened_dict({"model.image.architecture": "resnet", **fields, "model.freeze": (), **changes})
    return experiment.parse(c)


@pytest.mark.parametrize("name", SOURCES)
def test_the_sizes_of_a_file_are_those_that_it_is_read_with(name: str, tmp_path: Path):
    source = file_in(tmp_path / "resnet50", SOURCES[name](), **{"model_type": "resnet"})
    config = settled(source)
    found = config.model.image
    assert (found.resnet.blocks, found.resnet.width, found.batch_norm.eps) == (BLOCKS, WIDTH, 1e-5)
    assert resnet.read(weights.read(source, False), config, source).unchecked == ""


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.image.batch_norm.eps", 1e-3, "a BN epsilon of 1e-05; set model.image.batch_norm.eps=1e-05"),
        ("model.image.resnet.width", 64, "have width=4; set model.image.resnet.width=4, which is 64"),
        ("model.image.resnet.blocks", (3, 4, 6, 3), "have blocks=(2, 3, 1); set model.image.resnet.blocks=(2, 3, 1)"),
    ],
)
def test_another_setting_is_named_with_its_remedy(field: str, value: Any, message: str, tmp_path: Path):
    source = file_in(tmp_path / "net", SOURCES["torchvision's names"]())
    with pytest.raises(ConversionError) as error:
        resnet.read(weights.read(source, False), settled(source, **{field: value}), source)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "description", "message"),
    [
        ("transformers", {"model_type": "regnet"}, "config.json says model_type=regnet; the ResNet computes resnet"),
        ("transformers", {"hidden_act": "gelu"}, "config.json says hidden_act=gelu; the ResNet computes relu only"),
        ("transformers", {"downsample_in_bottleneck": True}, "config.json says downsample_in_bottleneck=True"),
        ("torchvision's names", {"architecture": "resnetblur50"}, "its name says resnetblur50"),
        ("torchvision's names", {"architecture": "seresnet50"}, "its name says seresnet50"),
        (
            "torchvision's names",
            {"architecture": "resnet50", "pretrained_cfg": {"mean": [0.5] * 3}},
            "normalised by mean=(0.5, 0.5, 0.5); set augment.mean so",
        ),
    ],
)
def test_what_a_description_asks_for_is_computed_or_refused(
    name: str, description: dict[str, Any], message: str, tmp_path: Path
):
    source = file_in(tmp_path / "net", SOURCES[name](), **description)
    with pytest.raises(ConversionError) as error:
        resnet.read(weights.read(source, False), settled(source), source)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("resnet50", True),
        ("tv_resnet50", True),
        ("resnet101.tv_in1k", True),
        ("resnet50_a1_0-14fe96d1.pth", True),
        ("gluon_resnet50_v1b", True),
        ("resnet50d", False),
        ("resnetaa50", False),
        ("resnext50_32x4d", False),
    ],
)
def test_names_of_other_networks_are_told_apart(name: str, plain: bool):
    assert bool(resnet._PLAIN.fullmatch(name)) == plain


def test_other_networks_are_named():
    with pytest.raises(ConversionError, match="not a ResNet of torchvision, timm or Hugging Face: no key ends"):
        resnet.detect(["conv_stem.weight"])
    with pytest.raises(ConversionError, match=r"without layer1\.0\.conv3\.weight: one of other blocks"):
        resnet.detect(["conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight"])
    with pytest.raises(ConversionError, match=r"without conv1\.weight: .* another\s+stem"):
        resnet.detect(["conv1.0.weight", "layer1.0.conv1.weight", "layer1.0.conv3.weight"])


def test_heads_under_a_prefix_are_left_out():
    widths = [4 * WIDTH * 2**stage for stage in range(len(BLOCKS))]
    config = ResNetConfig(embedding_size=WIDTH, hidden_sizes=widths, depths=list(BLOCKS), num_labels=2)
    state = arrays(randomized(ResNetForImageClassification(config)))
    assert resnet.detect(state) == resnet.KeyLayout("huggingface", "resnet.")
    assert imported(state, network()).keys() == imported(arrays(of_transformers()), network()).keys()
