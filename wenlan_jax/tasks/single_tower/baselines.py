"""What a guess that sees neither text nor image reaches at the objectives of the single tower.

Each is the best constant guess for the very batches that the tower is measured on, which makes it no easier to beat:
the commonest class, the frequencies of the masked words, the mean feature, the mean distribution over classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from wenlan_jax.data.loader import HostBatch


@runtime_checkable
class Constant(Protocol):
    """The best constant guess for what `add` has shown it."""

    def add(self, batch: HostBatch) -> None:
        """Takes in a batch of an evaluation."""
        ...

    def loss(self) -> float:
        """Computes the mean loss of the guess; that of a region is summed over its numbers or classes."""
        ...

    def accuracy(self) -> float | None:
        """Computes its accuracy; None where there is none."""
        ...


class Frequencies:
    """Guesses classes or words by their empirical frequencies.

    Args:
        labels: takes the labels of a batch, from 0.
    """

    def __init__(self, labels: Callable[[HostBatch], np.ndarray]) -> None:
        self._labels = labels
        self._counts = np.zeros(0, np.int64)

    def add(self, batch: HostBatch) -> None:
        """See `Constant.add`."""
        fresh = np.bincount(self._labels(batch), minlength=len(self._counts))
        fresh[: len(self._counts)] += self._counts
        self._counts = fresh

    def loss(self) -> float:
        """Computes the entropy of the labels, in nats."""
        return float(_entropy(self._counts / self._counts.sum()))

    def accuracy(self) -> float | None:
        """Computes the share of the commonest label."""
        return float(self._counts.max() / self._counts.sum())


class Mean:
    """Guesses features by their mean; the loss is their variance, summed over the numbers of a feature."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, np.float64(0), np.float64(0)

    def add(self, batch: HostBatch) -> None:
        """See `Constant.add`."""
        rows = _masked(batch, "region_features")
        self._count += len(rows)
        self._sum = self._sum + rows.sum(axis=0)
        self._squares = self._squares + np.square(rows).sum(axis=0)

    def loss(self) -> float:
        """See `Mean`."""
        mean = self._sum / self._count
        return float(np.sum(self._squares / self._count - mean**2))

    def accuracy(self) -> float | None:
        """A regression has none."""
        return None


class MeanDistribution:
    """Guesses distributions over classes by their mean; the loss is the KL divergence from it, summed over classes."""

    def __init__(self) -> None:
        self._count, self._sum, self._entropies = 0, np.float64(0), 0.0
        self._best = Frequencies(lambda batch: _masked(batch, "region_classes")[:, 1:].argmax(axis=1))

    def add(self, batch: HostBatch) -> None:
        """See `Constant.add`."""
        rows = _masked(batch, "region_classes")
        self._count += len(rows)
        self._sum = self._sum + rows.sum(axis=0)
        self._entropies += float(_entropy(rows).sum())
        self._best.add(batch)

    def loss(self) -> float:
        """See `MeanDistribution`."""
        mean = np.asarray(self._sum / self._count)
        return float(_entropy(mean) - self._entropies / self._count)

    def accuracy(self) -> float | None:
        """Computes the share of the commonest class but the background."""
        return self._best.accuracy()


def of(objective: str) -> Constant | None:
    """Makes the baseline of an objective.

    Args:
        objective: such as `itm`.

    Returns:
        A baseline that has seen no batch yet; None where a batch does not hold what it would need.
    """
    match objective:
        case "itm":
            return Frequencies(lambda batch: batch["match"][batch["valid"]])
        case "mlm":
            return Frequencies(lambda batch: batch["masked_ids"][batch["masked_valid"]])
        case "mrfr":
            return Mean()
        case "mrc":
            return MeanDistribution()
    return None


def _entropy(shares: Float64[np.ndarray, "*rows classes"]) -> Float64[np.ndarray, "*rows"]:
    return np.asarray(-np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=-1))


def _masked(batch: HostBatch, field: str) -> Float64[np.ndarray, "regions n"]:
    return batch[field][batch["region_masked"]].astype(np.float64)
