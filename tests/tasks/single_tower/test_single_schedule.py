"""The schedule: exact shares, exact epochs of every cell, buckets that fit, each part its own objectives."""

from __future__ import annotations

import collections
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from wenlan_jax.tasks.single_tower.input import buckets, schedule
from wenlan_jax.tasks.single_tower.input.lengths import Lengths


def _lengths(tokens: list[int], regions: list[int]) -> Lengths:
    table = np.array(tokens, np.uint16)[:, None]
    return Lengths(("en",), np.array([np.count_nonzero(tokens)]), table, np.array(regions, np.uint16))


def _divide(tokens: list[int], regions: list[int], least: int) -> dict[tuple[int, int], list[int]]:
    found = buckets.divide(_lengths(tokens, regions), "en", (8, 16), (2, 4), least)
    return {tuple(bucket.shape): bucket.rows.tolist() for bucket in found}


def test_rows_go_to_the_smallest_bucket_that_they_fit() -> None:
    tokens, regions = [8, 9, 3, 16, 0, 5, 99], [2, 2, 3, 4, 1, 0, 9]  # rows 4 and 5 lack a text, a region
    assert _divide(tokens, regions, 1) == {(8, 2): [0], (16, 2): [1], (8, 4): [2], (16, 4): [3, 6]}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({(8, 2): 5, (8, 4): 5, (16, 2): 5, (16, 4): 5}, {(8, 2): 5, (8, 4): 5, (16, 2): 5, (16, 4): 5}),
        ({(8, 2): 2, (8, 4): 5}, {(8, 4): 7}),
        ({(8, 4): 2, (16, 2): 5, (16, 4): 5}, {(16, 2): 5, (16, 4): 7}),
        ({(8, 2): 9, (16, 4): 1}, {(8, 2): 7, (16, 4): 3}),
        ({(8, 2): 4, (16, 4): 1}, {(16, 4): 5}),
        ({(8, 2): 2}, {(16, 4): 2}),
    ],
)
def test_small_buckets_join_the_next_larger_one(
    sizes: dict[tuple[int, int], int], expected: dict[tuple[int, int], int]
) -> None:
    tokens = [text for (text, _), count in sizes.items() for _ in range(count)]
    regions = [region for (_, region), count in sizes.items() for _ in range(count)]
    found = _divide(tokens, regions, 3)
    assert {shape: len(rows) for shape, rows in found.items()} == expected
    assert sorted(row for rows in found.values() for row in rows) == list(range(len(tokens)))
    for (text, region), rows in found.items():
        assert rows == sorted(rows)
        assert all(tokens[row] <= text and regions[row] <= region for row in rows)


def test_the_last_of_a_line_joins_the_next_longer_texts() -> None:
    table = _lengths([4, 4, 8, 8, 8, 16, 16, 16], [4, 4, 2, 2, 2, 2, 2, 2])
    found = buckets.divide(table, "en", (4, 8, 16), (2, 4), 2)
    assert [tuple(bucket.shape) for bucket in found] == [(4, 4), (8, 2), (16, 2)]
    found = buckets.divide(table, "en", (4, 8, 16), (2, 4), 3)  # two rows wait, and are filled up from (16, 2)
    assert {tuple(bucket.shape): len(bucket.rows) for bucket in found} == {(8, 2): 3, (16, 4): 5}
    more = _lengths([4, 4, 8, 8, 8], [4, 4, 2, 2, 4])
    found = buckets.divide(more, "en", (4, 8, 16), (2, 4), 3)
    assert [(tuple(bucket.shape), bucket.rows.tolist()) for bucket in found] == [((8, 4), [0, 1, 2, 3, 4])]


def test_a_language_without_usable_rows_has_no_bucket() -> None:
    assert _divide([0, 3], [1, 0], 1) == {}
    assert buckets.divide(_lengths([3], [1]), "ko", (8,), (2,), 1) == []


def _two_parts(toy: SimpleNamespace, **changes: object) -> schedule.Schedule:
    """Good pairs in two languages, and weak ones in one that may train matching alone."""
    good, weak = toy.Gallery("good", 40), toy.Gallery("weak", 24, languages=("en",))
    return toy.schedule((good, weak), weights=(33, 9), parts_objectives=((), ("itm",)), **changes)


def test_shares_of_parts_objectives_languages_and_buckets(toy: SimpleNamespace) -> None:
    made = _two_parts(toy)
    steps = 16 * schedule.BLOCK
    found = collections.Counter(made.cell(step) for step in range(steps))
    assert set(found) == set(made.cells)
    for cell in made.cells:
        rows = {shape: len(bucket) for shape, bucket in _buckets_of(made, cell).items()}
        bucket = rows[cell.shape] / sum(rows.values())
        objective = toy.all[cell.objective] / 33 if cell.part == 0 else 1.0
        share = (33, 9)[cell.part] / 42 * objective * (0.5 if cell.part == 0 else 1.0) * bucket
        assert abs(found[cell] - steps * share) < 2


def _buckets_of(made: schedule.Schedule, cell: schedule.StepKind) -> dict[tuple[int, int], np.ndarray]:
    alike = [c for c in made.cells if (c.part, c.objective, c.language) == (cell.part, cell.objective, cell.language)]
    return {c.shape: c.rows for c in alike}


def test_buckets_hold_what_fits_them(toy: SimpleNamespace) -> None:
    made = _two_parts(toy)
    assert len({cell.shape for cell in made.cells}) > 2
    for cell in made.cells:
        assert len(cell.rows) >= made.batch_size
        gallery = made.parts[cell.part].source
        for row in cell.rows.tolist():
            assert gallery.tokens(row, cell.language) <= cell.shape.tokens
            assert gallery.regions(row) <= cell.shape.regions


@pytest.mark.parametrize(("alpha", "ratio"), [(1.0, 3.0), (0.5, math.sqrt(3)), (0.0, 1.0)])
def test_languages_are_tempered_by_their_texts(toy: SimpleNamespace, alpha: float, ratio: float) -> None:
    source = toy.Gallery(tokens=lambda row, language: 9 if language == "en" or row % 3 == 0 else 0, length=48)
    made = toy.schedule((source,), language_alpha=alpha)
    steps = 12 * schedule.BLOCK
    found = collections.Counter(made.cell(step).language for step in range(steps))
    assert abs(found["en"] / found["zh"] - ratio) < 0.02 * ratio


def test_the_order_of_steps_is_random_within_a_block(toy: SimpleNamespace) -> None:
    made = toy.schedule()
    names = [made.cell(step).objective for step in range(32 * schedule.BLOCK)]
    pairs = collections.Counter(zip(names[:-1], names[1:], strict=True))
    alone = collections.Counter(names)
    expected = {pair: alone[pair[0]] * alone[pair[1]] / len(names) for pair in pairs}
    scale = sum(pairs.values()) / sum(expected.values())
    assert len(pairs) == 16
    assert stats.chisquare(list(pairs.values()), [value * scale for value in expected.values()]).pvalue > 1e-4
    other = toy.schedule(seed=6)
    assert [other.cell(step).objective for step in range(100)] != names[:100]


def test_the_weak_part_trains_matching_alone(toy: SimpleNamespace) -> None:
    made = _two_parts(toy)
    found = collections.Counter((made.cell(step).part, made.cell(step).objective) for step in range(5000))
    assert {objective for part, objective in found if part == 1} == {"itm"}
    assert {objective for part, objective in found if part == 0} == {"itm", "mlm", "mrfr", "mrc"}
    for part, objective in found:
        assert found[part, objective] > 100


def test_another_objective_on_the_weak_part_is_refused(toy: SimpleNamespace) -> None:
    made = _two_parts(toy)
    weak = next(cell for cell in made.cells if cell.part == 1)
    made.require(weak)
    for objective in ("mlm", "mrfr", "mrc"):
        with pytest.raises(schedule.ScheduleError, match=f"weak: its objectives are itm, and '{objective}'"):
            made.require(schedule.StepKind(1, objective, weak.language, weak.shape, weak.rows, weak.rows))


def test_every_epoch_of_a_cell_covers_its_rows_once(toy: SimpleNamespace) -> None:
    made = _two_parts(toy)
    used: dict[schedule.StepKind, dict[int, list[int]]] = collections.defaultdict(dict)
    for step in range(8 * schedule.BLOCK):
        number, use = made._use(step)
        assert use not in used[made.cells[number]]
        used[made.cells[number]][use] = [row.row for row in made.rows(step, range(made.batch_size))]
    assert set(used) == set(made.cells)
    for cell, batches in used.items():
        uses = sorted(batches)
        assert uses == list(range(len(uses)))  # a block ends where none is left out
        rows = [row for use in uses for row in batches[use]]
        epochs = [rows[at : at + len(cell.rows)] for at in range(0, len(rows), len(cell.rows))][:-1]
        assert len(epochs) > 2
        assert all(sorted(epoch) == cell.rows.tolist() for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_rows_and_positions_of_a_share(toy: SimpleNamespace) -> None:
    made = pickle.loads(pickle.dumps(toy.schedule(batch_size=8)))
    for step in (0, 17, 2000):
        whole = made.rows(step, range(8))
        assert [row.position for row in whole] == list(range(8 * step, 8 * step + 8))
        for hosts in (2, 4):
            shares = [made.rows(step, range(host, 8, hosts)) for host in range(hosts)]
            assert [shares[place % hosts][place // hosts] for place in range(8)] == whole
        assert {row.row for row in whole} <= set(made.cell(step).rows.tolist())


def test_steps_can_be_asked_in_any_order(toy: SimpleNamespace) -> None:
    made, again = toy.schedule(), toy.schedule()
    steps = np.random.default_rng(0).integers(0, 10 * schedule.BLOCK, 50).tolist()
    expected = {step: made.cell(step) for step in sorted(steps)}
    assert [again.cell(step) for step in steps] == [expected[step] for step in steps]
    with pytest.raises(ValueError, match="step"):
        made.cell(-1)


@pytest.mark.parametrize("steps", [0, 300, schedule.BLOCK, 2 * schedule.BLOCK + 77])
def test_progress_counts_what_was_trained(toy: SimpleNamespace, steps: int) -> None:
    made = _two_parts(toy)
    assert (made.name, len(made)) == ("good + weak", 64)
    counts: collections.Counter[str] = collections.Counter()
    for step in range(steps):
        cell = made.cell(step)
        for label in (("good", "weak")[cell.part], cell.objective, cell.language):
            counts[label] += made.batch_size
    progress = made.progress(steps * made.batch_size)
    for label in ("good", "weak", "itm", "mlm", "mrfr", "mrc", "en", "zh"):
        assert progress[f"{label}/pairs"] == counts[label]
    assert progress["good/epochs"] == counts["good"] / 40
    assert progress["weak/epochs"] == counts["weak"] / 24


def test_parts_without_weights_share_by_their_sizes(toy: SimpleNamespace) -> None:
    made = toy.schedule((toy.Gallery("a", 60), toy.Gallery("b", 20)))
    found = collections.Counter(made.cell(step).part for step in range(4 * schedule.BLOCK))
    assert abs(found[0] / found[1] - 3) < 0.2
    assert (made.id(0, 7), made.id(1, 7)) == (7, 67)


def test_data_that_no_schedule_can_be_made_of(toy: SimpleNamespace) -> None:
    with pytest.raises(schedule.ScheduleError, match=r"gallery: objective vtlm has no weight.*'itm'"):
        toy.schedule(parts_objectives=(("itm", "vtlm"),))
    with pytest.raises(schedule.ScheduleError, match="no record has both a wanted text and a region; add regions"):
        toy.schedule((toy.Gallery(bad=tuple(range(40))),))
    part = schedule.ScheduledPart(made_part(toy), _lengths([3], [1]), ())
    with pytest.raises(schedule.ScheduleError, match="lengths of 1 rows for 40 records"):
        schedule.Schedule([part], toy.all, 4, (8,), (4,), 1.0, 0)


def made_part(toy: SimpleNamespace) -> object:
    return toy.schedule().parts[0]


def test_records_without_regions_are_left_out(toy: SimpleNamespace) -> None:
    made = toy.schedule((toy.Gallery(bad=(3, 9)),))
    rows = {row for cell in made.cells for row in cell.rows.tolist()}
    assert rows == set(range(40)) - {3, 9}
