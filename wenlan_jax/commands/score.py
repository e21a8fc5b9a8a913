"""`wenlan score`: measures how correlated pairs are."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.util.arguments import LARGEST_SEED, real, whole

DESCRIPTION = """\
Measure how correlated the pairs of each source are, by embeddings of a model of yours.

EMBEDDINGS holds SPLIT.images.npy (a row for each record) and SPLIT.texts.npy (a row for each text, in the order of
the records) for every split of SOURCE. OUT receives scores.json, scores.png (true against shuffled pairs) and the
scores, which `wenlan clean --config.scores.directories="('OUT',)" --config.scores.quantile=0.5` filters by.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan score`."""
    parser.description = DESCRIPTION
    parser.epilog = "example:\n  wenlan score data/web --embeddings runs/first/web --out scores/web"
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a directory made by `wenlan pack`")
    parser.add_argument("--embeddings", type=Path, required=True, help="directory of .npy files")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument(
        "--quantile", type=real(0, 1, inside=True), default=0.95, help="of the shuffled scores (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=whole(0, LARGEST_SEED), default=0, help="of the shuffling (default: %(default)s)"
    )


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan score`, prints a line for each source, and returns the exit status."""
    del fields
    from wenlan_jax.prepare.clean import scores

    report = scores.score(arguments.source, arguments.embeddings, arguments.out, arguments.quantile, arguments.seed)
    for name, of in report["sources"].items():
        print(
            f"{name or 'no source'}: {of['pairs']} pairs, {of['share_above']:.1%} above the quantile "
            f"{report['quantile']:g} of shuffled pairs ({of['threshold']:.3f}): {of['correlated_share']:.1%} correlated"
            + (f"; {of['unscored']} pairs without a score" if of["unscored"] else "")
        )
    return 0
