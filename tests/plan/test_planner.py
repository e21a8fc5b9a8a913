"""Plans of the tiny configuration: bytes in closed form, verdicts, the command."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from repository import CONFIGS

from wenlan_jax import cli
from wenlan_jax.core import trees
from wenlan_jax.plan import accounting, collectives, planner, roofline, search, topology
from wenlan_jax.tasks import experiment, remat
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import setup

SHARES = roofline.Shares()
tpu_compiler = [
    pytest.mark.tpu_compiler,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra [tpu])"),
]
needs_tpu_compiler = [*tpu_compiler, pytest.mark.slow]

QUICKSTART = CONFIGS / "quickstart.py"


def closed_form(current: Run, ways: int) -> dict[str, int]:
    """Bytes per device when every leaf with a dimension that `ways` divides is split."""

    def size(tree: object) -> int:
        total = 0
        for leaf in trees.flatten(tree).values():
            split = any(dim >= ways and dim % ways == 0 for dim in leaf.shape)
            total += math.prod(leaf.shape) * 4 // (ways if split else 1)
        return total

    shapes = current.shapes
    assert shapes.momentum is not None
    return {
        "parameters": size(shapes.params),
        "momentum": size(shapes.momentum.params),
        "optimiser": size(shapes.opt_state),
    }


@pytest.mark.parametrize("ways", [1, 8])
def test_state_bytes_have_their_closed_form(tiny: Callable[..., experiment.Config], ways: int) -> None:
    config = tiny(mesh__data=8 // ways, mesh__fsdp=ways)
    current = planner.set_up(config, topology.parse("a100:8"))
    found = accounting.of_state(current)
    assert {name: found[name] for name in ("parameters", "momentum", "optimiser")} == closed_form(current, ways)
    slots = math.ceil(config.contrast.bank_size / config.train.batch_size)
    keys = slots * config.train.batch_size * config.model.embedding * 4 // 8
    assert found["banks"] - 2 * keys < 2 * 4 * (slots * config.train.batch_size + slots + 2)
    assert sum(found.values()) == sum(leaf.bytes for leaf in accounting.leaves(current))


def test_errors_of_the_compiler_are_read() -> None:
    single = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (26.25G) "
        "exceeds available HBM (15.75G)."
    )
    several = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.50M of 15.75G hbm. Exceeded hbm"
    assert accounting.overflow(single) == (26.25 * 2**30, 15.75 * 2**30)
    assert accounting.overflow(several) == (512.5 * 2**20, 15.75 * 2**30)
    assert accounting.overflow("INTERNAL: Used 1G of 2G hbm") is None


@pytest.fixture(scope="module")
def cpu_plan() -> planner.DevicePlan:
    from conftest import tiny_dict

    from wenlan_jax.tasks import experiment

    config = experiment.parse(tiny_dict(mesh__replica=2, mesh__fsdp=4, train__batch_size=16))
    return planner.make(config, topology.parse("a100:2x4"), SHARES)


def test_gpus_are_planned_from_the_program_for_cpus(cpu_plan: planner.DevicePlan) -> None:
    assert cpu_plan.simulated and cpu_plan.fits
    assert any("program for CPUs" in note for note in cpu_plan.notes)
    assert cpu_plan.memory is not None and cpu_plan.costs is not None
    assert cpu_plan.memory.padding == 0
    assert {name: cpu_plan.memory.parts[name] for name in cpu_plan.state} == cpu_plan.state
    assert cpu_plan.needed == cpu_plan.memory.total > sum(cpu_plan.state.values())
    assert cpu_plan.available == 0.9 * 80e9
    assert cpu_plan.costs.work.links > 0 and cpu_plan.costs.work.network > 0
    assert cpu_plan.costs.work.flops == cpu_plan.flops / 8
    assert 0 < cpu_plan.costs.bound.bound < cpu_plan.costs.estimate.sequence


def test_what_does_not_fit_is_said(cpu_plan: planner.DevicePlan) -> None:
    assert not dataclasses.replace(cpu_plan, available=cpu_plan.needed - 1).fits
    assert not dataclasses.replace(cpu_plan, memory=None, needed=0.0).fits


@pytest.mark.slow
def test_search_finds_what_fits(tiny: Callable[..., experiment.Config], monkeypatch: pytest.MonkeyPatch) -> None:
    config, spot = tiny(), topology.parse("a100:1")
    first = planner.make(config, spot, SHARES)
    room = dataclasses.replace(spot.device, memory=first.needed * 1.3 / planner.GPU_SHARE)
    small = dataclasses.replace(spot, device=room)
    monkeypatch.setattr(search, "MOST_BATCHES", 1)
    monkeypatch.setattr(remat, "choices", lambda config: iter([dict.fromkeys(remat.of(config), False)]))
    monkeypatch.setattr(search, "ACCUMULATIONS", (1,))
    chosen, plan = search.search(config, small, SHARES)
    assert plan.fits and chosen.train.batch_size == plan.batch_size >= config.train.batch_size
    assert remat.text(chosen) == "nothing"
    none = dataclasses.replace(small, device=dataclasses.replace(room, memory=1e3))
    with pytest.raises(search.NothingFits, match="more devices"):
        search.search(config, none, SHARES)


class TestTpu:
    """With TPU's own compiler."""

    pytestmark = needs_tpu_compiler

    def test_bytes_and_collectives(self, tiny: Callable[..., experiment.Config]) -> None:
        """The parts have their closed form, and no all-gather brings a bank together."""
        config = tiny(mesh__data=-1, contrast__bank_size=4000)
        current = planner.set_up(config, topology.parse("v5e:2x4"))
        batch = accounting.abstract_batch(current)
        compiled = setup.compile_step(current, batch)
        memory = accounting.of_program(current, batch, compiled.memory_analysis())
        assert {name: memory.parts[name] for name in ("parameters", "optimiser")} == {
            name: value for name, value in closed_form(current, 1).items() if name != "momentum"
        }
        assert (
            memory.padding > 0 and memory.total > memory.arguments >= compiled.memory_analysis().argument_size_in_bytes
        )
        bank = math.prod(current.shapes.banks["image"].keys.shape)
        found = collectives.collectives(compiled.as_text())
        gathered = [math.prod(dims) for one in found if one.kind == "all-gather" for _, dims in one.shapes]
        assert found and max(gathered, default=0) < bank

    @pytest.mark.slow
    @pytest.mark.parametrize("text", ["v5p:2x2x1", "v5e:2x2*2"])
    def test_a_plan(self, tiny: Callable[..., experiment.Config], text: str) -> None:
        spot = topology.parse(text)
        config = tiny(mesh__replica=spot.islands, mesh__data=1, mesh__fsdp=-1)
        plan = planner.make(config, spot, SHARES)
        assert plan.fits and not plan.simulated and plan.costs is not None
        assert (plan.costs.work.network > 0) == (spot.islands > 1)
        assert plan.costs.compiler_bytes > 0

    def test_a_program_that_does_not_fit_is_a_verdict(self, tiny: Callable[..., experiment.Config]) -> None:
        plan = planner.make(tiny(contrast__bank_size=2**28), topology.parse("v5e:1x1"), SHARES)
        assert not plan.fits and plan.memory is None and plan.costs is None
        assert plan.needed > plan.available > 15 * 2**30


def test_the_command_lists_the_meshes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--presets"]) == 0
    assert "14x8_gpus" in capsys.readouterr().out


def test_the_command_explains_every_leaf(capsys: pytest.CaptureFixture[str]) -> None:
    fields = ["--config.model.text.bert.vocab_size=2500", "--config.mesh.preset=8_gpus"]
    assert cli.main(["plan", f"--config={QUICKSTART}", "--topology", "a100:8", "--explain", *fields]) == 0
    lines = capsys.readouterr().out.splitlines()
    word = next(line for line in lines if line.startswith("params/text/backbone/embeddings/word"))
    assert word.split() == [
        "params/text/backbone/embeddings/word/embedding",
        "float32[2500,128]",
        "(-,",
        "fsdp)",
        "160,000",
    ]
    assert lines[-1].startswith("total")


def test_the_command_explains_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--topology=v5e:2x2"]) == 1
    assert "--config and --topology are needed" in capsys.readouterr().err
    assert cli.main(["plan", f"--config={QUICKSTART}", "--topology=a100:1"]) == 1
    assert "vocab_size: 0 takes its rows from a tokenizer, and a plan has none" in capsys.readouterr().err


def test_the_command_reports(
    cpu_plan: planner.DevicePlan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(planner, "make", lambda *_: cpu_plan)
    command = ["plan", f"--config={QUICKSTART}", "--topology=a100:2x2", "--batch=128"]
    assert cli.main([*command, f"--json={tmp_path / 'plans.jsonl'}"]) == 0
    text = capsys.readouterr().out
    for words in ("FITS", "all-reduce", "650 million pairs", "activations and temporaries", "note: from a program"):
        assert words in text
    figures = json.loads((tmp_path / "plans.jsonl").read_text())
    assert figures["fits"] and figures["memory"]["parts"]["parameters"] == cpu_plan.state["parameters"]
    assert figures["hours"]["estimate"] == pytest.approx(
        math.ceil(650e6 / cpu_plan.batch_size) * figures["step_seconds"]["estimate"] / 3600
    )
    monkeypatch.setattr(planner, "make", lambda *_: dataclasses.replace(cpu_plan, memory=None, costs=None))
    assert cli.main([*command, "--table"]) == 1
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert rows[-1].count("|") == rows[0].count("|") and "does not fit" in rows[-1]
