"""Graded human judgements of the cascade: which images people found how good for which text, and what follows.

The file has a JSON object a line, `{"text": ..., "image": ..., "grade": ...}`: a text of the split word for word, the
id of a record, and a whole number from 0, such as the sum over three annotators who each give 0, 1 or 2, which makes
the papers' 7 levels. Judge what every compared system shows: what nobody judged counts as grade 0.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wenlan_jax.applications.cascade import MeasuredWay
from wenlan_jax.config import sections
from wenlan_jax.data.sources import Source
from wenlan_jax.evaluation import graded_ranking, reranking, true_pairs
from wenlan_jax.parallel.console import say
from wenlan_jax.util.errors import WenlanError

Judged = Mapping[str, Mapping[str, int]]
"""Of each text, see `true_pairs.words`: the grade of each image that was judged for it, by the id of its record."""

Numbered = Mapping[int, Mapping[int, int]]
"""The same by the numbers of texts and the rows of images in a split."""


class JudgementsError(WenlanError, ValueError):
    """A file of judgements that cannot be read, or that does not belong to the data."""


def protocol(settings: sections.GradedConfig) -> graded_ranking.GradedProtocol:
    """Makes the protocol of graded judgements from the section `eval.graded`."""
    return graded_ranking.GradedProtocol(
        k=settings.k,
        gain=settings.gain,
        ideal=settings.ideal,
        relevant_from=settings.relevant_from,
        empty=settings.empty,
    )


def read(path: Path) -> Judged:
    """Reads the judgements of a file.

    Args:
        path: the file, a JSON object a line.

    Returns:
        The grade of each judged image of each text, by the id of its record.

    Raises:
        JudgementsError: names the line that is wrong.
    """
    found: dict[str, dict[str, int]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise JudgementsError(f"{path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        text, image, grade = _line(line, f"{path}, line {number}")
        known = found.setdefault(true_pairs.words(text), {})
        if known.setdefault(image, grade) != grade:
            raise JudgementsError(
                f"{path}, line {number}: image {image!r} has grade {known[image]} for this text already; sum up "
                "the annotators before"
            )
    if not found:
        raise JudgementsError(f"{path}: has no judgement")
    return found


def _line(line: str, place: str) -> tuple[str, str, int]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise JudgementsError(f"{place}: {error}") from error
    fields: list[Any] = []
    for name, kind, what in (
        ("text", str, "a string"),
        ("image", str, "the id of a record, a string"),
        ("grade", int, "a whole number"),
    ):
        fields.append(row.get(name) if isinstance(row, dict) else None)
        if not isinstance(fields[-1], kind) or isinstance(fields[-1], bool):
            raise JudgementsError(f"{place}: {name!r} must be {what}")
    text, image, grade = fields
    if grade < 0:
        raise JudgementsError(f"{place}: grades begin at 0, got {grade}")
    return text, image, grade


def of_split(judged: Judged, texts: Sequence[str], source: Source) -> Numbered:
    """Finds the judgements of the texts that a split has; of equal texts the first one stands for all.

    Reads the ids of all records.

    Args:
        judged: the judgements of a file.
        texts: of the split.
        source: the records of the split.

    Returns:
        The grades by number of the text and row of the image.

    Raises:
        JudgementsError: for a judged image that the split lacks or has twice.
    """
    numbers = {true_pairs.words(text): number for number, text in reversed(list(enumerate(texts)))}
    here = {text: images for text, images in judged.items() if text in numbers}
    if len(here) < len(judged):
        say(f"{len(judged) - len(here)} of {len(judged)} judged texts are none of {source.name}; left out")
    ids = [source[row].id for row in range(len(source))] if here else []
    rows, times = {name: row for row, name in enumerate(ids)}, Counter(ids)
    for image in dict.fromkeys(image for images in here.values() for image in images):
        if times[image] != 1:
            raise JudgementsError(f"{source.name}: {times[image]} records have the id {image!r}, which was judged")
    return {numbers[text]: {rows[image]: grade for image, grade in images.items()} for text, images in here.items()}


def check(judged: Numbered, how: graded_ranking.GradedProtocol) -> None:
    """Checks that some text counts, before anything is scored.

    Args:
        judged: the judgements of a split.
        how: the protocol.

    Raises:
        RankingError: if none does.
    """
    graded_ranking.evaluate({}, judged, how)


def figures(measured: MeasuredWay, judged: Numbered, how: graded_ranking.GradedProtocol) -> dict[str, float]:
    """Computes NDCG and MAP of texts as queries, at each depth of the cascade.

    Args:
        measured: the cascade; its orders must reach down to `how.k` where there are as many images.
        judged: the judgements of the split.
        how: the protocol.

    Returns:
        `graded/top_<k>/<name>`, with depth 0 for two towers; names as of `graded_ranking.evaluate`.
    """
    queries = np.array(sorted(judged))
    orders, scores = measured.way.orders[queries], measured.scores[queries]
    found: dict[str, float] = {}
    for row in measured.rows:
        lines = reranking.reorder(orders, scores[:, : row.top_k]).tolist()
        values = graded_ranking.evaluate(dict(zip(queries.tolist(), lines, strict=True)), judged, how)
        found |= {f"graded/top_{row.top_k}/{name}": value for name, value in values.items()}
    return found


def table(found: Mapping[str, float], depths: Sequence[int], how: graded_ranking.GradedProtocol) -> str:
    """Writes a line a depth: NDCG, mean average precision, and the share of the results shown that was judged.

    Args:
        found: what `figures` gave.
        depths: how many candidates were re-ranked.
        how: the protocol.

    Returns:
        The table.
    """
    texts = found["graded/top_0/queries"]
    lines = [
        f"graded judgements of {texts:.0f} texts, gain {how.gain}, relevant from grade {how.relevant_from}",
        f"{'re-ranked':<12}{f'NDCG@{how.k}':>10}{f'MAP@{how.k}':>10}{'judged':>9}",
    ]
    for depth in [0, *depths]:
        at = f"graded/top_{depth}"
        name = f"best {depth}" if depth else "none"
        lines.append(f"{name:<12}{found[f'{at}/ndcg']:>10.4f}{found[f'{at}/map']:>10.4f}{found[f'{at}/judged']:>9.1%}")
    return "\n".join(lines)
