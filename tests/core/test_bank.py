"""The ring of negatives against a plain deque, for sizes that divide and that do not."""

from __future__ import annotations

import collections

import jax
import numpy as np
import pytest

from wenlan_jax.core import bank as ring

DIM = 3


def newest_first(bank: ring.Bank) -> list[tuple[float, int]]:
    """The valid entries as (first coordinate, id), by rank."""
    ranks, valid = np.asarray(ring.ranks(bank)), np.asarray(ring.valid(bank))
    keys, ids = np.asarray(bank.keys)[..., 0], np.asarray(bank.ids)
    entries = sorted((ranks[at], float(keys[at]), int(ids[at])) for at in zip(*np.nonzero(valid), strict=True))
    return [(key, identity) for _, key, identity in entries]


@pytest.mark.parametrize(("capacity", "batch"), [(12, 4), (10, 4), (3, 4), (4, 4), (7, 3), (1, 5), (9, 2)])
def test_ring_keeps_exactly_the_newest_keys_in_order(capacity: int, batch: int) -> None:
    bank, expected = ring.create(capacity, batch, DIM), collections.deque(maxlen=capacity)
    push = jax.jit(ring.push)
    for step in range(3 * (capacity // batch + 2)):
        ids = np.arange(step * batch, (step + 1) * batch, dtype=np.int32)
        keys = np.repeat(ids[:, None].astype(np.float32), DIM, axis=1)
        bank = push(bank, keys, ids, step)
        expected.extend((float(i), int(i)) for i in ids)
        assert newest_first(bank) == list(expected)[::-1]
        assert int(bank.fill) == len(expected)


def test_ages_count_steps_since_the_push() -> None:
    bank = ring.create(6, 2, DIM)
    assert int(ring.oldest_age(bank, 5)) == 0
    keys, ids = np.zeros((2, DIM), np.float32), np.zeros(2, np.int32)
    for step in (3, 4, 7, 11):
        bank = ring.push(bank, keys, ids, step)
    # The pushes of steps 4, 7 and 11 are left.
    assert int(ring.oldest_age(bank, 12)) == 8


def test_a_random_start_is_full_of_unit_vectors_without_an_image() -> None:
    bank = ring.create(10, 4, DIM, jax.random.key(0))
    assert int(bank.fill) == 10
    assert int(ring.valid(bank).sum()) == 10
    np.testing.assert_allclose(np.linalg.norm(bank.keys, axis=-1), 1.0, rtol=1e-6)
    assert (np.asarray(bank.ids) == ring.NO_ID).all()
    assert int(ring.oldest_age(bank, 100)) == 0


SIZES = [(12, 4), (10, 4), (3, 4), (7, 3), (1, 5), (9, 2), (30, 4)]


def pushed(capacity: int, batch: int, steps: int) -> ring.Bank:
    """A bank after `steps` pushes of keys that are their ids."""
    bank = ring.create(capacity, batch, DIM)
    for step in range(steps):
        ids = np.arange(step * batch, (step + 1) * batch, dtype=np.int32)
        bank = ring.push(bank, np.repeat(ids[:, None].astype(np.float32), DIM, axis=1), ids, step)
    return bank


@pytest.mark.parametrize("steps", [0, 1, 3, 11])
@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_a_ring_laid_out_anew_keeps_the_newest_keys_in_order(
    before: tuple[int, int], after: tuple[int, int], steps: int
) -> None:
    bank = pushed(*before, steps)
    anew = ring.relaid(bank, *after)
    shapes = jax.tree.map(np.shape, ring.create(*after, DIM))
    assert jax.tree.map(np.shape, anew) == shapes
    assert [leaf.dtype for leaf in jax.tree.leaves(anew)] == [leaf.dtype for leaf in jax.tree.leaves(bank)]
    assert newest_first(anew) == newest_first(bank)[: after[0]]
    anew = jax.device_put(anew)
    # What is pushed next takes its turn as in a ring that was so from the beginning.
    expected = collections.deque(newest_first(bank)[::-1], maxlen=after[0])
    for step in range(steps, steps + 2 * (after[0] // after[1] + 2)):
        ids = np.arange(1000 + step * after[1], 1000 + (step + 1) * after[1], dtype=np.int32)
        anew = ring.push(anew, np.repeat(ids[:, None].astype(np.float32), DIM, axis=1), ids, step)
        expected.extend((float(i), int(i)) for i in ids)
        assert newest_first(anew) == list(expected)[::-1]


def test_the_age_of_a_ring_laid_out_anew_is_that_of_its_oldest_key() -> None:
    anew = ring.relaid(pushed(8, 2, 10), 6, 4)  # steps 7, 8 and 9 are left; a slot of 4 holds keys of two of them
    assert int(ring.oldest_age(anew, 12)) == 12 - 7


def test_random_keys_stay_random_keys() -> None:
    anew = ring.relaid(ring.create(10, 4, DIM, jax.random.key(0)), 6, 3)
    assert int(anew.fill) == 6
    assert (np.asarray(anew.ids) == ring.NO_ID).all()
    assert int(ring.oldest_age(anew, 100)) == 0
