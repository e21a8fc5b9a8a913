"""The objectives of the single tower: which one a batch is for, what it predicts, and its loss.

Each gives sums over the rows it is handed and a weight for every row, and the caller divides by the weight of the whole
batch: however that is split, the loss is the same. Beside its loss stands that of a guess that saw neither words nor
regions, from what the batch itself holds, so that a log line can tell whether anything was learnt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray, PyTree

from wenlan_jax.core.state import Params
from wenlan_jax.core.task import Batch
from wenlan_jax.losses import masked, matching
from wenlan_jax.models.arrays import Array
from wenlan_jax.models.single_tower import at_places
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.single_tower.batch import IMAGE, NEGATIVE, TEXT, VALID

if TYPE_CHECKING:
    from wenlan_jax.tasks.single_tower.tower import Tower


class ObjectiveInput(NamedTuple):
    """What an objective works on.

    Attributes:
        config: the configuration.
        tower: the model.
        params: its parameters.
        batch_stats: the running statistics of an image backbone, if there is one.
        batch: the rows.
        rng: the key of dropout; None for no dropout.
    """

    config: experiment.Config
    tower: Tower
    params: Params
    batch_stats: PyTree
    batch: Batch
    rng: PRNGKeyArray | None

    def features(self) -> Float[Array, "rows regions width"]:
        """Computes the features of the batch's regions."""
        return self.tower.features(self.params, self.batch_stats, self.batch)

    def encode(self, features: Array, hide_regions: bool = False) -> Any:
        """Computes the tower's hidden states.

        Args:
            features: of the batch's regions.
            hide_regions: whether regions that are to be guessed stay hidden.

        Returns:
            The hidden states of words and regions, and the pooled ones.
        """
        hidden = self.batch["region_masked"] if hide_regions else None
        return self.tower.encode(self.params, self.batch, features, self.rng, hidden)

    def head(self, method: str, *inputs: Array) -> Array:
        """Runs a head of the tower.

        Args:
            method: the head's method of `SingleTower`.
            *inputs: what it takes.

        Returns:
            Its predictions.
        """
        said: Array = self.tower.call(self.params, method, *inputs)
        return said


class ObjectiveSums(NamedTuple):
    """Sums over some rows.

    Attributes:
        loss: of the losses.
        reference: of the losses of a guess that saw neither words nor regions.
        metrics: of other metrics that are averaged alike.
    """

    loss: Float[Array, ""]
    reference: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]


class Objective(NamedTuple):
    """An objective.

    Attributes:
        weights: computes the weight of every row in the mean.
        sums: computes the sums over the rows.
    """

    weights: Callable[[experiment.Config, Batch], Float[Array, " rows"]]
    sums: Callable[[ObjectiveInput], ObjectiveSums]


def _rows(config: experiment.Config, batch: Batch) -> Float[Array, " rows"]:
    """Rows alike, but those that fill up a batch."""
    size = batch["token_ids"].shape[0]
    return batch[VALID].astype(jnp.float32) if VALID in batch else jnp.ones(size, jnp.float32)


def _itm(given: ObjectiveInput) -> ObjectiveSums:
    match, valid = given.batch["match"], given.batch.get(VALID)
    logits = given.head("itm_logits", given.encode(given.features()).pooled)
    loss, accuracy = (f(logits, match, valid) for f in (matching.match_cross_entropy, matching.match_accuracy))
    return ObjectiveSums(loss.total, math.log(2.0) * loss.weight, {"accuracy": accuracy.total})


def _masked_words(config: experiment.Config, batch: Batch) -> Float[Array, " rows"]:
    return jnp.sum(batch["masked_valid"], axis=1, dtype=jnp.float32) * _rows(config, batch)


def _mlm(given: ObjectiveInput) -> ObjectiveSums:
    batch = given.batch
    counted = batch["masked_valid"] & (_rows(given.config, batch) > 0)[:, None]
    hidden = at_places(given.encode(given.features()).text, batch["masked_places"])
    logits = given.head("word_logits", hidden)
    loss, accuracy = (
        f(logits, batch["masked_ids"], counted) for f in (masked.word_cross_entropy, masked.word_accuracy)
    )
    return ObjectiveSums(loss.total, math.log(logits.shape[-1]) * loss.weight, {"accuracy": accuracy.total})


def _masked_regions(config: experiment.Config, batch: Batch) -> Float[Array, " rows"]:
    return jnp.sum(batch["region_masked"], axis=1, dtype=jnp.float32) * _rows(config, batch)


def _counted_regions(given: ObjectiveInput) -> Array:
    return given.batch["region_masked"] & (_rows(given.config, given.batch) > 0)[:, None]


def _mrfr(given: ObjectiveInput) -> ObjectiveSums:
    features, counted = given.features(), _counted_regions(given)
    predicted = given.head("features_at", given.encode(features, hide_regions=True).regions)
    loss = masked.feature_squared_error(predicted, features, counted)
    mean = _mean(features, counted)
    return ObjectiveSums(loss.total, masked.feature_squared_error(mean, features, counted).total, {})


def _mrfr_weights(config: experiment.Config, batch: Batch) -> Float[Array, " rows"]:
    return _masked_regions(config, batch) * elements(config, "mrfr")


def _mrc(given: ObjectiveInput) -> ObjectiveSums:
    pretrain, classes, counted = given.config.pretrain, given.batch["region_classes"], _counted_regions(given)
    logits = given.head("class_logits", given.encode(given.features(), hide_regions=True).regions)
    uninformed = jnp.log(_mean(classes, counted) + 1e-9)
    right = masked.best_class(logits) == masked.best_class(classes)
    hits = masked.summed(right.astype(jnp.float32), counted)
    if pretrain.mrc_kind == "hard":
        losses = [masked.class_cross_entropy(said, classes, counted) for said in (logits, uninformed)]
    else:
        # The weight of a mean by elements is the caller's, see `_mrc_weights`.
        losses = [masked.class_divergence(said, classes, counted, "batchmean") for said in (logits, uninformed)]
    scale = elements(given.config, "mrc")
    return ObjectiveSums(losses[0].total, losses[1].total, {"accuracy": hits.total * scale})


def elements(config: experiment.Config, objective: str) -> int:
    """Counts the numbers that the loss of a region is the mean of.

    Args:
        config: the configuration.
        objective: such as `mrfr`.

    Returns:
        Their number; 1 where the loss is their sum.
    """
    pretrain, regions = config.pretrain, config.single.regions
    if objective == "mrfr" and pretrain.mrfr_reduction == "elementwise":
        return regions.width
    if objective == "mrc" and pretrain.mrc_kind == "kl" and pretrain.mrc_reduction == "elementwise":
        return regions.classes
    return 1


def _mrc_weights(config: experiment.Config, batch: Batch) -> Float[Array, " rows"]:
    return _masked_regions(config, batch) * elements(config, "mrc")


def _mean(values: Float[Array, "rows regions n"], counted: Array) -> Float[Array, "rows regions n"]:
    """The mean over all regions that count, in every place."""
    weights = counted.astype(jnp.float32)[..., None]
    mean = jnp.sum(values.astype(jnp.float32) * weights, axis=(0, 1)) / jnp.maximum(jnp.sum(weights), 1.0)
    return jnp.broadcast_to(mean, values.shape)


def _vqa(given: ObjectiveInput) -> ObjectiveSums:
    answers, valid = given.batch["answers"], given.batch.get(VALID)
    logits = given.head("answer_logits", given.encode(given.features()).pooled)
    loss, score = (f(logits, answers, valid) for f in (matching.answer_cross_entropy, matching.answer_accuracy))
    # The constant guess of every answer's mean score.
    rate = jnp.clip(jnp.mean(answers, axis=0), 1e-6, 1.0 - 1e-6)
    prior = jnp.broadcast_to(jnp.log(rate) - jnp.log1p(-rate), answers.shape)
    uninformed = matching.answer_cross_entropy(prior, answers, valid)
    return ObjectiveSums(loss.total, uninformed.total, {"accuracy": score.total})


OTHER_SIDE = {"mlm": IMAGE, "mrc": TEXT, "mrfr": TEXT}
"""The fields of the side that an objective has to look at besides the one it hides from."""


def mismatched(name: str, batch: Batch) -> Batch:
    """Gives every row of a batch the other side of the row before it.

    An objective that loses nothing by it has not learnt to look there, and guesses words by words, regions by regions.

    Args:
        name: of the objective; `OTHER_SIDE` says which side it must look at.
        batch: its batch.

    Returns:
        The changed batch.
    """
    return {**batch, **{field: jnp.roll(batch[field], 1, axis=0) for field in OTHER_SIDE[name] if field in batch}}


def _rank(given: ObjectiveInput) -> ObjectiveSums:
    """The hinge of each pair against other images for its text and other texts for its image."""
    settings, batch = given.config.rank, given.batch
    keys = [None] * 3 if given.rng is None else jax.random.split(given.rng, 3)
    own = _scores(given, batch, keys[0])
    negatives = [_against(given, *side) for side in zip((IMAGE, TEXT), keys[1:], strict=True)]
    loss = matching.ranking_hinge(own, jnp.concatenate(negatives, axis=1), settings.margin)
    above = jnp.mean((own[:, None] > jnp.concatenate(negatives, axis=1)).astype(jnp.float32), axis=1)
    rows = 2 * settings.hard
    return ObjectiveSums(loss.total / rows, jnp.float32(settings.margin * own.size), {"accuracy": jnp.sum(above)})


def _against(given: ObjectiveInput, fields: tuple[str, ...], rng: PRNGKeyArray | None) -> Float[Array, "rows hard"]:
    """Scores of each row with its hardest candidates in place of its own `fields`."""
    settings, batch = given.config.rank, given.batch
    candidates = {name: batch[NEGATIVE + name] for name in fields if NEGATIVE + name in batch}
    if settings.hard < settings.candidates:
        chosen = matching.hardest(_scores_of(given, candidates, None), settings.hard)
        candidates = {name: _take(value, chosen) for name, value in candidates.items()}
    return _scores_of(given, candidates, rng)


def _take(values: Array, chosen: Array) -> Array:
    """The chosen candidates of each row."""
    return jax.vmap(lambda of_row, places: of_row[places])(values, chosen)


def _scores_of(
    given: ObjectiveInput, candidates: dict[str, Array], rng: PRNGKeyArray | None
) -> Float[Array, "rows candidates"]:
    """Scores of every row with each of its candidates."""
    rows, count = next(iter(candidates.values())).shape[:2]
    fields = (*TEXT, *(name for name in IMAGE if name in given.batch))
    pairs = {
        name: candidates[name].reshape(rows * count, *candidates[name].shape[2:])
        if name in candidates
        else jnp.repeat(given.batch[name], count, axis=0)
        for name in fields
    }
    return _scores(given, pairs, rng).reshape(rows, count)


def _scores(given: ObjectiveInput, pairs: Batch, rng: PRNGKeyArray | None) -> Float[Array, " pairs"]:
    """The rank head's scores of pairs."""
    alone = given._replace(batch=pairs, rng=rng)
    return alone.head("rank_score", alone.encode(alone.features()).pooled)


OBJECTIVES = {
    "itm": Objective(_rows, _itm),
    "mlm": Objective(_masked_words, _mlm),
    "mrc": Objective(_mrc_weights, _mrc),
    "mrfr": Objective(_mrfr_weights, _mrfr),
    "rank": Objective(_rows, _rank),
    "vqa": Objective(_rows, _vqa),
}
