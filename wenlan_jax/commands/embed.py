"""`wenlan embed`: writes embeddings of a data set by a trained model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.util.arguments import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan embed`."""
    parser.description = (
        "Write the embeddings of all images and texts of a data set, SPLIT.images.npy and SPLIT.texts.npy,\n"
        "float32 unit rows, for `wenlan score` or for your own search. Fields data.*, eval.* and mesh.* may be set."
    )
    parser.epilog = (
        "example:\n  wenlan embed --workdir=runs/quickstart --config.data.source=data/web --out=embeddings/web"
    )
    parser.add_argument("--workdir", type=Path, required=True, help="directory of a training run or of an import")
    parser.add_argument("--out", type=Path, required=True, help="directory for the arrays")
    parser.add_argument("--step", type=whole(0), help="checkpoint (default: the newest)")
    parser.add_argument("--splits", nargs="+", default=[], help="splits to embed (default: all)")


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan embed` and returns the exit status."""
    from wenlan_jax.applications import embed

    embed.run_embed(arguments.workdir, arguments.step, arguments.out, arguments.splits, fields)
    return 0
