"""Questions: annotators together, soft targets by column, every question once an epoch, equal on all hosts."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wenlan_jax.data import loader, records
from wenlan_jax.evaluation import vqa
from wenlan_jax.tasks.single_tower.input import questions
from wenlan_jax.tasks.single_tower.input.buckets import Shape
from wenlan_jax.tasks.single_tower.input.examples import ExampleError

COLUMNS = {"yes": 0, "no": 1, "3": 2}


def _questions(row: int) -> tuple[records.Question, ...]:
    """Three annotators of an English question, mixed with those of a second one, and one of a Chinese one."""
    first = [records.Question("en", f"{row:02}a?", answer) for answer in ("yes", "no", "yes")]
    second = [records.Question("en", f"{row:02}b?", str(row))]
    return (first[0], *second, first[1], records.Question("zh", f"{row:02}a?", "no"), first[2])


def _share(answers: Sequence[str], language: str) -> Mapping[str, float]:
    return {answer: count / len(answers) for answer, count in collections.Counter(answers).items()}


@pytest.fixture
def source(toy: SimpleNamespace) -> Any:
    @dataclasses.dataclass
    class Asking(toy.Gallery):  # type: ignore[name-defined, misc]
        def __getitem__(self, row: int, /) -> records.Record:
            return dataclasses.replace(super().__getitem__(row), questions=_questions(row) if row % 2 else ())

    return Asking(length=9)


def _fields(toy: SimpleNamespace, source: Any, languages: tuple[str, ...] = ("en",), **changes: Any) -> dict[str, Any]:
    fields = {
        "questions": questions.list_questions(source, languages),
        "recipe": toy.recipe(),
        "columns": COLUMNS,
        "soften": _share,
        "shape": Shape(12, 4),
        "batch_size": 3,
        "share": (0, 1, 2),
        "blind": False,
    }
    return {**fields, **changes}


def test_annotators_of_one_question_belong_together() -> None:
    record = records.Record("r", b"", 1, 1, questions=_questions(5))
    both = [questions.ImageQuestion("en", "05a?", ("yes", "no", "yes")), questions.ImageQuestion("en", "05b?", ("5",))]
    assert questions.asked(record, ("en",)) == both
    assert questions.asked(record, ()) == [*both, questions.ImageQuestion("zh", "05a?", ("no",))]


def test_questions_are_listed(source: Any) -> None:
    found = questions.list_questions(source, ("en",))
    assert len(found) == 8
    assert [item.question for item in found] == ["01a?", "01b?", "03a?", "03b?", "05a?", "05b?", "07a?", "07b?"]
    row, record, question = found[3]
    assert (row, record.id, question.question) == (3, "id3", "03b?")
    assert found.name == "gallery"
    assert found.progress(20) == {"gallery/pairs": 20.0, "gallery/epochs": 2.5}
    with pytest.raises(ExampleError, match=r"gallery: no question in \['ko'\]"):
        questions.list_questions(source, ("ko",))


def test_text_regions_and_targets_belong_together(toy: SimpleNamespace, source: Any) -> None:
    maker = questions.FixedQuestionBatches(**_fields(toy, source))
    made = [maker(number) for number in range(len(maker))]
    joined = {name: np.concatenate([batch[name] for batch in made]) for name in made[0]}
    assert len(made) == 3
    assert joined["id"].tolist() == [1, 1, 3, 3, 5, 5, 7, 7, -1]
    assert joined["valid"].tolist() == [True] * 8 + [False]
    assert joined["region_features"][:8, 0, 0].tolist() == joined["id"][:8].tolist()
    assert [toy.read_text(ids) for ids in joined["token_ids"]] == [
        "01a?", "01b?", "03a?", "03b?", "05a?", "05b?", "07a?", "07b?", ""
    ]  # fmt: skip
    mixed, nothing, three = [pytest.approx(2 / 3), pytest.approx(1 / 3), 0], [0, 0, 0], [0, 0, 1]
    assert joined["answers"].tolist() == [mixed, nothing, mixed, three, mixed, nothing, mixed, nothing, nothing]
    assert joined["answers"].dtype == np.float32
    assert joined["token_mask"].any(axis=1).all()


def test_a_blind_batch_is_the_same_without_regions(toy: SimpleNamespace, source: Any) -> None:
    for kind, more in ((questions.QuestionBatches, {"bad_records": "raise"}), (questions.FixedQuestionBatches, {})):
        seen, blind = (kind(**_fields(toy, source, blind=value), **more)(1) for value in (False, True))
        assert seen.keys() == blind.keys()
        assert seen["region_mask"].any()
        for name in seen:
            if name.startswith("region_"):
                assert not blind[name].any()
            else:
                assert np.array_equal(seen[name], blind[name])


def test_soft_scores_of_the_evaluation_fit(toy: SimpleNamespace, source: Any) -> None:
    columns = vqa.Answers(("yes", "no", "3")).columns
    maker = questions.FixedQuestionBatches(**_fields(toy, source, columns=columns, soften=vqa.soft_scores))
    scores = vqa.soft_scores(("yes", "no", "yes"), "en")
    assert maker(0)["answers"][0].tolist() == pytest.approx([scores["yes"], scores["no"], 0])
    assert 0 < scores["no"] < scores["yes"]


@pytest.mark.parametrize("share", [(0, 1), (2,), (0, 2)])
def test_hosts_together_make_the_global_batch(toy: SimpleNamespace, source: Any, share: tuple[int, ...]) -> None:
    fields = _fields(toy, source)
    training = {"bad_records": "raise"}
    for number in range(3):
        for kind, more in ((questions.QuestionBatches, training), (questions.FixedQuestionBatches, {})):
            whole, part = kind(**fields, **more)(number), kind(**{**fields, "share": share}, **more)(number)
            assert whole.keys() == part.keys()
            assert all(np.array_equal(part[name], whole[name][list(share)]) for name in whole)


def test_every_epoch_of_training_asks_every_question_once(toy: SimpleNamespace, source: Any) -> None:
    maker = questions.QuestionBatches(**_fields(toy, source, languages=()), bad_records="raise")
    assert maker.mixture is maker.questions
    texts = [toy.read_text(ids) for step in range(8) for ids in maker(step)["token_ids"]]
    expected = collections.Counter(item.question for item in maker.questions)
    assert collections.Counter(texts[:12]) == collections.Counter(texts[12:]) == expected
    assert texts[:12] != texts[12:]


def test_bad_records_are_reported_or_replaced(toy: SimpleNamespace, source: Any) -> None:
    source.bad = (3,)
    with pytest.raises(loader.BadRecord, match="gallery row 3"):
        questions.FixedQuestionBatches(**_fields(toy, source))(0)
    maker = questions.QuestionBatches(**_fields(toy, source), bad_records="replace")
    made = [maker(step) for step in range(8)]
    assert sum(int(batch[loader.REPLACED].sum()) for batch in made) == 6
    assert not any(3 in batch["id"] for batch in made)
    for batch in made:
        assert [toy.read_text(ids)[:2] for ids in batch["token_ids"]] == [f"{row:02}" for row in batch["id"]]
