"""Masked words and regions: every rate by a binomial test, specials and padding spared, one at least, K at most."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from annotations import unchecked
from scipy import stats

from wenlan_jax.data import order
from wenlan_jax.data.text import WordPiece
from wenlan_jax.tasks.single_tower.input import masking

WORDS = masking.WordMasking(probability=0.15, limit=40, mask_id=3, low=1000, high=1010)
LENGTH, REAL, TEXTS = 48, 42, 2000


def _likely(found: int, trials: int, chance: float) -> bool:
    return bool(stats.binomtest(found, trials, chance).pvalue > 1e-4)


def _text(words: int = REAL - 2, length: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    mask = np.arange(length) < words + 2
    ids = np.where(mask, 100 + np.arange(length), 0).astype(np.int32)
    return ids, mask


def _hidden(words: masking.WordMasking = WORDS, count: int = TEXTS) -> Iterator[masking.MaskedWords]:
    for position in range(count):
        yield words.hide(*_text(), order.stream(0, "words", position))


def test_rates_of_masked_words() -> None:
    ids, _ = _text()
    places, masked, others, kept, seen = 0, 0, 0, 0, set()
    for item in _hidden():
        now = item.token_ids[item.places[item.valid]]
        places += len(now)
        masked += int((now == 3).sum())
        others += int((now >= 1000).sum())
        kept += int((now == ids[item.places[item.valid]]).sum())
        seen |= set(now[now >= 1000].tolist())
    assert _likely(places, TEXTS * (REAL - 2), 0.15)
    assert masked + others + kept == places
    assert _likely(masked, places, 0.8)
    assert _likely(others, places, 0.1)
    assert _likely(kept, places, 0.1)
    assert seen == set(range(1000, 1010))


def test_every_word_is_as_likely_and_no_special_is_touched() -> None:
    counts = np.zeros(LENGTH, int)
    for item in _hidden():
        counts[item.places[item.valid]] += 1
    assert not counts[[0, *range(REAL - 1, LENGTH)]].any()
    assert stats.chisquare(counts[1 : REAL - 1]).pvalue > 1e-4


def test_what_was_there_can_be_told() -> None:
    ids, mask = _text()
    for item in _hidden(count=50):
        restored = item.token_ids.copy()
        restored[item.places[item.valid]] = item.ids[item.valid]
        assert restored.tolist() == ids.tolist()
        assert not item.places[~item.valid].any()
        assert not item.ids[~item.valid].any()
        assert item.valid.tolist() == sorted(item.valid.tolist(), reverse=True)
        assert (item.token_ids[~mask] == 0).all()


def test_the_first_word_is_masked_where_none_is_chosen() -> None:
    never = masking.WordMasking(0.0, 4, 3, 1000, 1010)
    for position in range(50):
        item = never.hide(*_text(), order.stream(0, "words", position))
        assert (item.token_ids[1], item.ids[0], item.places[0]) == (3, 101, 1)
        assert item.valid.tolist() == [True, False, False, False]


def test_a_text_without_words_has_none_masked() -> None:
    ids, mask = _text(words=0)
    item = WORDS.hide(ids, mask, order.stream(0, "words", 0))
    assert not item.valid.any()
    assert item.token_ids.tolist() == ids.tolist()


def test_at_most_so_many_words_are_kept_drawn_evenly() -> None:
    ids, _ = _text()
    counts = np.zeros(LENGTH, int)
    few = masking.WordMasking(1.0, 4, 3, 1000, 1010)
    for item in _hidden(few):
        assert item.valid.all()
        assert len(set(item.places.tolist())) == 4
        untouched = np.setdiff1d(np.arange(LENGTH), item.places)
        assert (item.token_ids[untouched] == ids[untouched]).all()
        counts[item.places] += 1
    assert stats.chisquare(counts[1 : REAL - 1]).pvalue > 1e-4


def test_rates_of_hidden_regions_and_one_at_least() -> None:
    there = np.arange(30) < 24
    hidden = np.stack([masking.hide_regions(there, 0.15, order.stream(1, "regions", n)) for n in range(TEXTS)])
    assert not hidden[:, 24:].any()
    forced = 0.85**24  # of the images get one although none was drawn
    assert _likely(int(hidden.sum()), TEXTS * 24, 0.15 + forced / 24)
    assert hidden.any(axis=1).all()
    forced_ones = [masking.hide_regions(there, 0.0, order.stream(1, "regions", n)) for n in range(TEXTS)]
    assert {int(row.sum()) for row in forced_ones} == {1}
    assert stats.chisquare(np.sum(forced_ones, axis=0)[:24]).pvalue > 1e-4
    assert not masking.hide_regions(there & False, 0.5, order.stream(1, "regions", 0)).any()


def test_random_pieces_of_word_pieces_begin_at_the_exclamation_mark(tmp_path: Path) -> None:
    pieces = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<S>", "!", "a", "b"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    assert masking.ordinary_pieces(WordPiece(tmp_path / "vocab.txt", True)) == (7, 10)
    (tmp_path / "vocab.txt").write_text("\n".join([*pieces[:7], "a"]))
    assert masking.ordinary_pieces(WordPiece(tmp_path / "vocab.txt", True)) == (6, 8)


class RobertaLike:
    """XLM-R's ids: <s> 0, <pad> 1, </s> 2, <unk> 3, pieces, <mask> last; a word begins with a piece of its own."""

    pad_id, mask_id, size = 1, 250001, 250002

    def encode(self, texts: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.full((len(texts), length), 1, np.int32)
        for row, text in enumerate(texts):
            tokens = [0, *([6, 3] if text else [])[: length - 2], 2]
            ids[row, : len(tokens)] = tokens
        return ids, ids != 1


def test_random_pieces_of_xlm_r_are_those_between_the_specials() -> None:
    with unchecked():
        assert masking.ordinary_pieces(RobertaLike()) == (4, 250001)  # type: ignore[arg-type]
        words = masking.word_masking(RobertaLike(), 0.15, 16)  # type: ignore[arg-type]
    assert words == masking.WordMasking(0.15, 16, 250001, 4, 250001)


def test_faults_are_named(toy: SimpleNamespace) -> None:
    class NoMask(toy.Letters):  # type: ignore[name-defined, misc]
        mask_id = None

    with unchecked(), pytest.raises(masking.MaskingError, match=r"no \[MASK\].*wenlan vocab"):
        masking.word_masking(NoMask(), 0.15, 16)
    for wrong in ((1.5, 4, 3, 0, 9), (0.15, 0, 3, 0, 9), (0.15, 4, 3, 9, 9)):
        with pytest.raises(masking.MaskingError, match="low < high"):
            masking.WordMasking(*wrong)
