"""Vision Transformers of timm, DINOv2 and Hugging Face: equal maps, interpolated positions, round trips, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from torch.nn import functional as F  # noqa: N812, the usual name
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from wenlan_jax.convert import vit, weights
from wenlan_jax.convert.rules import ConversionError, flatten, to_flax, to_torch, unflatten
from wenlan_jax.models.vit import Interpolation, VisionTransformer, cubic_weights
from wenlan_jax.tasks import experiment

PATCH, WIDTH, HEADS, LAYERS, WIDE, TABLE = 4, 24, 3, 2, 40, 5
SIDES = (TABLE * PATCH, 28)
"""Pixels of the table's images, and of larger ones, to which positions are interpolated."""


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """The model in evaluation mode, with nothing at its neutral start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.7 * parameter[0].numel() ** -0.5 if parameter.dim() == 2 else 0.3
            parameter.copy_(scale * noise + (1.0 if parameter.dim() == 1 and bool((parameter == 1).all()) else 0.0))
    return model.eval()


def images(side: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {key: value.numpy().copy() for key, value in model.state_dict().items()}


class Reference(torch.nn.Module):
    """timm's names around PyTorch's own layers; `positions` rows stand for the class token and registers too."""

    def __init__(self, registers: int = 0, rows: int = 1, scales: bool = False, interpolation: str = "antialiased"):
        super().__init__()
        self.interpolation, self.rows = interpolation, rows
        self.patch_embed = torch.nn.ModuleDict({"proj": torch.nn.Conv2d(3, WIDTH, PATCH, PATCH)})
        self.cls_token = torch.nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = torch.nn.Parameter(torch.randn(1, rows + TABLE**2, WIDTH))
        if registers:
            self.reg_token = torch.nn.Parameter(torch.randn(1, registers, WIDTH))
        self.layers = [torch.nn.TransformerEncoderLayer(WIDTH, HEADS, WIDE, 0.0, "gelu", 1e-6, True, True)]
        self.layers += [torch.nn.TransformerEncoderLayer(WIDTH, HEADS, WIDE, 0.0, "gelu", 1e-6, True, True)]
        self.blocks = torch.nn.ModuleList(self._named(layer, scales) for layer in self.layers)
        self.norm = torch.nn.LayerNorm(WIDTH, eps=1e-6)

    @staticmethod
    def _named(layer: torch.nn.TransformerEncoderLayer, scales: bool) -> torch.nn.Module:
        """The layer's parameters once more, under timm's names."""
        named = torch.nn.Module()
        named.norm1, named.norm2 = layer.norm1, layer.norm2
        named.attn = torch.nn.ModuleDict({"qkv": torch.nn.Linear(WIDTH, 3 * WIDTH), "proj": layer.self_attn.out_proj})
        named.attn["qkv"].weight, named.attn["qkv"].bias = layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias
        named.mlp = torch.nn.ModuleDict({"fc1": layer.linear1, "fc2": layer.linear2})
        if scales:
            for number in (1, 2):
                factors = torch.nn.Module()
                factors.gamma = torch.nn.Parameter(torch.ones(WIDTH))
                named.add_module(f"ls{number}", factors)
        return named

    def positions(self, places: int) -> torch.Tensor:
        table = self.pos_embed[:, self.rows :].reshape(1, TABLE, TABLE, WIDTH).permute(0, 3, 1, 2)
        if places != TABLE:
            how = {"antialias": True} if self.interpolation == "antialiased" else {}
            size = {"size": (places, places)}
            if self.interpolation == "offset":
                size = {"scale_factor": ((places + 0.1) / TABLE, (places + 0.1) / TABLE)}
            table = F.interpolate(table, mode="bicubic", **size, **how)
        return torch.cat([self.pos_embed[:, : self.rows], table.flatten(2).transpose(1, 2)], 1)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed["proj"](x)
        places, batch = patches.shape[-1], len(x)
        prefix = [self.cls_token.expand(batch, -1, -1)]
        if hasattr(self, "reg_token"):
            prefix.append(self.reg_token.expand(batch, -1, -1))
        tokens, positions = patches.flatten(2).transpose(1, 2), self.positions(places)
        first = torch.cat(prefix, 1)
        first[:, : self.rows] += positions[:, : self.rows]
        x = torch.cat([first, tokens + positions[:, self.rows :]], 1)
        for layer, named in zip(self.layers, self.blocks, strict=True):
            x = self._applied(layer, named, x)
        return self.norm(x)[:, first.shape[1] :].unflatten(1, (places, places))

    @staticmethod
    def _applied(layer: torch.nn.TransformerEncoderLayer, named: Any, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(named, "ls1"):
            return layer(x)
        y = layer.norm1(x)
        x = x + named.ls1.gamma * layer.self_attn(y, y, y, need_weights=False)[0]
        return x + named.ls2.gamma * layer._ff_block(layer.norm2(x))


HF = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
HF |= {"image_size": SIDES[0], "patch_size": PATCH}


class OfHuggingFace:
    """A model of transformers as a function to its map."""

    def __init__(self, model: torch.nn.Module, prefix: int, **options: Any) -> None:
        self.model, self.prefix, self.options = model, prefix, options

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        return self.model.state_dict()

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.model(x, **self.options).last_hidden_state[:, self.prefix :]
        return hidden.unflatten(1, (x.shape[-1] // PATCH,) * 2)


def vit_of_transformers() -> OfHuggingFace:
    config = ViTConfig(**HF, intermediate_size=WIDE, layer_norm_eps=1e-6, attn_implementation="eager")
    return OfHuggingFace(randomized(ViTModel(config)), 1, interpolate_pos_encoding=True)


def dinov2_of_transformers() -> OfHuggingFace:
    config = Dinov2Config(**HF, mlp_ratio=2, attn_implementation="eager")
    return OfHuggingFace(randomized(Dinov2Model(config)), 1)


def registers_of_transformers() -> OfHuggingFace:
    config = Dinov2WithRegistersConfig(**HF, mlp_ratio=2, num_register_tokens=3, attn_implementation="eager")
    return OfHuggingFace(randomized(Dinov2WithRegistersModel(config)), 4)


def of_timm(**changes: Any) -> Callable[[], Any]:
    def make() -> Any:
        timm = pytest.importorskip("timm")
        options = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": LAYERS, "num_heads": HEADS}
        options |= {"img_size": SIDES[0], "mlp_ratio": 2, "dynamic_img_size": True, "num_classes": 3}
        model = randomized(timm.models.VisionTransformer(**options, **changes))
        prefix = model.num_prefix_tokens

        class Map:
            state_dict = staticmethod(model.state_dict)

            @torch.no_grad()
            def __call__(self, x: torch.Tensor) -> torch.Tensor:
                return model.forward_features(x)[:, prefix:].unflatten(1, (x.shape[-1] // PATCH,) * 2)

        return Map()

    return make


SOURCES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "plain": (lambda: randomized(Reference()), {}),
    "no row for the class token": (lambda: randomized(Reference(rows=0)), {}),
    "registers without rows": (lambda: randomized(Reference(registers=2, rows=1)), {"registers": 2}),
    "registers with rows": (lambda: randomized(Reference(registers=2, rows=3)), {"registers": 2}),
    "LayerScale": (lambda: randomized(Reference(scales=True)), {"layer_scale": 1e-5}),
    "DINOv2's offset": (lambda: randomized(Reference(interpolation="offset")), {"interpolation": "offset"}),
    "transformers' ViT": (vit_of_transformers, {"interpolation": "plain"}),
    "transformers' DINOv2": (
        dinov2_of_transformers,
        {"interpolation": "plain", "layer_scale": 1e-5, "mlp_width": 2 * WIDTH},
    ),
    "transformers' DINOv2 with registers": (
        registers_of_transformers,
        {"layer_scale": 1e-5, "mlp_width": 2 * WIDTH, "registers": 3},
    ),
    "timm": (of_timm(), {"mlp_width": 2 * WIDTH}),
    "timm with registers": (
        of_timm(reg_tokens=4, no_embed_class=True, init_values=0.5),
        {"mlp_width": 2 * WIDTH, "registers": 4, "layer_scale": 1e-5},
    ),
    "timm with rows for registers": (of_timm(reg_tokens=2), {"mlp_width": 2 * WIDTH, "registers": 2}),
    "timm without bias": (of_timm(qkv_bias=False), {"mlp_width": 2 * WIDTH, "qkv_bias": False}),
}


def network(**changes: Any) -> VisionTransformer:
    options = {
        "patch": PATCH,
        "width": WIDTH,
        "depth": LAYERS,
        "heads": HEADS,
        "mlp_width": WIDE,
        "registers": 0,
        "positions": TABLE,
        "interpolation": "antialiased",
        "qkv_bias": True,
        "layer_scale": 0.0,
        "eps": 1e-6,
        "dtype": jnp.float32,
        "scan_segments": (),
        "remat": False,
    }
    return VisionTransformer(**{**options, **changes})


def imported(state: dict[str, np.ndarray], net: VisionTransformer) -> dict[str, Any]:
    layout = vit.detect(state)
    folded = vit.fold_positions(state, layout, vit._shape(state, layout).extra)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, PATCH, PATCH, 3)), False))
    template = {"image": {name: {"backbone": tree} for name, tree in shapes.items()}}
    return to_flax(folded, vit.vit_table(layout), template).leaves


def applied(net: VisionTransformer, leaves: dict[str, Any], side: int) -> np.ndarray:
    variables = {"params": unflatten(leaves)["image"]["params"]["backbone"]}
    return np.asarray(jax.jit(lambda v, x: net.apply(v, x, False))(variables, images(side)))


@pytest.mark.parametrize("name", SOURCES)
def test_maps_are_those_of_the_source_at_every_image_size(name: str):
    make, changes = SOURCES[name]
    model, net = make(), network(**changes)
    leaves = imported(arrays(model), net)
    for side in SIDES:
        theirs = model(channels_first(images(side))).numpy()
        ours = applied(net, leaves, side)
        assert ours.shape == theirs.shape == (2, side // PATCH, side // PATCH, WIDTH)
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("other", [{"interpolation": "plain"}, {"eps": 1e-2}, {"heads": 2}])
def test_the_comparison_would_see_other_settings(other: dict[str, Any]):
    model = randomized(Reference())
    leaves = imported(arrays(model), network())
    theirs = model(channels_first(images(28))).numpy()
    assert np.abs(applied(network(**other), leaves, 28) - theirs).max() > 1e-3 * np.abs(theirs).max()


@pytest.mark.parametrize(
    "changes", [{"scan_segments": (1, 1)}, {"scan_segments": (2,), "remat": True}, {"remat": True}]
)
def test_scanned_and_recomputed_layers_give_the_same_map_and_gradient(changes: dict[str, Any]):
    state, plain, other = (
        arrays(randomized(Reference(scales=True))),
        network(layer_scale=1.0),
        network(layer_scale=1.0, **changes),
    )

    def sums(net: VisionTransformer) -> Any:
        def loss(params: Any) -> Any:
            return jnp.sum(jnp.sin(net.apply({"params": params}, images(20), True)))

        params = unflatten(imported(state, net))["image"]["params"]["backbone"]
        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
        back = to_torch({"image": {"params": {"backbone": gradient}}}, vit.vit_table(vit.KeyLayout("timm", "")))
        return value, back

    (value, gradient), (expected, wanted) = sums(other), sums(plain)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert gradient.keys() == wanted.keys()
    for key, leaf in wanted.items():
        np.testing.assert_allclose(gradient[key], leaf, atol=2e-5 * max(1.0, np.abs(leaf).max()), err_msg=key)


@pytest.mark.parametrize("interpolation", ["antialiased", "plain", "offset"])
@pytest.mark.parametrize(("old", "new"), [(7, 3), (7, 14), (14, 11), (37, 16), (2, 9), (5, 1)])
def test_weights_of_places_are_those_of_torch(interpolation: Interpolation, old: int, new: int):
    size = {"scale_factor": ((new + 0.1) / old, 1.0)} if interpolation == "offset" else {"size": (new, 4)}
    eye = torch.eye(old)[None, :, :, None].repeat(1, 1, 1, 4)
    theirs = F.interpolate(eye, mode="bicubic", antialias=interpolation == "antialiased", **size)[0, :, :, 0].T
    np.testing.assert_allclose(cubic_weights(old, new, interpolation), theirs.numpy(), atol=1e-5)


def test_bfloat16_computes_near_float32():
    state = arrays(randomized(Reference()))
    wide, narrow = (
        applied(network(dtype=kind), imported(state, network()), 28) for kind in (jnp.float32, jnp.bfloat16)
    )
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(np.float32), wide, atol=0.05 * np.abs(wide).max())


def test_images_that_are_no_multiple_of_the_patch_are_refused():
    with pytest.raises(ValueError, match="30x30 pixels are no multiple of the patch, 4"):
        network().init(jax.random.key(0), jnp.zeros((1, 30, 30, 3)), False)


@pytest.mark.parametrize("name", ["plain", "registers without rows", "LayerScale", "timm with registers"])
def test_exports_in_timms_layout_give_the_folded_arrays_back(name: str):
    make, changes = SOURCES[name]
    state, net = arrays(make()), network(**changes)
    leaves = imported(state, net)
    back = to_torch(leaves, vit.vit_table(vit.KeyLayout("timm", "")))
    assert state.keys() - back.keys() <= {"head.weight", "head.bias"}
    assert back.keys() <= state.keys()
    layout = vit.detect(state)
    folded = vit.fold_positions(state, layout, vit._shape(state, layout).extra)
    for key, value in back.items():
        np.testing.assert_array_equal(value, folded[key], err_msg=key)


# Import of files -----------------------------------------------------------------------------------------------------


def file_in(folder: Path, model: Any, **description: Any) -> Path:
    folder.mkdir(exist_ok=True)
    weights.write_safetensors(arrays(model), folder / "model.safetensors", {"format": "pt"})
    if description:
        (folder / "config.json").write_text(json.dumps(description))
    return folder


def settled(source: Path, **changes: Any) -> experiment.Config:
    """The configuration of a file's own sizes, changed."""
    state = weights.read(source, False)
    fields = {"model.image.architecture": "vit", **vit.sizes(state, source, experiment.Config()), "model.freeze": ()}
    c = experiment.default()
    c.update_from_flattened_dict({**fields, **changes})
    return experiment.parse(c)


@pytest.mark.parametrize("name", ["plain", "registers with rows", "LayerScale", "transformers' DINOv2"])
def test_the_sizes_of_a_file_are_those_that_it_is_read_with(name: str, tmp_path: Path):
    make, changes = SOURCES[name]
    source = file_in(tmp_path / "vit", make(), **({"model_type": "dinov2", **HF} if "transformers" in name else {}))
    config = settled(source, **({} if "transformers" in name else {"model.image.vit.heads": HEADS}))
    found = config.model.image.vit
    assert (found.patch, found.width, found.layers, found.heads) == (PATCH, WIDTH, LAYERS, HEADS)
    assert found.positions == TABLE and config.data.image_size % PATCH == 0
    assert (found.registers, bool(found.layer_scale)) == (changes.get("registers", 0), "layer_scale" in changes)
    reading = vit.read(weights.read(source, False), config, source)
    assert bool(reading.unchecked) == ("transformers" not in name)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.image.vit.patch", 5, "have patch=4; set model.image.vit.patch=4, which is 5"),
        ("model.image.vit.positions", 9, "have positions=5; set model.image.vit.positions=5, which is 9"),
        ("model.image.vit.width", 48, "have width=24; set model.image.vit.width=24, which is 48"),
        ("model.image.vit.layers", 3, "have layers=2; set model.image.vit.layers=2, which is 3"),
        ("model.image.vit.feed_forward", 41, "have feed_forward=40; set model.image.vit.feed_forward=40"),
        ("model.image.vit.registers", 4, "have registers=0; set model.image.vit.registers=0, which is 4"),
        ("model.image.vit.layer_scale", 0.1, "have no LayerScale; set model.image.vit.layer_scale=0.0, which is 0.1"),
        ("model.image.vit.qkv_bias", False, "have qkv_bias=True; set model.image.vit.qkv_bias=True, which is False"),
        ("model.image.vit.eps", 1e-12, "have eps=1e-06; set model.image.vit.eps=1e-06, which is 1e-12"),
        ("model.image.vit.interpolation", "plain", "set model.image.vit.interpolation='antialiased', which is 'plain'"),
    ],
)
def test_another_setting_is_named_with_its_remedy(field: str, value: Any, message: str, tmp_path: Path):
    source = file_in(tmp_path / "vit", SOURCES["plain"][0]())
    other = {field: value, "data.image_size": 40}
    with pytest.raises(ConversionError) as error:
        vit.read(weights.read(source, False), settled(source, **other), source)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"hidden_act": "gelu_new"}, "config.json says hidden_act=gelu_new; the Vision Transformer computes gelu only"),
        ({"model_type": "dinov3_vit"}, "config.json says model_type=dinov3_vit"),
        ({"use_swiglu_ffn": True}, "config.json says use_swiglu_ffn=True"),
        ({"num_attention_heads": 2}, "these weights have heads=2; set model.image.vit.heads=2, which is 3"),
        ({"layer_norm_eps": 1e-5}, "these weights have eps=1e-05; set model.image.vit.eps=1e-05, which is 1e-06"),
    ],
)
def test_what_a_description_asks_for_is_computed_or_refused(description: dict, message: str, tmp_path: Path):
    model, usual = dinov2_of_transformers(), {"model_type": "dinov2", **HF}
    config = settled(file_in(tmp_path / "vit", model, **usual))
    source = file_in(tmp_path / "vit", model, **{**usual, **description})
    with pytest.raises(ConversionError) as error:
        vit.read(weights.read(source, False), config, source)
    assert message in str(error.value)


def test_normalisation_and_activation_are_read_where_they_are_told(tmp_path: Path):
    make = SOURCES["plain"][0]
    told = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    source = file_in(tmp_path / "a", make(), **told)
    with pytest.raises(ConversionError, match=r"normalised by mean=\(0\.5, 0\.5, 0\.5\); set augment\.mean so"):
        vit.read(weights.read(source, False), settled(source), source)
    fits = settled(source, **{"augment.mean": (0.5,) * 3, "augment.std": (0.5,) * 3})
    assert vit.read(weights.read(source, False), fits, source).unchecked == ""
    quick = file_in(tmp_path / "b", make(), architecture="vit_base_patch32_clip_quickgelu_224")
    with pytest.raises(ConversionError, match="its name says vit_base_patch32_clip_quickgelu_224"):
        vit.read(weights.read(quick, False), settled(quick), quick)
    stored = file_in(tmp_path / "c", make())
    (stored / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [1.0] * 3}))
    with pytest.raises(ConversionError, match=r"std=\(1\.0, 1\.0, 1\.0\); set augment\.std so"):
        vit.read(weights.read(stored, False), settled(stored), stored)


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("vit_tiny_patch16_224.augreg_in21k", 3),
        ("vit_base_patch14_reg4_dinov2.lvd142m", 12),
        ("dinov2_vits14_pretrain", 6),
        ("dinov2_vitl14_reg4_pretrain", 16),
        ("vit_giant_patch14_224", None),
        ("mine", None),
    ],
)
def test_heads_are_those_of_the_name_where_it_says_a_size(name: str, heads: int | None, tmp_path: Path):
    source = file_in(tmp_path / name, SOURCES["plain"][0]())
    state = weights.read(source, False)
    assert vit._said(state, vit.detect(state), source).heads == heads
    unlike = settled(source, **{"model.image.vit.heads": HEADS if heads != HEADS else 2})
    if heads is None:
        assert "attention heads" in vit.read(state, unlike, source).unchecked
        return
    with pytest.raises(ConversionError, match=rf"have heads={heads}; set model\.image\.vit\.heads={heads}"):
        vit.read(state, unlike, source)


def test_other_networks_are_named():
    with pytest.raises(ConversionError, match=r"not a Vision Transformer of timm, DINOv2 or Hugging Face: no key ends"):
        vit.detect(["conv_stem.weight", "blocks.0.0.conv_pw.weight"])
    with pytest.raises(ConversionError, match=r"without a class token \(cls_token\)"):
        vit.detect(["patch_embed.proj.weight", "pos_embed"])
    with pytest.raises(ConversionError, match=r"several image networks, under a\., b\."):
        vit.detect([f"{name}.patch_embed.proj.weight" for name in "ab"])
    state = arrays(randomized(Reference()))
    joint = np.zeros((2 * WIDE, WIDTH), np.float32)
    for key, array in (("blocks.0.mlp.w12.weight", state["norm.weight"]), ("blocks.1.mlp.fc1.weight", joint)):
        with pytest.raises(ConversionError, match="SwiGLU"):
            vit.read({**state, key: array}, experiment.Config(), Path("x"))
    with pytest.raises(ConversionError, match=r"pos_embed has 33 rows"):
        wrong = {**state, "pos_embed": np.zeros((1, 33, WIDTH), np.float32)}
        vit.fold_positions(wrong, vit.detect(wrong), 8)


def test_files_of_transformers_and_heads_under_a_prefix_are_read(tmp_path: Path):
    config = ViTConfig(**HF, intermediate_size=WIDE, layer_norm_eps=1e-6, num_labels=2)
    model = randomized(ViTForImageClassification(config))
    model.save_pretrained(tmp_path / "saved")
    saved = weights.read(tmp_path / "saved", False)
    assert vit.detect(saved) == vit.KeyLayout("huggingface", "vit.")
    one, other = imported(saved, network()), imported(arrays(model), network())
    assert one.keys() == other.keys() == flatten(one).keys()
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[path], err_msg=path)
