"""`wenlan attention`: its arguments. The work is in `attention_job.py`, which is imported late, as it needs jax."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.util import languages
from wenlan_jax.util.arguments import whole

DESCRIPTION = """\
Draw where the words of a text look in an image: the attention of a single tower's last layer from each word to
the regions, mean of all heads. Writes one page an image, SPLIT.ROW.html, with a line of panels for each language.

The texts are the image's own, the first of eval.kinds in each language. Fields of the sections data, eval and
mesh may be set."""

EXAMPLE = """\
example:
  wenlan attention --workdir=runs/mlmm --out=runs/mlmm/attention --rows 0 7 --languages en zh"""


def _language(text: str) -> str:
    try:
        return languages.typed(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan attention`."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLE
    parser.add_argument("--workdir", type=Path, required=True, help="of a single tower: a training run or an import")
    parser.add_argument("--out", type=Path, required=True, help="directory for the pages")
    parser.add_argument("--step", type=whole(0), help="checkpoint (default: the newest)")
    parser.add_argument(
        "--rows", type=whole(0), nargs="+", default=[0, 1, 2], metavar="ROW", help="records, from 0 (default: 0 1 2)"
    )
    parser.add_argument("--split", help="where the records are (default: the first of eval.final_splits)")
    parser.add_argument(
        "--languages",
        nargs="+",
        type=_language,
        default=[],
        metavar="CODE",
        help="of the texts (default: eval.languages, else all)",
    )
    parser.add_argument(
        "--renormalise",
        action="store_true",
        help="divide a word's weights by their sum over the regions; the rest of its attention is on the text",
    )


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan attention`.

    Args:
        arguments: the parsed arguments.
        fields: `--config.field=value` each.

    Returns:
        The exit status.
    """
    from wenlan_jax.applications import attention_job

    attention_job.run(
        attention_job.AttentionRequest(
            workdir=arguments.workdir,
            out=arguments.out,
            step=arguments.step,
            rows=tuple(arguments.rows),
            split=arguments.split,
            languages=tuple(arguments.languages),
            renormalise=arguments.renormalise,
            fields=tuple(fields),
        )
    )
    return 0
