"""The order of the data: exact permutations, exact epochs, the same batches for any number of hosts."""

from __future__ import annotations

import collections
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from wenlan_jax.data import order


@pytest.mark.parametrize("length", [*range(1, 70), 127, 128, 129, 1000, 4097, 6144])
def test_every_epoch_is_a_bijection(length: int) -> None:
    for epoch in range(3):
        rows = order.permute(np.arange(length), length, seed=11, epoch=epoch)
        assert np.array_equal(np.sort(rows), np.arange(length))


def test_single_indices_agree_with_arrays() -> None:
    whole = order.permute(np.arange(100), 100, seed=3, epoch=5)
    assert [int(order.permute(i, 100, 3, 5)) for i in range(100)] == whole.tolist()
    epochs = np.array([[0], [5]])
    assert np.array_equal(order.permute(np.arange(100), 100, 3, epochs)[1], whole)


def test_large_lengths_stay_in_range_and_distinct() -> None:
    length = 650_000_000
    rows = order.permute(np.arange(20_000), length, seed=1, epoch=2)
    assert rows.min() >= 0
    assert rows.max() < length
    assert len(np.unique(rows)) == len(rows)
    assert abs(rows.mean() / length - 0.5) < 0.01


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6])
def test_all_orders_of_few_rows_are_equally_frequent(length: int) -> None:
    epochs = np.arange(100 * math.factorial(length))[:, None]
    drawn = order.permute(np.arange(length), length, 0, epochs)
    counts = collections.Counter(map(tuple, drawn.tolist()))
    assert set(counts) == set(itertools.permutations(range(length)))
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_neighbours_do_not_stay_neighbours() -> None:
    rows = order.permute(np.arange(10_000), 10_000, seed=0, epoch=0)
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 0.05
    assert np.mean(np.abs(np.diff(rows)) == 1) < 0.002


def test_seed_and_epoch_change_the_order() -> None:
    base = order.permute(np.arange(1000), 1000, 0, 0)
    for seed, epoch in [(1, 0), (0, 1), (2**62, 0)]:
        assert np.mean(order.permute(np.arange(1000), 1000, seed, epoch) == base) < 0.02


@pytest.mark.parametrize("batch_size", [1, 7, 10, 64])
def test_epochs_cover_the_data_exactly_across_batches(batch_size: int) -> None:
    sequence = order.Order(length=10, seed=4, shuffle=True)
    batches = [sequence.rows(step, batch_size) for step in range(100)]
    rows = np.concatenate([rows for rows, _ in batches])
    positions = np.concatenate([positions for _, positions in batches])
    assert np.array_equal(positions, np.arange(100 * batch_size))
    for epoch in rows[: len(rows) // 10 * 10].reshape(-1, 10):
        assert sorted(epoch) == list(range(10))


def test_without_shuffle_rows_come_as_stored() -> None:
    rows, positions = order.Order(length=3, seed=0, shuffle=False).rows(step=1, batch_size=4)
    assert rows.tolist() == [1, 2, 0, 1]
    assert positions.tolist() == [4, 5, 6, 7]


def test_streams_depend_on_seed_name_and_position_only() -> None:
    def draw(seed: int, name: str, position: int) -> float:
        return float(order.stream(seed, name, position).random())

    assert draw(1, "text", 5) == draw(1, "text", 5)
    others = {draw(1, "text", 5), draw(2, "text", 5), draw(1, "crop", 5), draw(1, "text", 6)}
    assert len(others) == 4


def test_streams_are_uniform_over_positions() -> None:
    choices = [int(order.stream(0, "text", position).integers(14)) for position in range(4000)]
    assert stats.chisquare(np.bincount(choices, minlength=14)).pvalue > 1e-4


def test_order_is_the_same_in_another_process() -> None:
    code = (
        "from wenlan_jax.data import order; o = order.Order(1000, 7, True);"
        "print(o.rows(33, 8)[0].tolist(), order.stream(7, 'text', 9).integers(1 << 30))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = order.Order(1000, 7, True).rows(33, 8)[0].tolist()
    assert other.stdout.strip() == f"{here} {order.stream(7, 'text', 9).integers(1 << 30)}"


@pytest.mark.parametrize(("length", "seed"), [(0, 0), (5, -1), (5, 2**63)])
def test_order_refuses_what_it_cannot_do(length: int, seed: int) -> None:
    with pytest.raises(ValueError, match=r"at least 1|seed must lie"):
        order.Order(length, seed, True)


def test_permute_refuses_an_index_outside() -> None:
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        order.permute(np.array([0, 5]), 5, 0, 0)
