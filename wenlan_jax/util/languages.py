"""The spellings of languages that people and programs write, and the one spelling that records, options and fields use.

The seven languages of the papers have one code each: regions and scripts (`zh-TW`, `en_US`, `zho_Hant`) are dropped.
Any other language keeps its code, in lower case with hyphens.
"""

from __future__ import annotations

import functools
import re
import unicodedata

LANGUAGES = ("zh", "en", "de", "fr", "cs", "ja", "ko")
"""The seven languages of the WenLan papers; records may hold others, as any lower-case code."""

_CODE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{1,8})*")
_LOCALE = re.compile(r"(?<=[a-z])[.@][\w-]*$")  # as in en_US.UTF-8 and de_DE@euro
_WORDS = re.compile(r"[\s,;:/()\[\]-]+")

# Codes of ISO 639, country codes that are taken for them (cn, jp, kr, cz), and names. Words that say which Chinese
# (script, region) follow or precede the name; they are in _QUALIFIERS.
_SPELLINGS = {
    "zh": "zh zho chi cmn cn chs cht zhs zht zhcn zhtw zhhans zhhant chinese mandarin putonghua zhongwen hanyu "
    "中文 汉语 漢語 华语 華語 国语 國語 普通话 普通話 简体中文 簡體中文 繁体中文 繁體中文 简中 繁中 chinesisch chinois "
    "čínština cinstina 中国語 중국어",
    "en": "en eng english anglais englisch angličtina anglictina 英语 英語 英文 영어",
    "de": "de deu ger german deutsch allemand němčina nemcina 德语 德語 德文 ドイツ語 독일어",
    "fr": "fr fra fre french français francais französisch francouzština francouzstina 法语 法語 法文 フランス語 "
    "프랑스어",
    "cs": "cs ces cze cz czech čeština cestina český cesky tschechisch tchèque tcheque 捷克语 捷克語 捷克文 "
    "チェコ語 체코어",
    "ja": "ja jpn jp japanese 日本語 日本语 日语 日語 日文 japanisch japonais japonština japonstina 일본어",
    "ko": "ko kor kr korean 한국어 조선말 韩语 韓語 韩文 韓文 朝鲜语 朝鮮語 韓国語 koreanisch coréen coreen korejština "
    "korejstina",
}
_QUALIFIERS = frozenset(
    ("simplified", "traditional", "modern", "standard", "hans", "hant", "简体", "簡體", "繁体", "繁體", "language")
)


def _folded(spelling: str) -> str:
    return unicodedata.normalize("NFKC", spelling).strip().casefold().replace("_", "-")


_CODES = {_folded(word): code for code, words in _SPELLINGS.items() for word in words.split()}


_NONE = frozenset(("nolang", "unknown", "undefined", "und"))
"""What data sets write where the language was not found, as LAION does."""


@functools.lru_cache(maxsize=4096)
def code(spelling: str) -> str:
    """Finds the code of a language by any of its spellings.

    Args:
        spelling: such as `zh-TW`, `Deutsch` or `中文`.

    Returns:
        The code, such as `zh`; "" for spellings of no language.

    Raises:
        ValueError: says what to write instead.
    """
    folded = _LOCALE.sub("", _folded(spelling))
    if folded in _NONE:
        return ""
    if known := known_code(folded):
        return known
    if folded and not _CODE.fullmatch(folded):
        raise ValueError(f"{spelling[:80]!r} is not a language; use a code such as {', '.join(LANGUAGES)}")
    return folded


def typed(spelling: str) -> str:
    """Finds the code of a language that a user typed: letters that ISO 639 gives to no language are a mistake.

    Args:
        spelling: what was typed.

    Returns:
        The code, as `code` finds it.

    Raises:
        ValueError: says what to write instead.
    """
    found = code(spelling)
    language = found.partition("-")[0]
    if _OF_NO_LANGUAGE.fullmatch(language):
        raise ValueError(f"{spelling[:80]!r} stands for no single language; use the code of one, or leave it out")
    if (two := _TWO_LANGUAGES.fullmatch(_folded(spelling))) and known_code(two[1]) != known_code(two[2]):
        raise ValueError(f"{spelling[:80]!r} names two languages; use the code of one")
    if len(language) == 2 and language not in _TWO_LETTERS:
        raise ValueError(
            f"{spelling[:80]!r} is the code of no language; use one of ISO 639, such as {', '.join(LANGUAGES)}"
        )
    return found


_OF_NO_LANGUAGE = re.compile(r"mul|mis|zxx|q[a-t][a-z]")
"""Codes of ISO 639-2 for several languages, for uncoded ones and for none, and those for private use."""
_TWO_LANGUAGES = re.compile(r"([a-z]{2,3})-(en|zh|ja|ko|cs)")
"""A language and the code of another, which is that of no country."""

_ISO_639_1 = (
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee "
    "el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is "
    "it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms "
    "mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si "
    "sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh "
    "yi yo za zh zu"
)
"""And two withdrawn codes, bh and sh, that data still hold. Of three letters there are thousands."""
_TWO_LETTERS = frozenset(_ISO_639_1.split())


@functools.lru_cache(maxsize=4096)
def known_code(spelling: str) -> str:
    """Finds the code of one of the seven languages by any of its spellings; "" for whatever else."""
    folded = _LOCALE.sub("", _folded(spelling))
    if folded in _CODES:
        return _CODES[folded]
    words = [word for word in _WORDS.split(folded) if word]
    if words and words[0] in _CODES and _CODE.fullmatch(folded):
        return _CODES[words[0]]
    named = {_CODES[word] for word in words if word in _CODES}
    is_named = named and all(word in _CODES or word in _QUALIFIERS for word in words)
    return named.pop() if is_named and len(named) == 1 else ""
