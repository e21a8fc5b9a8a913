"""The makers of the single tower's batches: of a training step, and of an evaluation that is the same every time."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from wenlan_jax.data import loader
from wenlan_jax.data.loader import HostBatch
from wenlan_jax.data.mixture import MixturePart, WantedRow
from wenlan_jax.tasks.single_tower.input.buckets import Shape
from wenlan_jax.tasks.single_tower.input.examples import NEGATIVE, ExampleError, ExampleOptions, ExamplePool, Examples
from wenlan_jax.tasks.single_tower.input.lengths import Lengths
from wenlan_jax.tasks.single_tower.input.schedule import Schedule, StepKind, in_language


@dataclasses.dataclass(frozen=True)
class SingleBatches:
    """Makes the training batch of a step.

    The fields of a batch are those of the step's objective (see `examples`).

    Attributes:
        mixture: says which objective, language and bucket a step trains.
        recipe: how records become examples.
        share: the places of each global batch that this process makes.
        bad_records: `raise` reports a bad record, `replace` gives its place to the next good row of its bucket.

    Raises:
        ExampleError: if the examples of some cell of the schedule cannot be made.
        RegionError: if the regions that an objective needs cannot be had.
    """

    mixture: Schedule
    recipe: ExampleOptions
    share: tuple[int, ...]
    bad_records: Literal["raise", "replace"]

    def __post_init__(self) -> None:
        for cell in self.mixture.cells:
            self.recipe.require(cell.objective, self._pool(cell))

    def __call__(self, step: int) -> HostBatch:
        cell = self.mixture.cell(step)
        self.mixture.require(cell)
        examples = Examples(self.recipe, self._pool(cell), cell.shape, self.bad_records)
        return examples.batch(cell.objective, self.mixture.rows(step, self.share))

    def _pool(self, cell: StepKind) -> ExamplePool:
        source = self.mixture.parts[cell.part].source
        return ExamplePool(source, self.mixture.texts(cell), cell.rows, cell.images, self.mixture.id(cell.part, 0))


def whole_pool(part: MixturePart, lengths: Lengths, language: str) -> ExamplePool:
    """Takes all usable rows of a part in one language.

    Args:
        part: a source with its rule for texts.
        lengths: of its records.
        language: of the texts.

    Returns:
        The rows, for pairs and for negatives.

    Raises:
        ExampleError: if there is none.
    """
    rows = lengths.usable(language).astype(np.int32)
    if not len(rows):
        raise ExampleError(f"{part.source.name}: no record has both a wanted text in {language!r} and a region")
    return ExamplePool(part.source, in_language(part.texts, language), rows, rows, first_id=0)


@dataclasses.dataclass(frozen=True)
class FixedBatches:
    """Makes the batches of one objective for an evaluation: the rows of `pool` in their order, each once.

    The last batch is filled up with rows that hold the empty text and no region; `valid` is False there and `id` -1.
    Masks, negatives and the choice of the text depend on the seed and the row alone, so they are the same at every
    evaluation. Bad records are reported.

    Attributes:
        recipe: how records become examples.
        pool: the rows.
        objective: such as `itm`.
        shape: what texts and regions are padded to.
        batch_size: of the global batch.
        share: the places of each global batch that this process makes.
    """

    recipe: ExampleOptions
    pool: ExamplePool
    objective: str
    shape: Shape
    batch_size: int
    share: tuple[int, ...]

    def __post_init__(self) -> None:
        self.recipe.require(self.objective, self.pool)

    def __len__(self) -> int:
        return math.ceil(len(self.pool.rows) / self.batch_size)

    def __call__(self, number: int) -> HostBatch:
        rows, missing = loader.eval_rows(number, self.batch_size, len(self.pool.rows), self.share)
        used = [int(row) for row in self.pool.rows[rows]]
        # Fills the places of missing rows, for their shapes, and is blanked afterwards.
        filling = [int(self.pool.rows[0])] * missing
        examples = Examples(self.recipe, self.pool, self.shape, "raise")
        batch = examples.batch(self.objective, [WantedRow(0, row, row) for row in (*used, *filling)])
        del batch[loader.REPLACED]
        self._blank(batch, len(used))
        return batch | loader.numbered(batch["id"][: len(used)].tolist(), missing)

    def _blank(self, batch: HostBatch, first: int) -> None:
        """Makes padding of the rows from `first` on, with the empty text, so that none is without a valid token."""
        empty = self.recipe.encode([""], self.shape.tokens)
        for name, array in batch.items():
            array[first:] = empty.get(name.removeprefix(NEGATIVE), 0)
