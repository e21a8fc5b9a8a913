"""`wenlan export`: writes a trained model for PyTorch users, with proof."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from wenlan_jax.config.options import Options
from wenlan_jax.convert import EXPORT_FORMATS
from wenlan_jax.convert.requests import ExportRequest

REQUEST = Options(ExportRequest)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan export`."""
    known = "\n".join(f"  {name:12} {of.meaning}" for name, of in EXPORT_FORMATS.items())
    parser.description = (
        "Export a checkpoint of a training run, of whatever mesh. The artefact is run beside the JAX towers on a\n"
        "fixed batch; OUT appears only if they agree, with the figures in parity.json. Formats:\n\n" + known
    )
    parser.epilog = (
        "examples:\n  wenlan export --workdir=runs/quickstart --format=torch --out=exports/quickstart\n"
        "  wenlan export --workdir=runs/mlmm --format=uc2 --out=exports/mlmm"
    )
    REQUEST.add(parser)


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan export` and returns the exit status."""
    del fields
    from wenlan_jax.convert import exporting

    exporting.run_export(REQUEST.read(arguments))
    return 0
