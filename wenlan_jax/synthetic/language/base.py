"""What a language must provide to speak about scenes, and the parts of speaking that all languages share.

A language is a subclass of `Language`, whose `phrase` builds a noun phrase with the right agreement, and one
instance of it, which holds the words and the sentence patterns. Patterns are chosen so that noun phrases stand in
the form that `phrase` gives (the nominative where there are cases). The fields that a pattern may use are said at
its table; "forms" are those that `forms` gives.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence

from wenlan_jax.synthetic.world import Dice, Scene, Thing


@dataclasses.dataclass(frozen=True)
class Noun:
    """The name of a shape.

    Attributes:
        word: the noun.
        gender: where the language has one.
        many: the form asked for by "how many".
        measure: the Chinese measure word.
    """

    word: str
    gender: str = ""
    many: str = ""
    measure: str = ""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A background.

    Attributes:
        name: by itself.
        where: as in a sentence that says where the things are.
    """

    name: str
    where: str


@dataclasses.dataclass(frozen=True)
class Query:
    """A question about a scene before it is put in words.

    Attributes:
        kind: one of `QUERY_KINDS`.
        answer: as (word list, entry).
        shape: that it asks about.
        other: another shape that it asks about.
        colour: that it asks about.
        cell: that it asks about.
    """

    kind: str
    answer: tuple[str, str]
    shape: str = ""
    other: str = ""
    colour: str = ""
    cell: int = -1


QUERY_KINDS = ("colour", "texture", "place", "count", "total", "exists", "larger", "background")
RELATIONS = (
    ("above left", "above", "above right"),
    ("left", "", "right"),
    ("below left", "below", "below right"),
)
"""Entry `[1 + sign of the rows between][1 + sign of the columns between]`."""


def relation(thing: Thing, previous: Thing) -> str:
    """Says where `thing` is as seen from `previous`: an entry of `RELATIONS`."""
    return RELATIONS[1 + _sign(thing.row - previous.row)][1 + _sign(thing.column - previous.column)]


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def sentence(text: str) -> str:
    """Gives a text a capital first letter (no change in scripts without capitals)."""
    return text[:1].upper() + text[1:]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Language(abc.ABC):
    """One language: its words and patterns as fields, and how they combine as methods."""

    code: str
    nouns: Mapping[str, Noun]
    colours: Mapping[str, str]  # as an answer
    textures: Mapping[str, str]  # as an answer
    settings: Mapping[str, Setting]
    positions: Sequence[str]  # nine, row by row
    truths: Mapping[str, str]  # yes, no
    comma: str
    last_comma: str
    placed: str  # {thing} {position}
    relations: Mapping[str, str]  # {thing}; entry per relation
    styles: Sequence[str]  # {things} {where} {name}, forms of the last thing
    chains: Sequence[str]  # the same for things placed relative to the one before; none equals a style
    chain_comma: str
    questions: Mapping[str, Sequence[str]]  # {thing} {position}, forms, forms of the other as {other_*}
    moods: Sequence[str]  # no fields
    remarks: Sequence[str]  # forms
    atmospheres: Mapping[str, Sequence[str]]  # no fields; entry per background

    @abc.abstractmethod
    def phrase(self, shape: str, colour: str, size: str = "", texture: str = "solid") -> str:
        """Builds the (indefinite) noun phrase; a solid texture and an empty size go without saying."""

    def forms(self, shape: str) -> dict[str, str]:
        """Returns the forms of the noun that patterns may use: at least `noun` (bare), `the` (definite) and `many`."""
        noun = self.nouns[shape]
        return {"noun": noun.word, "the": noun.word, "many": noun.many or noun.word}

    def relate(self, thing: Thing, previous: Thing) -> str:
        """Describes `thing` with its place relative to `previous`."""
        return self.relations[relation(thing, previous)].format(thing=self.thing(thing))

    def thing(self, thing: Thing) -> str:
        """Describes `thing` with all its attributes."""
        return self.phrase(thing.shape, thing.colour, thing.size, thing.texture)

    def place(self, thing: Thing) -> str:
        """Describes `thing` with its place in the image."""
        return self.placed.format(thing=self.thing(thing), position=self.positions[thing.cell])

    def join(self, parts: Sequence[str]) -> str:
        """Joins `parts` as a list in a sentence."""
        return self.last_comma.join([*([self.comma.join(parts[:-1])] if parts[1:] else []), parts[-1]])

    def describe(self, scene: Scene, dice: Dice) -> str:
        """Writes a descriptive caption: every thing with its attributes and place, and the background."""
        things = [scene.things[number] for number in dice.sample(range(len(scene.things)), len(scene.things))]
        pattern = dice.choose([*self.styles, *(self.chains if len(things) > 1 else ())])
        if pattern in self.styles:
            text = self.join([self.place(thing) for thing in things])
        else:
            text = self.chain_comma.join([self.place(things[0]), *map(self.relate, things[1:], things)])
        setting = self.settings[scene.background]
        fields = self.forms(things[-1].shape)
        return sentence(pattern.format(things=text, where=setting.where, name=setting.name, **fields))

    def hint(self, scene: Scene, dice: Dice) -> str:
        """Writes a weak text, as found beside images on the web: about one thing, the setting, or neither."""
        lot = dice.integer(8)
        if lot < 2:
            return sentence(dice.choose(self.moods))
        if lot < 5:
            return sentence(dice.choose(self.atmospheres[scene.background]))
        fields = self.forms(dice.choose(scene.things).shape)
        return sentence(dice.choose(self.remarks).format(**fields))

    def ask(self, query: Query, dice: Dice) -> tuple[str, str]:
        """Puts a question and its answer in words."""
        fields = self.forms(query.shape) if query.shape else {}
        if query.other:
            fields |= {f"other_{name}": form for name, form in self.forms(query.other).items()}
        if query.colour:
            fields["thing"] = self.phrase(query.shape, query.colour)
        if query.cell >= 0:
            fields["position"] = self.positions[query.cell]
        return sentence(dice.choose(self.questions[query.kind]).format(**fields)), self.answer(*query.answer)

    def answer(self, word_list: str, entry: str) -> str:
        """Puts an answer in words: an entry of `shape`, `colour`, `texture`, `background`, `truth`, or a `number`."""
        if word_list == "shape":
            return self.nouns[entry].word
        if word_list == "background":
            return self.settings[entry].name
        tables = {"colour": self.colours, "texture": self.textures, "truth": self.truths}
        return tables[word_list][entry] if word_list in tables else entry
