"""timm's and Hugging Face's EfficientNet layouts: equal maps, unchanged round trips, clear refusals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import EfficientNetConfig, EfficientNetForImageClassification, EfficientNetModel

from wenlan_jax.convert import backbone_weights, torch_modules
from wenlan_jax.convert.brivl import with_batch_counters
from wenlan_jax.convert.efficientnet import KeyLayout, architecture, detect, efficientnet_table, is_lite, rules, sizes
from wenlan_jax.convert.reference import torch_brivl
from wenlan_jax.convert.rules import ConversionError, Imported, WeightTable, flatten, to_flax, to_torch, unflatten
from wenlan_jax.models.efficientnet import COMPOUND_COEFFICIENTS, EfficientNet, Stage, efficientnet_sizes
from wenlan_jax.models.layers import BatchNormOptions

SIDE = 32
STAGES = (Stage(3, 1, 1, 16, 2), Stage(5, 2, 4, 24, 2), Stage(3, 2, 6, 32, 1))
STEM, HEAD = 8, 320
"""What Hugging Face's width coefficient .25 makes of 32 and 1280, which its model takes as fixed."""

BATCH_NORM = BatchNormOptions(mode="batch", group_size=0, momentum=0.1, eps=1e-3, frozen_paths=(), scope="")
TIMM, HUGGING_FACE = KeyLayout("timm", ""), KeyLayout("huggingface", "")


def network(stem: int = STEM, stages: tuple[Stage, ...] = STAGES, head: int = HEAD, lite: bool = False) -> EfficientNet:
    return EfficientNet(stem, stages, head, BATCH_NORM, lite, "conv", jnp.float32, False, False)


def template(net: EfficientNet) -> dict[str, Any]:
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)), False))
    return {"image": {collection: {"backbone": tree} for collection, tree in shapes.items()}}


def imported(state: dict[str, np.ndarray], net: EfficientNet) -> Imported:
    return to_flax(state, efficientnet_table(detect(state), net.stages), template(net))


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
            else:
                value.fill_(7)
    return model.eval()


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in model.state_dict().items()}


def timm_model(net: EfficientNet | None = None) -> torch.nn.Module:
    """timm's key layout is that of the backbone in the official BriVL checkpoints, classifier included."""
    net = net or network()
    sizes = type("Sizes", (), {"stem_width": net.stem_width, "stages": net.stages, "head_width": net.head_width})
    with unchecked():
        return randomized(torch_brivl.EfficientNet(sizes))


def hugging_face_config(**changes: Any) -> EfficientNetConfig:
    options = {
        "width_coefficient": 0.25,
        "depth_coefficient": 1.0,
        "in_channels": [32, *(4 * stage.width for stage in STAGES[:-1])],
        "out_channels": [4 * stage.width for stage in STAGES],
        "kernel_sizes": [stage.kernel for stage in STAGES],
        "strides": [stage.stride for stage in STAGES],
        "expand_ratios": [stage.expand for stage in STAGES],
        "num_block_repeats": [stage.repeats for stage in STAGES],
        "hidden_dim": HEAD,
    }
    return EfficientNetConfig(**{**options, **changes})


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)


def assert_maps_equal(net: EfficientNet, result: Imported, theirs: torch.Tensor) -> None:
    tree = unflatten(result.leaves)["image"]
    variables = {collection: values["backbone"] for collection, values in tree.items()}
    ours = jax.jit(lambda v, x: net.apply(v, x, False))(variables, images())
    expected = theirs.permute(0, 2, 3, 1).numpy()
    assert ours.shape == expected.shape == (2, SIDE // 8, SIDE // 8, HEAD)
    np.testing.assert_allclose(ours, expected, atol=2e-5 * np.abs(expected).max())


def assert_returns(state: dict[str, np.ndarray], result: Imported, layout: KeyLayout) -> None:
    """Back to PyTorch, only the classifier is lost and the counters restart."""
    back = with_batch_counters(to_torch(result.leaves, efficientnet_table(layout, STAGES)))
    assert set(state) - set(back) == {key for key in state if key.startswith("classifier.")}
    assert set(back) <= set(state)
    assert {key.rsplit(".", 1)[-1] for key in result.ignored} <= {"num_batches_tracked", "weight", "bias"}
    for key, value in back.items():
        assert value.dtype == state[key].dtype
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_timm_layout_gives_the_same_map_and_returns_unchanged():
    net, model = network(), timm_model()
    state = arrays(model)
    assert detect(state) == TIMM
    result = imported(state, net)
    assert {"classifier.weight", "classifier.bias", "bn1.num_batches_tracked"} <= set(result.ignored)
    with torch.no_grad():
        assert_maps_equal(net, result, model(torch.tensor(images()).permute(0, 3, 1, 2)))
    assert_returns(state, result, TIMM)


def test_hugging_face_model_gives_the_same_map_and_returns_unchanged():
    net, model = network(), randomized(EfficientNetModel(hugging_face_config()))
    state = arrays(model)
    assert detect(state) == HUGGING_FACE
    result = imported(state, net)
    with torch.no_grad():
        # The pooled output does not exist for maps smaller than `hidden_dim`'s window; the map itself does.
        features = model.encoder(model.embeddings(torch.tensor(images()).permute(0, 3, 1, 2)))
    assert_maps_equal(net, result, features.last_hidden_state)
    assert_returns(state, result, HUGGING_FACE)


def test_hugging_face_classifier_has_a_prefix_and_is_left_out():
    model = randomized(EfficientNetForImageClassification(hugging_face_config(num_labels=5)))
    state, layout = arrays(model), KeyLayout("huggingface", "efficientnet.")
    assert detect(state) == layout
    result = imported(state, network())
    assert {"classifier.weight", "classifier.bias"} <= set(result.ignored)
    assert_returns(state, result, layout)


def test_both_layouts_name_the_same_leaves():
    net = network()
    leaves = imported(arrays(timm_model()), net).leaves
    assert set(leaves) == set(flatten(template(net)))
    moved = to_torch(leaves, efficientnet_table(HUGGING_FACE, STAGES))
    model = EfficientNetModel(hugging_face_config())
    model.load_state_dict({key: torch.tensor(value) for key, value in with_batch_counters(moved).items()}, strict=True)
    again = imported(moved, net).leaves
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)


@pytest.mark.parametrize("name", ["b0", "b5", "b7"])
def test_released_sizes_have_the_keys_of_transformers(name: str):
    width, depth = COMPOUND_COEFFICIENTS[name]
    sizes = efficientnet_sizes(width, depth)
    with torch.device("meta"):
        config = EfficientNetConfig(width_coefficient=width, depth_coefficient=depth, hidden_dim=sizes.head_width)
        state = EfficientNetModel(config).state_dict()
    shapes = flatten(template(network(*sizes)))
    table = efficientnet_table(HUGGING_FACE, sizes.stages)
    reached = set()
    for key, value in state.items():
        match = table.of_torch(key)
        if match is None:
            assert key.endswith("num_batches_tracked")
            continue
        (path,) = [form.format(**match[1]) for form in match[0].flax]
        assert np.prod(shapes[path].shape) == value.numel(), key
        reached.add(path)
    assert reached == set(shapes)


def test_other_networks_and_sizes_are_named():
    with pytest.raises(ConversionError, match=r"no key ends in conv_stem\.weight or embeddings\.convolution\.weight"):
        detect(["conv1.weight", "layer1.0.conv1.weight"])
    with pytest.raises(ConversionError, match=r"several image networks, under imgencoder\.backbone\., imgencoder_mom"):
        detect(["imgencoder.backbone.conv_stem.weight", "imgencoder_mom.backbone.conv_stem.weight"])
    deeper = network(stages=(STAGES[0], STAGES[1]._replace(repeats=3), STAGES[2]))
    with pytest.raises(ConversionError, match="image/params/backbone/blocks_1_2/conv_pw/kernel .* has no PyTorch key"):
        imported(arrays(timm_model()), deeper)
    with pytest.raises(ConversionError, match="covered by no rule|has shape"):
        imported(arrays(EfficientNetModel(hugging_face_config())), network(stages=STAGES[:2]))


class LiteBlock(torch.nn.Module):
    """A block of the lite variants under the names of efficientnet_pytorch, written from the paper's figure."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        wide, self.stride, self.kernel = inputs * stage.expand, stride, stage.kernel
        if stage.expand > 1:
            self._expand_conv, self._bn0 = torch.nn.Conv2d(inputs, wide, 1, bias=False), norm(wide)
        self._depthwise_conv = torch.nn.Conv2d(wide, wide, stage.kernel, stride, groups=wide, bias=False)
        self._bn1 = norm(wide)
        self._project_conv, self._bn2 = torch.nn.Conv2d(wide, stage.width, 1, bias=False), norm(stage.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        if hasattr(self, "_expand_conv"):
            y = self._bn0(self._expand_conv(y)).clamp(0, 6)
        y = self._bn1(self._depthwise_conv(padded(y, self.kernel, self.stride))).clamp(0, 6)
        y = self._bn2(self._project_conv(y))
        return x + y if x.shape == y.shape else y


class Lite(torch.nn.Module):
    """A lite variant up to its map, with a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = torch.nn.Conv2d(3, STEM, 3, 2, bias=False), norm(STEM)
        widths = [STEM, *(stage.width for stage in STAGES for _ in range(stage.repeats))]
        strides = [stage.stride if not index else 1 for stage in STAGES for index in range(stage.repeats)]
        every = [stage for stage in STAGES for _ in range(stage.repeats)]
        blocks = zip(widths, every, strides, strict=False)
        self._blocks = torch.nn.ModuleList(LiteBlock(width, stage, stride) for width, stage, stride in blocks)
        self._conv_head, self._bn1 = torch.nn.Conv2d(widths[-1], HEAD, 1, bias=False), norm(HEAD)
        self._fc = torch.nn.Linear(HEAD, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self._bn0(self._conv_stem(padded(images, 3, 2))).clamp(0, 6)
        for block in self._blocks:
            x = block(x)
        return self._bn1(self._conv_head(x)).clamp(0, 6)


def norm(width: int) -> torch.nn.Module:
    return torch.nn.BatchNorm2d(width, eps=1e-3)


def padded(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """TensorFlow's "SAME": more behind than before."""
    side = x.shape[-1]
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return torch.nn.functional.pad(x, (total // 2, total - total // 2) * 2)


def test_a_lite_variant_gives_the_same_map_and_returns_unchanged():
    net, model = network(lite=True), randomized(Lite())
    state = arrays(model)
    assert detect(state) == KeyLayout("efficientnet_pytorch", "") and is_lite(state)
    assert not is_lite(arrays(timm_model()))
    result = imported(state, net)
    assert not any("/se/" in name for name in flatten(result.leaves))
    pixels = torch.tensor(images()).permute(0, 3, 1, 2)
    with torch.no_grad():
        assert_maps_equal(net, result, model(pixels))
    back = with_batch_counters(to_torch(result.leaves, efficientnet_table(detect(state), STAGES)))
    assert set(state) - set(back) == {"_fc.weight", "_fc.bias"}
    for key, value in back.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value, state[key], err_msg=key)
    exported = torch_modules.EfficientNet(architecture(net), HEAD).eval()
    table = WeightTable(tuple(rules("", backbone_weights.SCOPE)), ())
    leaves = {key: torch.tensor(value) for key, value in with_batch_counters(to_torch(result.leaves, table)).items()}
    exported.load_state_dict(leaves, strict=True)
    with torch.no_grad():
        np.testing.assert_allclose(exported(pixels), model(pixels), atol=2e-5)


@pytest.mark.parametrize("multipliers", [(1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8)])
def test_the_multipliers_of_lite_variants_are_read_off_their_arrays(multipliers: tuple[float, float]) -> None:
    made = efficientnet_sizes(*multipliers, lite=True)
    assert (made.stem_width, made.head_width) == (32, 1280)
    state = {f"_blocks.{n}._depthwise_conv.weight": np.zeros(1) for n in range(sum(s.repeats for s in made.stages))}
    state["_conv_stem.weight"] = np.zeros((32, 3, 3, 3))
    state["_conv_head.weight"] = np.zeros((1280, made.stages[-1].width, 1, 1))
    found = sizes(state, "", "efficientnet_pytorch")
    backbone = "model.image.backbone."
    assert (found[f"{backbone}width_multiplier"], found[f"{backbone}depth_multiplier"]) == multipliers
    assert found[f"{backbone}lite"] is True and found["augment.std"][0] == pytest.approx(128 / 255, abs=1e-6)
