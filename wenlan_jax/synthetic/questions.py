"""Which questions a scene answers without doubt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from wenlan_jax.synthetic.language import QUERY_KINDS, Query
from wenlan_jax.synthetic.world import Dice, Scene, Thing, colours_on


def choose_queries(scene: Scene, dice: Dice, count: int) -> list[Query]:
    """Chooses queries about a scene, of different kinds where it allows that many.

    Args:
        scene: the scene.
        dice: what is drawn from.
        count: how many.

    Returns:
        The queries.
    """
    by_kind = {kind: [query for query in queries(scene, dice) if query.kind == kind] for kind in QUERY_KINDS}
    kinds = [kind for kind in QUERY_KINDS if by_kind[kind]]
    return [dice.choose(by_kind[kind]) for kind in dice.sample(kinds, min(count, len(kinds)))]


def queries(scene: Scene, dice: Dice) -> Iterator[Query]:
    """Unambiguous queries about `scene`; `dice` picks what the "is there" questions with answer no ask for."""
    shapes = Counter(thing.shape for thing in scene.things)
    single = [thing for thing in scene.things if shapes[thing.shape] == 1]
    yield Query("background", ("background", scene.background))
    yield Query("total", ("number", str(len(scene.things))))
    repeated = {shape: number for shape, number in shapes.items() if number > 1}
    for shape, number in (repeated or shapes).items():  # else nearly all answers would be 1
        yield Query("count", ("number", str(number)), shape=shape)
    for thing in filter(lambda thing: _placed_clearly(thing, scene), scene.things):
        yield Query("place", ("shape", thing.shape), cell=thing.cell)
    for thing in single:
        yield Query("colour", ("colour", thing.colour), shape=thing.shape)
        yield Query("texture", ("texture", thing.texture), shape=thing.shape)
    yield from _existence(scene, dice)
    yield from _comparisons(single)


def _placed_clearly(thing: Thing, scene: Scene) -> bool:
    """ "On the left" or "at the top" is clear when nothing else is in that column or row."""
    if thing.row == 1 and thing.column != 1:
        return sum(other.column == thing.column for other in scene.things) == 1
    if thing.column == 1 and thing.row != 1:
        return sum(other.row == thing.row for other in scene.things) == 1
    return True


def _existence(scene: Scene, dice: Dice) -> Iterator[Query]:
    """As many queries with answer no as with answer yes; the absent things have a shape that is present."""
    present = {(thing.shape, thing.colour) for thing in scene.things}
    for thing in scene.things:
        yield Query("exists", ("truth", "yes"), shape=thing.shape, colour=thing.colour)
        absent = [colour for colour in colours_on(scene.background) if (thing.shape, colour) not in present]
        yield Query("exists", ("truth", "no"), shape=thing.shape, colour=dice.choose(absent))


def _comparisons(things: list[Thing]) -> Iterator[Query]:
    for first in things:
        for second in things:
            if first.size != second.size:
                larger = first if first.size == "large" else second
                yield Query("larger", ("shape", larger.shape), shape=first.shape, other=second.shape)
