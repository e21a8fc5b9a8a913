"""`wenlan clean` and `wenlan score`: their arguments, and what they print."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.prepare.clean import options
from wenlan_jax.prepare.clean.runners import Local, Runner
from wenlan_jax.util.arguments import LARGEST_SEED, real, whole

DESCRIPTION = """\
Drop bad records and texts from packed directories, and repeated ones within and across them; normalise the rest.

OUT is a packed directory again, with the counts of every reason in clean.json, samples in dropped.jsonl, and their
images in dropped/. Of equal items the first stays: protected splits, then sources in the order named. The same
command again continues an interrupted job. Every threshold is a field of the configuration:

"""

SCORE_DESCRIPTION = """\
Measure how correlated the pairs of each source are, by embeddings of a model of yours.

EMBEDDINGS holds SPLIT.images.npy (a row for each record) and SPLIT.texts.npy (a row for each text, in the order of
the records) for every split of SOURCE. OUT receives scores.json, scores.png (true against shuffled pairs) and the
scores, which `wenlan clean --config.scores.directories="('OUT',)" --config.scores.quantile=0.5` filters by.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wenlan clean`."""
    parser.description = DESCRIPTION + options.FORM.describe()
    parser.epilog = "example:\n  wenlan clean data/web data/weibo --out data/clean --config=configs/clean/web_zh.py"
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="a directory made by `wenlan pack`")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--config", type=Path, required=True, help="thresholds, e.g. configs/clean/web_zh.py")
    parser.add_argument("--workers", type=whole(0), default=1, help="processes; 0: in this one (default: %(default)s)")
    parser.add_argument(
        "--runner",
        choices=("local", "beam"),
        default="local",
        help="beam: extra `beam` (default: %(default)s)",
    )
    parser.add_argument(
        "--beam-options", default="", metavar="OPTIONS", help='e.g. "--runner=FlinkRunner --parallelism=64"'
    )  # fmt: skip


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `wenlan clean`, prints the report, and returns the exit status."""
    from wenlan_jax.prepare.clean import job

    chosen = options.load(arguments.config, rest)
    report = job.clean(arguments.sources, arguments.out, chosen, _runner(arguments))
    print(report.summary())
    print(f"          samples of each reason are in {arguments.out / job.DROPPED_NAME}")
    return 0


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wenlan score`."""
    parser.description = SCORE_DESCRIPTION
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


def run_score(arguments: argparse.Namespace) -> int:
    """Runs `wenlan score`, prints a line for each source, and returns the exit status."""
    from wenlan_jax.prepare.clean import scores

    report = scores.score(arguments.source, arguments.embeddings, arguments.out, arguments.quantile, arguments.seed)
    for name, of in report["sources"].items():
        print(
            f"{name or 'no source'}: {of['pairs']} pairs, {of['share_above']:.1%} above the quantile "
            f"{report['quantile']:g} of shuffled pairs ({of['threshold']:.3f}): {of['correlated_share']:.1%} correlated"
            + (f"; {of['unscored']} pairs without a score" if of["unscored"] else "")
        )
    return 0


def _runner(arguments: argparse.Namespace) -> Runner:
    from wenlan_jax.prepare.clean.shards import CleanError

    if arguments.workers < 0:
        raise CleanError(f"--workers {arguments.workers}: must not be negative")
    if arguments.runner == "local":
        if arguments.beam_options:
            raise CleanError("--beam-options: only with --runner beam")
        return Local(arguments.workers)
    try:
        from wenlan_jax.prepare.clean.beam import Beam
    except ImportError as error:
        raise CleanError(f"--runner beam needs Apache Beam ({error}): install wenlan_jax[beam]") from error
    return Beam(tuple(shlex.split(arguments.beam_options)))
