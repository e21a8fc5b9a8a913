"""`wenlan bench` of the training step, two towers and one, alone and beside PyTorch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from repository import CONFIGS
from single_runs import tiny_single

pytest.importorskip("torch")

from wenlan_jax.bench import conversion, measure, step, torch_side_single
from wenlan_jax.bench.torch_worker import TorchError
from wenlan_jax.convert import weights
from wenlan_jax.losses import masked
from wenlan_jax.tasks import experiment, registry
from wenlan_jax.tasks.batch import faults, random_batch
from wenlan_jax.training import setup as runs

CHANGES = {"mesh__data": -1, "single__vocab_size": 60, "optimizer__name": "adamw", "optimizer__clip_norm": 1.0}
MAP = {
    "single__regions__features": "map",
    "single__regions__width": 64,
    "model__image__batch_norm__mode": "frozen",
    "model__freeze": ("image/",),
}


pytestmark = pytest.mark.usefixtures("small_peak")


@pytest.fixture
def small_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small matrix product: measuring the machine's peak with the real one takes longer than the tests."""
    monkeypatch.setattr(measure, "PEAK_SIZE", 64)


UNUSED = ("itm_output", "region_classifier", "feat_regress.net", "feat_regress.bias")
"""Of heads for other objectives: PyTorch leaves them alone, and here they decay."""


def config_for(**changes: Any) -> experiment.Config:
    return tiny_single(**{**CHANGES, **changes})


@pytest.mark.parametrize("task", ["mlmm", "rank", "vqa"])
def test_random_batches_are_such_as_a_loader_gives(task: str) -> None:
    config = config_for(task=task)
    spec = registry.of(config).batch_spec(config)
    batch = random_batch(spec, 0)
    assert faults(spec, batch) == []
    assert batch["token_mask"].all() and batch["region_mask"].all()
    assert batch["token_ids"].min() >= 5 and batch["token_ids"].max() < config.single.vocab_size
    boxes = batch["region_boxes"]
    assert (boxes[..., 2:] >= boxes[..., :2]).all() and boxes.min() >= 0 and boxes.max() <= 1
    if task == "mlmm":
        places = batch["masked_places"]
        assert all(len(set(row)) == len(row) for row in places) and places.max() < batch["token_ids"].shape[1]
    if task == "rank":
        assert batch["negative_token_mask"].all() and batch["negative_region_features"].std() > 0


@pytest.mark.parametrize("objective", ["itm", "mrfr", "mrc"])
def test_random_batches_of_the_other_objectives(objective: str) -> None:
    config = config_for(pretrain__objectives=(objective,), pretrain__weights=(1.0,))
    batch = random_batch(registry.of(config).batch_spec(config), 0)
    if objective == "itm":
        assert set(np.unique(batch["match"])) == {0, 1}
    else:
        assert batch["region_masked"].any(axis=1).all() and not batch["region_masked"].all()
    if objective == "mrc":
        np.testing.assert_allclose(batch["region_classes"].sum(-1), 1, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "extra"),
    [({}, set()), pytest.param(MAP, {"part/backbone_and_pooling"}, marks=pytest.mark.slow)],
)
def test_a_single_tower_alone(changes: dict[str, Any], extra: set[str], tmp_path: Path, capsys: Any) -> None:
    figures = step.run_bench(config_for(**changes), 1, None, tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    parts = {name for name in figures if name.startswith("part/")}
    assert parts == {"part/encoder_both_ways", "part/objective_both_ways", "part/optimiser"} | extra
    assert all(figures[name] > 0 for name in (*parts, "step_seconds", "pairs_per_second", "flops"))
    assert "encoder, both ways" in capsys.readouterr().out


@pytest.mark.slow
def test_a_single_tower_beside_pytorch(capsys: Any) -> None:
    """Same weights, same batch: the two must say the same before they are timed."""
    figures = step.run_bench(config_for(single__dropout=0.1), 1, "torch", None)
    assert figures["difference"] < 1e-6
    assert figures["speed_ratio_lowest"] <= figures["speed_ratio"] <= figures["speed_ratio_highest"]
    assert figures["torch_step_seconds"] > 0
    assert "pooled and words differ by at most" in capsys.readouterr().out


@pytest.mark.parametrize("offset", [0, 2])
def test_both_sides_have_the_same_loss_and_take_the_same_step(offset: int) -> None:
    """In one process: the loss of the batch, and where AdamW moves each weight; a large eps keeps it from amplifying
    the rounding of small gradients."""
    config = config_for(
        single__position_offset=offset,
        optimizer__learning_rate=1e-1,
        optimizer__weight_decay=0.1,
        optimizer__eps=1e-2,
    )
    current = runs.set_up(config)
    batch = random_batch(registry.of(config).batch_spec(config), 0)
    stepper = measure.Stepper(current, batch)
    job = torch_side_single.job(config, stepper.state, batch)
    worker, first = job.start(), {name: value.copy() for name, value in job.weights.items()}
    logits = worker.said()["words"]
    loss = masked.word_cross_entropy(logits, batch["masked_ids"], batch["masked_valid"])
    assert stepper()["loss"] == pytest.approx(float(loss.total / loss.weight), rel=1e-5)
    worker.step()
    ours = torch_side_single.job(config, stepper.state, batch).weights
    theirs = {name: value.numpy() for name, value in worker.model.state_dict().items()}
    compared = [name for name in ours if not name.startswith(UNUSED) and "pooler" not in name]
    for name in compared:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-5, err_msg=name)
    moved = [name for name in compared if np.abs(ours[name] - first[name]).max() > 1e-4]
    assert len(moved) > len(compared) / 2  # a small gradient moves a weight less than this


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": "rank"}, "PyTorch reference for task brivl and mlmm, not rank"),
        (MAP, "single.regions.features must not be 'map'"),
        ({"single__position_offset": 1}, "single.position_offset must be one of \\[0, 2\\]"),
        ({"optimizer__name": "adam"}, "optimizer.name must be 'adamw'"),
        ({"pretrain__objectives": ("itm",), "pretrain__weights": (1.0,)}, "pretrain.objectives must hold 'mlm'"),
    ],
)
def test_what_pytorch_cannot_follow_is_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(TorchError, match=told):
        step.run_bench(config_for(**changes), 1, "torch", None)


@pytest.mark.slow
def test_two_towers_beside_pytorch(tiny: Any) -> None:
    config = tiny(
        mesh__data=-1,
        model__freeze=(),
        model__image__regions__coordinates="official",
        model__image__batch_norm__group_size=8,
        model__embedding=64,
        model__text__bert__attention_mask=False,
        contrast__bank_start="random",
        contrast__mask_false_negatives=False,
        contrast__bank_size=24,
    )
    figures = step.run_bench(config, 1, "torch", None)
    assert figures["difference"] < 1e-4 and figures["speed_ratio"] > 0
    assert "part/key_towers" in figures


def test_a_conversion_of_a_single_tower_is_refused() -> None:
    path = CONFIGS / "bench_single.py"
    with pytest.raises(conversion.ConversionBenchError, match="two towers of BriVL, and .* has task 'mlmm'"):
        conversion.run_conversion(path, [], None)


@pytest.mark.slow
def test_a_conversion_is_measured_and_other_bits_are_refused(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part, in processes of its own, on a small model."""
    config = tiny(model__image__regions__coordinates="official", model__text__bert__attention_mask=False)
    path = tmp_path / "config.py"
    path.write_text(
        "import json\nfrom ml_collections import config_dict\n\n\ndef get_config():\n"
        f"    return config_dict.ConfigDict(json.loads({experiment.to_json(config)!r}))\n"
    )
    monkeypatch.setattr(conversion, "ROUNDS", 2)
    figures = conversion.run_conversion(path, [], tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert figures["plain_copy_time_ratio"] == 1
    assert figures["file_bytes"] > 0
    assert all(figures[f"{part}_seconds"] > 0 for part in ("plain_copy", "importing", "writing", "exporting"))

    one, other = tmp_path / "one.pth", tmp_path / "other.pth"
    weights.write_torch({"a": np.zeros(2, np.float32)}, one)
    weights.write_torch({"a": np.array([0, -0.0], np.float32)}, other)  # equal numbers, other bits
    compare = [sys.executable, "-c", conversion._COMPARE]
    conversion.cost([*compare, str(one), str(one)])
    with pytest.raises(conversion.ConversionBenchError, match="gave other bits back"):
        conversion.cost([*compare, str(one), str(other)])
