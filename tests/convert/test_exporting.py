"""`wenlan export`: what is written, what it must agree with, and what is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import official_brivl
import pytest
from annotations import unchecked

pytest.importorskip("torch")

import torch

from wenlan_jax import cli
from wenlan_jax.checkpoints import store
from wenlan_jax.convert import (
    UNUSED_LAYERS,
    architecture,
    export_brivl,
    export_torch,
    exporting,
    parity,
    torch_modules,
    weights,
)
from wenlan_jax.convert.brivl import MOMENTUM_TOWERS, QUERY_TOWERS, brivl_table, is_unused_layer
from wenlan_jax.convert.rules import to_flax, unflatten
from wenlan_jax.convert.torch_file import TorchFile
from wenlan_jax.core import rngs
from wenlan_jax.core.state import MOMENTUM
from wenlan_jax.data import vocab
from wenlan_jax.data.text import SentencePiece, Tokenizer
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower import schema as two_towers
from wenlan_jax.tasks.two_tower.towers import Towers
from wenlan_jax.training import setup as runs

OFFICIAL = {
    "model__image__regions__coordinates": "official",
    "model__text__bert__attention_mask": False,
}
Make = Callable[..., experiment.Config]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    vocab.train_sentencepiece(["红色的圆形", "a red circle"] * 20, path, 275, 1.0, 1000)
    return SentencePiece(path)


@pytest.fixture(scope="module")
def variables() -> dict[two_towers.ModelConfig, Any]:
    return {}


@pytest.fixture
def model(
    tiny: Make, tokenizer: Tokenizer, variables: dict[two_towers.ModelConfig, Any]
) -> Callable[..., exporting.ExportedModel]:
    """A model with random weights and statistics; towers are initialised once per architecture."""

    def make(**changes: Any) -> exporting.ExportedModel:
        config = tiny(**changes)
        if config.model not in variables:
            variables[config.model] = jax.tree.map(np.asarray, Towers(config).init(rngs.root(0)))
        tree = variables[config.model]
        random = np.random.default_rng(1)
        stats = jax.tree.map(lambda leaf: leaf + random.uniform(0, 0.5, leaf.shape).astype("f"), tree["batch_stats"])
        moved = jax.tree.map(lambda leaf: leaf + np.float32(1), tree["params"])
        towers = exporting.by_tower(tree["params"], stats) | exporting.by_tower(moved, stats, MOMENTUM)
        return exporting.ExportedModel(config, 7, towers.__getitem__, towers, True, tokenizer, {}, {}, "float32")

    return make


def test_the_official_layout_has_all_towers_and_agrees(model: Any, tmp_path: Path) -> None:
    report = exporting.export(model(**OFFICIAL), "brivl", export_brivl.write, tmp_path / "out", 1e-5)
    assert report["ranking"] == 1.0
    assert json.loads((tmp_path / "out" / "parity.json").read_text()) == report
    state = torch.load(tmp_path / "out" / "brivl.pth", weights_only=True)["learnable"]
    assert {key.split(".")[0] for key in state} == {*QUERY_TOWERS, *MOMENTUM_TOWERS}
    name = "learnable.imgFC.fc1.bias"
    torch.testing.assert_close(state[f"imgencoder_mom.{name}"], state[f"imgencoder.{name}"] + 1)
    assert {tuple(state[key].shape) for key in state if key.endswith("classifier.weight")} == {(1000, 64)}
    assert all(not state[key].any() for key in state if is_unused_layer(key))


def test_options_that_xla_does_not_know_are_left_out(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "QUICKLY", {"xla_has_no_such_option": True})
    report = exporting.export(model(**OFFICIAL), "brivl", export_brivl.write, tmp_path / "out", 1e-5)
    assert report["ranking"] == 1.0


@pytest.mark.parametrize("unknown", [{}, {"xla_has_no_such_option": True}, {"xla_cpu_was_renamed": "1", "xla_x": "2"}])
def test_each_option_that_xla_knows_is_kept(monkeypatch: pytest.MonkeyPatch, unknown: dict[str, Any]) -> None:
    known = {"xla_backend_optimization_level": "1"}
    monkeypatch.setattr(parity, "QUICKLY", {**unknown, **known})
    given = []

    class Lowered:
        def compile(self, compiler_options: dict[str, Any]) -> None:
            given.append(compiler_options)

    with unchecked():
        parity._quickly(Lowered())  # type: ignore[arg-type]
    assert given == [known]


def test_what_a_checkpoint_lacks_is_told_before_what_failed_for_it(model: Any, tmp_path: Path) -> None:
    def check() -> None:
        raise store.CheckpointError("params/image/encoder: missing")

    def broken(source: exporting.ExportedModel, folder: Path) -> exporting.Runner:
        raise RuntimeError("PyTorch wants a key")

    with pytest.raises(store.CheckpointError, match="missing"):
        exporting.export(dataclasses.replace(model(), check=check), "torch", broken, tmp_path / "out", 1e-4)
    with pytest.raises(RuntimeError, match="wants a key"):
        exporting.export(model(), "torch", broken, tmp_path / "out", 1e-4)
    assert not list(tmp_path.iterdir())


def test_without_momentum_towers_the_query_towers_stand_in(model: Any, tmp_path: Path) -> None:
    export_brivl.write_file(dataclasses.replace(model(**OFFICIAL), momentum=False), tmp_path / "brivl.pth")
    state = weights.read(tmp_path / "brivl.pth")
    for key in (key for key in state if key.startswith("imgencoder.")):
        np.testing.assert_array_equal(state[key], state[key.replace("imgencoder.", "imgencoder_mom.")])


def test_a_disk_that_is_full_ends_the_export_and_leaves_nothing(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Towers are written in the background; what fails there must not be lost."""

    def full(self: TorchFile) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TorchFile, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        exporting.export(model(**OFFICIAL), "brivl", export_brivl.write, tmp_path / "out", 1e-4)
    assert not list(tmp_path.iterdir())


def test_what_the_official_code_would_compute_otherwise_is_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(exporting.ExportError) as error:
        exporting.export(model(), "brivl", export_brivl.write, tmp_path / "out", 1e-4)
    assert "coordinates" in str(error.value)
    assert "attention_mask" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_torch_folder_needs_nothing_else(model: Any, tmp_path: Path) -> None:
    source = dataclasses.replace(model(), result={"retrieval/test/text_to_image/recall_at_1": 0.5})
    report = exporting.export(source, "torch", export_torch.write, tmp_path / "out", 1e-5)
    assert max(report["image"]["largest_difference"], report["text"]["largest_difference"]) < 1e-5
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files >= {
        "model.safetensors",
        "config.json",
        "wenlan_torch.py",
        "tokenizer.model",
        "README.md",
        "example.py",
    }
    assert "recall_at_1 | 0.5" in (tmp_path / "out" / "README.md").read_text()
    compile((tmp_path / "out" / "example.py").read_text(), "example.py", "exec")


def test_half_precision_is_written_and_agrees_less(model: Any, tmp_path: Path) -> None:
    source = dataclasses.replace(model(), dtype="float16")
    report = exporting.export(source, "torch", export_torch.write, tmp_path / "out", parity.TOLERANCES["float16"])
    stored = torch_modules.read_safetensors(str(tmp_path / "out" / "model.safetensors"))
    assert {value.dtype for key, value in stored.items() if value.is_floating_point()} == {torch.float16}
    assert report["image"]["largest_difference"] > 1e-6


@pytest.mark.parametrize("fault", [1e-3, float("nan")])
def test_an_artefact_that_disagrees_leaves_nothing_behind(model: Any, tmp_path: Path, fault: float) -> None:
    def broken(source: exporting.ExportedModel, folder: Path) -> exporting.Runner:
        runner = export_torch.write(source, folder)
        return lambda batch: runner(batch)._replace(text=runner(batch).text + np.float32(fault))

    with pytest.raises(exporting.ExportError, match="differs from the JAX towers"):
        exporting.export(model(), "torch", broken, tmp_path / "out", 1e-4)
    assert not list(tmp_path.iterdir())


def test_an_existing_directory_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert cli.main(["export", f"--workdir={tmp_path}", "--format=torch", f"--out={out}"]) == 1
    assert "exists" in capsys.readouterr().err
    assert not list(out.iterdir())


def test_the_official_fixture_comes_back_bit_for_bit(tiny: Make, tokenizer: Tokenizer, tmp_path: Path) -> None:
    original = official_brivl.arrays("weights")
    config = tiny(**OFFICIAL, model__text__bert__width=32)
    wide = {key: value.astype(np.float32) if value.dtype == np.float16 else value for key, value in original.items()}
    leaves = to_flax(wide, brivl_table(), _implied(wide)).leaves
    tree = unflatten(leaves)
    weights.write_safetensors({k: v for k, v in wide.items() if is_unused_layer(k)}, tmp_path / UNUSED_LAYERS, {})
    source = exporting.ExportedModel(
        config=config,
        step=0,
        tower=tree.__getitem__,
        shapes=tree,
        momentum=False,
        tokenizer=tokenizer,
        result={},
        unused_layers=exporting.unused_layers(str(tmp_path)),
        dtype="float16",
    )
    export_brivl.write_file(source, tmp_path / "brivl.pth")
    back = torch.load(tmp_path / "brivl.pth", weights_only=True)["learnable"]
    assert {key for key in back if "_mom." not in key} == set(original)
    for key, value in original.items():
        assert back[key].numpy().dtype == value.dtype, key
        np.testing.assert_array_equal(back[key].numpy(), value, err_msg=key)


def _implied(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The Flax leaves that a state dict implies, as a template for reading it."""
    template: dict[str, np.ndarray] = {}
    for key, value in state.items():
        match = brivl_table().of_torch(key)
        if match is not None:
            rule, names = match
            paths = [path.format(**names) for path in rule.flax]
            template.update(zip(paths, rule.layout.to_flax(value), strict=True))
    return template


def test_agreement_has_its_closed_forms() -> None:
    ours = parity.Embeddings(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[[2, 0, 1]])
    image, text, ranking = parity.compare(ours, ours)
    assert (image.largest_difference, ranking) == (0.0, 1.0)
    assert text.cosine == [1.0, 1.0, 1.0]
    image, _, _ = parity.compare(ours, ours._replace(image=-ours.image))
    assert (image.largest_difference, image.cosine) == (2.0, [-1.0, -1.0, -1.0])
    with pytest.raises(ValueError, match="shape"):
        parity.compare(ours, ours._replace(image=ours.image[:2]))


def test_ranking_counts_the_pairs_in_the_same_order() -> None:
    ours = np.array([[0.9, 0.5, 0.1], [0.2, 0.2, 0.2]])
    assert parity.ranking_agreement(ours, ours) == 1.0
    assert parity.ranking_agreement(ours, ours[:, ::-1]) == 0.0
    swapped = np.array([[0.5, 0.9, 0.1], [0.3, 0.2, 0.1]])  # one of three pairs; the second text has no order in ours
    assert parity.ranking_agreement(ours, swapped) == pytest.approx(2 / 3)


def test_the_fixed_batch_is_the_same_every_time_and_has_padding(tiny: Make) -> None:
    config = tiny(model__image__regions__kind="boxes")
    first, second = parity.fixed_batch(config), parity.fixed_batch(config)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not first.token_mask[0].all()
    assert first.token_mask[-1].all()
    assert not first.box_mask[0].any()
    assert (first.boxes[..., 2:] >= first.boxes[..., :2]).all()


def test_a_run_is_exported_from_the_command_line(tiny: Make, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Saved on eight devices by the loop's own checkpoints, exported on one."""
    tokenizer.save(tmp_path)
    config = tiny(mesh__fsdp=2, mesh__data=2, mesh__tensor=2, **OFFICIAL)
    current = runs.set_up(config)
    random = np.random.default_rng(2)

    def draw(shape: Any, place: Any) -> jax.Array:
        drawn = random.uniform(0.1, 0.9, shape.shape) if shape.dtype == np.float32 else np.zeros(shape.shape)
        return jax.device_put(drawn.astype(shape.dtype), place)

    state = jax.tree.map(draw, current.shapes, current.shardings)
    with store.Checkpoints(tmp_path / "checkpoints", config.checkpoint) as checkpoints:
        checkpoints.save(3, state, config, tokenizer.fingerprint)
    arguments = ["export", f"--workdir={tmp_path}", "--format=brivl", f"--out={tmp_path / 'out'}"]
    assert cli.main(arguments) == 0
    written = torch.load(tmp_path / "out" / "brivl.pth", weights_only=True)["learnable"]
    np.testing.assert_array_equal(
        written["textencoder.learnable.textFC.fc2.bias"].numpy(), state.params["text"]["projection"]["fc2"]["bias"]
    )
    assert architecture.architecture_of(config)


@pytest.mark.parametrize(("learnt", "scale"), [(False, 1 / 0.05), (True, 12.0)])
def test_the_scale_of_similarities_is_the_learnt_one(
    tiny: Make, tokenizer: Tokenizer, tmp_path: Path, learnt: bool, scale: float
) -> None:
    path = tokenizer.save(tmp_path)
    config = tiny(
        task="clip",
        tokenizer__path=str(path),
        contrast__temperature=0.05,
        contrast__learnable_temperature=learnt,
        model__text__bert__vocab_size=tokenizer.size,
    )
    current = runs.set_up(config, jax.devices()[:1])
    state = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype), current.shapes)
    if learnt:
        state.params[exporting.LOGIT_SCALE] = np.array(np.log(scale), np.float32)
    with store.Checkpoints(tmp_path / "checkpoints", config.checkpoint, host_arrays=True) as checkpoints:
        checkpoints.save(3, state, config, tokenizer.fingerprint)
    assert exporting.load(tmp_path, None, "float32").scale == pytest.approx(scale)


def test_an_import_is_exported_as_it_was(
    tiny: Make, official: Any, command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Back to the same bits, key encoders and unused layers among them; nothing is added to the import."""
    config = tiny(**OFFICIAL, model__text__bert__vocab_size=40)
    state = {key: value for key, value in official(config).items() if "num_batches" not in key}
    state = {key: np.abs(value) * np.float32(0.1) if value.ndim > 1 else value for key, value in state.items()}
    weights.write_safetensors(state, tmp_path / "official.safetensors", {})
    assert command(config, tmp_path / "official.safetensors", "brivl") == 0
    files = sorted(path for path in (tmp_path / "out").rglob("*"))
    arguments = ["export", f"--workdir={tmp_path / 'out'}", f"--out={tmp_path / 'back'}"]
    assert cli.main([*arguments, "--format=brivl"]) == 0
    back = weights.read(tmp_path / "back" / "brivl.pth")
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)
    assert cli.main([*arguments[:2], f"--out={tmp_path / 'torch'}", "--format=torch"]) == 1
    assert "tokenizer.path" in capsys.readouterr().err
    assert not (tmp_path / "torch").exists()
    assert sorted(path for path in (tmp_path / "out").rglob("*")) == files
