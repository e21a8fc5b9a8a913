"""The attention page: pieces become words, weights land on the right pixels, the page names every word."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from annotations import unchecked

from wenlan_jax.applications import attention_page
from wenlan_jax.models import regions

SPECIAL = ("[CLS]", "[SEP]", "[PAD]", "<s>", "</s>")
HALVES = np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1]], np.float32)


def _words(words: list[attention_page.Word]) -> list[tuple[str, tuple[int, ...]]]:
    return [(word.text, word.places) for word in words]


def test_word_pieces_are_joined_at_their_marks() -> None:
    pieces = ["[CLS]", "a", "snow", "##board", "##er", "狗", "あ", "##り", "[SEP]", "[PAD]"]
    expected = [("a", (1,)), ("snowboarder", (2, 3, 4)), ("狗", (5,)), ("あり", (6, 7))]
    assert _words(attention_page.merge_word_pieces(pieces, SPECIAL)) == expected


def test_a_text_cut_inside_a_word_begins_with_its_rest() -> None:
    assert _words(attention_page.merge_word_pieces(["[CLS]", "##er", "x"], SPECIAL)) == [("er", (1,)), ("x", (2,))]


def test_a_special_piece_ends_a_word() -> None:
    assert _words(attention_page.merge_word_pieces(["a", "[SEP]", "##b"], SPECIAL)) == [("a", (0,)), ("b", (2,))]
    assert _words(attention_page.merge_sentence_pieces(["▁a", "</s>", "b"], SPECIAL)) == [("a", (0,)), ("b", (2,))]


def test_sentence_pieces_begin_at_the_space_mark() -> None:
    pieces = ["<s>", "▁Ein", "▁Schnee", "mann", ".", "▁", "눈", "사람", "</s>"]
    expected = [("Ein", (1,)), ("Schneemann.", (2, 3, 4)), ("눈사람", (5, 6, 7))]
    assert _words(attention_page.merge_sentence_pieces(pieces, SPECIAL)) == expected


def test_scripts_without_spaces_keep_one_word_a_piece() -> None:
    pieces = ["<s>", "▁", "一只", "狗", "3", "匹の", "。", "</s>"]
    expected = [("一只", (1, 2)), ("狗", (3,)), ("3", (4,)), ("匹の", (5,)), ("。", (6,))]
    assert _words(attention_page.merge_sentence_pieces(pieces, SPECIAL)) == expected


def test_a_mark_of_which_nothing_is_shown_is_no_word() -> None:
    assert _words(attention_page.merge_sentence_pieces(["▁hi", "▁"], SPECIAL)) == [("hi", (0,))]


def _attention(heads: int = 3, text: int = 4, seen: int = 5) -> np.ndarray:
    weights = np.random.default_rng(0).uniform(0.1, 1, (heads, text + seen, text + seen)).astype(np.float32)
    return weights / weights.sum(axis=-1, keepdims=True)


def test_rows_of_text_and_columns_of_valid_regions_are_taken() -> None:
    attention, mask = _attention(), np.array([True, True, False, True, False])
    found = attention_page.text_to_regions(attention, 4, mask, renormalise=False)
    expected = [[np.mean([head[row, 4 + column] for head in attention]) for column in (0, 1, 3)] for row in range(4)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (found.sum(axis=1) < 0.9).all()


def test_renormalised_rows_sum_to_one_in_the_same_proportions() -> None:
    mask = np.ones(5, bool)
    plain = attention_page.text_to_regions(_attention(), 4, mask, renormalise=False)
    whole = attention_page.text_to_regions(_attention(), 4, mask, renormalise=True)
    np.testing.assert_allclose(whole.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(whole / plain, np.broadcast_to(1 / plain.sum(1, keepdims=True), plain.shape), rtol=1e-5)


def test_a_word_has_the_mean_of_its_pieces() -> None:
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    words = [attention_page.Word("ab", (0, 2)), attention_page.Word("c", (3,))]
    assert attention_page.of_words(weights, words).tolist() == [[3, 4, 5], [9, 10, 11]]
    assert attention_page.of_words(weights, []).shape == (0, 3)


def test_heat_lies_on_the_pixels_of_the_boxes_and_the_largest_counts() -> None:
    boxes = np.array([[0, 0, 0.5, 1], [0.25, 0.5, 1, 1], [0, 0, 1, 1]], np.float32)
    found = attention_page.heat(boxes, np.array([0.6, 0.3, 0.1], np.float32), 2, 4)
    np.testing.assert_allclose(found, [[0.6, 0.6, 0.1, 0.1], [0.6, 0.6, 0.3, 0.3]])


def test_a_pixel_belongs_to_a_box_by_its_centre() -> None:
    box = np.array([[0.1, 0.4, 0.3, 0.6]], np.float32)
    found = attention_page.heat(box, np.ones(1, np.float32), 5, 4)  # centres at .125, .375 ... and .1, .3, .5 ...
    assert np.argwhere(found).tolist() == [[2, 0]]


@pytest.mark.parametrize("size", [(6, 6), (36, 60), (100, 97)])
def test_the_cells_of_a_grid_cover_every_pixel_once(size: tuple[int, int]) -> None:
    boxes = regions.grid_boxes((6,), whole_image=False)
    layers = [attention_page.heat(boxes, np.eye(36, dtype=np.float32)[cell], *size) for cell in range(36)]
    assert (np.sum(layers, axis=0) == 1).all()


def test_shade_grows_with_weight_and_spares_the_rest() -> None:
    image = np.full((64, 128, 3), 100, np.uint8)
    found = attention_page.panel(image, HALVES, np.array([0.0, 0.5], np.float32), largest=1.0).astype(int)
    assert found.shape == (128, 256, 3)
    assert (found[:, :120] == 100).all()
    strong = attention_page.panel(image, HALVES, np.array([0.0, 1.0], np.float32), largest=1.0).astype(int)
    red = [pixels[64, 192, 0] - pixels[64, 192, 2] for pixels in (found, strong)]
    assert 0 < red[0] < red[1]
    np.testing.assert_array_equal(found[64, 192], np.rint(0.625 * 100 + 0.375 * np.array([230, 30, 30])))


def test_the_best_region_is_framed() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    found = attention_page.panel(image, HALVES, np.array([0.2, 0.1], np.float32), largest=100.0)
    assert found[128, 0].tolist() == found[0, 60].tolist() == found[128, 127].tolist() == [230, 30, 30]
    assert found[128, 255].max() < 5


def _reading(language: str, text: str, words: list[str]) -> attention_page.AttendedText:
    weights = np.random.default_rng(0).uniform(0, 0.5, (len(words), 2)).astype(np.float32)
    return attention_page.AttendedText(
        text, language, [attention_page.Word(w, (n,)) for n, w in enumerate(words)], weights
    )


def test_the_page_has_every_word_in_its_language_and_says_what_weights_mean(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    readings = [_reading("zh", "一只狗", ["一只", "狗"]), _reading("en", "a <b> dog", ["a", "<b>", "dog"])]
    path = tmp_path / "page.html"
    attention_page.write(path, image, HALVES, readings, renormalised=False, title="Where words look")
    page = path.read_text(encoding="utf-8")
    places = [page.index(f">{word}</span>") for word in ("一只", "狗", "a", "&lt;b&gt;", "dog")]
    assert places == sorted(places)
    assert '<span lang="zh" dir="auto">狗</span>' in page
    assert "not renormalised" in page
    assert "<b>" not in page
    found = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert len(found) == 1 + 5
    first = cv2.imdecode(np.frombuffer(base64.b64decode(found[0]), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(cv2.cvtColor(first, cv2.COLOR_BGR2RGB), image)
    whole = attention_page.render(image, HALVES, readings, renormalised=True, title="x")
    assert "not renormalised" not in whole
    assert "sum to 1 over the regions" in whole


def test_all_words_of_a_reading_share_one_scale() -> None:
    words = [attention_page.Word("strong", (0,)), attention_page.Word("weak", (1,))]
    weights = np.array([[0.8, 0.1], [0.2, 0.1]], np.float32)
    image = np.zeros((256, 256, 3), np.uint8)
    page = attention_page.render(image, HALVES, [attention_page.AttendedText("x", "en", words, weights)], False, "t")
    panels = re.findall(r"data:image/png;base64,([^\"]+)", page)[1:]
    reds = [cv2.imdecode(np.frombuffer(base64.b64decode(p), np.uint8), 1)[128, 60, 2] for p in panels]
    assert reds == [round(0.75 * 230), round(0.75 * 230 / 4)]


def test_the_whole_image_is_written_and_does_not_hide_its_parts() -> None:
    boxes = np.concatenate([HALVES, [[0, 0, 1, 1]]]).astype(np.float32)
    assert attention_page.is_whole(boxes).tolist() == [False, False, True]
    image = np.zeros((256, 256, 3), np.uint8)
    words = [attention_page.Word("x", (0,))]
    with_whole = attention_page.AttendedText("x", "en", words, np.array([[0.2, 0.1, 0.5]], np.float32))
    page = attention_page.render(image, boxes, [with_whole], False, "t")
    assert "all 0.800, most 0.200, whole image 0.500" in page
    without = attention_page.AttendedText("x", "en", words, np.array([[0.2, 0.1]], np.float32))
    other = attention_page.render(image, HALVES, [without], False, "t")
    assert "whole image 0" not in other
    assert re.findall(r"base64,([^\"]+)", page) == re.findall(r"base64,([^\"]+)", other)


def test_an_image_of_the_whole_region_alone_has_no_shade() -> None:
    reading = attention_page.AttendedText("x", "en", [attention_page.Word("x", (0,))], np.array([[0.5]], np.float32))
    whole = np.array([[0, 0, 1, 1]], np.float32)
    page = attention_page.render(np.zeros((256, 256, 3), np.uint8), whole, [reading], False, "t")
    found = [
        cv2.imdecode(np.frombuffer(base64.b64decode(p), np.uint8), 1) for p in re.findall(r"base64,([^\"]+)", page)
    ]
    assert len(found) == 2
    assert not found[1].any()


def test_what_does_not_belong_together_is_refused() -> None:
    mask = np.ones(5, bool)
    with pytest.raises(attention_page.AttentionPageError, match=r"L = 3 \+ 5"):
        attention_page.text_to_regions(_attention(), 3, mask, renormalise=False)
    with pytest.raises(attention_page.AttentionPageError, match="'late' stands beyond"):
        attention_page.of_words(np.ones((2, 3), np.float32), [attention_page.Word("late", (2,))])
    with unchecked(), pytest.raises(attention_page.AttentionPageError, match="as many boxes"):
        attention_page.heat(HALVES, np.ones(3, np.float32), 4, 4)
    with pytest.raises(attention_page.AttentionPageError, match="largest weight"):
        attention_page.panel(np.zeros((4, 4, 3), np.uint8), HALVES, np.ones(2, np.float32), 0.0)
    with unchecked(), pytest.raises(attention_page.AttentionPageError, match="image: uint8"):
        attention_page.render(np.zeros((4, 4), np.uint8), HALVES, [], False, "t")
    short = attention_page.AttendedText("x", "en", [attention_page.Word("x", (0,))], np.ones((1, 3), np.float32))
    with pytest.raises(attention_page.AttentionPageError, match="1 words and 2 boxes"):
        attention_page.render(np.zeros((4, 4, 3), np.uint8), HALVES, [short], False, "t")
