"""`wenlan import` into the single tower: UNITER, UC2, XLM-R and BERT; runs that start there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from single_runs import tiny_single
from single_towers import UC2, UNITER, arrays, table, torch_model
from transformers import BertConfig, BertForPreTraining, XLMRobertaConfig, XLMRobertaForMaskedLM

from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections
from wenlan_jax.convert import weights
from wenlan_jax.convert.rules import FlatTree, flatten
from wenlan_jax.core import trees
from wenlan_jax.tasks import experiment
from wenlan_jax.training import init_from
from wenlan_jax.training import setup as runs

Made = Callable[..., Any]
Command = Callable[..., int]
Refused = Callable[..., str]

pytestmark = pytest.mark.usefixtures("drawn_fresh_states")

WORDS = "embeddings.word_embeddings.weight"
LAYER = "encoder.layer.1.output.dense.weight"


def config_for(sizes: Any, **changes: Any) -> experiment.Config:
    """The configuration of the tower that a PyTorch model of `sizes` fits."""
    return tiny_single(
        **{
            "single__vocab_size": sizes.vocab_size,
            "single__layers": sizes.layers,
            "single__feed_forward": sizes.feed_forward,
            "single__positions": sizes.positions,
            "single__position_offset": 2 if sizes.uc2 else 0,
            "single__text_eps": sizes.text_eps,
            "single__regions__labels": (),
            "single__regions__classes": sizes.classes,
            "vqa__answers": sizes.answers,
            **changes,
        }
    )


UNITER_CONFIG, UC2_CONFIG = config_for(UNITER), config_for(UC2)


def _filled(model: torch.nn.Module) -> FlatTree:
    rng = np.random.default_rng(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.tensor(rng.normal(size=parameter.shape)))
    return {key: value.numpy().copy() for key, value in model.state_dict().items()}


SIZES = {
    "vocab_size": UNITER.vocab_size,
    "hidden_size": UNITER.width,
    "num_hidden_layers": UNITER.layers,
    "num_attention_heads": UNITER.heads,
    "intermediate_size": UNITER.feed_forward,
    "max_position_embeddings": UNITER.positions,
}


def xlm_roberta() -> FlatTree:
    return _filled(XLMRobertaForMaskedLM(XLMRobertaConfig(**SIZES, type_vocab_size=1, pad_token_id=1)))


def bert() -> FlatTree:
    return _filled(BertForPreTraining(BertConfig(**SIZES)))


def early(state: FlatTree) -> FlatTree:
    """The names of the first UNITER files: `bert.`, and norms with gamma and beta."""
    renamed = {key.replace("uniter.", "bert.", 1): value for key, value in state.items()}
    for key in [key for key in renamed if key.endswith("LayerNorm.weight")]:
        layer = key.removesuffix("weight")
        renamed[f"{layer}gamma"], renamed[f"{layer}beta"] = renamed.pop(key), renamed.pop(f"{layer}bias")
    return renamed


@dataclasses.dataclass(frozen=True)
class File:
    """A file: the format it is imported by, what it holds, the configuration it is for."""

    format: str
    state: Callable[[], FlatTree]
    config: experiment.Config
    prefix: str


FILES = {
    "uniter": File("uniter", lambda: arrays(torch_model(UNITER)), UNITER_CONFIG, "uniter."),
    "early_uniter": File("uniter", lambda: early(arrays(torch_model(UNITER))), UNITER_CONFIG, "bert."),
    "uc2": File("uc2", lambda: arrays(torch_model(UC2)), UC2_CONFIG, "roberta."),
    "xlm_roberta": File("xlm_roberta", xlm_roberta, UC2_CONFIG, "roberta."),
    "bert": File("bert", bert, UNITER_CONFIG, "bert."),
}
EVERY = pytest.mark.parametrize("name", FILES)


def save(state: FlatTree, folder: Path, description: dict[str, Any] | None = None) -> Path:
    path = folder / "pytorch_model.bin"
    weights.write_torch(state, path)
    if description is not None:
        (folder / "config.json").write_text(json.dumps(description))
    return path


def written(out: Path) -> FlatTree:
    at = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with store.Checkpoints(out / "checkpoints", sections.CheckpointConfig()) as checkpoints:
        _, stored = checkpoints.stored()
        abstract = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at) for name, leaf in stored.items()}
        _, tree = checkpoints.restore(store.nested(abstract))
    return {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}


def started(config: experiment.Config, source: Path) -> FlatTree:
    config = dataclasses.replace(config, init_from=str(source))
    return trees.flatten(init_from.load(runs.set_up(config, jax.devices()[:1]), ""))


@pytest.fixture
def refused(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    def run(config: experiment.Config, source: Path, name: str, *options: str) -> str:
        before = {*tmp_path.rglob("*"), tmp_path / "config.py"}
        assert command(config, source, name, *options) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("wenlan import: ")
        assert "Traceback" not in printed.err
        assert set(tmp_path.rglob("*")) == before
        return printed.err

    return run


@pytest.mark.parametrize("name", ["uniter", "early_uniter", "uc2"])
def test_a_whole_tower(name: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = FILES[name]
    sizes = UC2 if name == "uc2" else UNITER
    assert command(file.config, save(file.state(), tmp_path), file.format) == 0
    assert "the rank head, which the configured model does not have" in capsys.readouterr().out
    found = written(tmp_path / "out")
    assert set(found) == {
        n for n in trees.flatten(runs.set_up(file.config, jax.devices()[:1]).shapes) if n.startswith("params/single/")
    }
    leaves = {f"single/params/{path.removeprefix('params/single/')}": leaf for path, leaf in found.items()}
    back, original = table(sizes).to_torch(leaves), arrays(torch_model(sizes))
    assert set(back) == {key for key in original if not key.startswith(("rank_output", "vqa_output"))}
    for key, value in back.items():
        np.testing.assert_array_equal(value, original[key], err_msg=key)


def test_fine_tuning_starts_from_a_whole_tower(command: Command, tmp_path: Path) -> None:
    """Heads of pretraining come along; a rank head is the row of matches of the ITM head."""
    assert command(UNITER_CONFIG, save(FILES["uniter"].state(), tmp_path), "uniter") == 0
    source = written(tmp_path / "out")
    begun = started(config_for(UNITER, task="rank"), tmp_path / "out")
    for name, leaf in source.items():
        np.testing.assert_array_equal(begun[name], leaf, err_msg=name)
    itm, rank = (f"params/single/{head}_head/kernel" for head in ("itm", "rank"))
    np.testing.assert_array_equal(begun[rank], source[itm][:, 1:])


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("uc2_start", [False, True])
def test_a_run_starts_from_xlm_roberta(uc2_start: bool, bare: bool, command: Command, tmp_path: Path) -> None:
    state = xlm_roberta()
    if bare:
        state = {k.removeprefix("roberta."): value for k, value in state.items() if k.startswith("roberta.")}
    description = {**SIZES, "model_type": "xlm-roberta", "layer_norm_eps": 1e-5, "type_vocab_size": 1}
    config = config_for(UC2, pretrain__uc2_start=uc2_start)
    assert command(config, save(state, tmp_path, description), "xlm_roberta") == 0
    imported, begun = written(tmp_path / "out"), started(config, tmp_path / "out")
    types, head = "params/single/embeddings/type/embedding", "params/single/word_head/bias"
    assert (types in imported) == (not uc2_start)
    assert (head in imported) == (not uc2_start and not bare)
    assert not [name for name in imported if "/regions/" in name or "/pooler/" in name]
    for name, leaf in imported.items():
        np.testing.assert_array_equal(begun[name], leaf, err_msg=name)
    words = state[("" if bare else "roberta.") + WORDS]
    np.testing.assert_array_equal(begun["params/single/embeddings/word/embedding"], words)


@pytest.mark.parametrize("kept", ["all", "encoder", "bare"])
def test_a_run_starts_from_bert(kept: str, command: Command, tmp_path: Path) -> None:
    state = bert()
    assert "cls.seq_relationship.weight" in state
    if kept != "all":
        state = {key: value for key, value in state.items() if key.startswith("bert.") and ".pooler." not in key}
    if kept == "bare":
        state = {key.removeprefix("bert."): value for key, value in state.items()}
    description = {**SIZES, "model_type": "bert", "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
    assert command(UNITER_CONFIG, save(state, tmp_path, description), "bert") == 0
    imported, begun = written(tmp_path / "out"), started(UNITER_CONFIG, tmp_path / "out")
    parts = {"/".join(name.split("/")[2:3]) for name in imported}
    heads = {"pooler", "word_head"} if kept == "all" else set()
    assert parts == {"embeddings", "layers_0", "layers_1", "layers_2", *heads}
    key = ("" if kept == "bare" else "bert.") + LAYER
    np.testing.assert_array_equal(begun["params/single/layers_1/linear2/kernel"], state[key].T)
    if kept == "all":
        transform = state["cls.predictions.transform.dense.weight"]
        np.testing.assert_array_equal(begun["params/single/word_head/transform/dense/kernel"], transform.T)


@EVERY
def test_a_truncated_file(name: str, refused: Refused, tmp_path: Path) -> None:
    path = save(FILES[name].state(), tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    assert f"{path}: truncated or damaged" in refused(FILES[name].config, path, FILES[name].format)


def _without(state: FlatTree, key: str) -> FlatTree:
    return {other: value for other, value in state.items() if other != key}


def _longer(state: FlatTree, key: str) -> FlatTree:
    return {**state, key: np.concatenate([state[key], state[key]])}


def _with_adapter(state: FlatTree, key: str) -> FlatTree:
    return {**state, f"{key}.adapter": np.zeros(3, np.float32)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_without, "has no PyTorch key {key}\n"),
        (_longer, "but {key} gives ("),
        (_with_adapter, "PyTorch key {key}.adapter (3,) is covered by no rule"),
    ],
)
@EVERY
def test_one_wrong_key(name: str, change: Any, told: str, refused: Refused, tmp_path: Path) -> None:
    file = FILES[name]
    key = file.prefix + LAYER
    message = refused(file.config, save(change(file.state(), key), tmp_path), file.format)
    assert "1 fault:" in message and told.format(key=key) in message
    assert ("Set single.* to the sizes" in message) == (change is not _with_adapter)


@pytest.mark.parametrize(
    ("name", "copy"),
    [
        ("uniter", "feat_regress.weight"),
        ("uc2", "cls.decoder.bias"),
        ("xlm_roberta", "lm_head.decoder.weight"),
        ("bert", "cls.predictions.decoder.weight"),
    ],
)
def test_a_wrong_tied_copy(name: str, copy: str, refused: Refused, tmp_path: Path) -> None:
    state = FILES[name].state()
    state[copy] = state[copy] + np.float32(1)
    message = refused(FILES[name].config, save(state, tmp_path), FILES[name].format)
    assert f"PyTorch key {copy} differs from " in message and message.count("differs") == 1


@EVERY
def test_positions_that_start_elsewhere(name: str, refused: Refused, tmp_path: Path) -> None:
    file = FILES[name]
    right = file.config.single.position_offset
    config = dataclasses.replace(file.config, single=dataclasses.replace(file.config.single, position_offset=2 - right))
    message = refused(config, save(file.state(), tmp_path), file.format)
    assert f"set single.position_offset={right}, the row of the first token in this layout" in message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_attention_heads": 4}, "config.json says 4; set single.heads=4, which is 2"),
        ({"layer_norm_eps": 1e-3}, "config.json says 0.001; set single.text_eps=0.001"),
        ({"hidden_act": "gelu_new"}, "says hidden_act=gelu_new; the tower computes gelu only"),
    ],
)
@EVERY
def test_a_description_that_says_otherwise(
    name: str, change: dict[str, Any], told: str, refused: Refused, tmp_path: Path
) -> None:
    file = FILES[name]
    source = save(file.state(), tmp_path, {**SIZES, **change})
    assert told in refused(file.config, source, file.format)


@pytest.mark.parametrize(
    ("name", "other", "told"),
    [
        ("uniter", "uc2", "its keys are not those of --format=uc2; choose --format=uniter"),
        ("uc2", "uniter", "its keys are not those of --format=uniter; choose --format=uc2"),
        ("uniter", "bert", "its keys are not those of --format=bert; choose --format=uniter"),
        ("early_uniter", "xlm_roberta", "its keys are not those of --format=xlm_roberta; choose --format=uniter"),
        ("xlm_roberta", "uc2", "its keys are not those of --format=uc2; choose --format=bert or xlm_roberta"),
        ("xlm_roberta", "bert", "has one row, as XLM-R's; choose --format=xlm_roberta"),
        ("bert", "xlm_roberta", "has more than one row; choose --format=bert"),
    ],
)
def test_a_file_of_another_format(name: str, other: str, told: str, refused: Refused, tmp_path: Path) -> None:
    assert told in refused(FILES[name].config, save(FILES[name].state(), tmp_path), other)


@pytest.mark.parametrize("name", ["uniter", "uc2", "xlm_roberta"])
def test_a_configuration_of_two_towers(name: str, tiny: Any, refused: Refused, tmp_path: Path) -> None:
    message = refused(tiny(), save(FILES[name].state(), tmp_path), FILES[name].format)
    assert f"--format={name} gives single, and task 'brivl' has image and text; choose the configuration" in message


@pytest.mark.parametrize("format_", ["brivl", "efficientnet"])
def test_a_format_of_two_towers(format_: str, refused: Refused, tmp_path: Path) -> None:
    """A single tower has an image backbone only where regions are pooled on its map."""
    message = refused(UNITER_CONFIG, save(FILES["uniter"].state(), tmp_path), format_)
    assert f"--format={format_} gives " in message and "and task 'mlmm' has single; choose" in message


MAP = {
    "single__regions__features": "map",
    "single__regions__width": 64,
    "model__image__batch_norm__mode": "frozen",
    "model__freeze": ("image/",),
}


def backbone(leaves: FlatTree) -> FlatTree:
    return {name: leaf for name, leaf in leaves.items() if name.startswith(BACKBONES)}


BACKBONES = ("params/image/backbone/", "batch_stats/image/backbone/")


def test_a_map_takes_the_backbone_alone_of_a_brivl_run(tiny: Any, tmp_path: Path) -> None:
    theirs = runs.fresh_state(runs.set_up(tiny(), jax.devices()[:1]))
    moved = trees.map_named(lambda name, leaf: leaf if name == "rng" else leaf + 1, theirs)
    with store.Checkpoints(tmp_path / "run" / "checkpoints", sections.CheckpointConfig()) as checkpoints:
        checkpoints.save(3, moved, tiny(), "of another tokenizer")
    config = config_for(UC2, **MAP)
    fresh = trees.flatten(runs.fresh_state(runs.set_up(config, jax.devices()[:1])))
    begun, wanted = started(config, tmp_path / "run"), backbone(trees.flatten(moved))
    assert set(backbone(begun)) == set(wanted) and len(wanted) > 20
    for name, leaf in begun.items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(wanted.get(name, fresh[name])), err_msg=name)


def test_a_map_takes_the_backbone_alone_of_an_official_file(
    tiny: Any, official: Made, expected: Made, command: Command, tmp_path: Path
) -> None:
    """Beside a UC2 in one directory, which a run then starts from as a whole."""
    config = config_for(UC2, **MAP)
    uc2 = arrays(torch_model(dataclasses.replace(UC2, features=64)))
    assert command(config, save(uc2, tmp_path), "uc2") == 0
    weights.write_torch({"learnable": official(tiny())}, tmp_path / "brivl.pth")
    assert command(config, tmp_path / "brivl.pth", "brivl") == 0
    wanted, found = backbone(expected(tiny())), started(config, tmp_path / "out")
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)
    np.testing.assert_array_equal(found["params/single/embeddings/word/embedding"], uc2["roberta." + WORDS])


def test_a_tower_with_another_number_of_layers_does_not_start_from_it(command: Command, tmp_path: Path) -> None:
    assert command(UNITER_CONFIG, save(FILES["uniter"].state(), tmp_path), "uniter") == 0
    with pytest.raises(store.CheckpointError, match=r"params/single/layers_2/\S+: shape .* no such leaf"):
        started(config_for(UNITER, single__layers=2), tmp_path / "out")
