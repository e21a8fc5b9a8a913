"""The embedded data: determinism, truth of boxes, captions and answers, grammar, and the TFDS round trip."""

import collections
import dataclasses
import hashlib
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from wenlan_jax.data.tfds_builder import BuildError
from wenlan_jax.synthetic.compose import compose, scene_texts
from wenlan_jax.synthetic.draw import OUTLINES, PATTERNS, render
from wenlan_jax.synthetic.language import LANGUAGES, QUERY_KINDS
from wenlan_jax.synthetic.language.base import RELATIONS
from wenlan_jax.synthetic.world import (
    BACKGROUNDS,
    CLOSE,
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    WIDE,
    Dice,
    Scene,
    SceneError,
    Thing,
    colours_on,
    sample_scene,
)
from wenlan_jax.util.languages import LANGUAGES as CODES

SEED = 2021
VERSION = "1.1.0"
EN_NOUNS = {noun.word: shape for shape, noun in LANGUAGES["en"].nouns.items()}
EN_THING = re.compile(
    r"\b(?:(small|large) )?(red|orange|yellow|green|blue|purple|pink|brown|white|black) "
    rf"(?:(striped|dotted|checked) )?({'|'.join(EN_NOUNS)})\b"
)
EN_PLACE = re.compile(
    r" (in the (?:middle|(?:top|bottom) (?:left|right) corner)|at the (?:top|bottom)|on the (?:left|right))\b"
)
EN_COLUMNS = (("left", 0), ("right", 2))
EN_ROWS = (("top", 0), ("bottom", 2))


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene(SEED, "test", index) for index in range(1000)]


def cell_of(words):
    """The cell of an English place, from its words alone."""
    row = next((number for word, number in EN_ROWS if word in words.split()), 1)
    column = next((number for word, number in EN_COLUMNS if word in words.split()), 1)
    return 3 * row + column


def facts(record):
    """What a record's regions say: (shape, colour, size, texture, cell) each, the cell from the box alone."""
    found = []
    for region in record.regions:
        x1, y1, x2, y2 = region.box
        cell = 3 * int(1.5 * (y1 + y2) / record.height) + int(1.5 * (x1 + x2) / record.width)
        found.append((region.label, *region.attributes, cell))
    return found


# Determinism


def digest(split, indices, size):
    total = hashlib.sha256()
    for index in indices:
        total.update(render(sample_scene(SEED, split, index), size)[0].tobytes())
    return total.hexdigest()


def test_scene_depends_on_nothing_but_its_address():
    forwards = [compose(SEED, "train", index, 64) for index in range(20)]
    backwards = [compose(SEED, "train", index, 64) for index in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len({record.image for record in forwards}) == 20
    assert compose(SEED + 1, "train", 0, 64) != forwards[0]


def test_pixels_and_words_are_those_of_this_version():
    """Fails when drawing or speaking changed: then raise `WenlanScenes.VERSION` and these sums together."""
    words = "".join(text.text for i in range(50) for text in compose(SEED, "train", i, 32).texts)
    assert digest("train", range(50), 64)[:16] == "f7cb47adfbc8b14d"
    assert hashlib.sha256(words.encode()).hexdigest()[:16] == "bf9964a6317f49eb"


def test_fresh_process_gives_the_same_and_needs_no_framework():
    code = (
        "import hashlib, sys\n"
        "from wenlan_jax.synthetic.compose import compose\n"
        f"text = repr([compose({SEED}, 'validation', i, 48) for i in range(8)])\n"
        "assert not {'jax', 'tensorflow', 'tensorflow_datasets'} & set(sys.modules), 'heavy import'\n"
        "print(hashlib.sha256(text.encode()).hexdigest())\n"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = repr([compose(SEED, "validation", i, 48) for i in range(8)])
    assert there.stdout.strip() == hashlib.sha256(here.encode()).hexdigest()


def test_dice_are_fair_and_stay_in_range():
    dice = Dice(0, "fair")
    counts = np.bincount([dice.integer(7) for _ in range(7000)], minlength=7)
    assert counts.size == 7
    assert ((counts - 1000) ** 2 / 1000).sum() < 22.5  # chi-squared with 6 degrees of freedom, p = .001
    assert sorted(dice.sample(range(9), 9)) == list(range(9))


# The world


def test_splits_share_no_scene():
    keys = {
        split: {sample_scene(SEED, split, index).key for index in range(count)}
        for split, count in (("train", 6144), ("validation", 256), ("test", 1000))
    }
    assert not keys["train"] & keys["validation"]
    assert not keys["train"] & keys["test"]
    assert not keys["validation"] & keys["test"]
    assert len(keys["test"]) >= 990


def test_scenes_use_the_whole_vocabulary(scenes):
    things = [thing for scene in scenes for thing in scene.things]
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {len(scene.things) for scene in scenes} == {1, 2, 3, 4}
    for name, words in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES), ("texture", TEXTURES)):
        assert {getattr(thing, name) for thing in things} == set(words)
    assert {thing.cell for thing in things} == set(range(9))
    assert min(len(colours_on(background)) for background in BACKGROUNDS) >= 5
    assert set(OUTLINES) == set(SHAPES)
    assert {"solid", *PATTERNS} == set(TEXTURES)


def test_unknown_split_is_refused():
    with pytest.raises(SceneError, match="'dev'.*train, validation, test"):
        sample_scene(SEED, "dev", 0)


# Drawing


def test_image_decodes_to_the_drawn_pixels():
    record = compose(SEED, "train", 3, 40)
    decoded = cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decoded, render(sample_scene(SEED, "train", 3), 40)[0])
    assert (record.width, record.height) == (40, 40)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_boxes_are_tight_around_what_a_thing_changes(scenes, size):
    """The pixels that differ when a thing is left out fill its box to within one pixel and never leave it."""
    for scene in scenes[:40]:
        image, boxes = render(scene, size)
        for number, (x1, y1, x2, y2) in enumerate(boxes):
            others = scene.things[:number] + scene.things[number + 1 :]
            without, _ = render(dataclasses.replace(scene, things=others), size)
            rows, columns = np.nonzero((image != without).any(-1))
            assert x1 <= columns.min() <= x1 + 1
            assert y1 <= rows.min() <= y1 + 1
            assert x2 - 1 <= columns.max() + 1 <= x2
            assert y2 - 1 <= rows.max() + 1 <= y2


@pytest.mark.parametrize("framing", [WIDE, CLOSE])
def test_things_do_not_overlap_and_stay_inside(framing):
    for scene in (sample_scene(SEED, "test", index, framing) for index in range(300)):
        assert len(scene.things) <= framing.most
        assert {thing.cell for thing in scene.things} <= set(framing.cells)
        boxes = np.asarray(render(scene, 64)[1])
        assert boxes.min() >= 0
        assert boxes.max() <= 64
        for number, first in enumerate(boxes):
            for second in boxes[number + 1 :]:
                shared = np.clip(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), 0, None)
                assert shared.prod() <= 0.05 * min((box[2:] - box[:2]).prod() for box in (first, second))


def test_large_things_are_larger():
    for shape in SHAPES:
        areas = {}
        for size in SIZES:
            thing = Thing(shape, "red", size, "solid", 4, (0.5, 0.5), SIZES[size], 0.0, False, (0, 0, 0))
            x1, y1, x2, y2 = render(Scene("test", 0, "white", (thing,), (0.5,) * 8), 128)[1][0]
            areas[size] = (x2 - x1) * (y2 - y1)
        assert 1.8 < areas["large"] / areas["small"] < 2.8, shape  # (.15 / .1) ** 2 = 2.25


def test_solid_thing_has_its_colour_and_shapes_differ():
    masks = {}
    for shape in SHAPES:
        thing = Thing(shape, "red", "large", "solid", 4, (0.5, 0.5), SIZES["large"], 0.0, False, (0, 0, 0))
        image = render(Scene("test", 0, "white", (thing,), (0.5,) * 8), 64)[0]
        masks[shape] = (image == COLOURS["red"]).all(-1)
        assert masks[shape].sum() > 60, shape
    for first in SHAPES:
        for second in SHAPES:
            if first < second:
                both = (masks[first] & masks[second]).sum() / (masks[first] | masks[second]).sum()
                assert both < 0.85, (first, second)


# Texts


def test_every_record_speaks_every_language():
    record = compose(SEED, "train", 0, 32)
    kinds = collections.Counter((text.kind, text.language) for text in record.texts)
    assert kinds == {(kind, code): 1 for kind in ("descriptive", "weak") for code in CODES}
    assert {question.language for question in record.questions} == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_language_has_all_words(code):
    language = LANGUAGES[code]
    assert set(language.nouns) == set(SHAPES)
    assert set(language.colours) == set(COLOURS)
    assert set(language.textures) == set(TEXTURES)
    assert set(language.settings) == set(language.atmospheres) == set(BACKGROUNDS)
    assert set(language.questions) == set(QUERY_KINDS)
    assert set(language.relations) == {name for row in RELATIONS for name in row if name}
    assert len(set(language.positions)) == 9
    assert not set(language.styles) & set(language.chains)
    weak = [*language.moods, *language.remarks, *sum(map(tuple, language.atmospheres.values()), ())]
    assert len(set(weak)) >= 48
    for table in (language.colours, language.textures, language.truths):
        assert len(set(table.values())) == len(table)
    assert len({noun.word for noun in language.nouns.values()}) == len(SHAPES)
    assert len({setting.name for setting in language.settings.values()}) == len(BACKGROUNDS)


@pytest.mark.parametrize("code", CODES)
def test_texts_are_well_formed(code, scenes):
    scripts = {"zh": "[\u4e00-\u9fff]", "ja": "[\u3040-\u30ff]", "ko": "[\uac00-\ud7a3]"}
    for scene in scenes[:300]:
        for text in scene_texts(scene, SEED):
            if text.language == code:
                assert re.search(scripts.get(code, "[A-Za-z]"), text.text)
                assert text.text[-1] in ".!?。！？", text.text
                assert not re.search(r"[{}]|  | ,|\.\.|, ,", text.text), text.text
                assert text.text[0] == text.text[0].upper(), text.text


@pytest.mark.parametrize("code", CODES)
def test_descriptive_captions_identify_and_weak_ones_do_not(code, scenes):
    counts = {"descriptive": collections.Counter(), "weak": collections.Counter()}
    for scene in scenes:
        for text in scene_texts(scene, SEED):
            if text.language == code:
                counts[text.kind][text.text] += 1
    unique = {kind: sum(n == 1 for n in counter.values()) / 1000 for kind, counter in counts.items()}
    assert unique["descriptive"] >= 0.98
    assert unique["weak"] <= 0.15


def english(scene):
    return next(t.text for t in scene_texts(scene, SEED) if (t.kind, t.language) == ("descriptive", "en"))


def test_english_captions_name_what_is_there(scenes):
    for scene in scenes:
        told = [
            (EN_NOUNS[noun], colour, size, texture or "solid")
            for size, colour, texture, noun in EN_THING.findall(english(scene))
        ]
        assert sorted(told) == sorted((t.shape, t.colour, t.size, t.texture) for t in scene.things)
        assert LANGUAGES["en"].settings[scene.background].where.lower() in english(scene).lower()


def test_english_captions_say_where(scenes):
    """Reads places and relations from the words alone and compares them with the drawn boxes."""
    chains = 0
    for scene in scenes[:400]:
        boxes = dict(zip(scene.things, np.asarray(render(scene, 96)[1]), strict=True))
        middle = {thing: ((box[:2] + box[2:]) / 2).tolist() for thing, box in boxes.items()}
        things = {(t.size, t.colour, t.texture, t.shape): t for t in scene.things}
        if len(things) < len(scene.things):
            continue
        caption, before = english(scene), None
        chains += " it" in caption or "its" in caption
        for match in EN_THING.finditer(caption):
            size, colour, texture, noun = match.groups()
            thing = things[size, colour, texture or "solid", EN_NOUNS[noun]]
            told = re.search(r"(?:(above|below) it)?(?: ?to (?:its|the) (left|right))? an? $", caption[: match.start()])
            if told and any(told.groups()):
                down, across = told.groups()
                (x, y), (px, py) = middle[thing], middle[before]
                assert (y < py) if down == "above" else (y > py) if down else abs(y - py) < 32
                assert (x < px) if across == "left" else (x > px) if across else abs(x - px) < 32
            else:
                words = EN_PLACE.match(caption, match.end())
                assert cell_of(words[1]) == thing.cell, caption
            before = thing
    assert chains > 50


def test_weak_texts_name_at_most_one_thing(scenes):
    for scene in scenes:
        weak = next(t.text for t in scene_texts(scene, SEED) if (t.kind, t.language) == ("weak", "en"))
        named = [noun for shape, noun in LANGUAGES["en"].nouns.items() if re.search(rf"\b{noun.word}\b", weak)]
        assert len(named) <= 1, weak
        assert not EN_THING.search(weak), weak


@pytest.mark.parametrize(
    ("code", "shape", "colour", "size", "texture", "phrase"),
    [
        ("en", "arrow", "orange", "", "solid", "an orange arrow"),
        ("en", "fish", "orange", "large", "striped", "a large orange striped fish"),
        ("de", "circle", "green", "large", "solid", "ein großer grüner Kreis"),
        ("de", "flower", "orange", "small", "dotted", "eine kleine gepunktete orangefarbene Blume"),
        ("de", "house", "white", "large", "checked", "ein großes kariertes weißes Haus"),
        ("fr", "star", "white", "large", "striped", "une grande étoile blanche à rayures"),
        ("fr", "tree", "purple", "small", "solid", "un petit arbre violet"),
        ("fr", "flower", "brown", "small", "checked", "une petite fleur marron à carreaux"),
        ("cs", "star", "red", "large", "striped", "velká červená pruhovaná hvězda"),
        ("cs", "heart", "blue", "small", "dotted", "malé modré puntíkaté srdce"),
        ("cs", "house", "yellow", "large", "checked", "velký žlutý kostkovaný dům"),
        ("zh", "fish", "red", "large", "striped", "一条带条纹的红色大鱼"),
        ("zh", "tree", "green", "", "solid", "一棵绿色的树"),
        ("ja", "star", "purple", "small", "dotted", "水玉模様の小さな紫色の星"),
        ("ko", "house", "yellow", "large", "striped", "큰 노란 줄무늬 집"),
    ],
)
def test_noun_phrases(code, shape, colour, size, texture, phrase):
    assert LANGUAGES[code].phrase(shape, colour, size, texture) == phrase


def test_forms_of_nouns():
    french, korean, german = LANGUAGES["fr"], LANGUAGES["ko"], LANGUAGES["de"]
    assert french.forms("star")["of_the"] == "de l'étoile"
    assert french.forms("circle")["of_the"] == "du cercle"
    assert french.forms("flower")["of_the"] == "de la fleur"
    assert french.forms("tree")["of_many"] == "d'arbres"
    assert [korean.forms(shape)["i"] for shape in ("star", "boat", "fish", "house")] == [
        "이",
        "가",
        "가",
        "이",
    ]
    assert [german.forms(shape)["the"] for shape in ("fish", "cup", "boat")] == [
        "der Fisch",
        "die Tasse",
        "das Boot",
    ]


def test_czech_pronouns_agree():
    def thing(shape, cell):
        return Thing(shape, "red", "small", "solid", cell, (0.5, 0.5), SIZES["small"], 0.0, False, (0, 0, 0))

    czech = LANGUAGES["cs"]
    assert czech.relate(thing("circle", 1), thing("star", 4)) == "nad ní malý červený kruh"
    assert czech.relate(thing("star", 5), thing("circle", 4)) == "vpravo od něj malá červená hvězda"
    assert czech.relate(thing("star", 6), thing("heart", 4)) == "vlevo pod ním malá červená hvězda"


# Questions


def answer_english(question, record, background):
    """The answer found from a record's regions and the words of the question: no code shared with the package."""
    things = facts(record)
    plurals = {noun.many: shape for shape, noun in LANGUAGES["en"].nouns.items()}
    named = [EN_NOUNS[n] for n in re.findall(rf"the ({'|'.join(EN_NOUNS)})\b", question)]
    if "background" in question:
        return LANGUAGES["en"].settings[background].name
    if re.search(r"things are|shapes are", question):
        return str(len(things))
    if many := re.match(r"How many (.*?) are", question):
        return str(sum(shape == plurals[many[1]] for shape, *_ in things))
    if "larger" in question:
        (large,) = [shape for shape, _, size, *_ in things if shape in named and size == "large"]
        return next(noun for noun, shape in EN_NOUNS.items() if shape == large)
    if question.startswith("Is there"):
        colour, noun = EN_THING.search(question).group(2, 4)
        return "yes" if any(t[:2] == (EN_NOUNS[noun], colour) for t in things) else "no"
    if named:
        ((_, colour, _, texture, _),) = [thing for thing in things if thing[0] == named[0]]
        return colour if re.search("colour", question) else {"solid": "plain"}.get(texture, texture)
    place = re.match(r"(?:What|Which shape) is (.*)\?", question)[1]
    (shape,) = [thing[0] for thing in things if thing[-1] == cell_of(place)]
    return next(noun for noun, name in EN_NOUNS.items() if name == shape)


def test_answers_are_true_and_unambiguous():
    answers = collections.Counter()
    for index in range(600):
        record, scene = compose(SEED, "train", index, 64), sample_scene(SEED, "train", index)
        for question in record.questions:
            if question.language == "en":
                assert question.answer == answer_english(question.question, record, scene.background), question
                answers[question.answer] += 1
    assert 0.4 < answers["yes"] / (answers["yes"] + answers["no"]) < 0.6
    assert set(answers) > {
        *COLOURS,
        "plain",
        "striped",
        "1",
        "2",
        "3",
        "4",
        "crescent moon",
        "sea",
        "yes",
        "no",
    }


def test_places_asked_for_hold_one_thing_only():
    """ "On the left" must not be asked when two things are on the left, at whatever height."""
    for index in range(600):
        record = compose(SEED, "test", index, 32)
        columns = collections.Counter(cell % 3 for *_, cell in facts(record))
        rows = collections.Counter(cell // 3 for *_, cell in facts(record))
        for question in record.questions:
            if re.search(r" is on the (left|right)\?", question.question):
                assert columns[cell_of(question.question.strip("?")) % 3] == 1
            if re.search(r" is at the (top|bottom)\?", question.question):
                assert rows[cell_of(question.question.strip("?")) // 3] == 1


def test_questions_say_the_same_in_all_languages():
    """The answers of one question, translated back through each language's words, agree."""
    back = {}
    for code, language in LANGUAGES.items():
        words = {language.nouns[shape].word: shape for shape in SHAPES}
        words |= {word: name for table in (language.colours, language.textures) for name, word in table.items()}
        words |= {setting.name: f"at {name}" for name, setting in language.settings.items()}
        back[code] = words | {word: name for name, word in language.truths.items()}
    for index in range(200):
        questions = compose(SEED, "train", index, 32).questions
        for start in range(0, len(questions), len(CODES)):
            group = questions[start : start + len(CODES)]
            assert [question.language for question in group] == list(CODES)
            meanings = {back[q.language].get(q.answer, q.answer).removeprefix("at ") for q in group}
            assert len(meanings) == 1, group
            assert all(len(question.answer) <= 24 for question in group)
            assert all(question.question[-1] in "?？" for question in group)


# TFDS

ROUND_TRIP = """
import sys
from pathlib import Path
from wenlan_jax.data.tfds_builder import BuildError
from wenlan_jax.synthetic.builder import SEED
from wenlan_jax.synthetic.builder import build
folder = build("wenlan_scenes/tiny", Path(sys.argv[1]))
import tensorflow_datasets as tfds
from wenlan_jax.data.records import from_example
from wenlan_jax.data.tfds_builder import BuildError
from wenlan_jax.synthetic.compose import compose
builder = tfds.builder("wenlan_scenes/tiny", data_dir=sys.argv[1])
source = builder.as_data_source(decoders={"image": tfds.decode.SkipDecoding()})
assert {split: len(rows) for split, rows in source.items()} == {"train": 64, "validation": 16, "test": 16}
for split, rows in source.items():
    for index in (0, 7, len(rows) - 1):
        assert from_example(rows[index]) == compose(SEED, split, index, 32), (split, index)
assert not {"tensorflow", "jax"} & set(sys.modules), "heavy import"
print(folder)
"""


def test_two_builds_at_once_after_a_killed_one(tmp_path):
    """Both processes get the whole data set, read it without TensorFlow, and nothing of the dead build stays."""
    remains = tmp_path / "wenlan_scenes" / "tiny" / f"incomplete.ABCDEF_{VERSION}"
    for folder in (remains, remains.parent / VERSION):
        folder.mkdir(parents=True)
        (folder / "wenlan_scenes-train.array_record-00000-of-00001").write_bytes(b"half a file")
    command = [sys.executable, "-c", ROUND_TRIP, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    expected = str(remains.parent / VERSION)
    assert [out.strip() for out, _ in outputs] == [expected, expected]
    assert sum("built wenlan_scenes/tiny" in err for _, err in outputs) == 1
    assert sorted(path.name for path in remains.parent.iterdir()) == [VERSION]


def test_unknown_names_are_refused(tmp_path):
    from wenlan_jax.synthetic.builder import build

    for name in ("wenlan_scenes/s65", "s64", "coco"):
        with pytest.raises(SceneError, match="wenlan_scenes/s64"):
            build(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_unusable_data_directory_is_named(tmp_path):
    from wenlan_jax.synthetic.builder import build

    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(BuildError, match="cannot build wenlan_scenes/tiny in .*file.*that can be written"):
        build("wenlan_scenes/tiny", tmp_path / "file")
