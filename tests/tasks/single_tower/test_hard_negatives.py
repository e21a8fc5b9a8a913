"""Hard negatives of fine-tuning for retrieval: who is chosen, by which scores, and what the hinge then is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from single_runs import noise, tiny_single

from wenlan_jax.losses import matching
from wenlan_jax.tasks.single_tower import objectives, schema
from wenlan_jax.tasks.single_tower.task import SingleTowerTask
from wenlan_jax.tasks.single_tower.tower import Tower
from wenlan_jax.training import setup as runs

ROWS, CANDIDATES, HARD = 8, 6, 2
TEXT, IMAGE = ("token_ids", "token_mask"), ("region_features", "region_boxes", "region_mask")


def given(dropout: float, rng: jax.Array | None) -> objectives.ObjectiveInput:
    """A batch with candidates, and a tower whose rank head tells pairs apart."""
    config = tiny_single(task="rank", rank__candidates=CANDIDATES, rank__hard=HARD, single__dropout=dropout)
    config = dataclasses.replace(config, rank=dataclasses.replace(config.rank, margin=0.9))
    current = runs.set_up(config, jax.devices()[:1])
    task = current.recipe.task
    assert isinstance(task, SingleTowerTask)
    drawn = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * drawn.normal(size=leaf.shape), runs.fresh_state(current).params)
    batch = {name: jnp.asarray(value) for name, value in noise(config, "rank").items()}
    return objectives.ObjectiveInput(config, task.tower, params, {}, batch, rng)


def scores(one: objectives.ObjectiveInput, number: int | None, fields: tuple[str, ...]) -> np.ndarray:
    """Of every row without dropout, with candidate `number` in place of its own `fields`."""
    batch = {name: one.batch[name] for name in (*TEXT, *IMAGE)}
    if number is not None:
        batch |= {name: one.batch[f"negative_{name}"][:, number] for name in fields}
    return np.asarray(jitted(one.tower)(one.params, batch))


@functools.cache
def jitted(tower: Tower) -> Any:
    """(params, pairs) -> scores without dropout, compiled once for all candidates."""

    def score(params: Any, batch: Any) -> jax.Array:
        hidden = tower.encode(params, batch, batch["region_features"], None)
        return tower.call(params, "rank_score", hidden.pooled)

    return jax.jit(score)


@pytest.fixture(scope="module")
def still() -> objectives.ObjectiveInput:
    return given(0.0, None)


def by_hand(one: objectives.ObjectiveInput, settings: schema.RankConfig) -> float:
    """The mean hinge against the best candidates of either side."""
    own, violations = scores(one, None, ()), []
    for fields in (IMAGE, TEXT):
        every = np.stack([scores(one, number, fields) for number in range(CANDIDATES)], axis=1)
        best = np.sort(every, axis=1)[:, -HARD:]
        assert (np.diff(np.sort(every, axis=1)) > 1e-6).all(), "no two candidates tie"
        logistic = [1 / (1 + np.exp(-values)) for values in (own[:, None], best)]
        violations.append(np.maximum(0, settings.margin + logistic[1] - logistic[0]))
    return float(np.mean(np.concatenate(violations, axis=1)))


def test_the_hinge_is_that_of_the_candidates_that_score_highest(still: objectives.ObjectiveInput) -> None:
    found = jax.jit(lambda batch: objectives.OBJECTIVES["rank"].sums(still._replace(batch=batch)))(still.batch)
    assert float(found.loss) / ROWS == pytest.approx(by_hand(still, still.config.rank), rel=1e-4)
    assert float(found.loss) > 0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, bool]]]:
    """How many pairs the tower sees in each call, and whether with dropout."""
    seen: list[tuple[int, bool]] = []
    encode = Tower.encode

    def noted(self: Tower, params: Any, batch: Any, features: Any, rng: Any, *rest: Any) -> Any:
        seen.append((len(batch["token_ids"]), rng is not None))
        return encode(self, params, batch, features, rng, *rest)

    monkeypatch.setattr(Tower, "encode", noted)
    yield seen


def test_candidates_are_scored_without_dropout_and_trained_on_with_it(
    still: objectives.ObjectiveInput, calls: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores that choose are those of evaluation; the positive is not among them."""
    chosen_by: list[jax.Array] = []
    hardest = matching.hardest

    def noted(values: jax.Array, k: int) -> jax.Array:
        chosen_by.append(values)
        return hardest(values, k)

    monkeypatch.setattr(matching, "hardest", noted)
    dropping = given(0.5, jax.random.key(0))._replace(params=still.params, batch=still.batch)

    def chosen(batch: Any) -> tuple[jax.Array, ...]:
        objectives.OBJECTIVES["rank"].sums(dropping._replace(batch=batch))
        return tuple(chosen_by)

    found = jax.jit(chosen)(still.batch)
    every, few = (ROWS * CANDIDATES, False), (ROWS * HARD, True)
    assert calls == [(ROWS, True), every, few, every, few]
    for values, fields in zip(found, (IMAGE, TEXT), strict=True):
        expected = np.stack([scores(still, number, fields) for number in range(CANDIDATES)], axis=1)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_no_gradient_flows_through_candidates_that_were_not_chosen(still: objectives.ObjectiveInput) -> None:
    name = "negative_region_features"

    def loss(features: jax.Array) -> jax.Array:
        return objectives.OBJECTIVES["rank"].sums(still._replace(batch={**still.batch, name: features})).loss

    found = jax.jit(jax.grad(loss))(still.batch[name].astype(jnp.float32))
    touched = np.abs(np.asarray(found)).max(axis=(2, 3)) > 0
    every = np.stack([scores(still, number, IMAGE) for number in range(CANDIDATES)], axis=1)
    best = np.argsort(-every, axis=1)[:, :HARD]
    for row in range(ROWS):
        assert set(np.flatnonzero(touched[row])) <= set(best[row].tolist())
    assert touched.any()
