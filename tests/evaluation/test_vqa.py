"""The VQA protocol: soft scores, the evaluation's way of comparing answers with its quirks, label map, baselines."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from annotations import unchecked

from wenlan_jax.evaluation import vqa, vqa_words


@pytest.mark.parametrize(("given", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (7, 1), (10, 1)])
def test_the_score_table_of_ten_annotators(given: int, score: float) -> None:
    assert vqa.soft_score(given, 10) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("annotators", [2, 3, 5, 10])
def test_scores_are_the_mean_over_leaving_one_out(annotators: int) -> None:
    for given in range(annotators + 1):
        votes = [True] * given + [False] * (annotators - given)
        rest = [sum(votes[:out]) + sum(votes[out + 1 :]) for out in range(annotators)]
        expected = np.mean([min(1, others / 3) for others in rest])
        assert vqa.soft_score(given, annotators) == pytest.approx(expected)


def test_a_single_answer_counts_in_full() -> None:
    assert (vqa.soft_score(0, 1), vqa.soft_score(1, 1)) == (0, 1)
    assert vqa.soft_scores(["The Dog."], "en") == {"dog": 1}


@pytest.mark.parametrize(
    ("answer", "compared"),
    [
        ("Yes", "yes"),
        ("  the\tDog\n", "dog"),
        ("Two.", "2"),
        ("none", "0"),
        ("x-ray", "x ray"),
        ("yes/no", "yes no"),
        ("T-shirt, blue", "t shirt blue"),  # the comma touches a space and goes, the hyphen becomes one
        ("yes / no", "yes no"),
        ("1,000,000 dogs!", "1000000 dogs"),
        ("x-ray 1,000", "xray 1000"),  # a comma in a number makes every mark disappear
        ("1.5", "1.5"),
        ("5.", "5"),  # the point after a number goes, too
        ("10:30", "10:30"),  # the colon is no punctuation
        ("a man's hat", "man's hat"),
        ("it isnt", "it isn't"),
        ("couldntve", "couldntve"),  # two apostrophes short: not in the table
        ("couldn'tve", "couldn't've"),
        ("Ive", "ive"),  # the entry has a capital and is never met
        ("somebody'd", "somebodyd"),  # the entry goes the wrong way
        ("lets", "lets"),
        ("the", ""),
        ("." * 40, "." * 8),  # 32 replacements at most
        ("." * 32, ""),
    ],
)
def test_english_answers_are_compared_as_by_the_evaluation(answer: str, compared: str) -> None:
    assert vqa.normalise(answer) == compared


def test_number_words_come_before_articles_and_articles_before_contractions() -> None:
    assert vqa.normalise("A one") == "1"
    assert vqa.normalise("an. The cant") == "can't"


def test_the_tables_are_the_evaluations_own() -> None:
    digest = hashlib.sha256(json.dumps(sorted(vqa_words.CONTRACTIONS.items())).encode()).hexdigest()
    assert digest == "3e5960526f62912d3b70896069c43c13d7c21be38d50ca28efbb9095b499454f"
    assert len(vqa_words.CONTRACTIONS) == 120
    assert "".join(vqa_words.PUNCTUATION) == ';/[]"{}()=+\\_-><@`,?!'
    assert len(vqa_words.NUMBERS) == 12


@pytest.mark.parametrize(
    ("answer", "compared"),
    [("白色。", "白色"), ("ＲＥＤ！", "red"), ("Der  Hund.", "der hund"), ("3匹", "3匹"), ("a", "a"), ("1,5", "1,5")],
)
def test_answers_of_other_languages_keep_their_words(answer: str, compared: str) -> None:
    assert vqa.comparable(answer, "ja") == compared


def test_annotators_answers_are_scored_in_the_form_compared() -> None:
    answers = ["two"] * 2 + ["2"] + ["The two"] + ["Three"] * 3 + ["no idea"] * 2 + ["?"]
    found = vqa.soft_scores(answers, "en")
    assert found == {"2": 1.0, "3": pytest.approx(0.9), "no idea": pytest.approx(0.6), "": pytest.approx(0.3)}


def test_answers_that_all_agree_stay_as_they_are() -> None:
    assert vqa.soft_scores(["The Dog"] * 10, "en") == {"The Dog": 1}
    assert vqa.soft_scores(["The Dog"] * 9 + ["dog"], "en") == {"dog": 1}
    assert vqa.soft_scores(["白色。"] * 3, "zh") == {"白色": pytest.approx(2 / 3)}


def test_the_consensus_is_what_most_said_in_the_form_compared() -> None:
    assert vqa.consensus(["cat", "The Dog", "a dog", "cat.", "dog!"], "en") == "dog"
    assert vqa.consensus(["red", "blue"], "en") == "red"
    assert vqa.consensus(["Two"] * 10, "en") == "2"
    assert vqa.consensus(["白色。", "茶色", "白色"], "ja") == "白色"


def test_the_official_accuracy_of_a_free_answer() -> None:
    answers = ["two"] * 3 + ["a dog"] * 7
    assert vqa.official_accuracy("2!", answers) == pytest.approx(0.9)
    assert vqa.official_accuracy("Dog", answers) == 1
    assert vqa.official_accuracy("cat", answers) == 0
    # All agree: neither side is changed but for the spaces around it.
    assert vqa.official_accuracy("dog", ["a dog"] * 10) == 0
    assert vqa.official_accuracy(" a dog\n", ["a dog"] * 10) == 1


MAP = vqa.Answers(("yes", "no", "2", "茶色"))


def test_the_most_frequent_answers_in_an_order_of_their_own() -> None:
    answers = ["b"] * 3 + ["a"] * 3 + ["c"] * 5 + ["d"] * 2 + ["e"]
    assert vqa.Answers.most_frequent(answers, 9, 2).texts == ("c", "a", "b", "d")
    assert vqa.Answers.most_frequent(reversed(answers), 9, 2).texts == ("c", "a", "b", "d")
    assert vqa.Answers.most_frequent(answers, 2, 1).texts == ("c", "a")
    assert vqa.Answers.most_frequent(answers, 9, 5).texts == ("c",)
    with pytest.raises(vqa.VqaError, match="None of 5 answers occurs 6 times"):
        vqa.Answers.most_frequent(answers, 9, 6)


def test_targets_lie_in_the_answers_columns_and_others_are_dropped() -> None:
    found = MAP.targets({"no": 0.9, "2": 0.3, "perhaps": 1.0})
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array([0, 0.9, 0.3, 0], np.float32))
    assert not MAP.targets({"perhaps": 1.0}).any()
    assert (MAP.column("2"), MAP.column("perhaps"), len(MAP)) == (2, vqa.OUTSIDE, 4)


def test_the_label_map_survives_its_file_and_its_order_is_its_identity() -> None:
    assert vqa.Answers.from_json(MAP.to_json()) == MAP
    assert "茶色" in MAP.to_json()
    assert vqa.Answers.from_json('{"no": 1, "2": 2, "yes": 0, "茶色": 3}') == MAP
    moved = vqa.Answers(("no", "yes", "2", "茶色"))
    assert moved.fingerprint != MAP.fingerprint == vqa.Answers.from_json(MAP.to_json()).fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["a", "a"]', r"each once; twice: \['a'\]"),
        ("[]", "needs answers"),
        ("[1]", "JSON list"),
        ('"a"', "JSON list"),
        ('{"a": 0, "b": 2}', "0 to 1"),
        ('{"a": 0, "b": 0}', "0 to 1"),
    ],
)
def test_a_faulty_label_map_is_refused(text: str, message: str) -> None:
    with pytest.raises(vqa.VqaError, match=message):
        vqa.Answers.from_json(text)


def test_accuracy_is_the_target_at_the_answer_given() -> None:
    targets = np.array([[0.3, 0.9, 0], [0, 0, 0], [1, 0, 0.6]], np.float32)
    logits = np.array([[0, 5, 1], [9, 0, 0], [0, 1, 3]])
    np.testing.assert_array_equal(vqa.scores_at(targets, logits.argmax(1)), np.array([0.9, 0, 0.6], np.float32))


def test_the_accuracy_of_targets_is_the_official_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        answers = rng.choice(["yes", "no", "two", "2", "perhaps"], 10).tolist()
        row = MAP.targets(vqa.soft_scores(answers, "en"))
        for column, answer in enumerate(MAP.texts):
            official = vqa.official_accuracy(answer, answers)
            assert vqa.scores_at(row[None], np.array([column]))[0] == pytest.approx(official)


def test_a_question_with_one_answer_is_met_exactly_or_not_at_all() -> None:
    """As VQA VG is measured; a true answer without a column is never met."""
    answers = ["no", "2", "perhaps", "茶色", "No."]
    targets = np.stack([MAP.targets(vqa.soft_scores([answer], "en")) for answer in answers])
    given = np.array([1, 0, 0, 3, 1])
    assert vqa.scores_at(targets, given).tolist() == [1, 0, 0, 1, 1]
    for column in range(len(MAP)):
        assert vqa.scores_at(targets[2:3], np.array([column])).tolist() == [0]


def test_the_official_accuracy_brings_a_strange_label_into_form() -> None:
    """A label map in another form than answers are compared in has columns that no target fills."""
    strange = vqa.Answers(("A dog", "cat"))
    answers = ["dog"] * 6 + ["a dog!"] * 4
    assert vqa.scores_at(strange.targets(vqa.soft_scores(answers, "en"))[None], np.array([0]))[0] == 0
    assert vqa.official_accuracy(strange.texts[0], answers) == 1


@pytest.mark.parametrize(
    ("question", "language", "group"),
    [
        ("What color is the dog?", "en", "what color"),
        ("Is  there a dog", "en", "is there"),
        ("Welche Farbe hat der Hund?", "de", "welche farbe"),
        ("这只狗是什么颜色？", "zh", "什么颜色"),
        ("犬は何匹いますか。", "ja", "いますか"),
        ("Why?", "en", "why"),
    ],
)
def test_questions_are_grouped_by_their_words(question: str, language: str, group: str) -> None:
    assert vqa.question_group(question, language) == group


def test_majority_answers_by_sums_of_scores_overall_and_by_group() -> None:
    questions = [
        ("is there", {"yes": 1.0, "no": 0.3}),
        ("is there", {"no": 1.0}),
        ("how many", {"2": 0.9, "perhaps": 1.0}),
        ("what for", {"perhaps": 1.0}),
        ("is it", {"yes": 0.6}),
    ]
    found = vqa.Majority.fit(questions, MAP)
    # Sums: yes 1.6, no 1.3, 2 .9; among "is there" no 1.3, yes 1.
    assert found == vqa.Majority(0, {"is there": 1, "how many": 2, "is it": 0})
    assert found.columns(["is there", "how many", "what for", "new"]).tolist() == [1, 2, 0, 0]
    assert found.constant(3).tolist() == [0, 0, 0]


def test_equal_sums_take_the_first_column() -> None:
    found = vqa.Majority.fit([("g", {"2": 1.0}), ("g", {"no": 1.0})], MAP)
    assert (found.overall, found.by_group) == (1, {"g": 1})


def test_no_constant_answer_is_better_than_the_majority_on_its_own_questions() -> None:
    rng = np.random.default_rng(0)
    votes = [rng.choice(["yes", "no", "2"], 10).tolist() for _ in range(40)]
    scores = [vqa.soft_scores(answers, "en") for answers in votes]
    groups = ["even" if number % 2 == 0 else "odd" for number in range(40)]
    found = vqa.Majority.fit(zip(groups, scores, strict=True), MAP)
    targets = np.stack([MAP.targets(score) for score in scores])
    constant = [vqa.scores_at(targets, np.full(40, column)).sum() for column in range(len(MAP))]
    assert constant[found.overall] == pytest.approx(max(constant))
    assert vqa.scores_at(targets, found.columns(groups)).sum() >= max(constant) - 1e-4


def test_figures_and_table_by_language() -> None:
    scores = {"accuracy": np.array([1, 0.5, 0, 0.3]), "majority": np.array([0, 0, 1, 1.0])}
    figures = vqa.by_language(["ja", "en", "ja", "en"], scores)
    assert figures["ja/accuracy"] == 0.5
    assert figures["en/majority"] == 0.5
    assert figures["all/accuracy"] == pytest.approx(0.45)
    assert (figures["en/questions"], figures["all/questions"]) == (2, 4)
    lines = vqa.table(figures, ["accuracy", "majority"]).splitlines()
    assert [line.split() for line in lines] == [
        ["language", "questions", "accuracy", "majority"],
        ["en", "2", "40.0%", "50.0%"],
        ["ja", "2", "50.0%", "50.0%"],
        ["all", "4", "45.0%", "50.0%"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_the_table_leaves_out_what_was_not_measured() -> None:
    figures = vqa.by_language(["ja", "en"], {"accuracy": np.array([1, 0.5])}) | {"en/official": 0.25}
    lines = vqa.table(figures, ["accuracy", "official", "majority"]).splitlines()
    assert [line.split() for line in lines] == [
        ["language", "questions", "accuracy", "official"],
        ["en", "1", "50.0%", "25.0%"],
        ["ja", "1", "100.0%"],
        ["all", "2", "75.0%"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_faulty_input_is_named() -> None:
    with pytest.raises(vqa.VqaError, match="11 of 10"):
        vqa.soft_score(11, 10)
    with pytest.raises(vqa.VqaError, match="at least one"):
        vqa.soft_scores([], "en")
    with unchecked(), pytest.raises(vqa.VqaError, match="2 questions have 1 answers"):
        vqa.scores_at(np.zeros((2, 3)), np.array([0]))
    with pytest.raises(vqa.VqaError, match="No training question"):
        vqa.Majority.fit([("g", {"perhaps": 1.0})], MAP)
    with pytest.raises(vqa.VqaError, match=r"of \['accuracy'\]"):
        vqa.by_language(["en"], {"accuracy": np.zeros(2)})
