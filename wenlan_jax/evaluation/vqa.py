"""Visual question answering: soft scores, the form in which answers are compared, the label map, trivial baselines.

The protocol is that of VQA 2.0 (GT-Vision-Lab/VQA), its faults included, where a question has the answers of ten
annotators. A question with a single answer, as in VQA VG, is right when its answer is met exactly, and wrong
when its answer has no column. English answers are compared as the evaluation's code compares them; answers in
other languages, for which it has no rule, in the `plain` form.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from wenlan_jax.evaluation import vqa_words
from wenlan_jax.util import json_files
from wenlan_jax.util.errors import WenlanError

OUTSIDE = -1
"""The column of an answer that has none."""

ALL = "all"
"""The name under which figures over the questions of all languages stand."""

_AGREEING = 3  # annotators besides oneself who must give an answer for it to count in full
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
# The evaluation means to spare the point of a number on its left side, too, but misspells it as (?!<=\d).
_FULL_STOP = re.compile(r"\.(?!\d)")
# It passes re.UNICODE where the number of replacements belongs.
_FULL_STOPS_REMOVED = int(re.UNICODE)
_UNSPACED = frozenset({"zh", "ja"})


class VqaError(WenlanError, ValueError):
    """Answers, columns or scores that do not fit together."""


def _without_punctuation(answer: str) -> str:
    """Each mark removed if it touches a space anywhere, or if there is a number as 1,000; else replaced by a space."""
    has_number = _NUMBER_WITH_COMMA.search(answer) is not None
    text = answer
    for mark in vqa_words.PUNCTUATION:
        at_a_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if at_a_space or has_number else " ")
    return _FULL_STOP.sub("", text, count=_FULL_STOPS_REMOVED)


def _trimmed(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalise(answer: str) -> str:
    """Brings an English answer into the form in which the VQA evaluation compares it; it may be empty ("the").

    In this order: punctuation, lower case, number words to digits, articles dropped, apostrophes of contractions.
    """
    words = _without_punctuation(_trimmed(answer)).lower().split()
    kept = [number for word in words if (number := vqa_words.NUMBERS.get(word, word)) not in vqa_words.ARTICLES]
    return " ".join(vqa_words.CONTRACTIONS.get(word, word) for word in kept)


def plain(answer: str) -> str:
    """Brings an answer in another language than English into a form to compare.

    NFKC, lower case, single spaces, no closing mark.
    """
    return " ".join(unicodedata.normalize("NFKC", answer).lower().split()).rstrip(" .。!?,、")


def comparable(answer: str, language: str) -> str:
    """Brings an answer into the form in which answers of its language are compared and counted."""
    return normalise(answer) if language == "en" else plain(answer)


def _compared(answers: Sequence[str], language: str) -> list[str]:
    """The annotators' answers as they are compared; English ones that all agree stay as they are, as in the source."""
    trimmed = [_trimmed(answer) for answer in answers]
    if language == "en" and len(answers) > 1 and len(set(trimmed)) == 1:
        return trimmed
    return [comparable(answer, language) for answer in answers]


def soft_score(given: int, annotators: int) -> float:
    """Computes the score of an answer: 0, .3, .6, .9, 1 for 0, 1, 2, 3, >= 4 of 10 annotators.

    It is the mean, over leaving out one annotator, of min(1, others who gave it / 3). With a single annotator, whom
    nobody else can confirm, it is 1 for the answer given.

    Args:
        given: how many annotators gave the answer.
        annotators: how many there were.

    Returns:
        The score, in [0, 1].

    Raises:
        VqaError: for numbers that cannot be.
    """
    if not 0 <= given <= annotators or annotators < 1:
        raise VqaError(f"{given} of {annotators} annotators cannot have given an answer.")
    if annotators == 1:
        return float(given)
    left_out, kept = min(1.0, (given - 1) / _AGREEING), min(1.0, given / _AGREEING)
    return (given * left_out + (annotators - given) * kept) / annotators


def soft_scores(answers: Sequence[str], language: str) -> dict[str, float]:
    """Computes the score of every answer that the annotators of one question gave.

    Args:
        answers: one an annotator.
        language: of the question.

    Returns:
        The score by answer, in the form in which answers are compared.

    Raises:
        VqaError: if there is no answer.
    """
    if not answers:
        raise VqaError("A question needs at least one annotator's answer.")
    counts = collections.Counter(_compared(answers, language))
    return {answer: soft_score(given, len(answers)) for answer, given in counts.items()}


def consensus(answers: Sequence[str], language: str) -> str:
    """Picks the answer that most annotators gave, the first of equals.

    Args:
        answers: one an annotator.
        language: of the question.

    Returns:
        The answer, in the form in which answers are compared and counted.
    """
    return collections.Counter(comparable(answer, language) for answer in answers).most_common(1)[0][0]


def official_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Scores a free English answer, with or without a column, by the rules of the VQA evaluation.

    It differs from `scores_at` for a prediction that is not in the form compared, as label maps of others have them:
    here it is brought into that form first.

    Args:
        prediction: the answer given.
        answers: of several annotators.

    Returns:
        The score, in [0, 1].
    """
    trimmed = {_trimmed(answer) for answer in answers}
    agreed = len(answers) > 1 and len(trimmed) == 1
    return soft_scores(answers, "en").get(_trimmed(prediction) if agreed else normalise(prediction), 0.0)


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers that can be given, in the order of the columns of the head: a part of every checkpoint.

    The order is arbitrary; a model read with another one is wrong without any error, hence `fingerprint`.

    Attributes:
        texts: the answers, each once.

    Raises:
        VqaError: if there is none, or one comes twice.
    """

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        twice = [answer for answer, count in collections.Counter(self.texts).items() if count > 1]
        if not self.texts or twice:
            raise VqaError(f"A label map needs answers, each once; twice: {twice[:5]}.")

    @classmethod
    def most_frequent(cls, answers: Iterable[str], limit: int, smallest_count: int) -> Answers:
        """Takes the most frequent answers; equally frequent ones are ordered by text.

        Args:
            answers: the `consensus` of each training question. One that became empty is counted like any other.
            limit: how many are taken at most.
            smallest_count: how often an answer must occur. Of VQA 2.0's, 9 times is usual.

        Returns:
            The answers, the most frequent first.

        Raises:
            VqaError: if no answer occurs so often.
        """
        counts = collections.Counter(answers)
        ordered = sorted((-count, answer) for answer, count in counts.items() if count >= smallest_count)
        if not ordered:
            raise VqaError(
                f"None of {len(counts)} answers occurs {smallest_count} times; lower the smallest count of an answer."
            )
        return cls(tuple(answer for _, answer in ordered[:limit]))

    @classmethod
    def from_json(cls, text: str) -> Answers:
        """Reads what `to_json` wrote, or an object from answer to column, as others publish it.

        Args:
            text: JSON.

        Returns:
            The answers in the order of their columns.

        Raises:
            VqaError: for JSON that is neither, or columns that are not 0, 1, ...
        """
        found: Any = json_files.parse(text, Any, "a list of answers")
        if isinstance(found, dict):
            columns = [column if type(column) is int else -1 for column in found.values()]
            if sorted(columns) != list(range(len(found))):
                raise VqaError(f"The columns of {len(found)} answers must be 0 to {len(found) - 1}, each once.")
            found = sorted(found, key=found.__getitem__)
        if not isinstance(found, list) or not all(isinstance(answer, str) for answer in found):
            raise VqaError("A label map is a JSON list of answers, or an object from answer to column.")
        return cls(tuple(found))

    def to_json(self) -> str:
        """Writes the answers as a JSON list in the order of the columns, one a line."""
        return json.dumps(self.texts, ensure_ascii=False, indent=0) + "\n"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the answers in their order: equal ones mean equal columns."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @functools.cached_property
    def columns(self) -> Mapping[str, int]:
        """The column of each answer."""
        return {answer: column for column, answer in enumerate(self.texts)}

    def __len__(self) -> int:
        return len(self.texts)

    def column(self, answer: str) -> int:
        """Returns the column of an answer, given in the form in which answers are compared, or `OUTSIDE`."""
        return self.columns.get(answer, OUTSIDE)

    def targets(self, scores: Mapping[str, float]) -> Float32[np.ndarray, " answers"]:
        """Makes the soft targets of a question.

        Args:
            scores: its `soft_scores`. Answers without a column are dropped, maybe all.

        Returns:
            The score in each column.
        """
        row = np.zeros(len(self.texts), np.float32)
        for answer, score in scores.items():
            if (column := self.column(answer)) != OUTSIDE:
                row[column] = score
        return row


def scores_at(
    targets: Float[np.ndarray, "questions answers"], columns: Int[np.ndarray, " questions"]
) -> Float32[np.ndarray, " questions"]:
    """Looks up the score of the answer given to each question; their mean is the accuracy of VQA 2.0.

    To a question with a single answer it is 1 where that was met exactly, and else 0.

    Args:
        targets: the soft targets of the questions.
        columns: the column of the answer to each.

    Returns:
        One score a question.

    Raises:
        VqaError: for other numbers of questions and answers.
    """
    if len(targets) != len(columns):
        raise VqaError(f"{len(targets)} questions have {len(columns)} answers.")
    return np.take_along_axis(targets, columns[:, None].astype(np.int64), axis=1)[:, 0].astype(np.float32)


def question_group(question: str, language: str) -> str:
    """Says what kind of question it is, by its words alone.

    Args:
        question: its text.
        language: its language.

    Returns:
        The first two words; in Chinese and Japanese, which write no spaces and ask at the end, the last four characters
        before the mark.
    """
    text = plain(question)
    return text[-4:] if language in _UNSPACED else " ".join(text.split()[:2])


@dataclasses.dataclass(frozen=True)
class Majority:
    """The best constant answers: what a model that sees neither image nor, overall, question can reach.

    Attributes:
        overall: the column of the best answer to all questions.
        by_group: the column of the best answer to each kind of question.
    """

    overall: int
    by_group: Mapping[str, int]

    @classmethod
    def fit(cls, questions: Iterable[tuple[str, Mapping[str, float]]], answers: Answers) -> Majority:
        """Finds the columns of the largest sums of scores, the first of equals.

        Args:
            questions: (group, soft scores) of the training questions.
            answers: the columns.

        Returns:
            The best constant answers.

        Raises:
            VqaError: if no training question has an answer with a column.
        """
        overall = np.zeros(len(answers))
        by_group: dict[str, dict[int, float]] = {}
        for group, scores in questions:
            sums = by_group.setdefault(group, {})
            for answer, score in scores.items():
                if (column := answers.column(answer)) != OUTSIDE:
                    overall[column] += score
                    sums[column] = sums.get(column, 0.0) + score
        if not overall.any():
            raise VqaError("No training question has an answer with a column; is this the label map of other data?")
        best = {group: max(sorted(sums), key=sums.__getitem__) for group, sums in by_group.items() if sums}
        return cls(int(overall.argmax()), best)

    def columns(self, groups: Sequence[str]) -> Int[np.ndarray, " questions"]:
        """Returns the best answer of each question's group; the overall one in groups that training did not have."""
        return np.array([self.by_group.get(group, self.overall) for group in groups], np.int64)

    def constant(self, questions: int) -> Int[np.ndarray, " questions"]:
        """Returns the overall answer for every question."""
        return np.full(questions, self.overall, np.int64)


def by_language(languages: Sequence[str], scores: Mapping[str, Float[np.ndarray, " questions"]]) -> dict[str, float]:
    """Averages scores by language.

    Args:
        languages: of the questions.
        scores: of every question, by name.

    Returns:
        `<language>/<name>`, `all/<name>` over all questions, and `<language>/questions`, their number.

    Raises:
        VqaError: for other numbers of scores than questions.
    """
    labels = np.array(languages)
    wrong = [name for name, values in scores.items() if len(values) != len(labels)]
    if wrong or not len(labels):
        raise VqaError(f"{len(labels)} questions, but other numbers of scores of {wrong}.")
    figures: dict[str, float] = {}
    for language in [*sorted(set(languages)), ALL]:
        chosen = np.ones(len(labels), bool) if language == ALL else labels == language
        figures |= {f"{language}/{name}": float(np.mean(values[chosen])) for name, values in scores.items()}
        figures[f"{language}/questions"] = float(np.count_nonzero(chosen))
    return figures


def table(figures: Mapping[str, float], names: Sequence[str]) -> str:
    """Writes a line a language: the figures of `by_language` in percent beside the number of questions.

    Args:
        figures: what `by_language` gave.
        names: the columns. A figure that a language lacks is left empty; a column that all lack is left out.

    Returns:
        The table.
    """
    known = {name.rpartition("/")[2] for name in figures}
    names = [name for name in names if name in known]
    widths = [max(len(name), 7) + 2 for name in names]
    lines = ["language  questions" + "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))]
    for language in [name.removesuffix("/questions") for name in figures if name.endswith("/questions")]:
        shares = [f"{figures[at]:.1%}" if (at := f"{language}/{name}") in figures else "" for name in names]
        cells = "".join(f"{share:>{width}}" for share, width in zip(shares, widths, strict=True))
        lines.append(f"{language:<8}{figures[f'{language}/questions']:>11.0f}{cells}")
    return "\n".join(lines)
