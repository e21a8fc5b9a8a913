"""From rows to the fields of a batch: texts, regions, masks and negatives of one objective.

Every batch has `token_ids` int32 and `token_mask` bool (B, Lt), the fields of `regions`, and `id` int32 (B,), a number
for the record of the text. By objective:

| objective | fields | |
|---|---|---|
| itm | match int32 (B,) | 1: text and regions belong together; 0: the regions are those of another record |
| mlm | masked_places, masked_ids int32 (B, K), masked_valid bool (B, K) | `token_ids` are masked already |
| mrfr, mrc | region_masked bool (B, Li) | the features are there; mrc has `region_classes`, too |
| rank | negative_token_ids, negative_token_mask (B, N, Lt) | texts of other records |
| | negative_region_features or _image, negative_region_boxes, negative_region_mask (B, N, ...) | regions of others |

All that is drawn depends on the seed and the position of an example alone, see `order.stream`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from wenlan_jax.data import loader, order, records
from wenlan_jax.data.loader import HostBatch
from wenlan_jax.data.mixture import TextChoice, WantedRow
from wenlan_jax.tasks.single_tower.input import masking
from wenlan_jax.tasks.single_tower.input.buckets import Images, Rows, Shape
from wenlan_jax.tasks.single_tower.input.regions import RegionReader
from wenlan_jax.util.errors import WenlanError

if TYPE_CHECKING:
    from wenlan_jax.data.sources import Source
    from wenlan_jax.data.text import Tokenizer

EXAMPLE_KINDS = ("itm", "mlm", "mrfr", "mrc", "rank")

NEGATIVE = "negative_"
"""Begins the names of the fields of other records in a batch of `rank`."""


class ExampleError(WenlanError, ValueError):
    """An objective that examples cannot be made for; the message says what is missing."""


@dataclasses.dataclass(frozen=True)
class ExampleOptions:
    """How records become examples.

    Attributes:
        tokenizer: for the texts.
        text_length: tokens of a text at most, also where a bucket has room for more.
        regions: how the regions of a record become arrays.
        words: how words are hidden; None where 'mlm' is no objective.
        region_probability: of a region to be hidden.
        match_probability: of a pair of 'itm' to belong together.
        negatives: of each side of an example of 'rank'.
        seed: of all that is drawn.
    """

    tokenizer: Tokenizer
    text_length: int
    regions: RegionReader
    words: masking.WordMasking | None
    region_probability: float
    match_probability: float
    negatives: int
    seed: int

    def require(self, objective: str, pool: ExamplePool) -> None:
        """Checks that examples of an objective can be made.

        Args:
            objective: such as `itm`.
            pool: the rows they are made of.

        Raises:
            ExampleError: for an unknown objective, too few records, or no way to mask words.
            RegionError: if 'mrc' has no classes.
        """
        if objective not in EXAMPLE_KINDS:
            raise ExampleError(f"objective {objective!r}: must be one of {', '.join(EXAMPLE_KINDS)}")
        if objective == "mlm" and self.words is None:
            raise ExampleError("objective 'mlm' needs a way to mask words, see `masking.word_masking`")
        if objective == "mrc":
            self.regions.require_classes()
        if objective == "rank" and self.negatives < 1:
            raise ExampleError("objective 'rank' needs negatives, at least one to each side")
        others = {"itm": 1, "rank": self.negatives}.get(objective, 0)
        if len(pool.images if objective == "itm" else pool.rows) <= others:
            languages = ", ".join(pool.texts.wanted.languages)
            raise ExampleError(
                f"{pool.source.name}: a bucket of texts in {languages} has {len(pool.rows)} records, and objective "
                f"{objective!r} needs {others} others to an example; leave the language out, or take fewer and larger "
                "buckets"
            )

    def encode(self, texts: Sequence[str], length: int) -> HostBatch:
        """Encodes texts.

        Args:
            texts: one a row.
            length: tokens that they are padded to.

        Returns:
            `token_ids` int32 and `token_mask` bool, (texts, length).
        """
        ids, mask = self.tokenizer.encode(texts, min(self.text_length, length))
        padding = ((0, 0), (0, length - ids.shape[1]))
        padded = np.pad(ids, padding, constant_values=self.tokenizer.pad_id)
        return {"token_ids": padded, "token_mask": np.pad(mask, padding)}


@dataclasses.dataclass(frozen=True)
class ExamplePool:
    """Rows of a source, ascending, of which pairs in one language are made.

    Attributes:
        source: the records.
        texts: the rule for their texts.
        rows: of the pairs; texts of negatives are drawn from them.
        images: images of negatives are drawn from these, all that have regions for the shape: where they were those
            of texts of the same length alone, a negative would be about as many things as its text.
        first_id: the number of row 0; see `Mixture.id`.
    """

    source: Source
    texts: TextChoice
    rows: Rows
    images: Images
    first_id: int

    def text(self, row: int, record: records.Record, seed: int, position: int) -> str:
        """Chooses the text of an example.

        Args:
            row: of the record.
            record: the record.
            seed: of the choice.
            position: of the example in the run.

        Returns:
            The text.

        Raises:
            BadRecord: if the record has no wanted text.
        """
        text = self.texts.draw(record, seed, position)
        if text is None:
            missing = self.texts.wanted.missing(record)
            remedy = "remove the cached lengths, which another state of the data has left"
            raise loader.BadRecord(f"{loader.row_name(self.source, row, record)}: {missing}. Remedy: {remedy}.")
        return text.text


@dataclasses.dataclass(frozen=True)
class Examples:
    """Makes examples of rows.

    Attributes:
        recipe: how records become examples.
        pool: the rows.
        shape: what texts and regions are padded to.
        bad_records: `raise` reports a bad record, `replace` takes another row of the pool.
    """

    recipe: ExampleOptions
    pool: ExamplePool
    shape: Shape
    bad_records: Literal["raise", "replace"]

    def batch(self, objective: str, wanted: Sequence[WantedRow]) -> HostBatch:
        """Makes a batch.

        Args:
            objective: such as `itm`.
            wanted: the rows.

        Returns:
            The fields of the objective, with `loader.REPLACED`.

        Raises:
            BadRecord: for a bad record that is not replaced.
        """
        count = len(wanted)
        batch = self.recipe.regions.empty(count, self.shape.regions, objective == "mrc")
        batch |= {"id": np.zeros(count, np.int32), loader.REPLACED: np.zeros(count, bool)}
        if objective == "itm":
            batch["match"] = np.array([self._matches(row.position) for row in wanted], np.int32)
        read = [self._pair(row, batch, place) for place, row in enumerate(wanted)]
        batch |= self.recipe.encode([text for text, _ in read], self.shape.tokens)
        if objective == "mlm":
            self._hide_words(wanted, batch)
        elif objective in ("mrfr", "mrc"):
            batch["region_masked"] = self._hidden_regions(wanted, batch)
        elif objective == "rank":
            self._add_negatives(wanted, [image for _, image in read], batch)
        return batch

    def _random(self, name: str, position: int) -> np.random.Generator:
        return order.stream(self.recipe.seed, name, position)

    def _matches(self, position: int) -> bool:
        return bool(self._random("match", position).random() < self.recipe.match_probability)

    def _pair(self, wanted: WantedRow, batch: HostBatch, place: int) -> tuple[str, str]:
        """Puts the regions of a pair, or of another image where it must not match, at `place`; text and image."""
        rows, matches = self.pool.rows, "match" not in batch or bool(batch["match"][place])
        first = int(np.searchsorted(rows, wanted.row))

        def read(attempt: int) -> tuple[str, str]:
            row = int(rows[(first + attempt) % len(rows)])
            record = self.pool.source[row]
            text = self.pool.text(row, record, self.recipe.seed, wanted.position)
            if matches:
                self.recipe.regions.write(self.pool.source, row, record, batch, place)
            batch["id"][place] = self.pool.first_id + row
            return text, record.id

        candidates = len(rows) if self.bad_records == "replace" else 1
        (text, image), replaced = loader.first_good(read, candidates, f"row {wanted.row}")
        if not matches:
            random = self._random("negative", wanted.position)
            replaced |= self._others(
                self.pool.images,
                image,
                1,
                random,
                lambda _, row, record: self._write_regions(row, record, batch, place),
            )
        batch[loader.REPLACED][place] = replaced
        return text, image

    def _write_regions(self, row: int, record: records.Record, batch: HostBatch, place: int) -> None:
        self.recipe.regions.write(self.pool.source, row, record, batch, place)

    def _others(
        self,
        rows: Rows,
        image: str,
        count: int,
        random: np.random.Generator,
        use: Callable[[int, int, records.Record], None],
    ) -> bool:
        """Calls `use(number, row, record)` for `count` records drawn evenly from those of `rows` of other images.

        Returns whether a bad record was passed over. Raises BadRecord when there are too few good ones.
        """
        tried: set[int] = set()
        found, replaced = 0, False
        while found < count:
            if len(tried) == len(rows):
                raise loader.BadRecord(
                    f"{self.pool.source.name}: of {len(tried)} records, {found} can be negatives for image "
                    f"{image!r}, and {count} are needed"
                )
            row = int(rows[random.integers(len(rows))])
            if row in tried:
                continue
            tried.add(row)
            record = self.pool.source[row]
            if record.id == image:
                continue
            try:
                use(found, row, record)
                found += 1
            except loader.BadRecord:
                if self.bad_records == "raise":
                    raise
                replaced = True
        return replaced

    def _hide_words(self, wanted: Sequence[WantedRow], batch: HostBatch) -> None:
        words = self.recipe.words
        if words is None:
            raise ExampleError("objective 'mlm' needs a way to mask words")
        rows = zip(wanted, batch["token_ids"], batch["token_mask"], strict=True)
        hidden = [words.hide(ids, mask, self._random("words", row.position)) for row, ids, mask in rows]
        batch["token_ids"] = np.stack([item.token_ids for item in hidden])
        batch["masked_places"] = np.stack([item.places for item in hidden])
        batch["masked_ids"] = np.stack([item.ids for item in hidden])
        batch["masked_valid"] = np.stack([item.valid for item in hidden])

    def _hidden_regions(self, wanted: Sequence[WantedRow], batch: HostBatch) -> np.ndarray:
        chance, rows = self.recipe.region_probability, zip(wanted, batch["region_mask"], strict=True)
        return np.stack(
            [masking.hide_regions(mask, chance, self._random("regions", row.position)) for row, mask in rows]
        )

    def _add_negatives(self, wanted: Sequence[WantedRow], images: Sequence[str], batch: HostBatch) -> None:
        """Adds the texts and the regions of `negatives` other records to every row, drawn apart."""
        rows, count = len(wanted), self.recipe.negatives
        empty = self.recipe.regions.empty(rows * count, self.shape.regions, with_classes=False)
        regions = {name: array.reshape(rows, count, *array.shape[1:]) for name, array in empty.items()}
        texts: list[str] = []
        for place, (row, image) in enumerate(zip(wanted, images, strict=True)):
            replaced = self._negative_texts(row.position, image, texts)
            at_place = {name: array[place] for name, array in regions.items()}
            replaced |= self._negative_regions(row.position, image, at_place)
            batch[loader.REPLACED][place] |= replaced
        encoded = self.recipe.encode(texts, self.shape.tokens)
        regions |= {name: array.reshape(rows, count, -1) for name, array in encoded.items()}
        batch |= {NEGATIVE + name: array for name, array in regions.items()}

    def _negative_texts(self, position: int, image: str, texts: list[str]) -> bool:
        def use(_: int, row: int, record: records.Record) -> None:
            texts.append(self.pool.text(row, record, self.recipe.seed, position))

        random = self._random("negative texts", position)
        return self._others(self.pool.rows, image, self.recipe.negatives, random, use)

    def _negative_regions(self, position: int, image: str, batch: HostBatch) -> bool:
        def use(number: int, row: int, record: records.Record) -> None:
            self._write_regions(row, record, batch, number)

        random = self._random("negative images", position)
        return self._others(self.pool.images, image, self.recipe.negatives, random, use)
