"""A scene as a record: image, boxes, texts and questions. Imports neither jax nor tfds, so any worker may use it."""

from __future__ import annotations

from wenlan_jax.data import named_sets
from wenlan_jax.data.records import Question, Record, Region, Text
from wenlan_jax.synthetic.draw import encode_png, render
from wenlan_jax.synthetic.language import LANGUAGES
from wenlan_jax.synthetic.questions import choose_queries
from wenlan_jax.synthetic.world import WIDE, Dice, Framing, Scene, sample_scene

SOURCE = named_sets.SCENES
QUESTIONS = 3
"""Questions per scene and language."""


def scene_texts(scene: Scene, seed: int) -> tuple[Text, ...]:
    """Writes one descriptive and one weak text in each language."""
    dice = Dice(seed, "texts", scene.split, scene.index)
    texts = []
    for code, language in LANGUAGES.items():
        texts.append(Text("descriptive", code, language.describe(scene, dice)))
        texts.append(Text("weak", code, language.hint(scene, dice)))
    return tuple(texts)


def scene_questions(scene: Scene, seed: int) -> tuple[Question, ...]:
    """Asks the same `QUESTIONS` questions in each language, each worded by chance."""
    dice = Dice(seed, "questions", scene.split, scene.index)
    chosen = choose_queries(scene, dice, QUESTIONS)
    return tuple(Question(code, *language.ask(query, dice)) for query in chosen for code, language in LANGUAGES.items())


def compose(seed: int, split: str, index: int, size: int, framing: Framing = WIDE) -> Record:
    """Makes the record of a scene.

    The label of a region is the name of its shape, its attributes are colour, size and texture (English, as in
    `world`).

    Args:
        seed: of all scenes.
        split: of the scene.
        index: of the scene in its split.
        size: side of the image, in pixels.
        framing: how near the camera is.

    Returns:
        The record.
    """
    scene = sample_scene(seed, split, index, framing)
    image, boxes = render(scene, size)
    return Record(
        id=scene.id,
        image=encode_png(image),
        width=size,
        height=size,
        source=SOURCE,
        texts=scene_texts(scene, seed),
        regions=tuple(
            Region(box, thing.shape, (thing.colour, thing.size, thing.texture))
            for box, thing in zip(boxes, scene.things, strict=True)
        ),
        questions=scene_questions(scene, seed),
    )
