"""Emoji and stamps: parsing on small made-up files, and the real packages where they can be had."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from wenlan_jax.data import sources
from wenlan_jax.data.tfds_builder import BuildError
from wenlan_jax.prepare import ingest
from wenlan_jax.prepare.builders import cldr, emoji, emoji_images, packages, registry, stamps
from wenlan_jax.util.languages import LANGUAGES

CAT, FLAG, TONE, NAMELESS = "\U0001f408", "\U0001f1e8\U0001f1ff", "\U0001f44d\U0001f3fd", "\U0001f9ff"
GEM = "usr/share/rubygems-integration/all/gems/gemojione-3.3.0"


def _annotations(language: str) -> dict[str, str | bytes]:
    head = '<?xml version="1.0" encoding="UTF-8" ?>\n<!DOCTYPE ldml SYSTEM "../../common/dtd/ldml.dtd">\n'

    def content(*rows: str) -> str:
        return f"{head}<ldml><annotations>{''.join(rows)}</annotations></ldml>"

    def row(sequence: str, words: str, name: str) -> str:
        start = f'<annotation cp="{sequence}"'
        return f'{start}>{words}</annotation>{start} type="tts">{name}</annotation>'

    more = row(NAMELESS, "x", "amulet") if language != "ko" else row(NAMELESS, "x", "\u2191\u2191\u2191")
    return {
        f"{cldr.FOLDERS[0]}/{language}.xml": content(row(CAT, f"Cat {language} | pet | ", f"cat {language}"), more),
        f"{cldr.FOLDERS[1]}/{language}.xml": content(
            row(FLAG, "flag", f"flag {language}"), row(TONE, "thumb", f"thumb {language}")
        ),
    }


def _texts() -> dict[str, str | bytes]:
    return {name: text for language in LANGUAGES for name, text in _annotations(language).items()}


def _gem(image: Any) -> dict[str, str | bytes]:
    drawn = {
        CAT + "\ufe0f": "1F408",
        FLAG: "1F1E8-1F1FF",
        TONE: "1F44D-1F3FD",
        NAMELESS: "1F9FF",
        "\U0001f415": "1F415",
    }
    index = {code: {"unicode": code, "moji": sequence} for sequence, code in drawn.items()}
    images = {f"{GEM}/assets/png/{code}.png": image(seed, ".png") for seed, code in enumerate(list(drawn.values())[:4])}
    return {f"{GEM}/config/index.json": json.dumps(index), **images}


def test_names_describe_and_keywords_evoke(files: Any) -> None:
    found = cldr.read(files(_texts()), LANGUAGES)
    assert sorted(found) == sorted([CAT, FLAG, TONE])  # the other has no name in Korean
    texts = found[CAT].texts()
    assert [text.text for text in texts if text.kind == "descriptive"] == [f"cat {code}" for code in LANGUAGES]
    assert [text.text for text in texts if text.kind == "weak"] == ["pet"] * 7  # "Cat zh" is the name in other letters


def test_damaged_annotations_are_named(files: Any) -> None:
    place = files({**_texts(), f"{cldr.FOLDERS[1]}/fr.xml": "<ldml><annotations>"})
    with pytest.raises(BuildError, match=r"annotationsDerived/fr.xml: not an annotation file"):
        cldr.read(place, LANGUAGES)


def _splits_of(names: list[str]) -> dict[str, str]:
    return {name: ingest.split_of(name, emoji.SPLIT_SHARES) for name in names}


def test_emojione_from_the_gem(files: Any, image: Any, built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"cat en": "train", "flag en": "test", "thumb en": "train"}
    monkeypatch.setattr(emoji, "SPLITS", ("train", "test"))
    monkeypatch.setattr(emoji.ingest, "split_of", lambda name, shares: names[name])
    found = built("wenlan_emoji/emojione", files({**_texts(), **_gem(image)}))
    assert {split: [record.id for record in records] for split, records in found.items()} == {
        "train": ["1F408"],  # no skin tone, and none without a name
        "test": ["1F1E8-1F1FF"],
    }
    (cat,) = found["train"]
    assert (cat.image, cat.width, cat.height, cat.source) == (image(0, ".png"), 24, 18, "wenlan_emoji/emojione")


@pytest.mark.parametrize("code", ["../../../secret", "link"])
def test_an_index_names_images_of_the_gem_only(code: str, files: Any, image: Any, built: Any) -> None:
    gem = {**_gem(image), f"{GEM}/secret.png": image(5, ".png")}
    index = json.loads(gem[f"{GEM}/config/index.json"])
    next(iter(index.values()))["unicode"] = code
    place = files({**_texts(), **gem, f"{GEM}/config/index.json": json.dumps(index)})
    (place / GEM / "assets" / "png" / "link.png").symlink_to(place / GEM / "secret.png")
    with pytest.raises(BuildError, match="index.json.*(not below|leads out).*fetch ruby-gemojione again"):
        built("wenlan_emoji/emojione", place)


def test_a_split_is_a_matter_of_the_name_alone() -> None:
    splits = _splits_of([f"name {number}" for number in range(2000)])
    assert splits == _splits_of(list(splits))
    counts = {split: list(splits.values()).count(split) for split in emoji.SPLITS}
    assert 1550 < counts["train"] < 1650 and min(counts.values()) > 150


_LINE_FIELDS = (
    *("ascender", "descender", "widthMax", "caretSlopeNumerator", "caretSlopeDenominator", "caretOffset"),
    *("minOriginSB", "minAdvanceSB", "maxBeforeBL", "minAfterBL", "pad1", "pad2"),
)


def _font(glyphs: dict[str, bytes]) -> bytes:
    """A font of bitmaps with a cat, and two letters that join to a flag."""
    from fontTools.feaLib.builder import addOpenTypeFeaturesFromString
    from fontTools.fontBuilder import FontBuilder
    from fontTools.ttLib import newTable
    from fontTools.ttLib.tables import C_B_D_T_, E_B_L_C_, BitmapGlyphMetrics

    order = [".notdef", "cat", "c", "z", "flag"]
    made = FontBuilder(1024, isTTF=True)
    made.setupGlyphOrder(order)
    made.setupCharacterMap({ord(CAT): "cat", ord(FLAG[0]): "c", ord(FLAG[1]): "z"})
    made.setupHorizontalMetrics(dict.fromkeys(order, (1024, 0)))
    made.setupHorizontalHeader()
    made.setupPost()
    addOpenTypeFeaturesFromString(made.font, "feature ccmp { sub c z by flag; } ccmp;")
    strike = {}
    for name, data in glyphs.items():
        bitmap = C_B_D_T_.cbdt_bitmap_format_17(b"", made.font)
        bitmap.metrics = BitmapGlyphMetrics.SmallGlyphMetrics()
        for field in ("height", "width", "BearingX", "BearingY", "Advance"):
            setattr(bitmap.metrics, field, 24)
        bitmap.imageData = data
        strike[name] = bitmap
    bitmaps, places = newTable("CBDT"), newTable("CBLC")
    bitmaps.version = places.version = 3.0
    bitmaps.strikeData, places.strikes = [strike], [E_B_L_C_.Strike()]
    size = places.strikes[0].bitmapSizeTable
    for field in ("colorRef", "flags"):
        setattr(size, field, 0)
    size.ppemX = size.ppemY = 109
    size.bitDepth = 32
    for direction in ("hori", "vert"):
        line = E_B_L_C_.SbitLineMetrics()
        for field in _LINE_FIELDS:
            setattr(line, field, 0)
        setattr(size, direction, line)
    table = E_B_L_C_.eblc_index_sub_table_1(b"", made.font)
    table.indexFormat, table.imageFormat, table.names = 1, 17, list(glyphs)
    places.strikes[0].indexSubTables = [table]
    made.font["CBDT"], made.font["CBLC"] = bitmaps, places
    stream = io.BytesIO()
    made.font.save(stream)
    return stream.getvalue()


def test_noto_images_of_characters_and_of_joined_ones(files: Any, image: Any) -> None:
    drawn = {"cat": image(1, ".png"), "flag": image(2, ".png")}
    root = files({emoji_images.NOTO_FONT: _font(drawn)})
    assert dict(emoji_images.noto(root)) == {CAT: drawn["cat"], FLAG: drawn["flag"]}


def test_a_font_without_bitmaps_is_named(files: Any) -> None:
    with pytest.raises(BuildError, match="NotoColorEmoji.ttf: no font with colour bitmaps"):
        list(emoji_images.noto(files({emoji_images.NOTO_FONT: b"not a font"})))
    with pytest.raises(BuildError, match="is this another version"):
        list(emoji_images.emojione(files({})))


STAMP = """\
A red kangaroo.
zh_CN.utf8=\u7ea2\u8272\u7684\u888b\u9f20
zh_TW.utf8=\u7d05\u888b\u9f20
de.utf8=K\u00e4nguru
pt_BR.utf8=x
fr.utf8=
no mark
"""


def test_phrases_of_a_stamp() -> None:
    assert stamps.phrases(STAMP) == {
        "zh": "\u7ea2\u8272\u7684\u888b\u9f20",
        "en": "A red kangaroo.",
        "de": "K\u00e4nguru",
    }
    assert stamps.phrases("") == {}


def test_stamps(files: Any, image: Any, built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "SPLITS", ("train",))
    monkeypatch.setattr(stamps.ingest, "split_of", lambda name, shares: "train")
    root = "usr/share/tuxpaint/stamps"
    content = {
        f"{root}/animals/kangaroo.txt": STAMP,
        f"{root}/animals/kangaroo.png": image(1, ".png", 1024, 256),
        f"{root}/animals/drawn.txt": "A drawing.\n",
        f"{root}/animals/drawn.svg": "<svg/>",
        f"{root}/animals/broken.txt": "Broken.\n",
        f"{root}/animals/broken.png": b"\x89PNG broken",
    }
    (stamp,) = built("wenlan_stamps", files(content))["train"]
    assert (stamp.id, stamp.width, stamp.height) == ("animals/kangaroo", stamps.MAX_SIDE, 128)
    assert [(text.language, text.kind) for text in stamp.texts] == [
        ("zh", "descriptive"),
        ("en", "descriptive"),
        ("de", "descriptive"),
    ]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb, of Debian and Ubuntu, is not here")
def test_only_wanted_files_are_taken_out_of_a_package(files: Any, tmp_path: Path) -> None:
    root = files(
        {
            "DEBIAN/control": "Package: one\nVersion: 1\nArchitecture: all\nMaintainer: no <a@b.c>\nDescription: x\n",
            "usr/share/one/a.txt": "a",
            "usr/share/one/b.ogg": "b",
        }
    )
    debs = tmp_path / "debs"
    debs.mkdir()
    subprocess.run(["dpkg-deb", "-b", str(root), str(debs / "one_1_all.deb")], check=True, capture_output=True)
    out = packages.unpack(debs, {"one": ("usr/share/*.txt",)}, tmp_path / "out")
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["a.txt"]
    with pytest.raises(BuildError, match=r"no two_\*\.deb\. It must hold: [^!]*apt-get download two"):
        packages.unpack(debs, {"two": ("*",)}, tmp_path / "out")
    (debs / "one_1_all.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(BuildError, match=r"one_1_all.deb: (damaged|cannot be unpacked)"):
        packages.unpack(debs, {"one": ("*",)}, tmp_path / "out")


def test_absent_apt_and_absent_packages_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="no apt-get here.*--manual-dir"):
        registry.build("wenlan_stamps", tmp_path / "data")
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2\nexit 100\n")
    apt.chmod(0o755)
    with pytest.raises(BuildError, match=r"failed \(E: Unable to locate package\).*apt-get update"):
        registry.build("wenlan_stamps", tmp_path / "data")


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real packages of both styles."""
    place = tmp_path_factory.mktemp("debs")
    wanted = [emoji_images.NOTO_PACKAGE, emoji_images.EMOJIONE_PACKAGE, cldr.PACKAGE]
    try:
        packages.fetch(wanted, place)
    except BuildError as error:
        pytest.skip(f"the Debian packages cannot be had here: {error}")
    return place


@pytest.mark.slow
def test_the_real_emoji_in_both_styles(fetched: Path, tmp_path: Path) -> None:
    split_of: dict[str, str] = {}
    for style, least in (("noto", 1800), ("emojione", 1300)):
        name = f"wenlan_emoji/{style}"
        registry.build(name, tmp_path, fetched)
        assert sum(sources.split_sizes(name, tmp_path).values()) > least
        for split in emoji.SPLITS:
            source = sources.open_source(name, split, tmp_path)
            for row in range(len(source)):
                record = source[row]
                assert {text.language for text in record.texts} == set(LANGUAGES)
                assert split_of.setdefault(record.id, split) == split
