"""`wenlan rerank`: its arguments. The work is in `rerank_job.py`, which is imported late, as it needs jax."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.util.arguments import whole

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
    parser.add_argument("--workdir", type=Path, required=True, help="of the two towers: a training run or an import")
    parser.add_argument("--single", type=Path, required=True, help="of the single tower: a training run or an import")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument(
        "--top-k",
        type=whole(1),
        nargs="+",
        default=[10, 30],
        metavar="K",
        help="candidates of a query that are re-ranked; one line of the table each (default: 10 30)",
    )
    parser.add_argument("--step", type=whole(0), help="checkpoint of the two towers (default: the newest)")
    parser.add_argument("--single-step", type=whole(0), help="checkpoint of the single tower (default: the newest)")
    parser.add_argument(
        "--speed-images",
        type=whole(0),
        default=32,
        metavar="N",
        help="images that both models rank to compare their speed, with all their texts; 0: no comparison "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--judgements",
        type=Path,
        metavar="FILE",
        help='what people judged, a line each: {"text": TEXT, "image": ID OF THE RECORD, "grade": NUMBER FROM 0}; '
        "adds NDCG and MAP of these texts, counted as config.eval.graded says",
    )


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan rerank`.

    Args:
        arguments: the parsed arguments.
        fields: `--config.field=value` each.

    Returns:
        The exit status.
    """
    from wenlan_jax.applications import rerank_job

    rerank_job.run(
        rerank_job.RerankRequest(
            workdir=arguments.workdir,
            single=arguments.single,
            out=arguments.out,
            depths=tuple(arguments.top_k),
            step=arguments.step,
            single_step=arguments.single_step,
            speed_images=arguments.speed_images,
            judgements=arguments.judgements,
            fields=tuple(fields),
        )
    )
    return 0
