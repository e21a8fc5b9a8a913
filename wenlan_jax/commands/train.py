"""`wenlan train`: trains a model, or goes on with a training."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.commands import ADVICE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan train`."""
    parser.description = (
        "Train a model and evaluate it. WORKDIR receives checkpoints/, metrics.jsonl, result.json, curves.png and\n"
        "gallery.html. The same command again continues from the newest checkpoint, bit for bit. Ctrl-C or SIGTERM\n"
        "saves the state and ends with status 128 + the signal's number.\n\n" + ADVICE + " `wenlan fields` lists them."
    )
    parser.epilog = "example:\n  wenlan train --config=configs/quickstart.py --workdir=runs/first --config.seed=1"
    parser.add_argument("--config", type=Path, required=True, help="a configuration file, e.g. configs/quickstart.py")
    parser.add_argument("--workdir", type=Path, required=True, help="directory of this run, made if absent")
    parser.add_argument(
        "--profile",
        metavar="FIRST:COUNT",
        help="trace COUNT steps from step FIRST into WORKDIR/profile, for xprof; short for --config.telemetry.profile",
    )


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan train` and returns the exit status."""
    began = time.time()
    if arguments.profile is not None:
        fields = [*fields, f"--config.telemetry.profile={arguments.profile}"]
    from wenlan_jax.tasks import experiment

    config = experiment.load(arguments.config, fields)
    from wenlan_jax.training import loop

    loop.train(config, arguments.workdir, began)
    return 0
