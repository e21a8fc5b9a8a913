"""`wenlan clean`: leaves out bad and repeated records, and says which."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.prepare.clean import options
from wenlan_jax.prepare.clean.runners import Local, Runner
from wenlan_jax.util.arguments import whole

DESCRIPTION = """\
Drop bad records and texts from packed directories, and repeated ones within and across them; normalise the rest.

OUT is a packed directory again, with the counts of every reason in clean.json, samples in dropped.jsonl, and their
images in dropped/. Of equal items the first stays: protected splits, then sources in the order named. The same
command again continues an interrupted job. Every threshold is a field of the configuration:

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan clean`."""
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


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan clean`, prints the report, and returns the exit status."""
    from wenlan_jax.prepare.clean import job

    chosen = options.load(arguments.config, fields)
    report = job.clean(arguments.sources, arguments.out, chosen, _runner(arguments))
    print(report.summary())
    print(f"          samples of each reason are in {arguments.out / job.DROPPED_NAME}")
    return 0


def _runner(arguments: argparse.Namespace) -> Runner:
    from wenlan_jax.prepare.clean.shards import CleanError

    if arguments.runner == "local":
        if arguments.beam_options:
            raise CleanError("--beam-options: only with --runner beam")
        return Local(arguments.workers)
    try:
        from wenlan_jax.prepare.clean.beam import Beam
    except ImportError as error:
        raise CleanError(f"--runner beam needs Apache Beam ({error}): install wenlan_jax[beam]") from error
    return Beam(tuple(shlex.split(arguments.beam_options)))
