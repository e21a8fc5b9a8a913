"""`wenlan import`: takes over weights of PyTorch models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.commands import ADVICE
from wenlan_jax.config.options import Options
from wenlan_jax.convert import IMPORT_FORMATS
from wenlan_jax.convert.requests import ImportRequest

REQUEST = Options(ImportRequest, {"source": "from"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan import`."""
    known = "\n".join(f"  {name:12} {meaning}" for name, meaning in IMPORT_FORMATS.items())
    parser.description = (
        "Import PyTorch weights that fit a configuration; `wenlan train --config.init_from=OUT` starts from them.\n"
        "Several imports into the same OUT add up, e.g. an image backbone and a text backbone. Formats:\n\n"
        f"{known}\n\n{ADVICE}"
    )
    parser.epilog = (
        "examples:\n  wenlan import --format=bert --from=chinese-roberta-wwm-ext --config=configs/brivl_2_released.py "
        "--out=weights/start\n  wenlan import --format=bert --from=xlm-roberta-base --write-config=mine.py"
    )
    REQUEST.add(parser, "format", "source")
    parser.add_argument("--config", type=Path, help="the configuration that will be trained")
    REQUEST.add(parser, "out", required=False)
    parser.add_argument(
        "--write-config",
        type=Path,
        metavar="FILE",
        help="write --config (the default one without it) with the sizes of these weights, for --config; with --out "
        "they are also imported into it",
    )
    REQUEST.add(parser, "tower", "trust_pickle", "replace")


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan import` and returns the exit status."""
    if (arguments.config is None or arguments.out is None) and arguments.write_config is None:
        from wenlan_jax.convert.import_formats import ImportingError

        raise ImportingError("give --config and --out, or --write-config alone for a file of the weights' sizes")
    from wenlan_jax.convert import importing, source_sizes
    from wenlan_jax.tasks import experiment

    config = None
    if arguments.config is not None:
        config = experiment.load(arguments.config, fields)
    elif fields:
        config = experiment.override(experiment.default(), fields)
    if arguments.write_config is not None:
        weights, wanted = getattr(arguments, "from"), arguments.write_config
        config = source_sizes.write(config, arguments.format, weights, arguments.trust_pickle, wanted)
        print(f"{wanted} has the sizes of {weights}; read them, and use the file as --config", flush=True)
    if arguments.out is not None and config is not None:
        importing.run_import(config, REQUEST.read(arguments))
    return 0
