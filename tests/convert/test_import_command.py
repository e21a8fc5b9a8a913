"""`wenlan import` as a command: every format, good files in every wrapping, bad ones refused with one message."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from wenlan_jax import cli
from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections as schema
from wenlan_jax.convert import brivl, weights
from wenlan_jax.convert.bert import bert_description, bert_table
from wenlan_jax.convert.efficientnet import KeyLayout, efficientnet_table
from wenlan_jax.convert.rules import FlatTree, to_torch
from wenlan_jax.core import trees
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower.towers import image_tower
from wenlan_jax.training import init_from
from wenlan_jax.training import setup as runs

Make = Callable[..., experiment.Config]
Made = Callable[..., dict[str, Any]]
Command = Callable[..., int]
Refused = Callable[..., str]

pytestmark = pytest.mark.usefixtures("drawn_fresh_states")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A format in one of its layouts: the file, one of its keys, and a leaf's path beginning with the tower."""

    format: str
    file: str
    key: str
    tower: str
    prefix: str = ""


BERT_KEY = "encoder.layer.0.output.dense.weight"
LAYOUTS = {
    "brivl": Layout("brivl", "brivl.pth", "textencoder.learnable.textFC.fc2.weight", ""),
    "bert": Layout("bert", "bert/model.safetensors", BERT_KEY, "text"),
    "bert_bin": Layout("bert", "bert/pytorch_model.bin", f"bert.{BERT_KEY}", "text", "bert."),
    "xlm_roberta": Layout("bert", "xlmr/model.safetensors", f"roberta.{BERT_KEY}", "text", "roberta."),
    "timm": Layout("efficientnet", "timm.pth", "blocks.1.0.conv_pwl.weight", "image"),
    "huggingface": Layout(
        "efficientnet", "net/model.safetensors", "encoder.blocks.1.projection.project_conv.weight", "image"
    ),
}
EVERY = pytest.mark.parametrize("name", LAYOUTS)
FORMATS = ("brivl", "bert", "efficientnet")


@pytest.fixture
def made(tower_trees: Made, official: Made) -> Callable[[str, experiment.Config], FlatTree]:
    """A state dict in a layout, with what such files hold beside the backbone."""

    def make(name: str, config: experiment.Config) -> FlatTree:
        layout = LAYOUTS[name]
        if layout.format == "brivl":
            return official(config)
        drawn = tower_trees(config)[layout.tower]
        tree = {layout.tower: {kind: {"backbone": leaves["backbone"]} for kind, leaves in drawn.items()}}
        if layout.format == "bert":
            state = to_torch(tree, bert_table(layout.prefix))
            return _with_padding_rows(state) if name == "xlm_roberta" else _with_heads(state, layout.prefix)
        stages = image_tower(config.model).backbone.stages
        family: Any = name
        state = brivl.with_batch_counters(to_torch(tree, efficientnet_table(KeyLayout(family, ""), stages)))
        return {**state, "classifier.weight": np.ones((7, 64), np.float32), "classifier.bias": np.ones(7, np.float32)}

    return make


def _with_heads(state: FlatTree, prefix: str) -> FlatTree:
    pooler, width = f"{prefix}pooler.dense.", 16
    head = {f"{pooler}weight": np.ones((width, width), np.float32), f"{pooler}bias": np.ones(width, np.float32)}
    return {**state, **head, f"{prefix}embeddings.position_ids": np.arange(16)[None]}


def _with_padding_rows(state: FlatTree) -> FlatTree:
    """RoBERTa's table has rows of no use before the first token's, up to the padding id 1."""
    key = "roberta.embeddings.position_embeddings.weight"
    rows = np.full((2, state[key].shape[1]), np.nan, np.float32)
    return {**state, key: np.concatenate([rows, state[key]]), "lm_head.bias": np.ones(600, np.float32)}


def describe(name: str, config: experiment.Config) -> dict[str, Any]:
    """The config.json of a text backbone."""
    sizes = bert_description(config.model.text.bert)
    if name != "xlm_roberta":
        return {"model_type": "bert", "hidden_act": "gelu", **sizes}
    positions = sizes["max_position_embeddings"] + 2
    return {**sizes, "model_type": "xlm-roberta", "pad_token_id": 1, "max_position_embeddings": positions}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes a state dict as the layout's file; returns what `--from` takes: the file or its directory."""

    def write(name: str, state: FlatTree, config: experiment.Config) -> Path:
        layout = LAYOUTS[name]
        file = tmp_path / layout.file
        file.parent.mkdir(exist_ok=True)
        if file.suffix == weights.SAFETENSORS_SUFFIX:
            weights.write_safetensors(state, file, {})
        else:
            weights.write_torch({"learnable": state} if layout.format == "brivl" else state, file)
        if layout.format == "bert":
            (file.parent / "config.json").write_text(json.dumps(describe(name, config)))
        return file if file.parent == tmp_path else file.parent

    return write


@pytest.fixture
def refused(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one message of an import that is refused, and that leaves nothing behind."""

    def run(config: experiment.Config, source: Path, name: str, *options: str) -> str:
        before = {*tmp_path.rglob("*"), tmp_path / "config.py"}
        assert command(config, source, name, *options) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("wenlan import: ")
        assert printed.err.count("wenlan import:") == 1
        assert "Traceback" not in printed.err
        assert set(tmp_path.rglob("*")) == before
        return printed.err

    return run


def written(out: Path) -> FlatTree:
    """Every leaf of the checkpoint that an import wrote."""
    at = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with store.Checkpoints(out / "checkpoints", schema.CheckpointConfig()) as checkpoints:
        _, stored = checkpoints.stored()
        abstract = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at) for name, leaf in stored.items()}
        _, tree = checkpoints.restore(store.nested(abstract))
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(tree).items()}


def part(leaves: FlatTree, name: str) -> FlatTree:
    """Those of the leaves that a file of the layout holds."""
    tower = LAYOUTS[name].tower
    owners = tuple(f"{kind}/{tower}/backbone/" for kind in ("params", "batch_stats"))
    return {path: leaf for path, leaf in leaves.items() if not tower or path.startswith(owners)}


def assert_equal(found: FlatTree, wanted: FlatTree) -> None:
    assert set(found) == set(wanted)
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


@EVERY
def test_a_good_file_gives_its_leaves_and_no_others(
    name: str, tiny: Make, made: Any, save: Any, command: Command, expected: Made, tmp_path: Path
) -> None:
    config = tiny()
    assert command(config, save(name, made(name, config), config), LAYOUTS[name].format) == 0
    assert_equal(written(tmp_path / "out"), part(expected(config), name))
    assert not list(tmp_path.glob(".*"))


@EVERY
def test_a_truncated_file(name: str, tiny: Make, made: Any, save: Any, refused: Refused, tmp_path: Path) -> None:
    config = tiny()
    source, file = save(name, made(name, config), config), tmp_path / LAYOUTS[name].file
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 5])
    message = refused(config, source, LAYOUTS[name].format)
    assert f"{file}: truncated or damaged" in message
    assert "download or save it again" in message


def _without(state: FlatTree, key: str) -> FlatTree:
    return {other: array for other, array in state.items() if other != key}


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
def test_one_wrong_key(name: str, change: Any, told: str, tiny: Make, made: Any, save: Any, refused: Refused) -> None:
    config, layout = tiny(), LAYOUTS[name]
    source = save(name, change(made(name, config), layout.key), config)
    message = refused(config, source, layout.format)
    assert f"{source} does not fit the configuration" in message
    assert "1 fault" in message
    assert told.format(key=layout.key) in message
    assert ("Set model." in message) == (change is not _with_adapter)


@pytest.mark.parametrize("key", ["embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"])
@pytest.mark.parametrize("name", ["bert", "xlm_roberta"])
def test_a_missing_table_of_embeddings(name: str, key: str, tiny: Make, made: Any, save: Any, refused: Refused) -> None:
    config = tiny()
    state = _without(made(name, config), LAYOUTS[name].prefix + key)
    assert key in refused(config, save(name, state, config), "bert")


def test_a_missing_stem(tiny: Make, made: Any, save: Any, refused: Refused) -> None:
    config = tiny()
    message = refused(config, save("timm", _without(made("timm", config), "conv_stem.weight"), config), "efficientnet")
    assert "no key ends in conv_stem.weight or embeddings.convolution.weight" in message


STAGES = ((3, 2, 1, 8, 1), (3, 2, 2, 8, 2))
WIDER = {"model__text__bert__width": 32}
DEEPER = {"model__text__bert__layers": 2}


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("brivl", {"model__embedding": 32}, "text/params/projection/fc2/kernel has shape (32, 32), but textencoder."),
        ("brivl", DEEPER, "has no PyTorch key textencoder.backbone.bert.encoder.layer.1.output.dense.weight"),
        ("bert", WIDER, "config.json says 16; set model.text.bert.width=16, which is 32"),
        ("bert", DEEPER, "config.json says 1; set model.text.bert.layers=1, which is 2"),
        ("bert_bin", {"model__text__bert__heads": 4}, "set model.text.bert.heads=2, which is 4"),
        ("bert_bin", {"model__text__bert__eps": 1e-5}, "set model.text.bert.eps=1e-12, which is 1e-05"),
        ("xlm_roberta", {"model__text__bert__positions": 18}, "set model.text.bert.positions=16, which is 18"),
        ("xlm_roberta", DEEPER, "set model.text.bert.layers=1, which is 2"),
        ("timm", {"model__image__backbone__width_multiplier": 0.1}, "but conv_head.weight gives (8, 64)"),
        ("timm", {"model__image__backbone__stages": STAGES}, "has no PyTorch key blocks.1.1.conv_pwl.weight"),
        ("huggingface", {"model__image__backbone__stages": STAGES}, "has no PyTorch key encoder.blocks.2.projection"),
    ],
)
def test_a_wrong_configuration(
    name: str, changes: dict[str, Any], told: str, tiny: Make, made: Any, save: Any, refused: Refused
) -> None:
    """What a description or a shape tells is named by field or by key."""
    config = tiny()
    message = refused(tiny(**changes), save(name, made(name, config), config), LAYOUTS[name].format)
    assert told in message


@pytest.mark.parametrize(("name", "other"), [(n, o) for n, at in LAYOUTS.items() for o in FORMATS if o != at.format])
def test_a_file_of_another_format(name: str, other: str, tiny: Make, made: Any, save: Any, refused: Refused) -> None:
    config = tiny()
    message = refused(config, save(name, made(name, config), config), other)
    assert f"its keys are not those of --format={other}; choose --format={LAYOUTS[name].format}" in message


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ("{", "config.json is not a JSON object"),
        ("[1]", "config.json is not a JSON object"),
        ('{"hidden_act": "gelu_new"}', "says hidden_act=gelu_new; the text backbone computes gelu only"),
    ],
)
def test_a_description_of_no_use(
    description: str, told: str, tiny: Make, made: Any, save: Any, refused: Refused
) -> None:
    config = tiny()
    source = save("bert", made("bert", config), config)
    (source / "config.json").write_text(description)
    assert told in refused(config, source, "bert")


def test_a_roberta_whose_positions_are_unknown_needs_its_description(
    tiny: Make, made: Any, save: Any, refused: Refused, command: Command, tmp_path: Path
) -> None:
    """With sizes that fit the file, its first two rows would be taken for positions of tokens."""
    small, config = tiny(model__text__bert__types=1), tiny(model__text__bert__types=1, model__text__bert__positions=18)
    state = {key.removeprefix("roberta."): array for key, array in made("xlm_roberta", small).items()}
    source = save("xlm_roberta", state, small)
    (source / "config.json").rename(tmp_path / "moved.json")
    assert "no config.json to tell where positions start" in refused(config, source, "bert")
    (tmp_path / "moved.json").rename(source / "config.json")
    assert command(small, source, "bert") == 0


def test_a_pointer_that_is_no_number(tiny: Make, made: Any, save: Any, refused: Refused) -> None:
    config = tiny()
    state = made("brivl", config)
    rows = np.eye(config.model.embedding, dtype=np.float32)[np.arange(config.contrast.bank_size) % 16]
    state |= {"img_queue": rows.T, "text_queue": rows.T, "text_queue_ptr": np.arange(2)}
    assert "text_queue_ptr (2,) is not one number" in refused(config, save("brivl", state, config), "brivl")


def _shard(state: FlatTree, folder: Path) -> Path:
    folder.mkdir()
    keys = sorted(state)
    shards = {"model-1-of-2.safetensors": keys[::2], "model-2-of-2.safetensors": keys[1::2]}
    for file, names in shards.items():
        weights.write_safetensors({key: state[key] for key in names}, folder / file, {})
    places = {key: file for file, names in shards.items() for key in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def _prefixed(state: FlatTree, folder: Path) -> Path:
    weights.write_torch({f"module.{key}": array for key, array in state.items()}, folder.with_suffix(".pth"))
    return folder.with_suffix(".pth")


def _deepspeed(state: FlatTree, folder: Path) -> Path:
    content = {"module": {f"module.learnable.{key}": array for key, array in state.items()}, "global_steps": 7}
    weights.write_torch(content, folder.with_suffix(".pt"))
    return folder.with_suffix(".pt")


def _old_pickle(state: FlatTree, folder: Path) -> Path:
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in state.items()}
    torch.save({"learnable": tensors}, folder.with_suffix(".pth"), _use_new_zipfile_serialization=False)
    return folder.with_suffix(".pth")


@pytest.mark.parametrize("wrap", [_shard, _prefixed, _deepspeed, _old_pickle])
def test_a_wrapping_changes_nothing(
    wrap: Any, tiny: Make, made: Any, command: Command, expected: Made, tmp_path: Path
) -> None:
    config = tiny()
    assert command(config, wrap(made("brivl", config), tmp_path / "wrapped"), "brivl") == 0
    assert_equal(written(tmp_path / "out"), expected(config))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["brivl", "xlm_roberta", "timm"])
def test_half_precision_is_widened(
    name: str, dtype: Any, tiny: Make, made: Any, save: Any, command: Command, expected: Made, tmp_path: Path
) -> None:
    config = tiny()
    state = {k: array.astype(dtype) if array.dtype == np.float32 else array for k, array in made(name, config).items()}
    assert command(config, save(name, state, config), LAYOUTS[name].format) == 0
    wanted = {path: leaf.astype(dtype).astype(np.float32) for path, leaf in part(expected(config), name).items()}
    found = written(tmp_path / "out")
    assert {leaf.dtype for leaf in found.values()} == {np.dtype(np.float32)}
    assert_equal(found, wanted)


def rows(lines: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Leaves and numbers by part, from indented lines of the table."""
    cells = [line.split() for line in lines]
    return {part: (int(leaves.replace(",", "")), int(numbers.replace(",", ""))) for part, leaves, numbers in cells}


def totals(leaves: dict[str, Any]) -> dict[str, tuple[int, int]]:
    found: dict[str, list[int]] = {}
    for name, leaf in leaves.items():
        found.setdefault(init_from.part_of(name), []).append(int(np.prod(leaf.shape)))
    return {part: (len(sizes), sum(sizes)) for part, sizes in found.items()}


def test_the_table_lists_what_was_loaded_ignored_and_left_fresh(
    tiny: Make,
    made: Any,
    save: Any,
    command: Command,
    expected: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tiny()
    assert command(config, save("timm", made("timm", config), config), "efficientnet") == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [number for number, line in enumerate(lines) if line and not line.startswith(" ")]
    sections = {lines[a]: lines[a + 1 : b] for a, b in zip(heads, [*heads[1:], len(lines)], strict=True)}
    loaded, counters, classifier, unchecked, fresh, momentum, advice = sections
    assert unchecked.startswith("not checked: padding")
    assert loaded.split() == ["loaded", "leaves", "numbers"]
    assert rows(sections[loaded]) == totals(part(expected(config), "timm"))
    assert counters == "ignored: 7 key(s), BN's batch counter; unused with a fixed momentum"
    kinds = ("bn1", "bn2", *(f"blocks.*.*.bn{number}" for number in (1, 2, 3)))
    assert {line.strip() for line in sections[counters]} == {f"{kind}.num_batches_tracked" for kind in kinds}
    assert classifier == "ignored: 2 key(s), ImageNet classifier; BriVL uses the feature map"
    assert sections[classifier] == ["  classifier.weight", "  classifier.bias"]
    assert fresh.split() == ["freshly", "initialised", "by", "train", "leaves", "numbers"]
    initial = trees.flatten(runs.set_up(config, jax.devices()[:1]).shapes)
    begins = ("params/", "batch_stats/", "banks/")
    left = {name: leaf for name, leaf in initial.items() if name.startswith(begins)}
    for name in part(expected(config), "timm"):
        del left[name]
    assert rows(sections[fresh]) == totals(left)
    assert momentum == "key encoders start as copies of the query towers"
    assert advice.endswith(f"--config.init_from={tmp_path / 'out'}")


def test_backbones_alone_are_not_exported(
    tiny: Make, made: Any, save: Any, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is stored is all that an export reads, so it must say itself what is not."""
    config = tiny(model__image__regions__coordinates="official", model__text__bert__attention_mask=False)
    export = ["export", f"--workdir={tmp_path / 'out'}", "--format=brivl", f"--out={tmp_path / 'exported'}"]
    for name, told in (
        ("bert", ["checkpoint 0", "has no tower 'image'"]),
        ("timm", ["params/image/projection/fc1/kernel: missing, float32 (64, 16)", "import what is missing"]),
    ):
        assert command(config, save(name, made(name, config), config), LAYOUTS[name].format) == 0
        capsys.readouterr()
        assert cli.main(export) == 1
        message = capsys.readouterr().err
        assert message.count("wenlan export:") == 1 and "Traceback" not in message
        assert all(text in message for text in told), message
        assert not (tmp_path / "exported").exists() and not list(tmp_path.glob(".*"))


TIMM = {"architecture": "tf_efficientnet_b5", "pretrained_cfg": {"mean": [0.485, 0.456, 0.406], "tag": "ns_jft_in1k"}}


def described(source: Path, layout: str, tmp_path: Path, **changes: Any) -> None:
    """Writes what timm or transformers say of a network beside it."""
    folder = source if source.is_dir() else tmp_path
    (folder / "config.json").write_text(json.dumps({**(TIMM if layout == "timm" else {}), **changes}))


@pytest.mark.parametrize(
    ("layout", "changes", "told"),
    [
        (
            "timm",
            {"architecture": "efficientnet_b0"},
            "efficientnet_b0, not tf_efficientnet_b0: other padding and",
        ),
        ("timm", {"architecture": "efficientnet_b5"}, "BN epsilon (1e-5, not 0.001)"),
        ("timm", {"architecture": "tf_efficientnetv2_b0"}, "tf_efficientnet_b0 to b8 and lite0 to lite4"),
        ("timm", {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}, "normalised by mean=(0.5, 0.5, 0.5); set augment.mean"),
        ("timm", {"pretrained_cfg": {"std": [0.5, 0.5, 0.5]}}, "set augment.std so"),
        ("huggingface", {"batch_norm_eps": 1e-5}, "set model.image.batch_norm.eps=1e-05"),
        ("huggingface", {"hidden_act": "relu"}, "hidden_act=relu; the image backbone computes swish only"),
        ("huggingface", {"squeeze_expansion_ratio": 0.5}, "squeeze_expansion_ratio=0.5"),
    ],
)
def test_an_image_network_that_computes_otherwise(
    layout: str, changes: dict[str, Any], told: str, tiny: Make, made: Any, save: Any, refused: Refused, tmp_path: Path
) -> None:
    config = tiny()
    source = save(layout, made(layout, config), config)
    described(source, layout, tmp_path, **changes)
    assert told in refused(config, source, "efficientnet")


@pytest.mark.parametrize(
    "name",
    ["efficientnet_b0_ra-3dd342df.pth", "efficientnet_b5.pth", "efficientnet_b5/model.pth", "efficientnet_em.pth"],
)
def test_an_image_network_is_known_by_its_name(
    name: str, tiny: Make, made: Any, refused: Refused, command: Command, tmp_path: Path
) -> None:
    config, place = tiny(), tmp_path / "weights" / name
    place.parent.mkdir(parents=True)
    weights.write_torch(made("timm", config), place)
    assert "its name says " in refused(config, place, "efficientnet")
    good = tmp_path / "weights" / "tf_efficientnet_b5_ns-6f26d0cf.pth"
    place.rename(good)
    assert command(config, good, "efficientnet") == 0


def test_metadata_name_an_image_network(tiny: Make, made: Any, refused: Refused, tmp_path: Path) -> None:
    config = tiny()
    weights.write_safetensors(made("timm", config), tmp_path / "x.safetensors", {"architecture": "efficientnet_b0"})
    assert "its name says efficientnet_b0" in refused(config, tmp_path / "x.safetensors", "efficientnet")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act=gelu_new"),
        ({"model_type": "nezha"}, "model_type=nezha"),
        ({"position_embedding_type": "relative_key_query"}, "computes absolute only"),
    ],
)
def test_metadata_stand_in_for_a_description(
    said: dict[str, str], told: str, tiny: Make, made: Any, refused: Refused, tmp_path: Path
) -> None:
    config = tiny()
    weights.write_safetensors(made("bert", config), tmp_path / "x.safetensors", said)
    assert told in refused(config, tmp_path / "x.safetensors", "bert")


def test_what_could_not_be_checked_is_said(
    tiny: Make, made: Any, save: Any, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny()
    assert command(config, save("timm", made("timm", config), config), "efficientnet") == 0
    assert "not checked: padding, BN epsilon" in capsys.readouterr().out
    source = save("bert", made("bert", config), config)
    (source / "config.json").unlink()
    assert command(config, source, "bert") == 0
    assert "not checked: heads, epsilon of LayerNorms, activation" in capsys.readouterr().out
    (source / "config.json").write_text(json.dumps(describe("bert", config)))
    assert command(config, source, "bert", "--replace") == 0
    assert "not checked" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("layout", "changes", "told"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type=relative_key"),
        ("bert", {"model_type": "megatron-bert"}, "model_type=megatron-bert; the text backbone computes bert only"),
        ("bert", {"model_type": "roberta-prelayernorm"}, "model_type=roberta-prelayernorm"),
        ("bert", {"is_decoder": True}, "is_decoder=True"),
        ("bert", {"hidden_act": "relu"}, "hidden_act=relu"),
        ("bert", {"vocab_size": 640}, "config.json says 640; set model.text.bert.vocab_size=640, which is 600"),
        ("bert", {"layer_norm_eps": 1e-5}, "set model.text.bert.eps=1e-05, which is 1e-12"),
        ("bert_bin", {"model_type": "roberta"}, "says model_type=roberta, and keys begin with bert.: where positions"),
        ("xlm_roberta", {"model_type": "bert"}, "says model_type=bert, and keys begin with roberta."),
        ("xlm_roberta", {"pad_token_id": 0}, "set model.text.bert.positions=17, which is 16"),
    ],
)
def test_a_text_encoder_that_computes_otherwise(
    layout: str, changes: dict[str, Any], told: str, tiny: Make, made: Any, save: Any, refused: Refused
) -> None:
    config = tiny()
    source = save(layout, made(layout, config), config)
    (source / "config.json").write_text(json.dumps({**describe(layout, config), **changes}))
    assert told in refused(config, source, "bert")


@pytest.mark.parametrize("left_out", ["num_attention_heads", "layer_norm_eps"])
def test_what_a_description_leaves_out_has_the_value_of_transformers(
    left_out: str, tiny: Make, made: Any, save: Any, refused: Refused
) -> None:
    config = tiny(model__text__bert__eps=1e-5)
    source = save("bert", made("bert", config), config)
    fields = {name: value for name, value in describe("bert", config).items() if name != left_out}
    (source / "config.json").write_text(json.dumps(fields))
    told = "set model.text.bert.heads=12" if left_out == "num_attention_heads" else "set model.text.bert.eps=1e-12"
    assert told in refused(config, source, "bert")


def test_a_tokenizer_that_is_larger_than_the_table_sends_to_the_sizes_of_the_weights(
    tiny: Make, made: Any, save: Any, refused: Refused, tmp_path: Path
) -> None:
    """More rows would only be refused next, as the weights have others."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(700))]
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), "utf-8")
    config, larger = tiny(), tiny(model__text__bert__vocab_size=704)
    source = save("bert", made("bert", larger), larger)
    message = refused(config, source, "bert", f"--config.tokenizer.path={tmp_path / 'vocab.txt'}")
    assert "model.text.bert.vocab_size is 600" in message
    assert "704 pieces" in message
    assert "--write-config" in message
    assert "at least" not in message


def test_a_padded_vocabulary_is_imported_with_its_rows(
    tiny: Make, made: Any, save: Any, command: Command, tmp_path: Path
) -> None:
    config = tiny(model__text__bert__vocab_size=640)
    assert command(config, save("bert", made("bert", config), config), "bert") == 0
    assert written(tmp_path / "out")["params/text/backbone/embeddings/word/embedding"].shape[0] == 640
