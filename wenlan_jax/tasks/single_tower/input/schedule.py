"""What each step of the single tower's training is about: one objective, one language, one bucket of lengths.

A cell is a part of the data with one of its objectives, in one language and one bucket. `Schedule` says which cell a
step trains and which of its rows, as a pure function of (seed, step): the same on every host, and nothing to save.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from wenlan_jax.data import order
from wenlan_jax.data.mixture import Mixture, MixturePart, TextChoice, WantedRow
from wenlan_jax.tasks.single_tower.input import buckets
from wenlan_jax.tasks.single_tower.input.buckets import Shape
from wenlan_jax.tasks.single_tower.input.lengths import Lengths
from wenlan_jax.util.errors import WenlanError

BLOCK = 256
"""Steps whose order is shuffled together."""

_Divide = Callable[[Lengths, str], list[buckets.Bucket]]
Steps = Int64[np.ndarray, " steps"]


class ScheduleError(WenlanError, ValueError):
    """Data and objectives that no schedule can be made of; the message names the part and the remedy."""


class ScheduledPart(NamedTuple):
    """A part of the training data.

    Attributes:
        part: its source and its rule for texts.
        lengths: of its records.
        objectives: those it may train; empty for all.
    """

    part: MixturePart
    lengths: Lengths
    objectives: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class StepKind:
    """What a step trains.

    Attributes:
        part: the number of the part of the data.
        objective: such as `itm`.
        language: of the texts.
        shape: what texts and regions are padded to.
    """

    part: int
    objective: str
    language: str
    shape: Shape
    rows: buckets.Rows = dataclasses.field(repr=False, compare=False)
    """Of the part's source, ascending."""
    images: buckets.Images = dataclasses.field(repr=False, compare=False)
    """Rows whose regions fit the shape, whatever the length of their text: those of other images are drawn from."""


class Schedule:
    """The endless sequence of steps, of `batch_size` pairs in every bucket, so that pairs a step are constant.

    Of any first n * `BLOCK` steps, a cell has its share up to less than two: weight of the part, as in a `Mixture`,
    times weight of the objective among those of the part, times share of the language, times share of the bucket's rows
    in it. A language's share goes by the number of its texts to the power of `language_alpha`. Within a block the order
    is random. Every epoch of a cell covers its rows exactly once, in an order of its own.

    Args:
        parts: the parts of the training data.
        objectives: the weight of each objective. A part trains those it names, or all of them.
        batch_size: of the global batch.
        text_buckets: numbers of tokens, ascending; see `buckets.divide`.
        region_buckets: numbers of regions, ascending.
        language_alpha: see above; 1 for shares by the number of texts, 0 for equal shares.
        seed: of the order.

    Attributes:
        cells: all that steps train.
        parts: the parts of the mixture.

    Raises:
        ScheduleError: for data that cannot be trained on so.
        MixtureError: as `Mixture` does.
    """

    def __init__(
        self,
        parts: Sequence[ScheduledPart],
        objectives: Mapping[str, float],
        batch_size: int,
        text_buckets: Sequence[int],
        region_buckets: Sequence[int],
        language_alpha: float,
        seed: int,
    ) -> None:
        self.batch_size, self.seed = batch_size, seed
        self._pairs = Mixture([part.part for part in parts], seed)
        self.parts = self._pairs.parts
        self._objectives = tuple(part.objectives or tuple(objectives) for part in parts)
        for part, names in zip(parts, self._objectives, strict=True):
            _check(part, names, objectives)
        divide = functools.partial(
            buckets.divide, text_buckets=text_buckets, region_buckets=region_buckets, least=batch_size
        )
        weighed = list(self._weighed(parts, objectives, divide, language_alpha))
        self.cells = tuple(cell for cell, _ in weighed)
        self._interleave = order.Interleave(order.whole_weights([weight for _, weight in weighed]))
        self._orders = tuple(
            order.Order(len(cell.rows), order.part_seed(seed, number), True) for number, cell in enumerate(self.cells)
        )
        self._block: tuple[int, Steps, Steps] | None = None

    def __len__(self) -> int:
        """Records of all parts together."""
        return len(self._pairs)

    @property
    def name(self) -> str:
        """The names of the parts."""
        return self._pairs.name

    def cell(self, step: int) -> StepKind:
        """Says what a step trains."""
        return self.cells[self._use(step)[0]]

    def rows(self, step: int, share: Sequence[int]) -> list[WantedRow]:
        """Says which rows a step trains.

        Args:
            step: the step.
            share: places of the global batch.

        Returns:
            The rows at those places.
        """
        number, use = self._use(step)
        cell, places = self.cells[number], np.asarray(share, np.int64)
        rows = cell.rows[self._orders[number].at(use * self.batch_size + places)]
        positions = np.int64(step) * self.batch_size + places
        return [WantedRow(cell.part, *row) for row in zip(rows.tolist(), positions.tolist(), strict=True)]

    def texts(self, cell: StepKind) -> TextChoice:
        """Returns the rule for the texts of a cell: that of its part, in its language alone."""
        return in_language(self.parts[cell.part].texts, cell.language)

    def require(self, cell: StepKind) -> None:
        """Checks that the part of a cell may train its objective.

        Args:
            cell: the cell.

        Raises:
            ScheduleError: if it must not.
        """
        allowed = self._objectives[cell.part]
        if cell.objective not in allowed:
            name = self._pairs.names[cell.part]
            raise ScheduleError(f"{name}: its objectives are {', '.join(allowed)}, and {cell.objective!r} is none")

    def id(self, part: int, row: int) -> int:
        """Numbers the record in `row` of `part`; parts that read the same source agree on it."""
        return self._pairs.id(part, row)

    def progress(self, pairs: int) -> dict[str, float]:
        """Says how far training has come.

        Args:
            pairs: how many pairs were trained.

        Returns:
            How many of them were of each part, objective and language (`<name>/pairs`), and `<part>/epochs`.
        """
        names = self._pairs.names
        found: Counter[str] = Counter({f"{name}/pairs": 0 for name in names})
        for cell, steps in zip(self.cells, self._counts(pairs // self.batch_size), strict=True):
            for label in (names[cell.part], cell.objective, cell.language):
                found[f"{label}/pairs"] += steps * self.batch_size
        epochs = {
            f"{name}/epochs": found[f"{name}/pairs"] / len(part.source)
            for name, part in zip(names, self.parts, strict=True)
        }
        return {label: float(count) for label, count in found.items()} | epochs

    def _weighed(
        self, parts: Sequence[ScheduledPart], objectives: Mapping[str, float], divide: _Divide, alpha: float
    ) -> Iterator[tuple[StepKind, float]]:
        """The cells with their shares of the steps."""
        part_weights = self._pairs.interleave.weights
        for number, (part, allowed) in enumerate(zip(parts, self._objectives, strict=True)):
            total = sum(objectives[name] for name in allowed)
            for language, chance in _languages(part, alpha).items():
                found = divide(part.lengths, language)
                usable = sum(len(bucket.rows) for bucket in found)
                images = buckets.by_regions(found)
                for name, (shape, rows) in itertools.product(allowed, found):
                    share = part_weights[number] / sum(part_weights) * objectives[name] / total
                    cell = StepKind(number, name, language, shape, rows, images[shape.regions])
                    yield cell, share * chance * len(rows) / usable

    def _use(self, step: int) -> tuple[int, int]:
        """The number of the cell of `step`, and how many steps had it before in the sequence that is not shuffled."""
        if step < 0:
            raise ValueError(f"step must be >= 0, got {step}.")
        block, place = divmod(step, BLOCK)
        kept = self._block  # one name for what another thread may replace
        if kept is None or kept[0] != block:
            kept = self._block = (block, *self._interleave.split(self._shuffled(block)))
        return int(kept[1][place]), int(kept[2][place])

    def _shuffled(self, block: int) -> Steps:
        seed = order.part_seed(self.seed, len(self.cells))  # those before it are the cells' own
        return block * BLOCK + order.permute(np.arange(BLOCK), BLOCK, seed, block)

    def _counts(self, steps: int) -> list[int]:
        """How many of the first `steps` steps each cell has."""
        block, rest = divmod(steps, BLOCK)
        whole = np.array(self._interleave.counts(block * BLOCK))
        begun, _ = self._interleave.split(self._shuffled(block)[:rest])
        counts: list[int] = (whole + np.bincount(begun, minlength=len(self.cells))).tolist()
        return counts


def in_language(choice: TextChoice, language: str) -> TextChoice:
    """Narrows a rule for texts to one language.

    Args:
        choice: the rule.
        language: the language.

    Returns:
        The narrowed rule.
    """
    return dataclasses.replace(choice, wanted=dataclasses.replace(choice.wanted, languages=(language,)))


def _check(part: ScheduledPart, allowed: Sequence[str], objectives: Mapping[str, float]) -> None:
    name = part.part.source.name
    unknown = [objective for objective in allowed if not objectives.get(objective, 0) > 0]
    if unknown:
        raise ScheduleError(f"{name}: objective {', '.join(unknown)} has no weight; those with one: {list(objectives)}")
    if len(part.lengths.regions) != len(part.part.source):
        raise ScheduleError(f"{name}: lengths of {len(part.lengths.regions)} rows for {len(part.part.source)} records")
    if not _languages(part, 1.0):
        raise ScheduleError(
            f"{name}: no record has both a wanted text and a region; add regions with `wenlan regions`, or change the "
            "part's kinds and languages"
        )


def _languages(part: ScheduledPart, alpha: float) -> dict[str, float]:
    """The share of each language that some usable row is in."""
    counts = {name: count for name, count in part.lengths.counts().items() if len(part.lengths.usable(name))}
    chances = order.tempered(list(counts.values()), alpha) if counts else np.zeros(0)
    return dict(zip(counts, chances.tolist(), strict=True))
