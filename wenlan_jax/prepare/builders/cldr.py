"""Names and keywords of emoji in many languages, from the annotations of Unicode's CLDR.

Source: LDML part 7 (UTS 35), "Annotations": `<annotation cp="..." type="tts">` is the name, the same without a type a
list of keywords with bars between. `annotationsDerived` has those of sequences: flags, families, skin tones. Code point
U+FE0F is left out of `cp` throughout.
"""

from __future__ import annotations

import collections
import dataclasses
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from wenlan_jax.data.records import Text
from wenlan_jax.data.tfds_builder import BuildError

PACKAGE = "unicode-cldr-core"
FOLDERS = ("usr/share/unicode/cldr/common/annotations", "usr/share/unicode/cldr/common/annotationsDerived")
LICENSE = "names and keywords: Unicode License (Unicode-DFS-2016), https://www.unicode.org/license.txt"

_INHERITED = "\u2191\u2191\u2191"  # stands for the text of the parent locale
VARIATION = "\ufe0f"


@dataclasses.dataclass(frozen=True)
class Annotation:
    """What is said about one emoji.

    Attributes:
        names: by language.
        keywords: by language.
    """

    names: Mapping[str, str]
    keywords: Mapping[str, tuple[str, ...]]

    def texts(self) -> tuple[Text, ...]:
        """Makes texts: names describe the image, keywords only evoke it; no keyword repeats the name."""
        named = [Text("descriptive", language, name) for language, name in self.names.items()]
        evoked = [
            Text("weak", language, word)
            for language, words in self.keywords.items()
            for word in words
            if word.casefold() != self.names[language].casefold()
        ]
        return (*named, *evoked)


def read(root: Path, languages: Sequence[str]) -> dict[str, Annotation]:
    """Reads the annotations of every sequence that has a name in each language.

    Args:
        root: holds `usr/share/unicode`.
        languages: their codes.

    Returns:
        The annotations by sequence, in the order of code points.

    Raises:
        BuildError: for a file that is missing or damaged.
    """
    names: dict[str, dict[str, str]] = collections.defaultdict(dict)
    keywords: dict[str, dict[str, tuple[str, ...]]] = collections.defaultdict(dict)
    for language in languages:
        for folder in FOLDERS:
            for sequence, is_name, text in _annotations(root / folder / f"{language}.xml"):
                if is_name:
                    names[sequence][language] = text
                else:
                    keywords[sequence][language] = tuple(filter(None, (word.strip() for word in text.split("|"))))
    return {
        sequence: Annotation(named, {code: keywords[sequence].get(code, ()) for code in languages})
        for sequence, named in sorted(names.items())
        if len(named) == len(languages)
    }


def _annotations(place: Path) -> Iterator[tuple[str, bool, str]]:
    """The sequence, whether this is its name, and the text, of each annotation in one file."""
    try:
        tree = ElementTree.parse(place)
    except (OSError, ElementTree.ParseError) as error:
        raise BuildError(f"{place}: not an annotation file of CLDR ({error}); fetch {PACKAGE} again") from error
    for element in tree.iter("annotation"):
        sequence, text = (element.get("cp") or "").replace(VARIATION, ""), (element.text or "").strip()
        if sequence and text and text != _INHERITED:
            yield sequence, element.get("type") == "tts", text
