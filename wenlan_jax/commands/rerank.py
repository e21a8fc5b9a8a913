"""`wenlan rerank`: orders the best answers of two towers by a single one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from wenlan_jax.applications.requests import RerankRequest
from wenlan_jax.config.options import Options

REQUEST = Options(RerankRequest, {"depths": "top-k"})

DESCRIPTION = """\
Put the best candidates of two towers in order by a single tower, which sees text and image together.

The two towers of --workdir rank every candidate of the splits in eval.final_splits, both ways; the single tower
of --single, pretrained (task mlmm) or fine-tuned (task rank), scores the first k of each query. Prints recall and
NDCG against k, the time of a query, and what it would cost to rank with the single tower alone, measured on some
images with all their texts. Writes rerank.json, and rerank.html with queries before and after, into --out.

Queries and candidates are those of the two towers' configuration. Fields of the sections data, eval and mesh may
be set; they hold for both models, which must read the same data.source."""

EXAMPLE = """\
example:
  wenlan rerank --workdir=runs/quickstart --single=runs/rank --out=runs/reranked --top-k 5 10 30 \\
      --config.eval.one_text_per_image=true"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan rerank`."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLE
    REQUEST.add(parser)


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan rerank` and returns the exit status."""
    from wenlan_jax.applications import rerank_job

    rerank_job.run(REQUEST.read(arguments, fields=tuple(fields)))
    return 0
