"""Ranks that are kept beside the metrics: written and read back, and told apart by their queries."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from annotations import unchecked
from listed_records import with_ids

from wenlan_jax.data import loader, records
from wenlan_jax.evaluation import query_ranks, retrieval
from wenlan_jax.tasks.two_tower import embedded_split


def embedded(rows: list[int]) -> embedded_split.Embedded:
    """Seven images, and texts of the images `rows` in two languages."""
    rng = np.random.default_rng(0)
    texts = [
        loader.RecordText(row, records.Text("descriptive", "zh" if number % 2 else "en", f"text {number}"))
        for number, row in enumerate(rows)
    ]
    images, words = rng.standard_normal((7, 5)), rng.standard_normal((len(rows), 5))
    source = with_ids(f"p{row}" for row in range(7))
    return embedded_split.Embedded(source, texts, images.astype(np.float32), words.astype(np.float32))


ROWS = [0, 0, 1, 2, 3, 5, 5, 5]


def test_ranks_come_with_the_metrics_and_agree_with_them() -> None:
    one = embedded(ROWS)
    metrics, found = one.metrics((1, 5), "retrieval/test")
    both = retrieval.truth_ranks(one.image_embeddings, one.text_embeddings, np.array(ROWS))
    np.testing.assert_array_equal(found.image_to_text, both[0])
    np.testing.assert_array_equal(found.text_to_image, both[1])
    assert metrics["retrieval/test/text_to_image/recall_at_5"] == np.mean(found.text_to_image <= 5)
    of_zh = found.language == "zh"
    assert metrics["retrieval/test/zh/text_to_image/recall_at_5"] == np.mean(found.text_to_image[of_zh] <= 5)
    assert found.image.tolist() == ROWS and found.image_to_text[[4, 6]].tolist() == [0, 0]


def test_what_is_written_is_read_back_whole(tmp_path: Path) -> None:
    _, found = embedded(ROWS).metrics((1,), "retrieval/test")
    query_ranks.write(tmp_path, "test", found)
    again = query_ranks.read(tmp_path, "test")
    for field in dataclasses.fields(query_ranks.Ranks):
        value = getattr(again, field.name)
        np.testing.assert_array_equal(value, getattr(found, field.name))
        assert value.dtype == getattr(found, field.name).dtype
    assert [path.name for path in tmp_path.iterdir()] == ["ranks_test.npz"]
    assert again.same_queries(found)


def test_other_queries_are_told_apart() -> None:
    _, found = embedded(ROWS).metrics((1,), "retrieval/test")
    _, other = embedded([*ROWS[:-1], 6]).metrics((1,), "retrieval/test")
    assert not found.same_queries(other)
    assert not found.same_queries(dataclasses.replace(found, text=found.text[::-1]))
    assert not found.same_queries(dataclasses.replace(found, language=found.language[::-1]))
    assert not found.same_queries(dataclasses.replace(found, image_to_text=found.image_to_text[:-1]))
    assert found.same_queries(dataclasses.replace(found, text_to_image=found.text_to_image + 1))


def test_a_file_that_is_missing_or_cut_off_is_named(tmp_path: Path) -> None:
    with pytest.raises(query_ranks.RanksError, match=r"ranks_test\.npz: not a whole file of ranks"):
        query_ranks.read(tmp_path, "test")
    _, found = embedded(ROWS).metrics((1,), "retrieval/test")
    query_ranks.write(tmp_path, "test", found)
    path = tmp_path / "ranks_test.npz"
    for text in (path.read_bytes()[:200], b""):
        path.write_bytes(text)
        with pytest.raises(query_ranks.RanksError, match="evaluate the run again"):
            query_ranks.read(tmp_path, "test")


def test_ranks_of_an_earlier_version_are_of_texts_with_an_image_each(tmp_path: Path) -> None:
    _, found = embedded(ROWS).metrics((1,), "retrieval/test")
    old = {name: value for name, value in vars(found).items() if name not in ("of_text", "links", "image")}
    np.savez_compressed(query_ranks.path(tmp_path, "test"), picture=found.image, **old)
    assert query_ranks.read(tmp_path, "test").same_queries(found)


@pytest.mark.parametrize(
    "other",
    [
        {"image": np.array([0, 0, 1, 2, 3, 5, 5, 7])},
        {"image": np.array(ROWS[:-1])},
        {"image": np.array(ROWS, float)},
        {"of_text": np.zeros(8, np.int64)},
        {"text": np.zeros(7, np.uint32)},
        {"language": np.arange(8)},
        {"text_to_image": np.zeros(8, np.int64)},
        {"text_to_image": np.array(3)},
    ],
)
def test_ranks_that_contradict_themselves_are_refused(tmp_path: Path, other: dict[str, np.ndarray]) -> None:
    _, found = embedded(ROWS).metrics((1,), "retrieval/test")
    with unchecked():
        query_ranks.write(tmp_path, "test", dataclasses.replace(found, **other))
    with unchecked(), pytest.raises(query_ranks.RanksError, match=r"ranks_test.npz: not a whole file"):
        query_ranks.read(tmp_path, "test")
