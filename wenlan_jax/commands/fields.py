"""`wenlan fields`: lists every configuration field with its default and source."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan fields`."""
    parser.epilog = "example:\n  wenlan fields optimizer"
    parser.add_argument("word", nargs="?", default="", help="only fields with this in their name or meaning")


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan fields` and returns the exit status."""
    del fields
    from wenlan_jax.tasks import experiment

    print(experiment.describe(arguments.word))
    return 0
