"""`wenlan export` of a single tower: both layouts, proven head by head, and back to the same bits."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from single_runs import tiny_single
from single_towers import LAYOUTS as SIZES
from single_towers import arrays, table, torch_model

from wenlan_jax import cli
from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections
from wenlan_jax.convert import export_single, exporting, proof_single, single_layout, weights
from wenlan_jax.convert.rules import ConversionError, FlatTree
from wenlan_jax.core import rngs, trees
from wenlan_jax.data import vocab
from wenlan_jax.data.text import SentencePiece, Tokenizer
from wenlan_jax.evaluation.vqa import Answers
from wenlan_jax.tasks import experiment, registry
from wenlan_jax.tasks.single_tower.spec import ANSWERS, TOWER
from wenlan_jax.tasks.single_tower.tower import Tower
from wenlan_jax.training import setup as runs

Command = Callable[..., int]

WRITERS = {"uniter": export_single.write_uniter, "uc2": export_single.write_uc2}
OFFSETS = {"uniter": 0, "uc2": 2}
HEADS = {"pooled", "itm_head", "word_head", "feature_head", "class_head"}
TASKS = {"mlmm": HEADS, "rank": HEADS | {"rank_head"}, "vqa": HEADS | {"answer_head"}}
EITHER = pytest.mark.parametrize("layout", WRITERS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    vocab.train_sentencepiece(["红色的圆形", "a red circle"] * 20, path, 275, 1.0, 1000)
    return SentencePiece(path)


def config_for(layout: str, **changes: Any) -> experiment.Config:
    eps = single_layout.LAYOUTS[layout]
    fixed = {"single__position_offset": OFFSETS[layout], "single__text_eps": eps.text_eps, "single__vocab_size": 300}
    return tiny_single(**{**fixed, **changes})


@functools.cache
def drawn(config: experiment.Config) -> dict[str, Any]:
    """Parameters large enough that nothing is near zero."""
    params, _ = jax.eval_shape(Tower(config).init, jax.random.key(0))
    rng = np.random.default_rng(4)

    def leaf(name: str, shape: Any) -> np.ndarray:
        noise = 0.2 * rng.normal(size=shape.shape).astype(np.float32)
        return 1 + noise if name.endswith("/scale") else noise

    return trees.map_named(leaf, params)


@pytest.fixture
def model(tokenizer: Tokenizer) -> Callable[..., exporting.ExportedModel]:
    def make(layout: str, **changes: Any) -> exporting.ExportedModel:
        config = config_for(layout, **changes)
        towers = exporting.by_tower(drawn(config), {})
        return exporting.ExportedModel(config, 7, towers.__getitem__, towers, False, tokenizer, {}, {}, "float32")

    return make


def state_in(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


@pytest.mark.parametrize("task", TASKS)
@EITHER
def test_every_head_agrees(layout: str, task: str, model: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = model(layout, task=task)
    report = exporting.export(source, layout, WRITERS[layout], out, 1e-5)
    assert set(report["heads"]) == TASKS[task] | {"pairs"}
    assert max(figures["largest_difference"] for figures in report["heads"].values()) < 1e-5
    assert min(figures["largest_value"] for figures in report["heads"].values()) > 0.05
    assert report["ranking"] == 1.0
    assert json.loads((out / "parity.json").read_text()) == report
    modules = {key.split(".")[0] for key in state_in(out)}
    assert ("rank_output" in modules, "vqa_output" in modules) == (task == "rank", task == "vqa")
    files = {path.name for path in out.iterdir()}
    assert files == {
        "pytorch_model.bin", "config.json", "training_config.json", "tokenizer.model", "README.md", "parity.json",
    }  # fmt: skip


def test_scanned_layers_and_a_tower_without_classes(model: Any, tmp_path: Path) -> None:
    changes = {
        "single__layers": 2,
        "single__scan_segments": (2,),
        "single__regions__classes": 0,
        "single__regions__labels": (),
        "pretrain__objectives": ("itm", "mlm"),
        "pretrain__weights": (1.0, 1.0),
    }
    report = exporting.export(model("uc2", **changes), "uc2", export_single.write_uc2, tmp_path / "out", 1e-5)
    assert set(report["heads"]) == (HEADS | {"pairs"}) - {"class_head"}
    state = state_in(tmp_path / "out")
    assert "roberta.encoder.layer.1.output.dense.weight" in state
    assert not [key for key in state if key.startswith("region_classifier")]
    torch.testing.assert_close(state["cls.decoder.weight"], state["roberta.embeddings.word_embeddings.weight"])


@pytest.mark.parametrize("fault", [1e-2, float("nan")])
@pytest.mark.parametrize("key", ["region_classifier.net.3.bias", "vqa_output.3.weight", "uniter.pooler.dense.bias"])
def test_an_artefact_that_disagrees_leaves_nothing_behind(key: str, fault: float, model: Any, tmp_path: Path) -> None:
    def broken(source: exporting.ExportedModel, folder: Path) -> exporting.Runner:
        runner = export_single.write_uniter(source, folder)
        state = weights.read(folder / "pytorch_model.bin")
        weights.write_torch({**state, key: state[key] + np.float32(fault)}, folder / "pytorch_model.bin")
        return runner

    with pytest.raises(exporting.ExportError, match="differs from the JAX towers by .* nothing was left behind"):
        exporting.export(model("uniter", task="vqa"), "uniter", broken, tmp_path / "out", 1e-4)
    assert not list(tmp_path.iterdir())


def test_a_file_that_lacks_a_layer_leaves_nothing_behind(model: Any, tmp_path: Path) -> None:
    def broken(source: exporting.ExportedModel, folder: Path) -> exporting.Runner:
        runner = export_single.write_uniter(source, folder)
        state = weights.read(folder / "pytorch_model.bin")
        del state["uniter.pooler.dense.bias"]
        weights.write_torch(state, folder / "pytorch_model.bin")
        return runner

    with pytest.raises(RuntimeError, match=r"uniter\.pooler\.dense\.bias"):
        exporting.export(model("uniter"), "uniter", broken, tmp_path / "out", 1e-4)
    assert not list(tmp_path.iterdir())


def test_positions_of_the_other_layout_are_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(exporting.ExportError, match="position_offset is 2, and the code of uniter takes row 0 .*=uc2"):
        exporting.export(model("uc2"), "uniter", export_single.write_uniter, tmp_path / "out", 1e-4)
    odd = dataclasses.replace(model("uc2").config.single, position_offset=1)
    with pytest.raises(ConversionError, match="that of no public layout"):
        single_layout.layout_of(odd)
    assert not list(tmp_path.iterdir())


def test_the_card_says_what_the_code_has_otherwise(model: Any, tmp_path: Path) -> None:
    result = {"pretrain/test/itm/accuracy": 0.75}
    source = dataclasses.replace(model("uniter", single__text_eps=1e-5), result=result)
    exporting.export(source, "uniter", export_single.write_uniter, tmp_path / "out", 1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "have eps 1e-05 here, and 1e-12 in ChenRocks/UNITER" in card
    assert "the other LayerNorms" not in card
    assert "| pretrain/test/itm/accuracy | 0.75 |" in card
    assert json.loads((tmp_path / "out" / "config.json").read_text())["layer_norm_eps"] == 1e-5


def test_half_precision_is_written_and_agrees_less(model: Any, tmp_path: Path) -> None:
    source = dataclasses.replace(model("uniter"), dtype="float16")
    report = exporting.export(source, "uniter", export_single.write_uniter, tmp_path / "out", 1e-2)
    assert {value.dtype for value in state_in(tmp_path / "out").values()} == {torch.float16}
    assert report["heads"]["word_head"]["largest_difference"] > 1e-5


def test_the_fixed_batch_is_the_same_every_time_and_has_padding() -> None:
    first, second = (proof_single.fixed_batch(config_for("uniter"), 8) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not first.token_mask[0].all() and first.token_mask[-1].all()
    assert not first.region_mask[-1].all() and first.region_mask[0].all()
    assert first.region_masked.any(1).all() and not (first.region_masked & ~first.region_mask).any()
    crossed = first.crossed()
    np.testing.assert_array_equal(crossed.token_ids[8 + 3], first.token_ids[1])
    np.testing.assert_array_equal(crossed.features[8 + 3], first.features[3])
    assert not crossed.region_masked.any()


@pytest.fixture
def trained(tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., Path]:
    """The work directory of a run, saved by the loop's own checkpoints on eight devices."""

    def make(layout: str, **changes: Any) -> Path:
        config = config_for(layout, mesh__data=8, **changes)
        workdir = tmp_path / "run"
        workdir.mkdir()
        tokenizer.save(workdir)
        if config.task == "vqa":
            (workdir / ANSWERS).write_text(Answers(tuple(f"answer {n}" for n in range(7))).to_json())
        current = runs.set_up(config)
        params = drawn(config_for(layout, **changes))
        state = jax.tree.map(
            lambda shape, place: jax.device_put(np.zeros(shape.shape, shape.dtype), place),
            current.shapes,
            current.shardings,
        )
        state = state.replace(params=jax.device_put(params, current.shardings.params), rng=rngs.root(0))
        with store.Checkpoints(workdir / "checkpoints", config.checkpoint) as checkpoints:
            checkpoints.save(3, state, config, tokenizer.fingerprint)
        return workdir

    return make


def written(out: Path) -> FlatTree:
    at = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with store.Checkpoints(out / "checkpoints", sections.CheckpointConfig()) as checkpoints:
        _, stored = checkpoints.stored()
        abstract = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at) for name, leaf in stored.items()}
        _, tree = checkpoints.restore(store.nested(abstract))
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(tree).items()}


@pytest.mark.parametrize(("layout", "task"), [("uniter", "vqa"), ("uc2", "rank")])
def test_an_export_is_imported_as_it_was(
    layout: str, task: str, trained: Any, command: Command, tmp_path: Path
) -> None:
    workdir = trained(layout, task=task)
    folder = tmp_path / "exported"
    assert cli.main(["export", f"--workdir={workdir}", f"--format={layout}", f"--out={folder}"]) == 0
    assert (folder / ANSWERS).exists() == (task == "vqa")
    if task == "vqa":
        assert (folder / ANSWERS).read_bytes() == (workdir / ANSWERS).read_bytes()
    assert command(config_for(layout, task=task), folder, layout) == 0
    wanted = trees.flatten(drawn(config_for(layout, task=task)))
    found = written(tmp_path / "out")
    assert set(found) == {f"params/{name}" for name in wanted}
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(found[f"params/{name}"], leaf, err_msg=name)


@EITHER
def test_a_file_of_theirs_comes_back_bit_for_bit(layout: str, tokenizer: Tokenizer, command: Command) -> None:
    """The other way round: import, then export; the heads that the task does not have are left out."""
    sizes = dataclasses.replace(SIZES[layout], answers=7)
    original = arrays(torch_model(sizes))
    net_config = config_for(
        layout,
        task="vqa",
        single__vocab_size=sizes.vocab_size,
        single__layers=sizes.layers,
        single__feed_forward=sizes.feed_forward,
        single__positions=sizes.positions,
        single__regions__labels=(),
        single__regions__classes=sizes.classes,
    )
    template = {TOWER: {"params": jax.eval_shape(Tower(net_config).init, jax.random.key(0))[0][TOWER]}}
    leaves = table(sizes).of_torch(original, template).leaves
    nested: dict[str, Any] = store.nested({p.removeprefix("single/params/"): v for p, v in leaves.items()})
    source = exporting.ExportedModel(
        net_config,
        0,
        lambda name: {"params": nested},
        {"single": {"params": nested}},
        False,
        tokenizer,
        {},
        {},
        "float32",
    )
    back = export_single.state_of(source, single_layout.LAYOUTS[layout])
    wanted = {key: value for key, value in original.items() if not key.startswith("rank_output")}
    assert set(back) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_formats_of_the_other_kind_of_model_are_refused(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = trained("uniter")
    arguments = ["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}"]
    for other in ("brivl", "torch", "onnx", "huggingface"):
        assert cli.main([*arguments, f"--format={other}"]) == 1
        told = capsys.readouterr().err
        assert f"--format={other} is for two towers, and this is a single tower of task 'mlmm'" in told
        assert "choose --format=uniter or uc2" in told
    with pytest.raises(exporting.ExportError, match="uniter is for a single tower, .* 'brivl'; choose --format=brivl"):
        exporting._check_kind("uniter", registry.named("brivl"))
    assert not (tmp_path / "out").exists()


def test_an_import_without_all_of_the_tower_is_refused(
    tokenizer: Tokenizer, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = BertModel(BertConfig(vocab_size=300, max_position_embeddings=16, **sizes))
    weights.write_torch({key: value.numpy() for key, value in bert.state_dict().items()}, tmp_path / "bert.bin")
    tokenizer.save(tmp_path)
    config = config_for("uniter", tokenizer__path=str(tmp_path / "tokenizer.model"))
    assert command(config, tmp_path / "bert.bin", "bert") == 0
    capsys.readouterr()
    arguments = ["export", f"--workdir={tmp_path / 'out'}", "--format=uniter", f"--out={tmp_path / 'exported'}"]
    assert cli.main(arguments) == 1
    assert "params/single/regions/" in capsys.readouterr().err
    assert not (tmp_path / "exported").exists()
