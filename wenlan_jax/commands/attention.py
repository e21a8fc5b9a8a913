"""`wenlan attention`: draws where the words of a text look."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from wenlan_jax.applications.requests import AttentionRequest
from wenlan_jax.config.options import Options

REQUEST = Options(AttentionRequest)

DESCRIPTION = """\
Draw where the words of a text look in an image: the attention of a single tower's last layer from each word to
the regions, mean of all heads. Writes one page an image, SPLIT.ROW.html, with a line of panels for each language.

The texts are the image's own, the first of eval.kinds in each language. Fields of the sections data, eval and
mesh may be set."""

EXAMPLE = """\
example:
  wenlan attention --workdir=runs/mlmm --out=runs/mlmm/attention --rows 0 7 --languages en zh"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan attention`."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLE
    REQUEST.add(parser)


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan attention` and returns the exit status."""
    from wenlan_jax.applications import attention_job

    attention_job.run(REQUEST.read(arguments, fields=tuple(fields)))
    return 0
