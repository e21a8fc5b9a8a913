"""`wenlan bench`: measures speed, memory and where they go."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.commands import ADVICE
from wenlan_jax.util.arguments import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan bench`."""
    parser.description = (
        "Measure the training step of a configuration on random pairs: pairs/s, FLOPs, share of the measured\n"
        "matrix-product peak, time per part, memory.\n\n" + ADVICE
    )
    parser.epilog = (
        "examples:\n  wenlan bench --config=configs/bench_b0.py --against=torch\n  wenlan bench --data --against=torch"
    )
    parser.add_argument("--config", type=Path, help="a configuration file; --data has one without it")
    parser.add_argument(
        "--steps",
        type=whole(1),
        default=10,
        help="measured steps, of each side and round in a comparison (default: %(default)s)",
    )
    parser.add_argument(
        "--against",
        choices=("torch",),
        help="time the PyTorch reference side by side, same weights, same batch, steps in turn (extra [torch])",
    )
    parser.add_argument(
        "--conversion",
        action="store_true",
        help="instead: time and memory of an import and an export at the configuration's size (extra [torch])",
    )
    parser.add_argument(
        "--data", action="store_true", help="instead: records a CPU-second of the data loader, beside decoding alone"
    )
    parser.add_argument(
        "--data-records", type=whole(1), default=96, metavar="N", help="images made for --data (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan bench` and returns the exit status."""
    from wenlan_jax.tasks import experiment

    if arguments.data:
        from wenlan_jax.bench import data

        config = (
            experiment.load(arguments.config, fields)
            if arguments.config
            else experiment.override(experiment.default(), fields)
        )
        data.run_data(config, arguments.data_records, arguments.against, arguments.json)
        return 0
    if arguments.config is None:
        raise experiment.ConfigError("--config: name a configuration file, e.g. configs/bench_b0.py")
    if arguments.conversion:
        from wenlan_jax.bench import torch_side

        torch_side.require("--conversion")
        from wenlan_jax.bench import conversion

        conversion.run_conversion(arguments.config, fields, arguments.json)
        return 0
    config = experiment.load(arguments.config, fields)
    from wenlan_jax.bench import step

    step.run_bench(config, arguments.steps, arguments.against, arguments.json)
    return 0
