"""The search for the largest batch, against functions whose answer is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from single_runs import tiny_single

from wenlan_jax.plan import planner, search, topology
from wenlan_jax.tasks import experiment, remat


def memory_of(fixed: float, row: float, bend: float = 0.0) -> tuple[Callable[[int], float], list[int]]:
    """A function from the batch to bytes, and the list of the batches that it was asked for."""
    asked: list[int] = []

    def needed(batch: int) -> float:
        asked.append(batch)
        return fixed + row * batch + bend * batch**2

    return needed, asked


@pytest.mark.parametrize(("fixed", "row", "bend"), [(100.0, 2.0, 0.0), (0.0, 1.0, 0.01), (900.0, 0.1, 0.0)])
def test_the_largest_batch_is_found_in_few_tries(fixed: float, row: float, bend: float) -> None:
    needed, asked = memory_of(fixed, row, bend)
    best = search.largest(needed, 8, needed(8), 1000.0, 8, fixed)
    assert best % 8 == 0 and needed(best) <= 1000.0
    assert needed(best + 8) > 1000.0 or len(asked) > search.MOST_BATCHES
    assert len(asked) <= search.MOST_BATCHES + 3
    assert max(asked) <= 2 * best + 8


def test_a_batch_that_cannot_grow_stays() -> None:
    needed, asked = memory_of(0.0, 100.0)
    assert search.largest(needed, 8, 800.0, 1000.0, 8, 0.0) == 8
    assert asked == [16]


def test_what_is_recomputed_is_set_as_asked(tiny: Callable[..., experiment.Config]) -> None:
    config = tiny(model__image__encoder__remat=True)
    assert remat.text(config) == "image encoder"
    chosen = list(remat.choices(config))
    assert len(chosen) == 4
    assert all(remat.of(remat.with_choice(config, choice)) == choice for choice in chosen)
    texts = [remat.text(remat.with_choice(config, choice)) for choice in chosen]
    both = "image backbone, image encoder"
    assert texts == ["nothing", "text tower", both, f"{both}, text tower"]
    text = remat.with_choice(config, chosen[1]).model.text
    assert text.bert.remat and text.encoder.remat
    assert remat.text(remat.without(config)) == "nothing"


def test_candidates_come_in_the_order_of_what_they_cost(
    tiny: Callable[..., experiment.Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def flops(config: experiment.Config) -> float:
        return 10.0 + 3.0 * config.model.text.bert.remat + 2.0 * config.model.image.backbone.remat

    monkeypatch.setattr(planner, "computed_flops", flops)
    config = tiny(train__batch_size=16, mesh__data=-1)
    found = list(search._candidates(config, topology.parse("a100:2")))
    names = [remat.text(one) for one in found]
    both = "image backbone, image encoder, text tower"
    assert names == ["nothing", "image backbone, image encoder", "text tower", both, both, both]
    # Micro-batches of at least one whole group of 4 pairs.
    assert [one.train.accumulation for one in found] == [1, 1, 1, 1, 2, 4]


def test_what_is_computed_again_is_counted(tiny: Callable[..., experiment.Config]) -> None:
    config = tiny()
    again = remat.with_choice(config, dict.fromkeys(remat.of(config), True))
    assert planner.computed_flops(again) > 1.05 * planner.computed_flops(config)


def test_a_single_tower_is_computed_again_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "computed_flops", lambda config: 10.0 + 3.0 * config.single.remat)
    config = tiny_single(train__batch_size=16, mesh__data=-1)
    found = list(search._candidates(config, topology.parse("a100:2")))
    assert [one.single.remat for one in found][:2] == [False, True]
    assert remat.text(found[1]) == "single tower"
