"""A run with each image backbone: exported for PyTorch, transformers and onnxruntime, and imported from files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from backbones import TINY

pytest.importorskip("torch")

from wenlan_jax import cli
from wenlan_jax.convert import backbone_weights, export_brivl, export_torch, exporting, torch_modules, weights
from wenlan_jax.convert.brivl import with_batch_counters
from wenlan_jax.convert.exported_model import ExportError
from wenlan_jax.convert.rules import WeightTable, to_torch
from wenlan_jax.core import rngs
from wenlan_jax.data import vocab
from wenlan_jax.data.text import SentencePiece, Tokenizer
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower.towers import Towers

Make = Callable[..., experiment.Config]
OTHERS = ("vit", "resnet")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    vocab.train_sentencepiece(["红色的圆形", "a red circle"] * 20, path, 275, 1.0, 1000)
    return SentencePiece(path)


def drawn(config: experiment.Config) -> dict[str, Any]:
    """Random variables of both towers with nothing at its neutral start."""
    random = np.random.default_rng(0)

    def draw(path: tuple, leaf: Any) -> np.ndarray:
        noise, name = random.normal(size=leaf.shape).astype(np.float32), path[-1].key
        if name == "var":
            return np.exp(np.float32(0.3) * noise)
        scale = np.float32(np.prod(leaf.shape[:-1]) ** -0.5 if name == "kernel" else 0.2)
        return noise * scale + np.float32(name == "scale" or name.startswith("layer_scale"))

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(Towers(config).init, rngs.root(0)))


def model_of(config: experiment.Config, words: Tokenizer) -> exporting.ExportedModel:
    tree = drawn(config)
    towers = exporting.by_tower(tree["params"], tree["batch_stats"])
    # As a checkpoint gives them, which does not store that there are no statistics.
    towers = {name: {kind: leaves for kind, leaves in parts.items() if leaves} for name, parts in towers.items()}
    return exporting.ExportedModel(config, 7, towers.__getitem__, towers, False, words, {}, {}, "float32")


@pytest.mark.parametrize("name", OTHERS)
def test_the_export_for_pytorch_agrees_and_names_its_backbone(
    name: str, tiny: Make, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model, folder = model_of(tiny(**TINY[name]), tokenizer), tmp_path / "out"
    report = exporting.export(model, "torch", export_torch.write, folder, 1e-4)
    assert report["ranking"] == 1.0
    sizes = json.loads((folder / "config.json").read_text())["image"]["backbone"]
    assert sizes["architecture"] == name
    assert type(torch_modules.load(folder).imgencoder.backbone).__name__ in ("VisionTransformer", "ResNet")


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_the_export_for_transformers_agrees(name: str, tiny: Make, tokenizer: Tokenizer, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from wenlan_jax.convert import export_huggingface

    model = model_of(tiny(**TINY[name]), tokenizer)
    report = exporting.export(model, "huggingface", export_huggingface.write, tmp_path / "out", 1e-4)
    assert report["ranking"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "vit, plain positions", "vit, offset positions", "resnet"])
def test_the_export_for_onnxruntime_agrees(name: str, tiny: Make, tokenizer: Tokenizer, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from wenlan_jax.convert import export_onnx

    model = model_of(tiny(**TINY[name]), tokenizer)
    report = exporting.export(model, "onnx", export_onnx.write, tmp_path / "out", 1e-4)
    assert report["ranking"] == 1.0


@pytest.mark.parametrize("name", OTHERS)
def test_the_official_layout_has_no_other_backbone(name: str, tiny: Make, tokenizer: Tokenizer, tmp_path: Path) -> None:
    official = {"model__image__regions__coordinates": "official", "model__text__bert__attention_mask": False}
    model = model_of(tiny(**TINY[name], **official), tokenizer)
    with pytest.raises(ExportError, match=r"model\.image\.architecture must be 'efficientnet'"):
        exporting.export(model, "brivl", export_brivl.write, tmp_path / "out", 1e-4)
    assert not (tmp_path / "out").exists()


# Import --------------------------------------------------------------------------------------------------------------


def published(config: experiment.Config, folder: Path) -> Path:
    """Weights of the configured backbone as their publishers name them, with a classifier."""
    name, folder = config.model.image.architecture, folder / {"vit": "vit_x", "resnet": "resnet50"}[_of(config)]
    tree = drawn(config)
    parts = {kind: {"backbone": tree[kind]["image"]["backbone"]} for kind in tree if tree[kind]["image"]}
    table = WeightTable(tuple(backbone_weights.of(name).rules("", backbone_weights.SCOPE)), ())
    state = with_batch_counters(to_torch({"image": parts}, table))
    folder.mkdir()
    head = {"vit": "head", "resnet": "fc"}[name]
    weights.write_safetensors(
        {**state, f"{head}.weight": np.ones((3, 4), np.float32)}, folder / "model.safetensors", {}
    )
    return folder


def _of(config: experiment.Config) -> str:
    return config.model.image.architecture


CONFIG = '''
import dataclasses

from ml_collections import config_dict

from wenlan_jax import config

TEXT = """{text}"""


def get_config():
    return config_dict.ConfigDict(dataclasses.asdict(config.from_json(TEXT)))
'''


def imported(config: experiment.Config, source: Path, form: str, *options: str) -> int:
    """`wenlan import` into a directory beside the source."""
    file = source.parent / "config.py"
    file.write_text(CONFIG.format(text=experiment.to_json(config)))
    out = source.parent / "imported"
    return cli.main(["import", f"--format={form}", f"--from={source}", f"--config={file}", f"--out={out}", *options])


@pytest.mark.parametrize("name", ["vit", "vit, scanned", "resnet", "resnet, scanned"])
def test_a_backbone_is_imported_and_a_run_begins_with_it(
    name: str, tiny: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from wenlan_jax.training import init_from
    from wenlan_jax.training import setup as runs

    config = tiny(**TINY[name], init_from=str(tmp_path / "imported"))
    source = published(config, tmp_path)
    assert imported(config, source, _of(config)) == 0
    printed = capsys.readouterr().out
    assert "params/image/backbone" in printed and "ignored: 1 key(s), classifier" in printed
    current = runs.set_up(config, jax.devices()[:1])
    state = init_from.load(current, "")
    expected = drawn(config)["params"]["image"]["backbone"]
    for one, other in zip(jax.tree.leaves(state.params["image"]["backbone"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vit", {"model__image__vit__patch": 8, "data__image_size": 32}, "set model.image.vit.patch=4, which is 8"),
        ("vit", {"model__image__vit__positions": 4}, "set model.image.vit.positions=6, which is 4"),
        ("vit", {"model__image__vit__eps": 1e-5}, "set model.image.vit.eps=1e-06, which is 1e-05"),
        ("resnet", {"model__image__batch_norm__eps": 1e-3}, "set model.image.batch_norm.eps=1e-05"),
        ("resnet", {"model__image__resnet__blocks": (2, 1)}, "set model.image.resnet.blocks=(3, 1), which is (2, 1)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_remedy(
    name: str, changes: dict[str, Any], message: str, tiny: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = published(tiny(**TINY[name]), tmp_path)
    assert imported(tiny(**{**TINY[name], **changes}), source, name) == 1
    told = capsys.readouterr().err
    assert message in told and told.count("wenlan import:") == 1 and "Traceback" not in told
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("name", OTHERS)
def test_weights_of_another_architecture_are_refused(
    name: str, tiny: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = published(tiny(**TINY[name]), tmp_path)
    assert imported(tiny(), source, name) == 1
    assert f"set model.image.architecture={name!r}, which is 'efficientnet'" in capsys.readouterr().err
    other = {"vit": "resnet", "resnet": "vit"}[name]
    assert imported(tiny(**TINY[other]), source, other) == 1
    assert f"its keys are not those of --format={other}; choose --format={name}" in capsys.readouterr().err
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("name", OTHERS)
def test_the_official_model_has_no_other_backbone(
    name: str, tiny: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "brivl.safetensors"
    stem = {"imgencoder.backbone.conv_stem.weight": np.zeros((8, 3, 3, 3), np.float32)}
    weights.write_safetensors(stem, source, {})
    assert imported(tiny(**TINY[name]), source, "brivl") == 1
    told = capsys.readouterr().err
    assert f"set model.image.architecture='efficientnet', which is {name!r}" in told
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("name", OTHERS)
def test_a_written_configuration_takes_the_weights(name: str, tiny: Make, tmp_path: Path) -> None:
    source, file = published(tiny(**TINY[name]), tmp_path), tmp_path / "written.py"
    shutil.copy(source / "model.safetensors", tmp_path / f"{source.name}.safetensors")
    source = tmp_path / f"{source.name}.safetensors"
    assert cli.main(["import", f"--format={name}", f"--from={source}", f"--write-config={file}"]) == 0
    assert "c.model.image.architecture" in file.read_text()
    heads = ["--config.model.image.vit.heads=2"] if name == "vit" else []
    vocabulary = "--config.model.text.bert.vocab_size=300"
    out = tmp_path / "out"
    command = ["import", f"--format={name}", f"--from={source}", f"--config={file}", f"--out={out}", vocabulary, *heads]
    assert cli.main(command) == 0
    config = experiment.load(file, [])
    assert not [pattern for pattern in config.model.freeze if "image/backbone" in pattern]
    assert _of(config) == name
