"""Images of emoji in two drawing styles, by sequence of code points (without U+FE0F): Noto's font, EmojiOne's files.

The font is read by fontTools, not drawn with: Pillow opens it at one size only, and joins the code points of a sequence
only where two more system libraries are found, so that the data would depend on the machine.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wenlan_jax.data.tfds_builder import BuildError
from wenlan_jax.prepare.builders import packages
from wenlan_jax.prepare.builders.cldr import VARIATION
from wenlan_jax.prepare.image_places import Root
from wenlan_jax.prepare.raw_images import MAX_BYTES
from wenlan_jax.prepare.raw_items import ReadError, Rejected

NOTO_PACKAGE, NOTO_FONT = "fonts-noto-color-emoji", "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
EMOJIONE_PACKAGE = "ruby-gemojione"
_GEM = "usr/share/rubygems-integration/all/gems/gemojione-*"
EMOJIONE_FILES = (f"{_GEM}/config/index.json", f"{_GEM}/assets/png/*.png")
_PNG = b"\x89PNG"


def noto(root: Path) -> Iterator[tuple[str, bytes]]:
    """Reads every sequence that the font has one image for, and the PNG file in it (136 x 128 pixels, transparent).

    Source: OpenType's tables cmap (code point to glyph), GSUB lookup type 4 (glyphs to ligature), CBDT (glyph to PNG).

    Args:
        root: of the unpacked package.

    Yields:
        Sequence and PNG file.

    Raises:
        BuildError: for a font without colour bitmaps.
    """
    from fontTools.ttLib import TTFont, TTLibError

    place = packages.one_file(root, NOTO_FONT)
    try:
        font = TTFont(place, lazy=True)
        strike = font["CBDT"].strikeData[-1]
    except (TTLibError, KeyError, OSError) as error:
        raise BuildError(f"{place}: no font with colour bitmaps, table CBDT ({error}); fetch it again") from error
    glyphs: dict[int, str] = font.getBestCmap()
    characters = {glyph: chr(code) for code, glyph in glyphs.items()}
    singles = ((chr(code), glyph) for code, glyph in glyphs.items())
    joined = (("".join(characters.get(part, "\0") for part in parts), glyph) for parts, glyph in _ligatures(font))
    for sequence, glyph in itertools.chain(singles, joined):
        bare = sequence.replace(VARIATION, "")
        if bare and "\0" not in bare and glyph in strike:
            strike[glyph].ensureDecompiled()
            data = bytes(strike[glyph].imageData)
            if data.startswith(_PNG):
                yield bare, data


def _ligatures(font: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """The glyphs that become one, and that one."""
    if "GSUB" not in font:
        return
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            for first, ligatures in getattr(table, "ligatures", {}).items():
                for ligature in ligatures:
                    yield (first, *ligature.Component), ligature.LigGlyph


def emojione(root: Path) -> Iterator[tuple[str, bytes]]:
    """Reads every emoji in the gem's index that has a file, and that PNG file (64 x 64 pixels, transparent).

    Args:
        root: of the unpacked package.

    Yields:
        Sequence and PNG file.

    Raises:
        BuildError: for another index or a file that cannot be read.
    """
    place = packages.one_file(root, EMOJIONE_FILES[0])
    try:
        index = json.loads(place.read_text("utf-8"))
        named = [(str(entry["moji"]).replace(VARIATION, ""), str(entry["unicode"])) for entry in index.values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{place}: not the index of gemojione ({error!r}); fetch {EMOJIONE_PACKAGE} again") from error
    images = Root(str(place.parents[1] / "assets" / "png"), options=())
    for sequence, code in named:
        try:
            if images.has(f"{code}.png"):
                yield sequence, images.read(f"{code}.png", MAX_BYTES)
        except (ReadError, Rejected) as error:
            raise BuildError(f"{place}: {error}; fetch {EMOJIONE_PACKAGE} again") from error
