"""`wenlan eval`: measures a trained model on held-out data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.util.arguments import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan eval`."""
    parser.description = (
        "Run the evaluations of a checkpoint's task on the splits of its configuration, or on other data: fields of\n"
        "the sections data, eval and mesh may be set, e.g. --config.eval.final_splits=\"('validation',)\".\n"
        "Prints a table and writes result.json and gallery.html into --out."
    )
    parser.epilog = "example:\n  wenlan eval --workdir=runs/quickstart --config.eval.languages=\"('zh',)\""
    parser.add_argument("--workdir", type=Path, required=True, help="directory of a run of `wenlan train`")
    parser.add_argument("--step", type=whole(0), help="the checkpoint to evaluate (default: the newest)")
    parser.add_argument("--out", type=Path, help="where results are written (default: WORKDIR/eval)")


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan eval` and returns the exit status."""
    from wenlan_jax.applications import evaluate

    evaluate.run_eval(arguments.workdir, arguments.step, arguments.out or arguments.workdir / "eval", fields)
    return 0
