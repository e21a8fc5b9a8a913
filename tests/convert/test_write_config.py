"""`wenlan import --write-config`: the sizes of weights, as a configuration file that takes these weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from repository import CONFIGS

from wenlan_jax import cli
from wenlan_jax.convert import brivl, importing, single_layout, source_sizes, weights
from wenlan_jax.convert.bert import bert_description, bert_table
from wenlan_jax.convert.efficientnet import KeyLayout, efficientnet_table
from wenlan_jax.convert.import_formats import FORMATS, ImportingError
from wenlan_jax.convert.requests import ImportRequest
from wenlan_jax.convert.rules import ConversionError, torch_views
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower.towers import image_tower
from wenlan_jax.training.setup import set_up

VOCABULARY = "--config.model.text.bert.vocab_size=1000"

pytestmark = pytest.mark.usefixtures("drawn_fresh_states")


def shapes_of(config: experiment.Config) -> dict[str, Any]:
    """Towers of zeros that take no memory, with collections."""
    shapes = set_up(config, jax.devices()[:1]).shapes
    parts = {"params": shapes.params, "batch_stats": shapes.batch_stats}
    towers = {tower: {name: tree[tower] for name, tree in parts.items() if tower in tree} for tower in shapes.params}
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), towers)


def state_of(form: str, config: experiment.Config, prefix: str = "") -> dict[str, np.ndarray]:
    """The weights of a configuration in a layout."""
    towers = shapes_of(config)
    if form == "brivl":
        wanted = {tower: towers[tower] for tower in brivl.QUERY_TOWERS.values()}
        return torch_views(wanted, brivl.brivl_table(brivl.QUERY_TOWERS))
    tower = "text" if form == "bert" else "image"
    tree = {tower: {kind: {"backbone": leaves["backbone"]} for kind, leaves in towers[tower].items()}}
    if form == "bert":
        return torch_views(tree, bert_table(prefix))
    family: Any = prefix
    return torch_views(tree, efficientnet_table(KeyLayout(family, ""), image_tower(config.model).backbone.stages))


@pytest.fixture(params=["brivl_1_released", "brivl_2"])
def real(request: Any) -> experiment.Config:
    """A configuration of real size: B5 and base, B7 and large."""
    return experiment.load(CONFIGS / f"{request.param}.py", [VOCABULARY])


def assert_has(config: experiment.Config, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        node: Any = config
        for part in name.split("."):
            node = getattr(node, part)
        assert node == value, name


@pytest.mark.parametrize(("form", "prefix"), [("brivl", ""), ("efficientnet", "timm"), ("efficientnet", "huggingface")])
def test_sizes_are_those_of_the_configuration(real: experiment.Config, form: str, prefix: str, tmp_path: Path) -> None:
    fields = source_sizes.sizes(form, state_of(form, real, prefix), tmp_path, None)
    fields = {name: value for name, value in fields.items() if "coordinates" not in name and "mask" not in name}
    assert_has(real, fields)
    assert len(fields) >= (15 if form == "brivl" else 2)


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("told", [False, True])
def test_sizes_of_a_text_encoder(real: experiment.Config, prefix: str, told: bool, tmp_path: Path) -> None:
    if told:
        (tmp_path / "config.json").write_text(json.dumps(bert_description(real.model.text.bert)))
    fields = source_sizes.sizes("bert", state_of("bert", real, prefix), tmp_path, None)
    assert_has(real, fields)
    assert len(fields) == 8


@pytest.mark.parametrize(("name", "form"), [("uniter_base", "uniter"), ("uc2", "uc2")])
def test_sizes_of_a_single_tower(name: str, form: str, tmp_path: Path) -> None:
    config = experiment.load(CONFIGS / f"{name}.py")
    if not config.single.vocab_size:
        config = experiment.load(CONFIGS / f"{name}.py", ["--config.single.vocab_size=1000"])
    table = single_layout.LAYOUTS[form].table()
    fields = source_sizes.sizes(form, torch_views({"single": shapes_of(config)["single"]}, table.table), tmp_path, None)
    assert_has(config, {name: value for name, value in fields.items() if name != "task"})
    assert fields["single.regions.classes"] == config.single.regions.classes


def test_an_image_network_of_other_sizes_is_told(tiny: Callable[..., experiment.Config], tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="blocks is none of b0, b1"):
        source_sizes.sizes("efficientnet", state_of("efficientnet", tiny(), "timm"), tmp_path, None)


def test_the_file_takes_the_weights_as_it_is(
    tiny: Callable[..., experiment.Config], config_file: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    """RoBERTa, wider, with more rows and one type; loops over another number of layers are undone."""
    changes = {"width": 32, "layers": 3, "heads": 4, "feed_forward": 24, "vocab_size": 777, "positions": 20, "types": 1}
    source = tiny(**{f"model__text__bert__{name}": value for name, value in changes.items()})
    folder, base = tmp_path / "roberta", config_file(tiny(model__text__bert__scan_segments=(1,)))
    folder.mkdir()
    state = {key: np.ascontiguousarray(array) for key, array in state_of("bert", source, "roberta.").items()}
    key = "roberta.embeddings.position_embeddings.weight"
    state[key] = np.concatenate([np.ones((2, 32), np.float32), state[key]])
    weights.write_safetensors(state, folder / "model.safetensors", {})
    told = {**bert_description(source.model.text.bert), "model_type": "roberta", "pad_token_id": 1}
    (folder / "config.json").write_text(json.dumps({**told, "max_position_embeddings": 22}))
    written = tmp_path / "sized.py"
    common = ["import", "--format=bert", f"--from={folder}"]
    assert cli.main([*common, f"--config={base}", f"--write-config={written}"]) == 0
    found = experiment.load(written)
    assert found.model.text.bert == source.model.text.bert
    assert found.model.image == tiny().model.image
    assert cli.main([*common, f"--config={written}", f"--out={tmp_path / 'out'}"]) == 0
    assert cli.main([*common, f"--config={base}", f"--write-config={written}"]) == 1
    assert "exists" in capsys.readouterr().err
    both = [f"--write-config={tmp_path / 'b.py'}", f"--out={tmp_path / 'both'}"]
    assert cli.main([*common, f"--config={base}", *both]) == 0
    assert (tmp_path / "both" / "checkpoints").is_dir()


def test_something_is_asked_for(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["import", "--format=bert", f"--from={tmp_path}"]) == 1
    assert "give --config and --out, or --write-config" in capsys.readouterr().err


def test_weights_of_another_format_are_told(tmp_path: Path) -> None:
    weights.write_safetensors({"x": np.ones(3, np.float32)}, tmp_path / "x.safetensors", {})
    with pytest.raises(ImportingError, match="not those of --format=brivl"):
        source_sizes.write(None, "brivl", tmp_path, False, tmp_path / "c.py")
    assert not (tmp_path / "c.py").exists()


def test_the_commands_of_the_table_of_weights_name_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is one that the command line takes, with a configuration of this repository that has the format's towers."""
    text = (CONFIGS / "WEIGHTS.md").read_text("utf-8").replace("\\\n", " ")
    commands = [line.split()[1:] for line in text.splitlines() if line.startswith("wenlan import")]
    seen: list[ImportRequest] = []

    def record(config: experiment.Config, request: ImportRequest) -> None:
        assert importing._towers(request, config)
        seen.append(request)

    monkeypatch.setattr(importing, "run_import", record)
    monkeypatch.chdir(CONFIGS.parent)
    assert [cli.main(command) for command in commands] == [0] * len(commands)
    assert {request.format for request in seen} == set(FORMATS)
