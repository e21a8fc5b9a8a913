"""Which pairs a training batch is made of: parts in fixed shares, each a source with its order and its rule for texts.

`Mixture.draw` is a pure function of (seed, step), as `order` is: a position of the endless sequence falls to one part,
as the n-th example of that part, and the order of the part names the row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from wenlan_jax.data import order, records
from wenlan_jax.util.errors import WenlanError

if TYPE_CHECKING:
    from wenlan_jax.data.sources import Source

LARGEST_ID = 2**31 - 1
"""Ids of images are int32 on the accelerator."""


class MixtureError(WenlanError, ValueError):
    """Parts that cannot be mixed; the message names the field and the remedy."""


@dataclasses.dataclass(frozen=True)
class WantedTexts:
    """Which texts of a record are used.

    Attributes:
        kinds: of the texts; empty for all.
        languages: of the texts; empty for all.
    """

    kinds: tuple[str, ...]
    languages: tuple[str, ...]

    def of(self, record: records.Record) -> list[records.Text]:
        """Lists the wanted texts of a record that are not blank, in their order."""
        return [text for text in record.texts if self._admits(text)]

    def _admits(self, text: records.Text) -> bool:
        kind = not self.kinds or text.kind in self.kinds
        language = not self.languages or text.language in self.languages
        return kind and language and bool(text.text.strip())

    def missing(self, record: records.Record) -> str:
        """Says why a record has no wanted text."""
        has = sorted({f"{text.kind}/{text.language}" for text in record.texts}) or ["no text"]
        kinds, languages = list(self.kinds) or "any", list(self.languages) or "any"
        return f"no text of kinds {kinds} in languages {languages}; it has {', '.join(has)}"


@dataclasses.dataclass(frozen=True)
class TextChoice:
    """Which text of a record makes the pair, narrowed down in turn by kind, language, and evenly among the rest.

    Attributes:
        wanted: the texts to choose from.
        kind_choice: `any` takes the kinds alike, `first` the first kind of the list that the record has, `weighted`
            draws a kind the record has by `kind_weights`.
        kind_weights: one a kind of `wanted.kinds`; read for `weighted` only.
        language_alpha: a language the record has is drawn in proportion to the number of its texts in it to this power;
            1 draws evenly among the texts.
    """

    wanted: WantedTexts
    kind_choice: Literal["any", "first", "weighted"]
    kind_weights: tuple[float, ...]
    language_alpha: float

    def draw(self, record: records.Record, seed: int, position: int) -> records.Text | None:
        """Draws the text of a pair.

        Args:
            record: the record of the pair.
            seed: of the run.
            position: of the pair in the sequence.

        Returns:
            The text; None when the record has no wanted text.
        """
        texts = self.wanted.of(record)
        if not texts:
            return None
        if self.kind_choice != "any":
            kind = self._kind({text.kind for text in texts}, seed, position)
            texts = [text for text in texts if text.kind == kind]
        if self.language_alpha != 1:
            language = self._language([text.language for text in texts], seed, position)
            texts = [text for text in texts if text.language == language]
        if len(texts) == 1:
            return texts[0]
        return texts[order.stream(seed, "text", position).integers(len(texts))]

    def _kind(self, found: set[str], seed: int, position: int) -> str:
        if self.kind_choice == "first":
            return next(kind for kind in self.wanted.kinds if kind in found)
        weights = [weight * (kind in found) for kind, weight in zip(self.wanted.kinds, self.kind_weights, strict=True)]
        return self.wanted.kinds[order.pick(np.asarray(weights), order.stream(seed, "kind", position))]

    def _language(self, found: Sequence[str], seed: int, position: int) -> str:
        languages = sorted(set(found))
        if len(languages) == 1:
            return languages[0]
        chances = order.tempered([found.count(language) for language in languages], self.language_alpha)
        return languages[order.pick(chances, order.stream(seed, "language", position))]


class MixturePart(NamedTuple):
    """A source and what is used of it.

    Attributes:
        source: the records.
        texts: the rule for their texts.
        weight: its share of the pairs; 0 in all parts: by their sizes.
    """

    source: Source
    texts: TextChoice
    weight: float


class WantedRow(NamedTuple):
    """A row that is wanted for a pair.

    Attributes:
        part: the number of the part.
        row: of the part's source.
        position: of the pair in the sequence.
    """

    part: int
    row: int
    position: int


class Mixture:
    """The endless sequence of pairs of one or more parts.

    Positions fall to the parts in shares of exactly their weights (`order.Interleave`); within a part every epoch
    covers its rows exactly once. Part 0 has the order that `seed` names.

    Args:
        parts: the parts.
        seed: of the order.
        shuffle: whether rows are shuffled.

    Attributes:
        names: of the parts, numbered where one comes twice.

    Raises:
        MixtureError: when some weights are 0 and others are not, and when the records are more than ids can tell apart.
    """

    def __init__(self, parts: Sequence[MixturePart], seed: int, shuffle: bool = True) -> None:
        if not parts:
            raise MixtureError("data.mixture: no part to train on")
        self.parts, self.seed = tuple(parts), seed
        self.orders = tuple(
            order.Order(len(part.source), order.part_seed(seed, number), shuffle) for number, part in enumerate(parts)
        )
        self.interleave = order.Interleave(_whole(parts))
        self.names = _names([part.source.name for part in parts])
        self._first_ids = _first_ids([part.source for part in parts])

    def __len__(self) -> int:
        """Records of all parts together."""
        return sum(len(part.source) for part in self.parts)

    @property
    def name(self) -> str:
        """The names of the parts."""
        return " + ".join(self.names)

    def draw(self, step: int, batch_size: int, share: Sequence[int]) -> list[WantedRow]:
        """Says which rows make up a batch.

        Args:
            step: number of the global batch.
            batch_size: of the global batch.
            share: places of the batch.

        Returns:
            The rows at those places.

        Raises:
            ValueError: for a negative step or an empty batch.
        """
        if step < 0 or batch_size < 1:
            raise ValueError(f"step must be >= 0 and batch_size >= 1, got {step} and {batch_size}.")
        positions = np.int64(step) * batch_size + np.asarray(share, np.int64)
        parts, examples = self.interleave.split(positions)
        rows = np.zeros_like(positions)
        for number, of_part in enumerate(self.orders):
            mine = parts == number
            rows[mine] = of_part.at(examples[mine])
        columns = (parts.tolist(), rows.tolist(), positions.tolist())
        return [WantedRow(*row) for row in zip(*columns, strict=True)]

    def id(self, part: int, row: int) -> int:
        """Numbers the image in `row` of `part`; parts that read the same source agree on it."""
        return self._first_ids[part] + row

    def progress(self, pairs: int) -> dict[str, float]:
        """Says how far training has come.

        Args:
            pairs: how many pairs were trained.

        Returns:
            How many of them were of each part (`<name>/pairs`), and how many epochs that makes (`<name>/epochs`).
        """
        found: dict[str, float] = {}
        counts = self.interleave.counts(pairs)
        for name, part, count in zip(self.names, self.parts, counts, strict=True):
            found |= {f"{name}/pairs": float(count), f"{name}/epochs": count / len(part.source)}
        return found


def _whole(parts: Sequence[MixturePart]) -> tuple[int, ...]:
    """Whole weights of the parts: of their sizes when none is given."""
    sizes = [len(part.source) for part in parts]
    given = [part.weight for part in parts]
    if not any(given):
        if sum(sizes) > order.LARGEST_TOTAL:
            raise MixtureError(f"data.mixture: {sum(sizes):,} records; {order.LARGEST_TOTAL:,} can be told apart")
        return tuple(sizes)
    if not all(weight > 0 for weight in given):
        raise MixtureError(f"data.mixture: give every part a positive weight, or none; got {given}")
    return order.whole_weights(given)


def _names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, numbered where one comes twice."""
    return tuple(f"{name}#{number}" if names.count(name) > 1 else name for number, name in enumerate(names))


def _first_ids(sources: Sequence[Source]) -> tuple[int, ...]:
    """The id of the first row of each source; a source that comes twice keeps its ids."""
    found: dict[int, int] = {}
    end = 0
    for source in sources:
        if id(source) not in found:
            found[id(source)] = end
            end += len(source)
    if end > LARGEST_ID:
        raise MixtureError(f"data.mixture: {end:,} records; ids of images are int32 and tell {LARGEST_ID:,} apart")
    return tuple(found[id(source)] for source in sources)
