"""Questions about images: VQA v2 (ten annotators a question) and Visual Genome's QA, in English or Japanese.

VQA v2  `*_questions.json` (`{questions: [{image_id, question, question_id}]}`) with `*_annotations.json`
        (`{annotations: [{question_id, answers: [{answer, answer_id}]}]}`) of the same subtype, given in any order.
        Every annotator's answer is kept: a question of ten annotators becomes ten `Question`s, in the order of their
        answer_id, because the soft score of an answer is a function of how many gave it. Without the file of
        annotations, as for the test sets, the answer is "". Images are called COCO_SUBTYPE_ID.jpg, in twelve digits.
VG QA   `[{id, qas: [{question, answer, image_id, qa_id}]}]`, one answer a question, also in Japanese (ja-vg-vqa).
        Images are ID.jpg, in VG_100K and VG_100K_2; `ingest` looks in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from wenlan_jax.data.records import Question
from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.formats import files
from wenlan_jax.prepare.raw_items import Item, Outcome, ReadError, ReadOptions, Reason, Rejected, Row

_SUBTYPE = re.compile(r"(train|val|test|test-dev)20\d\d")
_KANA = re.compile("[\u3040-\u30ff]")


def group_vqa(places: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups each file of questions with the annotations of its subtype, where given.

    Args:
        places: the files.

    Returns:
        One group a file of questions.

    Raises:
        ReadError: for annotations without questions, or a name that tells no subtype.
    """
    annotations = {_subtype(place): place for place in places if "annotations" in files.name_of(place)}
    questions = [place for place in places if place not in annotations.values()]
    if not questions:
        raise ReadError(f"{places[0]}: annotations without their questions; give both files")
    return [(place, *filter(None, [annotations.get(_subtype(place))])) for place in questions]


def _subtype(place: str) -> str:
    found = _SUBTYPE.search(files.name_of(place).replace("test-dev", "test"))
    if found is None:
        raise ReadError(
            f"{place}: the name must tell the subtype, e.g. train2014; keep the name it was published under"
        )
    return found[0]


def read_vqa(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """The questions of one file, each with all its answers."""
    answers: dict[str, Any] = {}
    if len(places) > 1:
        document = files.json_document(places[1], options.encoding)
        rows = [row for row in files.table(document, "annotations", places[1]) if isinstance(row, dict)]
        for row in rows:
            key, given = str(row.get("question_id")), row.get("answers")
            answers[key] = given if answers.setdefault(key, given) == given else _SEVERAL
    subtype, answered = _subtype(places[0]), len(places) > 1

    def item(number: int, row: Row, options: ReadOptions) -> Item:
        key = str(row.get("question_id"))
        if answered and key not in answers:
            raise Rejected(Reason.MISSING_FIELD, f"question {key[:80]} has no annotation in {places[1]}")
        given = _answers(answers[key]) if answered else [""]
        image = f"COCO_{subtype}_{_number(row, 'image_id'):012d}.jpg"
        language = raw_items.language_code(options.language)
        question = _filled(row, "question")
        return Item(number, image, questions=tuple(Question(language, question, answer) for answer in given))

    questions = files.table(files.json_document(places[0], options.encoding), "questions", places[0])
    return raw_items.convert(enumerate(questions, start=1), item, options, "image_id")


def read_vg(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """The questions of one file, each with its answer."""
    document = files.table(files.json_document(places[0], options.encoding), "", places[0])
    return raw_items.convert(enumerate(_flat(document), start=1), _vg_item, options, "image_id")


def _flat(images: list[dict[str, Any] | Rejected]) -> Iterator[Row | Rejected]:
    for image in images:
        asked = image if isinstance(image, Rejected) else image.get("qas")
        if isinstance(image, Rejected):
            yield image
        elif not isinstance(asked, list):
            yield Rejected(Reason.MISSING_FIELD, "'qas' must be a list of questions")
        else:
            for row in asked:
                whole = isinstance(row, dict)
                yield {"image_id": image.get("id"), **row} if whole else Rejected(Reason.BAD_VALUE, "not a question")


def _vg_item(number: int, row: Row, options: ReadOptions) -> Item:
    question, answer = _filled(row, "question"), _filled(row, "answer")
    language = raw_items.language_code(options.language) or ("ja" if _KANA.search(question) else "en")
    return Item(number, f"{_number(row, 'image_id')}.jpg", questions=(Question(language, question, answer),))


_SEVERAL = "several annotations of one question_id"


def _answers(value: Any) -> list[str]:
    if value is _SEVERAL:
        raise Rejected(Reason.BAD_VALUE, _SEVERAL)
    if not isinstance(value, list) or not value or not all(isinstance(answer, dict) for answer in value):
        raise Rejected(Reason.MISSING_FIELD, "'answers' must be a list of objects")
    numbered = [(answer.get("answer_id"), raw_items.clean(answer.get("answer"))) for answer in value]
    if all(isinstance(number, int) for number, _ in numbered):
        numbered.sort(key=lambda pair: int(pair[0] or 0))
    return [answer for _, answer in numbered]


def _filled(row: Row, name: str) -> str:
    text = raw_items.clean(row.get(name))
    if not text:
        raise Rejected(Reason.MISSING_FIELD, f"{name!r} is empty")
    return text


def _number(row: Row, name: str) -> int:
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**12:
        raise Rejected(Reason.BAD_VALUE, f"{name!r} must be the number of an image")
    return value
