"""How correlated the pairs of each source are, by a model's own similarities, and the filter that goes by them.

A pair's score is the cosine of its embeddings. Shuffled pairs (a text with the image of another record of the same
source) show the scores of no correlation at all; with t_q their quantile q, the share of true pairs above t_q is

    S(q) = w P(correlated pair > t_q) + (1 - w) (1 - q)

when a share w of the pairs is correlated and the rest is noise. Where correlated pairs lie above t_q, w is
(S(q) - (1 - q)) / q, which is reported. A filter at quantile q removes a share q of the noise, whatever the model's
scale of scores is, and leaves weak pairs above t_q alone.

A row of embeddings may have any length but must have a direction: a pair with a row that is not finite, or zero, has no
score (NaN). It is counted, has no part in any quantile, and does not pass the filter.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, UInt16

from wenlan_jax.data import sources
from wenlan_jax.prepare.clean.options import ScoreLimits
from wenlan_jax.prepare.clean.shards import CleanError, RecordShard
from wenlan_jax.prepare.clean.signatures import TRAINING
from wenlan_jax.util import atomic_files, json_files, progress_line

REPORT_NAME, FIGURE_NAME = "scores.json", "scores.png"
NOTE = "embeddings.json"
"""Beside arrays that `wenlan embed` wrote: what they were made of and by."""

_LEVELS = 1001
"""Quantiles of the shuffled scores that are kept, evenly spaced from 0 to 1."""
_BINS = np.linspace(-1.0, 1.0, 101)
_CHUNK = 8192


@dataclasses.dataclass(frozen=True)
class SplitPairs:
    """The texts of one split: `first[row]` is the first text of a record, `source` numbers the names in the report."""

    first: Int[np.ndarray, " records_and_end"]
    source: UInt16[np.ndarray, " texts"]
    score: Float32[np.ndarray, " texts"]
    shuffled: Float32[np.ndarray, " texts"]


def score(place: Path, embeddings: Path, out: Path, quantile: float, seed: int) -> dict[str, Any]:
    """Scores all pairs of a packed directory; writes arrays, scores.json and scores.png.

    Args:
        place: the packed directory.
        embeddings: holds SPLIT.images.npy (records, dim) and SPLIT.texts.npy (texts, dim) of every split, in the
            order of the records and of the texts within them.
        out: the folder for the results.
        quantile: of the shuffled scores, above which true pairs are counted.
        seed: of the shuffle.

    Returns:
        The report, which scores.json holds, too.

    Raises:
        CleanError: when the arrays do not fit the records.
    """
    if not 0.0 < quantile < 1.0:
        raise CleanError(f"quantile {quantile} must lie between 0 and 1")
    atomic_files.check_kind(out, REPORT_NAME)
    names: dict[str, int] = {}
    _check_note(embeddings / NOTE, place)
    splits = {
        split: _score_split(place, split, embeddings, names, seed) for split in sources.open_builder(place).info.splits
    }
    (out / REPORT_NAME).unlink(missing_ok=True)  # it comes last, and says that the arrays are all of one call
    for split, pairs in splits.items():
        for field in dataclasses.fields(SplitPairs):
            content = io.BytesIO()
            np.save(content, getattr(pairs, field.name))
            atomic_files.write(out / f"{split}.{field.name}.npy", content.getvalue())
    report = {"quantile": quantile, "sources": _by_source(list(splits.values()), names, quantile)}
    atomic_files.write_json(out / REPORT_NAME, report)
    _draw(report, out / FIGURE_NAME)
    return report


def correlated_share(scores: np.ndarray, shuffled: np.ndarray, quantile: float) -> float:
    """Estimates the share of correlated pairs, in the sense of this module's docstring.

    Args:
        scores: of the true pairs.
        shuffled: of shuffled pairs.
        quantile: of the shuffled scores, above which true pairs are counted.

    Returns:
        The share, within [0, 1].
    """
    above = float((scores > np.quantile(shuffled, quantile)).mean())
    return float(np.clip((above - (1.0 - quantile)) / quantile, 0.0, 1.0))


class Filter:
    """Which texts of a split score above the threshold of their source."""

    def __init__(self, first: np.ndarray, score: np.ndarray, limit: np.ndarray, where: str) -> None:
        self._first, self._score, self._limit, self._where = first, score, limit, where

    @staticmethod
    def of(chosen: ScoreLimits, shard: RecordShard) -> Filter | None:
        """The filter for `shard`; None when filtering is off or the shard is of an evaluation set or a protected split:
        a model must not choose what it is evaluated on."""
        if chosen.quantile == 0 or shard.role != TRAINING:
            return None
        if shard.source >= len(chosen.directories):
            raise CleanError(f"{shard.place}: scores.directories names no scores for source {shard.source + 1}")
        place = Path(chosen.directories[shard.source])
        try:
            report = json_files.read(place / REPORT_NAME, dict[str, Any])
            sources_of = json_files.parse(
                json.dumps(report.get("sources")), dict[str, _Source], f"{place / REPORT_NAME}"
            )
            pairs = _read_pairs(place, shard.split, len(sources_of))
        except ValueError as error:
            raise CleanError(
                f"{place}: holds no scores of split {shard.split!r} ({error}); run `wenlan score`"
            ) from error
        levels = np.linspace(0.0, 1.0, _LEVELS)
        limits = [np.interp(chosen.quantile, levels, found.shuffled_quantiles) for found in sources_of.values()]
        return Filter(pairs.first, pairs.score, np.array(limits)[pairs.source], f"{place}: {shard.split}")

    def reasons(self, row: int, texts: int) -> list[str]:
        """Why each of the `texts` texts of record `row` goes; "" for one that stays."""
        if row + 1 >= len(self._first) or self._first[row + 1] - self._first[row] != texts:
            raise CleanError(f"{self._where}: the scores are not those of this data (record {row}); score it again")
        of = slice(self._first[row], self._first[row + 1])
        pairs = zip(self._score[of].tolist(), self._limit[of].tolist(), strict=True)
        return ["no_score" if math.isnan(score) else "" if score > limit else "low_score" for score, limit in pairs]


@dataclasses.dataclass(frozen=True)
class _Source:
    """What the report says of a source, see `_by_source`."""

    pairs: int
    unscored: int
    threshold: float
    share_above: float
    correlated_share: float
    histogram: list[int]
    shuffled_histogram: list[int]
    shuffled_quantiles: list[float]

    def __post_init__(self) -> None:
        if len(self.shuffled_quantiles) != _LEVELS:
            raise ValueError(f"{len(self.shuffled_quantiles)} quantiles in place of {_LEVELS}")


def _read_pairs(place: Path, split: str, count: int) -> SplitPairs:
    """The arrays of a split. Raises ValueError for those that are damaged, or do not belong together."""
    read = {}
    for field, kind in (("first", "i"), ("source", "u"), ("score", "f"), ("shuffled", "f")):
        file = place / f"{split}.{field}.npy"
        read[field] = json_files.read_array(file)
        if read[field].ndim != 1 or read[field].dtype.kind != kind:
            raise ValueError(f"{file}: is {read[field].dtype}{read[field].shape}")
    pairs = SplitPairs(**read)
    texts = len(pairs.score)
    fit = len(pairs.first) and pairs.first[0] == 0 and pairs.first[-1] == texts and (np.diff(pairs.first) >= 0).all()
    if not fit or len(pairs.source) != texts or len(pairs.shuffled) != texts or (pairs.source >= count).any():
        raise ValueError(f"{place}: the arrays of split {split} are not of one another")
    return pairs


def _check_note(file: Path, place: Path) -> None:
    """Raises CleanError where `wenlan embed` has noted that its arrays are of other data than `place`."""
    try:
        note = json_files.read_if_any(file, dict[str, Any])
        data = {} if note is None else json_files.parse(json.dumps(note.get("data")), dict[str, Any], str(file))
        listed = json_files.parse(json.dumps(data.get("files", [])), list[list[Any]], str(file))
    except json_files.NoteError as error:
        raise CleanError(f"{error}; embed the data again into another directory") from error
    embedded = [row[:2] for row in sources.of_records(listed)]  # name and size; a copy has other times
    if note is not None and embedded != [row[:2] for row in sources.identity(str(place), place.parent)]:
        raise CleanError(f"{file}: the embeddings are of other data than {place} ({data.get('source')}); embed it")


def _score_split(place: Path, split: str, embeddings: Path, names: dict[str, int], seed: int) -> SplitPairs:
    source = sources.TfdsSource(place, split, place.name)
    counts, owners = np.zeros(len(source), np.int64), np.zeros(len(source), np.uint16)
    for row in range(len(source)):
        record = source[row]
        counts[row], owners[row] = len(record.texts), names.setdefault(record.source, len(names))
    first = np.r_[0, np.cumsum(counts)]
    image = _embeddings(embeddings / f"{split}.images.npy", len(source), "records")
    text = _embeddings(embeddings / f"{split}.texts.npy", int(first[-1]), "texts")
    if image.shape[1] != text.shape[1]:
        raise CleanError(
            f"{embeddings}: images of split {split} have {image.shape[1]} dimensions, texts {text.shape[1]}; they "
            "are of two models"
        )
    rows = np.repeat(np.arange(len(source)), counts)
    others = _others(rows, owners, np.random.default_rng(seed))
    return SplitPairs(first, owners[rows], _cosines(image, text, rows), _cosines(image, text, others))


def _embeddings(path: Path, rows: int, what: str) -> np.ndarray:
    try:
        found = json_files.read_array(path, mapped=True)
    except json_files.NoteError as error:
        raise CleanError(f"{path}: cannot be read ({error}); write one row for each of the {rows} {what}") from error
    if found.ndim != 2 or len(found) != rows or found.dtype.kind not in "fiu":
        raise CleanError(f"{path}: has shape {found.shape}, but the split has {rows} {what}")
    _tell_without_direction(path, found)
    return found


def _tell_without_direction(path: Path, found: np.ndarray) -> None:
    count, first = 0, -1
    for start in range(0, len(found), _CHUNK):
        bad = np.flatnonzero(np.isnan(_unit(found[start : start + _CHUNK])).any(axis=1))
        first = start + int(bad[0]) if first < 0 and len(bad) else first
        count += len(bad)
    if count:
        progress_line.say(
            f"{path}: {count} of {len(found)} rows, the first is row {first}, are not finite or zero: no score"
        )


def _others(rows: np.ndarray, owners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each text a random record of the same source, another one than its own where there is one."""
    others = rows.copy()
    for owner in np.unique(owners):
        members = np.flatnonzero(owners == owner)
        at = np.flatnonzero(owners[rows] == owner)
        place = np.searchsorted(members, rows[at])
        step = rng.integers(1, len(members), len(at)) if len(members) > 1 else np.zeros(len(at), np.int64)
        others[at] = members[(place + step) % len(members)]
    return others


def _cosines(image: np.ndarray, text: np.ndarray, rows: np.ndarray) -> Float32[np.ndarray, " texts"]:
    found = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        one, other = _unit(image[rows[part]]), _unit(text[part])
        found[part] = (one * other).sum(axis=1)
    return found


def _unit(values: np.ndarray) -> Float[np.ndarray, "rows dim"]:
    """Rows of length 1; NaN for those without a direction."""
    values = np.asarray(values, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(values, axis=1, keepdims=True)
        good = np.isfinite(values).all(axis=1, keepdims=True) & np.isfinite(length) & (length > 0)
        return np.where(good, values / np.maximum(length, 1e-12), np.float32(np.nan))


def _by_source(splits: Sequence[SplitPairs], names: dict[str, int], quantile: float) -> dict[str, Any]:
    owner, true, shuffled = (
        np.concatenate([getattr(pairs, name) for pairs in splits]) for name in ("source", "score", "shuffled")
    )
    report = {}
    for name, number in names.items():
        all_of = owner == number
        if not all_of.any():
            raise CleanError(f"source {name!r} has no texts to score")
        known, other = true[all_of & np.isfinite(true)], shuffled[all_of & np.isfinite(shuffled)]
        if not len(known) or not len(other):
            raise CleanError(f"source {name!r} has no pair with a score: see the rows that were told; embed it again")
        limit = float(np.quantile(other, quantile))
        report[name] = {
            "pairs": len(known),
            "unscored": int(all_of.sum()) - len(known),
            "threshold": limit,
            "share_above": float((known > limit).mean()),
            "correlated_share": correlated_share(known, other, quantile),
            "histogram": np.histogram(known, _BINS)[0].tolist(),
            "shuffled_histogram": np.histogram(other, _BINS)[0].tolist(),
            "shuffled_quantiles": np.quantile(other, np.linspace(0.0, 1.0, _LEVELS)).tolist(),
        }
    return report


def _draw(report: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    found = report["sources"]
    figure = Figure(figsize=(7, 2.4 * len(found)), layout="constrained")
    for axes, (name, of) in zip(np.ravel(figure.subplots(len(found), 1)), found.items(), strict=True):
        axes.stairs(of["histogram"], _BINS, label="pairs", fill=True, alpha=0.5)
        axes.stairs(of["shuffled_histogram"], _BINS, label="shuffled pairs")
        axes.axvline(of["threshold"], linestyle=":", label=f"quantile {report['quantile']:g} of the shuffled")
        axes.set_title(f"{name or 'no source'}: {of['correlated_share']:.1%} of {of['pairs']} pairs correlated")
        axes.set_xlabel("cosine")
        axes.legend()
    figure.savefig(path, dpi=100)
