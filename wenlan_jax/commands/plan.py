"""`wenlan plan`: says what a run needs on devices that are not here.

jax starts only after `topology.prepare` has said how many devices it is to simulate, so all that needs it is imported
late.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wenlan_jax.commands import ADVICE
from wenlan_jax.plan import topology as topologies
from wenlan_jax.tasks import experiment
from wenlan_jax.util.arguments import real, whole
from wenlan_jax.util.errors import WenlanError

if TYPE_CHECKING:
    from wenlan_jax.plan.topology import Topology
    from wenlan_jax.tasks import experiment

PAIRS = 650e6
"""Pairs of BriVL 2's training set [S]."""


class PlanError(WenlanError, ValueError):
    """Arguments of `wenlan plan` that do not go together."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan plan`."""
    parser.description = (
        "Compile the training step of a configuration for devices that are not here, and say what it will need\n"
        "there: bytes per device by part with a verdict, FLOPs, bytes moved, collectives, an estimate of the time.\n"
        "TPUs: with their own compiler (extra [tpu]), on any machine. GPUs, or without it: from XLA's program for as\n"
        "many CPUs, which is said. Topologies: v5e:16x8, v5p:4x4x4*2 (two slices), h100:8, a100:14x8 (14 machines).\n\n"
        + ADVICE
    )
    parser.epilog = (
        "examples:\n  wenlan plan --config=configs/brivl_2.py --topology=v5e:16x8 --search\n"
        "  wenlan plan --config=configs/brivl_10b.py --topology=v5p:4x4x4 --config.mesh.preset=slice --explain"
    )
    parser.add_argument("--config", type=Path, help="a configuration file")
    parser.add_argument(
        "--topology", nargs="+", action="extend", default=[], metavar="DEVICES", help="one or several, e.g. v5p:4x4x4"
    )
    parser.add_argument("--batch", type=whole(1), help="instead of the configuration's train.batch_size")
    parser.add_argument(
        "--pairs", type=real(1, 1e15), default=PAIRS, help="training pairs that hours are for (%(default)g)"
    )
    parser.add_argument("--search", action="store_true", help="the cheapest recomputation and largest batch that fit")
    parser.add_argument(
        "--explain", action="store_true", help="instead: how every leaf of the state lies, and the batch"
    )
    parser.add_argument("--presets", action="store_true", help="instead: the named meshes of mesh.preset")
    parser.add_argument("--table", action="store_true", help="print the rows of a table in Markdown, not reports")
    parser.add_argument("--json", type=Path, help="also write all figures to this file, one plan a line")


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan plan`.

    Args:
        arguments: the parsed arguments.
        fields: `--config.field=value` each.

    Returns:
        0 if everything planned fits, 1 if something does not.

    Raises:
        PlanError: for arguments that do not go together.
    """
    if not arguments.presets and not (arguments.config and arguments.topology):
        raise PlanError("--config and --topology are needed, e.g. --config=configs/brivl_2.py --topology=v5e:16x8")
    wanted = [topologies.parse(text) for text in arguments.topology]
    topologies.prepare(max((one.size for one in wanted), default=1))
    from wenlan_jax.plan import explain

    if arguments.presets:
        print(explain.presets())
        return 0
    batch = [f"--config.train.batch_size={arguments.batch}"] if arguments.batch is not None else []
    config = experiment.load(arguments.config, [*fields, *batch])
    if arguments.explain:
        from wenlan_jax.plan import planner

        for topology in wanted:
            print(explain.explain(planner.set_up(config, topology)))
        return 0
    return _plan(arguments, config, wanted)


def _plan(arguments: argparse.Namespace, config: experiment.Config, wanted: Sequence[Topology]) -> int:
    from wenlan_jax.parallel.console import say
    from wenlan_jax.plan import planner, report, roofline, search
    from wenlan_jax.tasks import remat

    shares, name, plans, rows = roofline.Shares(), arguments.config.stem, [], []
    for topology in wanted:
        if arguments.search:
            chosen, plan = search.search(config, topology, shares)
        else:
            say(f"compiling the training step of {name} for {topology} ...")
            chosen, plan = config, planner.make(config, topology, shares)
        again = remat.text(chosen)
        plans.append(plan)
        rows.append(report.table_row(name, plan, again, arguments.pairs))
        if not arguments.table:
            print(report.text(plan, topology, shares, arguments.pairs))
            print(f"recomputed in the backward pass: {again}")
        if arguments.json is not None:
            _append(arguments.json, {"config": name, "recomputed": again, **report.as_json(plan, arguments.pairs)})
    if arguments.table:
        print("\n".join([report.table_head(arguments.pairs), *rows]))
    return 0 if all(plan.fits for plan in plans) else 1


def _append(path: Path, figures: dict[str, object]) -> None:
    with path.open("a") as lines:
        lines.write(json.dumps(figures, sort_keys=True) + "\n")
