"""What `wenlan rerank` and `wenlan attention` can be asked for. Free of jax, as the command line reads it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from wenlan_jax.config.options import REQUIRED, option
from wenlan_jax.util import languages


@dataclasses.dataclass(frozen=True)
class RerankRequest:
    """What to re-rank.

    Attributes:
        fields: `--config.field=value` each, for both models.
    """

    workdir: Path = option(REQUIRED, "of the two towers: a training run or an import")
    single: Path = option(REQUIRED, "of the single tower: a training run or an import")
    out: Path = option(REQUIRED, "directory for the results")
    depths: tuple[int, ...] = option(
        (10, 30), "candidates of a query that are re-ranked; one line of the table each", low=1, metavar="K"
    )
    step: int | None = option(None, "checkpoint of the two towers", low=0, usual="the newest")
    single_step: int | None = option(None, "checkpoint of the single tower", low=0, usual="the newest")
    speed_images: int = option(
        32,
        "images that both models rank to compare their speed, with all their texts; 0: no comparison",
        low=0,
        metavar="N",
    )
    judgements: Path | None = option(
        None,
        'what people judged, a line each: {"text": TEXT, "image": ID OF THE RECORD, "grade": NUMBER FROM 0}; '
        "adds NDCG and MAP of these texts, counted as config.eval.graded says",
        metavar="FILE",
    )
    fields: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class AttentionRequest:
    """What to draw.

    Attributes:
        fields: `--config.field=value` each.
    """

    workdir: Path = option(REQUIRED, "of a single tower: a training run or an import")
    out: Path = option(REQUIRED, "directory for the pages")
    step: int | None = option(None, "checkpoint", low=0, usual="the newest")
    rows: tuple[int, ...] = option((0, 1, 2), "records, from 0", low=0, metavar="ROW")
    split: str | None = option(None, "where the records are", read=str, usual="the first of eval.final_splits")
    languages: tuple[str, ...] = option(
        (), "of the texts", read=languages.typed, metavar="CODE", usual="eval.languages, else all"
    )
    renormalise: bool = option(
        False, "divide a word's weights by their sum over the regions; the rest of its attention is on the text"
    )
    fields: tuple[str, ...] = ()
