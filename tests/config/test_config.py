"""The configuration: all faults at once, overrides, canonical text, fingerprint, and no field left unread."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotations import unchecked
from ml_collections import config_dict

from wenlan_jax.config import sections, settings
from wenlan_jax.core import rngs
from wenlan_jax.tasks import config_changes, experiment
from wenlan_jax.util.errors import counted

PACKAGE = Path(experiment.__file__).parents[1]
FREE = ("mesh", "eval", "checkpoint", "distributed", "compilation", "telemetry")
"""Sections that do not change a result."""
LEAVES = {path: field for path, field, _ in experiment.fields()}
HINTS = {path: hint for path, _, hint in experiment.fields()}


def fault_lines(error: pytest.ExceptionInfo[experiment.ConfigError]) -> list[str]:
    head, *lines = str(error.value).split("\n  ")
    assert head == f"{counted(len(lines))} in the configuration:"
    return lines


def test_the_default_is_sound() -> None:
    assert experiment.parse(experiment.default()) == experiment.Config()


def test_all_faults_of_fields_are_listed_at_once() -> None:
    values = experiment.default().to_dict()
    values["model"]["embeding"] = 64
    values["xyz"] = {}
    values["seed"] = True
    values["data"]["image_size"] = "456"
    values["data"]["kinds"] = "descriptive"
    values["model"]["image"]["regions"]["grid"] = (1, 2.5)
    values["train"]["batch_size"] = 0
    values["augment"]["hue"] = 0.6
    values["model"]["dtype"] = "float16"
    values["optimizer"] = None
    del values["train"]["steps"]
    with pytest.raises(experiment.ConfigError) as error:
        experiment.parse(values)
    expected = (
        r"model\.embeding: no such field; did you mean model\.embedding\?",
        r"xyz: no such field; `wenlan fields` lists them",
        r"seed: int is needed, not True",
        r"data\.image_size: int is needed, not '456'",
        r"data\.kinds: tuple\[str, \.\.\.\] is needed, not 'descriptive'",
        r"model\.image\.regions\.grid: tuple\[int, \.\.\.\] is needed, not \(1, 2\.5\)",
        r"train\.batch_size: at least 1 is needed, not 0",
        r"augment\.hue: at most 0\.5 is needed, not 0\.6",
        r"model\.dtype: one of float32, bfloat16 is needed, not 'float16'",
        r"optimizer: a section is needed here, not None",
        r"train\.steps: missing; .*",
    )
    lines = fault_lines(error)
    assert len(lines) == len(expected)
    for pattern in expected:
        assert any(re.fullmatch(pattern, line) for line in lines), pattern


CLASHES: dict[str, dict[str, Any]] = {
    "model.text.bert.heads": {"model.text.bert.heads": 7},
    "model.text.encoder.heads": {"model.text.encoder.heads": 5},
    "data.text_length": {"data.text_length": 513},
    "model.text.bert.scan_segments": {"model.text.bert.scan_segments": (8, 3)},
    "train.accumulation: must divide": {
        "train.accumulation": 5,
        "model.image.batch_norm.mode": "frozen",
    },
    "model.image.batch_norm.group_size": {"train.batch_size": 24},
    "train.accumulation: statistics": {"train.accumulation": 2, "model.image.batch_norm.mode": "batch"},
    "model.image.backbone.stages": {"model.image.backbone.stages": ((3, 1, 1, 8),)},
    "model.image.regions": {"model.image.regions.grid": (), "model.image.regions.whole_image": False},
    "optimizer.warmup_steps": {"optimizer.warmup_steps": 100_000},
    "augment.mean, augment.std": {"augment.mean": (0.5,)},
    "augment.std": {"augment.std": (0.2, 0.2, 0.0)},
    "mesh: only one": {"mesh.data": -1, "mesh.tensor": -1},
    "mesh: an axis": {"mesh.fsdp": 0},
    "mesh.preset": {"mesh.preset": "slice", "mesh.tensor": 4},
    "contrast.multi_label_top_k: more": {"contrast.multi_label_top_k": 9601},
    "contrast.multi_label_top_k: the task": {"task": "clip", "contrast.multi_label_top_k": 1},
    "model.freeze": {"model.freeze": ("image/(", "text/")},
    "telemetry.profile": {"telemetry.profile": "5"},
}


def changed(values: dict[str, Any]) -> config_dict.ConfigDict:
    c = experiment.default()
    for path, value in values.items():
        c.update_from_flattened_dict({path: value})
    return c


@pytest.mark.parametrize("name", CLASHES)
def test_fields_that_clash_are_named(name: str) -> None:
    with pytest.raises(experiment.ConfigError) as error:
        experiment.parse(changed(CLASHES[name]))
    (line,) = fault_lines(error)
    assert line.startswith(name)


def test_several_clashes_are_listed_together() -> None:
    with pytest.raises(experiment.ConfigError) as error:
        experiment.parse(changed({"model.text.bert.heads": 7, "mesh.fsdp": 0, "model.freeze": ("(",)}))
    assert len(fault_lines(error)) == 3


def test_overrides_of_every_type_are_read() -> None:
    config = experiment.override(
        experiment.default(),
        [
            "--config.train.steps=7",
            "--config.optimizer.learning_rate=3",
            "--config.model.image.regions.grid=(1, 5)",
            "--config.data.kinds=('weak',)",
            "--config.data.languages=()",
            "--config.model.image.backbone.stages=((3, 1, 1, 8, 1),)",
            "--config.model.image.encoder.scan=true",
            "--config.contrast.mask_false_negatives=false",
            "--config.eval.ks=3",  # a single value stands for a tuple of one
            "--config.data.source=wenlan_scenes/s128",
            "--config.mesh.data=-1",
        ],
    )
    assert (config.train.steps, config.data.source, config.mesh.data) == (7, "wenlan_scenes/s128", -1)
    assert config.optimizer.learning_rate == 3.0
    assert isinstance(config.optimizer.learning_rate, float)
    assert (config.model.image.regions.grid, config.data.kinds, config.data.languages) == (
        (1, 5),
        ("weak",),
        (),
    )
    assert config.eval.ks == (3,)
    assert config.model.image.backbone.stages == ((3, 1, 1, 8, 1),)
    assert config.model.image.encoder.scan is True
    assert config.contrast.mask_false_negatives is False


def test_all_faults_of_the_command_line_are_listed_at_once() -> None:
    with pytest.raises(experiment.ConfigError) as error:
        experiment.override(
            experiment.default(),
            [
                "--config.train.stepz=5",
                "--config.train.steps=many",
                "--config.model.image.encoder.scan=perhaps",
                "--config.model.image.regions.grid=six",
                "--config.data.kinds=(1, 2)",
                "--config.augment.hue=0.7",
                "--config.train",
                "--config.seed=4",
            ],
        )
    lines = fault_lines(error)
    for start in (
        "train.stepz: no such field; did you mean train.steps?",
        "train.steps: ",
        "model.image.encoder.scan: ",
        "model.image.regions.grid: ",
        "data.kinds: ",
        "augment.hue: at most 0.5",
        "--config.train: write --config.train=VALUE",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    assert len(lines) == 7


def test_overriding_leaves_the_base_unchanged() -> None:
    base = experiment.default()
    experiment.override(base, ["--config.train.steps=5"])
    assert experiment.parse(base) == experiment.Config()


def other_value(path: str, value: Any) -> Any:
    """Another value of the type of the field's default; parse need not accept it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return next((c for c in settings.choices_of(HINTS[path]) if c != value), value + "x")
    if isinstance(value, tuple):
        return (*value, *(value[-1:] or ("x",)))
    return value * 2 + 2


def with_other(path: str) -> experiment.Config:
    """The default with another value of the leaf `path`."""

    def change(section: Any, names: list[str]) -> Any:
        value = getattr(section, names[0])
        inner = change(value, names[1:]) if names[1:] else other_value(path, value)
        return dataclasses.replace(section, **{names[0]: inner})

    with unchecked():
        return change(experiment.Config(), path.split("."))


@pytest.mark.parametrize("path", LEAVES)
def test_every_field_changes_the_fingerprint(path: str) -> None:
    assert experiment.fingerprint(with_other(path)) != experiment.fingerprint(experiment.Config())


@pytest.mark.parametrize("path", LEAVES)
def test_every_field_that_changes_the_result_is_named_as_changed(path: str) -> None:
    saved = json.loads(experiment.to_json(experiment.Config()))
    found = config_changes.changes(saved, with_other(path))
    free = LEAVES[path].metadata["free"] or path.split(".")[0] in FREE
    assert [line.split(":")[0] for line in found] == ([] if free else [path])


def test_fields_of_another_version_are_named_as_changed() -> None:
    saved = json.loads(experiment.to_json(experiment.Config()))
    del saved["contrast"]["momentum"]  # so it was trained with what is now the default
    saved["contrast"]["queue"] = 3
    found = config_changes.changes(saved, experiment.parse(changed({"contrast.momentum": 0.5})))
    assert found == [
        "contrast.momentum: saved 0.99, now 0.5",
        "contrast.queue: saved 3, now 'nothing'",
    ]


def test_the_canonical_text_gives_the_configuration_back() -> None:
    config = experiment.parse(changed({"model.image.regions.grid": (1, 5), "data.kinds": ("weak",), "seed": 3}))
    assert experiment.from_json(experiment.to_json(config)) == config


def test_the_fingerprint_does_not_depend_on_the_order_of_fields() -> None:
    def backwards(values: dict[str, Any]) -> dict[str, Any]:
        return {k: backwards(v) if isinstance(v, dict) else v for k, v in reversed(values.items())}

    turned = experiment.parse(backwards(experiment.default().to_dict()))
    assert experiment.fingerprint(turned) == experiment.fingerprint(experiment.Config())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    raise KeyError('colour')\n", "KeyError: 'colour'"),
        ("def get_config(:\n", "SyntaxError"),
        ("x = 1\n", "get_config"),
        ("def get_config():\n    return open('no/such/file')\n", "FileNotFoundError"),
        ("def get_config():\n    pass\n", "must return a ConfigDict, not None"),
    ],
    ids=["raises", "syntax", "no get_config", "missing file", "nothing returned"],
)
def test_a_configuration_file_that_does_not_run_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(experiment.ConfigError) as error:
        experiment.load(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_a_configuration_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(experiment.ConfigError, match=r"absent\.py: no such configuration file"):
        experiment.load(tmp_path / "absent.py")


def test_a_file_and_overrides_make_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    body = "    c = config.default()\n    c.seed = 5\n    return c\n"
    path.write_text(f"from wenlan_jax import config\n\n\ndef get_config():\n{body}")
    config = experiment.load(path, ["--config.train.steps=9"])
    assert (config.seed, config.train.steps) == (5, 9)


def test_a_word_chooses_fields_and_an_unknown_section_is_listed() -> None:
    found = experiment.describe("MUON")
    assert "--config.optimizer.muon_momentum=" in found and "--config.train.steps=" not in found
    with pytest.raises(experiment.ConfigError, match="no field has 'nothing of the kind'"):
        experiment.describe("nothing of the kind")
    with pytest.raises(
        experiment.ConfigError, match=r"eval\.quux: no such field; eval\.\* has .*batch_size, .*final_splits"
    ):
        experiment.override(experiment.default(), ["--config.eval.quux=1"])


@pytest.mark.parametrize("path", LEAVES)
def test_every_field_is_described(path: str) -> None:
    assert f"--config.{path}=" in experiment.describe()
    assert LEAVES[path].metadata["doc"]


@pytest.mark.parametrize("path", LEAVES)
def test_every_field_is_read_by_the_package(path: str) -> None:
    """An option that nothing reads would be a promise broken in silence."""
    *_, section, name = ("config", *path.split("."))
    reads = re.compile(rf"\.{name}\b(?!\s*=[^=])")
    files = [file for file in PACKAGE.rglob("*.py") if file.name not in ("schema.py", "sections.py")]
    assert any(reads.search(file.read_text()) for file in files), f"{section}.{name}"


def test_a_configuration_saved_before_a_field_existed_is_read_with_its_default():
    saved = json.loads(experiment.to_json(experiment.parse(experiment.default())))
    del saved["init_from"], saved["model"]["image"]["backbone"]["stem"]
    assert config_changes.changes(saved, experiment.parse(experiment.default())) == []
    assert experiment.parse(config_changes.completed(saved)) == experiment.parse(experiment.default())
    saved["strange"] = 1
    with pytest.raises(experiment.ConfigError, match="strange: no such field"):
        experiment.parse(config_changes.completed(saved))


def _types(hint: Any) -> str:
    return "" if settings.choices_of(hint) else str(hint)


BEYOND: dict[str, tuple[float, ...]] = {
    "float": (float("nan"), float("inf"), -float("inf")),
    "int": (10**30, -(10**30)),
}


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (path, number)
        for path, hint in HINTS.items()
        for kind in BEYOND
        if kind in _types(hint)
        for number in BEYOND[kind]
    ],
)
def test_no_field_takes_a_number_that_is_none_or_has_no_room(path: str, number: float) -> None:
    value: Any = number
    for _ in range(str(HINTS[path]).count("tuple[")):
        value = (value,)
    with pytest.raises(experiment.ConfigError, match=rf"{re.escape(path)}: "):
        experiment.parse(changed({path: value}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.image.regions.grid", (0,)),
        ("model.image.regions.grid", (6, -1)),
        ("model.image.regions.grid", (65,)),
        ("model.image.backbone.stages", ((3, 0, 1, 8, 1),)),
        ("model.image.backbone.stages", ((3, 1, 1, 8, -2),)),
        ("eval.ks", (0,)),
        ("eval.ks", (1, -5)),
        ("seed", 2**32),
        ("seed", 2**63),
        ("seed", -1),
        ("optimizer.eps", 0.0),
        ("optimizer.b2", 1.0),
        ("pretrain.text_buckets", (0, 64)),
    ],
)
def test_numbers_within_tuples_and_seeds_have_ranges(path: str, value: Any) -> None:
    with pytest.raises(experiment.ConfigError, match=rf"{re.escape(path)}: at (least|most) "):
        experiment.parse(changed({path: value}))


def test_a_seed_is_told_apart_up_to_its_range() -> None:
    """jax.random.key keeps 32 bits of a seed, so that larger ones would repeat smaller ones."""
    assert experiment.parse(changed({"seed": 2**32 - 1})).seed == 2**32 - 1
    roots = {tuple(np.asarray(rngs.root(seed))) for seed in (0, 1, 2**31, 2**32 - 1)}
    assert len(roots) == 4


def test_every_field_says_what_it_is_and_every_tag_is_explained() -> None:
    for path, field in LEAVES.items():
        text = field.metadata["doc"]
        tags = re.findall(r"\[([A-Z][A-Z0-9]*)(?::[^\]]*)?\]", text)
        assert set(tags) - {"CLS", "SEP"} <= sections.SOURCES.keys(), path
        words = re.sub(r"\[[^\]]*\]", "", text).split()
        assert len(words) >= 2, f"{path}: {text!r} says too little"
    assert all(f"[{tag}]" in experiment.describe() for tag in sections.SOURCES)
