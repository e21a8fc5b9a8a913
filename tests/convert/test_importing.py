"""`wenlan import` and `init_from`: what is loaded, what is refused, and that training starts from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from wenlan_jax import cli
from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections
from wenlan_jax.convert import bert, brivl, efficientnet, importing, queues, weights
from wenlan_jax.convert.requests import ImportRequest
from wenlan_jax.convert.rules import FlatTree, to_torch
from wenlan_jax.core import bank, trees
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.two_tower.towers import image_tower
from wenlan_jax.training import init_from
from wenlan_jax.training import setup as runs

Make = Callable[..., experiment.Config]
Made = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("drawn_fresh_states")


def set_up(config: experiment.Config) -> Run:
    return runs.set_up(config, jax.devices()[:1])


@pytest.fixture
def import_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a state dict, nested under `learnable`, and imports it into `out`."""

    def make(config: experiment.Config, state: FlatTree, out: str = "out", **options: Any) -> Path:
        file = tmp_path / "weights.safetensors"
        weights.write_safetensors(state, file, {})
        chosen = {"format": "brivl", "tower": "both", "trust_pickle": False, "replace": False, **options}
        importing.run_import(config, ImportRequest(source=file, out=tmp_path / out, **chosen))
        return tmp_path / out

    return make


def started(config: experiment.Config, source: Path, tokenizer: str = "") -> dict[str, np.ndarray]:
    """Every leaf of the state that a run with `init_from` starts from."""
    config = dataclasses.replace(config, init_from=str(source))
    state = init_from.load(set_up(config), tokenizer)
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(state).items()}


def fresh(config: experiment.Config) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(runs.fresh_state(set_up(config))).items()}


def assert_start(state: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(state[name], leaf, err_msg=name)


def test_an_official_checkpoint_becomes_the_start_of_all_towers(
    tiny: Make, import_file: Callable[..., Path], capsys: pytest.CaptureFixture[str], official: Made, expected: Made
) -> None:
    config = tiny()
    out = import_file(config, official(config))
    state = started(config, out)
    assert_start(state, expected(config))
    assert int(state["step"]) == 0
    assert int(state["banks/image/fill"]) == 0
    printed = capsys.readouterr().out
    assert "momentum/params/text/projection" in printed
    assert "ignored: 1 key(s), ImageNet classifier" in printed
    assert "freshly initialised by train" in printed
    assert "banks/image" in printed


def test_momentum_towers_that_the_file_lacks_are_copies(
    tiny: Make, import_file: Callable[..., Path], official: Made, expected: Made
) -> None:
    config = tiny()
    state = started(config, import_file(config, official(config, brivl.QUERY_TOWERS)))
    for name, leaf in expected(config).items():
        if not name.startswith("momentum/"):
            np.testing.assert_array_equal(state[name], leaf)
            np.testing.assert_array_equal(state[f"momentum/{name}"], leaf)


def test_the_start_may_be_donated_to_the_step(tiny: Make, import_file: Callable[..., Path], official: Made) -> None:
    """Copies share no memory with what they are copies of."""
    config = tiny()
    out = import_file(config, official(config, brivl.QUERY_TOWERS))
    state = init_from.load(set_up(dataclasses.replace(config, init_from=str(out))), "")
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state) if leaf.size > 1]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(("entries", "pointer"), [(24, 0), (24, 16), (20, 12), (21, 5)])
def test_the_queues_of_a_whole_model_continue_in_the_banks(
    tiny: Make, import_file: Callable[..., Path], entries: int, pointer: int, official: Made, expected: Made
) -> None:
    """With one that the batch does not divide, too: the next push replaces the oldest keys."""
    config = tiny(contrast__bank_size=entries)
    rng = np.random.default_rng(1)
    size, width = config.train.batch_size, config.model.embedding
    rows = {name: rng.normal(size=(entries, width)).astype(np.float32) for name in ("img", "text")}
    rows = {name: value / np.linalg.norm(value, axis=1, keepdims=True) for name, value in rows.items()}
    state = {f"learnable.{key}": value for key, value in official(config).items()}
    for name, value in rows.items():
        state |= {f"{name}_queue": value.T, f"{name}_queue_ptr": np.array([pointer])}
    begun = started(config, import_file(config, state))
    assert_start(begun, expected(config))
    for name, theirs in (("image", "img"), ("text", "text")):
        leaves = {key: begun[f"banks/{name}/{key}"] for key in ("keys", "ids", "pushed_at", "cursor", "fill")}
        oldest_first = np.roll(rows[theirs], -pointer, axis=0)
        np.testing.assert_array_equal(queues.from_bank(leaves), oldest_first)
        ring = bank.Bank(**jax.device_put(leaves), capacity=entries)
        assert int(bank.valid(ring).sum()) == entries
        keys = rng.normal(size=(size, width)).astype(np.float32)
        pushed = bank.push(ring, keys, np.arange(size, dtype=np.int32), 0)
        after = queues.from_bank(vars(jax.device_get(pushed)))
        np.testing.assert_array_equal(after, np.concatenate([oldest_first[size:], keys]))


def test_towers_from_two_files_add_up(
    tiny: Make, import_file: Callable[..., Path], official: Made, expected: Made
) -> None:
    config = tiny()
    import_file(config, official(config, seed=1), tower="image")
    out = import_file(config, official(config, seed=2), tower="text")
    state = started(config, out)
    for seed, tower in ((1, "image"), (2, "text")):
        wanted = {name: leaf for name, leaf in expected(config, seed).items() if f"/{tower}/" in f"/{name}"}
        assert len(wanted) > 20
        assert_start(state, wanted)


def test_backbones_alone_leave_the_rest_fresh(
    tiny: Make, import_file: Callable[..., Path], tower_trees: Made, expected: Made
) -> None:
    config = tiny()
    drawn, stages = tower_trees(config), image_tower(config.model).backbone.stages
    image = {"image": {name: {"backbone": tree["backbone"]} for name, tree in drawn["image"].items()}}
    text = {"text": {"params": {"backbone": drawn["text"]["params"]["backbone"]}}}
    layout = efficientnet.KeyLayout("timm", "")
    import_file(config, to_torch(image, efficientnet.efficientnet_table(layout, stages)), format="efficientnet")
    out = import_file(config, to_torch(text, bert.bert_table("bert.")), format="bert")
    state, wanted, untouched = started(config, out), expected(config), fresh(config)
    names = [name for name in wanted if not name.startswith("momentum/")]
    for name in names:
        source = wanted if "/backbone/" in name else untouched
        np.testing.assert_array_equal(state[name], source[name], err_msg=name)
        np.testing.assert_array_equal(state[f"momentum/{name}"], state[name], err_msg=name)


def test_positions_of_roberta_start_behind_the_padding_row(tiny: Make, tmp_path: Path, tower_trees: Made) -> None:
    config = tiny()
    drawn = tower_trees(config)["text"]["params"]["backbone"]
    state = to_torch({"text": {"params": {"backbone": drawn}}}, bert.bert_table("roberta."))
    key = "roberta.embeddings.position_embeddings.weight"
    state[key] = np.concatenate([np.full((2, state[key].shape[1]), np.nan, np.float32), state[key]])
    folder = tmp_path / "roberta"
    folder.mkdir()
    weights.write_safetensors(state, folder / "model.safetensors", {})
    (folder / "config.json").write_text(
        json.dumps({"model_type": "roberta", "pad_token_id": 1, "num_attention_heads": 2})
    )
    request = ImportRequest("bert", folder, tmp_path / "out", "both", False, False)
    importing.run_import(config, request)
    found = started(config, tmp_path / "out")["params/text/backbone/embeddings/position/embedding"]
    np.testing.assert_array_equal(found, drawn["embeddings"]["position"]["embedding"])


def test_a_second_import_of_the_same_tower_must_be_asked_for(
    tiny: Make, import_file: Callable[..., Path], official: Made, expected: Made
) -> None:
    config = tiny()
    import_file(config, official(config, seed=1))
    with pytest.raises(importing.ImportingError, match=r"params/text/backbone.* already; pass --replace"):
        import_file(config, official(config, brivl.QUERY_TOWERS, seed=2), tower="text")
    out = import_file(config, official(config, brivl.QUERY_TOWERS, seed=2), tower="text", replace=True)
    state, old, new = started(config, out), expected(config, 1), expected(config, 2)
    name = "params/text/projection/fc1/kernel"
    np.testing.assert_array_equal(state[name], new[name])
    np.testing.assert_array_equal(state[f"momentum/{name}"], new[name])
    name = "momentum/params/image/projection/fc1/kernel"
    np.testing.assert_array_equal(state[name], old[name])


def test_a_configuration_of_another_model_is_told_whole_and_leaves_nothing(
    tiny: Make, import_file: Callable[..., Path], tmp_path: Path, official: Made
) -> None:
    config = tiny(contrast__bank_size=20)
    state = official(config)
    rows = np.eye(config.model.embedding, dtype=np.float32)[:12]
    state |= {"img_queue": rows.T, "text_queue": rows.T, "extra": np.zeros(2, np.float32)}
    del state["textencoder.learnable.textFC.fc2.bias"]
    state["imgencoder.learnable.imgFC.fc1.bias"] = np.zeros(5, np.float32)
    with pytest.raises(importing.ImportingError) as error:
        import_file(config, state)
    message = str(error.value)
    assert "img_queue has 12 entries; set contrast.bank_size=12, which is 20" in message
    assert "Flax leaf text/params/projection/fc2/bias (16,) has no PyTorch key" in message
    assert "Flax leaf image/params/projection/fc1/bias has shape (16,), but imgencoder" in message
    assert "PyTorch key extra (2,) is covered by no rule" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.safetensors"]


def test_a_write_that_fails_leaves_nothing(
    tiny: Make, import_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, official: Made
) -> None:
    def save(*_: Any) -> None:
        raise store.CheckpointError("the disk is full")

    monkeypatch.setattr(store.Checkpoints, "save", save)
    config = tiny()
    with pytest.raises(store.CheckpointError, match="the disk is full"):
        import_file(config, official(config))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.safetensors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "bert", "tower": "image"}, "--format=bert holds no image tower"),
        ({"format": "bert"}, "not those of --format=bert; choose --format=brivl"),
    ],
)
def test_a_format_that_does_not_fit_is_told(
    tiny: Make, import_file: Callable[..., Path], changes: dict[str, str], message: str, official: Made
) -> None:
    config = tiny()
    with pytest.raises(ValueError, match=message):
        import_file(config, official(config), **changes)


def test_a_file_without_the_tower_asked_for_is_told(
    tiny: Make, import_file: Callable[..., Path], official: Made
) -> None:
    config = tiny()
    state = official(config, {"imgencoder": "image"})
    with pytest.raises(importing.ImportingError, match=r"no key textencoder\.\*; it has imgencoder\. "):
        import_file(config, state)
    import_file(config, state, tower="image")


def test_an_image_backbone_needs_no_vocabulary(
    tiny: Make, import_file: Callable[..., Path], official: Made, expected: Made
) -> None:
    config = tiny(model__text__bert__vocab_size=0)
    state = official(tiny())
    with pytest.raises(experiment.ConfigError, match=r"model\.text\.bert\.vocab_size: 0 leaves the size"):
        import_file(config, state)
    out = import_file(config, state, tower="image")
    wanted = {name: leaf for name, leaf in expected(tiny()).items() if "/image/" in f"/{name}"}
    assert_start(started(tiny(), out), wanted)


def test_a_start_of_another_model_names_every_leaf(
    tiny: Make, import_file: Callable[..., Path], official: Made
) -> None:
    config = tiny()
    out = import_file(config, official(config))
    other = tiny(model__text__encoder__layers=2, model__image__regions__project=False, model__text__bert__positions=24)
    with pytest.raises(store.CheckpointError) as error:
        started(other, out)
    message = str(error.value)
    assert "params/text/backbone/embeddings/position/embedding: shape (16, 16), (24, 16) is needed" in message
    assert "params/text/encoder/layers_1/norm1/scale: missing, (16,) is needed" in message
    assert "params/image/regions/region_proj/kernel: shape (64, 64), but the configured model has no" in message


def test_a_task_without_momentum_takes_the_query_towers(
    tiny: Make, import_file: Callable[..., Path], official: Made, expected: Made
) -> None:
    out = import_file(tiny(), official(tiny()))
    state = started(tiny(task="clip"), out)
    assert_start(state, {name: leaf for name, leaf in expected(tiny()).items() if not name.startswith("momentum/")})


def save_run(config: experiment.Config, workdir: Path, tokenizer: str) -> dict[str, np.ndarray]:
    """A training run's checkpoint of random towers at step 7, with full banks."""
    rng = np.random.default_rng(5)
    state = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype) if leaf.dtype == np.float32 else leaf + 1,
        runs.fresh_state(set_up(config)),
    )
    with store.Checkpoints(workdir / "checkpoints", config.checkpoint) as checkpoints:
        checkpoints.save(7, state, config, tokenizer)
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(state).items()}


def test_another_run_gives_its_towers_and_nothing_else(tiny: Make, tmp_path: Path) -> None:
    config = tiny()
    saved, untouched = save_run(config, tmp_path / "run", "tokens"), fresh(config)
    state = started(config, tmp_path / "run", "tokens")
    for name, leaf in state.items():
        source = saved if name.startswith(init_from.TAKEN) else untouched
        np.testing.assert_array_equal(leaf, source[name], err_msg=name)


def test_word_embeddings_of_another_tokenizer_are_refused(tiny: Make, tmp_path: Path) -> None:
    config = tiny()
    saved = save_run(config, tmp_path / "run", "tokens")
    with pytest.raises(store.CheckpointError, match="made for another tokenizer"):
        started(config, tmp_path / "run", "other tokens")
    accepted = started(tiny(checkpoint__accept_changes=True), tmp_path / "run", "other tokens")
    name = "params/text/projection/fc1/kernel"
    np.testing.assert_array_equal(accepted[name], saved[name])


def vocabulary(path: Path, last: str) -> str:
    """A vocabulary of as many pieces as the tiny word table has rows."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(595)), last]
    path.write_text("".join(f"{piece}\n" for piece in pieces), "utf-8")
    return str(path)


def test_a_second_import_keeps_the_tokenizer_of_the_words(
    tiny: Make, import_file: Callable[..., Path], official: Made, tmp_path: Path
) -> None:
    """The image side needs none, and other words are refused while the table of the first is kept."""
    own, other = (vocabulary(tmp_path / f"{name}.txt", name) for name in ("own", "other"))
    named = tiny(tokenizer__path=own)
    out = import_file(named, official(named), tower="text")
    import_file(tiny(), official(tiny()), tower="image")
    with store.Checkpoints(out / "checkpoints", sections.CheckpointConfig()) as checkpoints:
        _, note = checkpoints.note()
    assert note.tokenizer.startswith("wordpiece:lower:")
    assert note.config["tokenizer"]["path"] == own
    with pytest.raises(store.CheckpointError, match="made for another tokenizer"):
        started(tiny(), out, "other tokens")
    strange = tiny(tokenizer__path=other)
    with pytest.raises(importing.ImportingError, match="words of another tokenizer than .*other.txt"):
        import_file(strange, official(strange), tower="image", replace=True)
    import_file(strange, official(strange), tower="text", replace=True)


def test_a_training_run_is_no_place_for_an_import(
    tiny: Make, import_file: Callable[..., Path], tmp_path: Path, official: Made
) -> None:
    config = tiny()
    save_run(config, tmp_path / "run", "tokens")
    with pytest.raises(importing.ImportingError, match="is the work directory of a training run"):
        import_file(config, official(config), out="run")


def test_a_start_that_does_not_exist_is_told(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(store.CheckpointError, match="init_from: .*nowhere holds no checkpoints"):
        started(tiny(), tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_where_a_run_started_is_part_of_its_identity(tiny: Make) -> None:
    one, two = tiny(), tiny(init_from="weights")
    assert experiment.fingerprint(one) != experiment.fingerprint(two)


@pytest.mark.slow
def test_the_command_line_imports_and_trains_from_it(
    tiny: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    official: Made,
    expected: Made,
    config_file: Callable[[experiment.Config], Path],
) -> None:
    pytest.importorskip("torch")
    """Without a learning rate two steps end in the parameters of the file; the resumed run does not read it again."""
    config = tiny(
        data__dir=str(tmp_path / "data"),
        tokenizer__train_size=1000,
        model__text__bert__vocab_size=1000,
        optimizer__learning_rate=0.0,
        train__steps=2,
        eval__gallery=0,
    )
    path, file, out = config_file(config), tmp_path / "brivl.pth", tmp_path / "weights"
    weights.write_torch({"module": {"learnable": official(config)}}, file)
    assert cli.main(["import", "--format=brivl", f"--from={file}", f"--config={path}", f"--out={out}"]) == 0
    command = ["train", f"--config={path}", f"--workdir={tmp_path / 'run'}", f"--config.init_from={out}"]
    assert cli.main([*command, "--config.mesh.data=-1"]) == 0
    assert f"starts from checkpoint 0 of {out}: params/image/backbone" in capsys.readouterr().out
    with store.Checkpoints(tmp_path / "run" / "checkpoints", config.checkpoint) as checkpoints:
        shapes = set_up(config).shapes.params
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), {"params": shapes})
        step, stored = checkpoints.restore(abstract)
    assert step == 2
    wanted = {name: leaf for name, leaf in expected(config).items() if name.startswith("params/")}
    assert_start(trees.flatten(stored), wanted)
    out.rename(tmp_path / "moved")
    assert cli.main([*command, "--config.mesh.data=-1"]) == 0
    assert "resumed at step 2" in capsys.readouterr().out
