"""Questions about images with soft targets over a fixed list of answers, for training and for evaluation."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Int32

from wenlan_jax.data import loader, order, records
from wenlan_jax.data.loader import HostBatch
from wenlan_jax.tasks.single_tower.input.buckets import Shape
from wenlan_jax.tasks.single_tower.input.examples import ExampleError, ExampleOptions

if TYPE_CHECKING:
    from wenlan_jax.data.sources import Source

Soften = Callable[[Sequence[str], str], Mapping[str, float]]
"""From the answers of all annotators of a question and its language to the score of every answer, in [0, 1]."""


class ImageQuestion(NamedTuple):
    """A question about an image.

    Attributes:
        language: of the question.
        question: its text.
        answers: of its annotators, in their order.
    """

    language: str
    question: str
    answers: tuple[str, ...]


def asked(record: records.Record, languages: tuple[str, ...]) -> list[ImageQuestion]:
    """Lists the questions of a record, each once, in the order in which they come first.

    Args:
        record: the record.
        languages: of the questions; empty for all.

    Returns:
        The questions with all their answers.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for item in record.questions:
        if not languages or item.language in languages:
            found.setdefault((item.language, item.question), []).append(item.answer)
    return [ImageQuestion(*question, tuple(answers)) for question, answers in found.items()]


@dataclasses.dataclass(frozen=True)
class Questions:
    """The questions of a source in some languages.

    Attributes:
        source: the records.
        languages: of the questions; empty for all.
        places: the row of each question's record, and its number among those `asked` of it.
    """

    source: Source
    languages: tuple[str, ...]
    places: Int32[np.ndarray, "questions 2"] = dataclasses.field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """The name of the source."""
        return self.source.name

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> tuple[int, records.Record, ImageQuestion]:
        """Question `number` with its record and that record's row."""
        row, place = self.places[number].tolist()
        record = self.source[row]
        return row, record, asked(record, self.languages)[place]

    def __iter__(self) -> Iterator[ImageQuestion]:
        """All questions, in order; every record is read once."""
        rows = dict.fromkeys(self.places[:, 0].tolist())
        return itertools.chain.from_iterable(asked(self.source[row], self.languages) for row in rows)

    def progress(self, pairs: int) -> dict[str, float]:
        """Says how many epochs the first `pairs` questions are."""
        return {f"{self.name}/pairs": float(pairs), f"{self.name}/epochs": pairs / len(self)}


def list_questions(source: Source, languages: tuple[str, ...]) -> Questions:
    """Lists the questions of a source, which it reads as a whole.

    Args:
        source: the records.
        languages: of the questions; empty for all.

    Returns:
        The questions.

    Raises:
        ExampleError: if there is none.
    """
    places = [(row, place) for row in range(len(source)) for place in range(len(asked(source[row], languages)))]
    if not places:
        raise ExampleError(f"{source.name}: no question in {list(languages) or 'any language'}; other data is needed")
    return Questions(source, languages, np.array(places, np.int32))


@dataclasses.dataclass(frozen=True)
class _Targets:
    """What is alike in training and evaluation: how questions and their answers become arrays.

    columns: of the answers that can be given. Others have no target, so a row of `answers` may be all zero.
    blind: whether questions come without regions, for the baseline of language alone.
    """

    questions: Questions
    recipe: ExampleOptions
    columns: Mapping[str, int]
    soften: Soften
    shape: Shape
    batch_size: int
    share: tuple[int, ...]
    blind: bool

    def empty(self, rows: int) -> HostBatch:
        """All fields but those of the text, for so many questions."""
        batch = self.recipe.regions.empty(rows, self.shape.regions, with_classes=False)
        return batch | {"id": np.zeros(rows, np.int32), "answers": np.zeros((rows, len(self.columns)), np.float32)}

    def write(self, number: int, batch: HostBatch, place: int) -> str:
        """Puts question `number` at `place`, and returns its text."""
        row, record, question = self.questions[number]
        if not self.blind:
            self.recipe.regions.write(self.questions.source, row, record, batch, place)
        batch["id"][place] = row
        for answer, score in self.soften(question.answers, question.language).items():
            if answer in self.columns:
                batch["answers"][place, self.columns[answer]] = score
        return question.question


@dataclasses.dataclass(frozen=True)
class QuestionBatches(_Targets):
    """Makes the training batch of a step: `answers` float32 (B, A) beside texts and regions; `id` is the record's row.

    Every epoch covers the questions exactly once.

    Attributes:
        bad_records: `raise` reports a bad record, `replace` gives its place to the next question.
    """

    bad_records: Literal["raise", "replace"]

    @property
    def mixture(self) -> Questions:
        """The questions that training draws from."""
        return self.questions

    def __call__(self, step: int) -> HostBatch:
        numbers, _ = order.Order(len(self.questions), self.recipe.seed, True).rows(step, self.batch_size)
        batch = self.empty(len(self.share)) | {loader.REPLACED: np.zeros(len(self.share), bool)}
        texts = [self._write(number, batch, place) for place, number in enumerate(numbers[list(self.share)].tolist())]
        return batch | self.recipe.encode(texts, self.shape.tokens)

    def _write(self, first: int, batch: HostBatch, place: int) -> str:
        total = len(self.questions)

        def read(attempt: int) -> str:
            return self.write((first + attempt) % total, batch, place)

        candidates = total if self.bad_records == "replace" else 1
        text, batch[loader.REPLACED][place] = loader.first_good(read, candidates, f"question {first}")
        return text


@dataclasses.dataclass(frozen=True)
class FixedQuestionBatches(_Targets):
    """Makes batch `number` of an evaluation: every question once, in order.

    The last batch is filled up with the empty text and no region; `valid` is False there and `id` -1.
    """

    def __len__(self) -> int:
        return math.ceil(len(self.questions) / self.batch_size)

    def __call__(self, number: int) -> HostBatch:
        numbers, missing = loader.eval_rows(number, self.batch_size, len(self.questions), self.share)
        batch = self.empty(len(self.share))
        texts = [self.write(question, batch, place) for place, question in enumerate(numbers)]
        batch |= loader.numbered(batch["id"][: len(numbers)].tolist(), missing)
        return batch | self.recipe.encode([*texts, *[""] * missing], self.shape.tokens)
