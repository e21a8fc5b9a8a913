"""One text: how it is normalised, and why it may have to go. Pure functions of the text and the options."""

from __future__ import annotations

import dataclasses
import functools
import html
import re
import unicodedata
from collections.abc import Callable
from typing import Any

from wenlan_jax.data import records
from wenlan_jax.prepare.clean import language, options, patterns
from wenlan_jax.prepare.clean.errors import MissingPackageError

_Step = tuple[str, bool, Callable[[str], str]]
"""Name, whether it is wanted, and the function."""
_REMOVABLE = (
    ("emails", patterns.EMAIL),
    ("urls", patterns.URL),
    ("contacts", patterns.CONTACT),
    ("mentions", patterns.MENTION),
)
"""What is taken out, in this order: an e-mail address would else lose its half as a web address."""


@dataclasses.dataclass(frozen=True)
class TextOutcome:
    """What came of a text: `text` and what was changed in it (names of steps), or the reason why it goes.

    A name in `changes` may carry a detail after a colon, such as the language that was declared and the one found.
    """

    text: records.Text | None
    reason: str = ""
    changes: tuple[str, ...] = ()


class TextCleaner:
    """Applies the sections `text` and `language` of the options to texts; compiled once, sent to workers as it is."""

    def __init__(self, chosen: options.CleanOptions) -> None:
        self._options = chosen.text
        self._limits = options.length_limits(chosen.text.lengths)
        self._language = language.LanguageJudge(chosen.language)
        self._advertising = [re.compile(pattern) for pattern in chosen.text.advertising]
        self._templates = [re.compile(pattern) for pattern in chosen.text.templates]

    def __call__(self, text: records.Text) -> TextOutcome:
        """Normalises and judges one text."""
        normal, changes, reason = self._normalise(text)
        if not reason and not normal:
            reason = "empty_text"
        reason = reason or self._judge(normal, changes)
        if reason:
            return TextOutcome(None, reason, tuple(changes))
        found = self._language(normal, text.language)
        if found.other:
            changes.append(f"language:{text.language}-{found.other}")
        if found.drop:
            return TextOutcome(None, "language_mismatch", tuple(changes))
        kept = dataclasses.replace(text, text=normal, language=found.language)
        low, high = self._limits.get(kept.language, self._limits["*"])
        if not low <= len(normal) <= high:
            return TextOutcome(None, "too_short_text" if len(normal) < low else "too_long_text", tuple(changes))
        return TextOutcome(kept, "", tuple(changes))

    def normalise(self, text: records.Text) -> records.Text:
        """The text as `__call__` normalises it, whatever it then thinks of it."""
        return dataclasses.replace(text, text=self._normalise(text)[0])

    def _normalise(self, text: records.Text) -> tuple[str, list[str], str]:
        value, chosen, reason = text.text, self._options, ""
        changes: list[str] = []
        first: tuple[_Step, ...] = (
            ("html", chosen.html, without_html),
            ("control", chosen.control, functools.partial(patterns.INVISIBLE.sub, "")),
            ("width", chosen.width != "keep", functools.partial(half_width, punctuation=chosen.width == "all")),
        )
        for name, wanted, step in first:
            value = _step(name, wanted, step, value, changes)
        for name, pattern in _REMOVABLE:
            action = getattr(chosen, name)
            if action == "drop" and pattern.search(value):
                reason = reason or f"with_{name}"
            value = _step(name, action == "remove", functools.partial(pattern.sub, " "), value, changes)
        if chosen.topics == "drop" and patterns.TOPIC.search(value):
            reason = reason or "with_topics"
        last: tuple[_Step, ...] = (
            ("topics", chosen.topics in ("unwrap", "remove"), functools.partial(_topics, action=chosen.topics)),
            ("emoji", chosen.emoji != "keep", functools.partial(_emoji, action=chosen.emoji)),
            ("chinese", chosen.chinese != "off" and text.language == "zh", converter(chosen.chinese)),
            ("whitespace", chosen.whitespace, lambda value: patterns.WHITESPACE.sub(" ", value).strip()),
        )
        for name, wanted, step in last:
            value = _step(name, wanted, step, value, changes)
        return value, changes, reason

    def _judge(self, value: str, changes: list[str]) -> str:
        for pattern in self._templates:
            if pattern.fullmatch(value):
                changes.append(f"template:{pattern.pattern}")
                return "template_text"
        hits = [pattern for pattern in self._advertising if pattern.search(value)]
        changes += [f"advertising:{pattern.pattern}" for pattern in hits]
        enough = self._options.advertising_matches
        return "advertising_text" if 0 < enough <= len(hits) else ""


def _step(name: str, wanted: bool, step: Callable[[str], str], value: str, changes: list[str]) -> str:
    new = step(value) if wanted else value
    if new != value:
        changes.append(name)
    return new


def without_html(value: str) -> str:
    """`value` with entities resolved and tags taken out. Plain comparisons such as `a < b` stay."""
    return html.unescape(patterns.TAG.sub(" ", value))


def half_width(value: str, punctuation: bool) -> str:
    """Full-width Latin letters, digits and signs as half-width ones; half-width Katakana as full-width."""
    wanted = patterns.FULL_WIDTH if punctuation else patterns.FULL_WIDTH_LETTERS
    return wanted.sub(lambda match: unicodedata.normalize("NFKC", match.group()), value)


def _topics(value: str, action: str) -> str:
    if action == "remove":
        return patterns.TOPIC.sub(" ", value)
    return patterns.TOPIC.sub(lambda match: f" {match[1] or match[2]} ", value)


def _emoji(value: str, action: str) -> str:
    if action == "strip":
        return patterns.EMOJI.sub(" ", value)
    return patterns.EMOJI.sub(lambda match: f" {_name(match.group())} ", value)


def _name(emoji: str) -> str:
    names = [unicodedata.name(character, "") for character in emoji if character not in "\u200d\ufe0e\ufe0f"]
    return " ".join(name.lower() for name in names if name)


@functools.lru_cache(maxsize=4)
def converter(direction: str) -> Callable[[str], str]:
    """Makes OpenCC's conversion.

    Args:
        direction: `t2s` or `s2t`; `off` leaves texts as they are.

    Returns:
        A function of texts.

    Raises:
        MissingPackageError: if OpenCC is not installed.
    """
    if direction == "off":
        return str
    try:
        import opencc
    except ImportError as error:
        raise MissingPackageError(
            "text.chinese needs the package opencc: install wenlan_jax[clean], or set --config.text.chinese=off"
        ) from error
    convert: Any = opencc.OpenCC(direction).convert
    return lambda value: str(convert(value))


def check(chosen: options.CleanOptions) -> None:
    """Checks that the packages that the options need are installed.

    Args:
        chosen: the options.

    Raises:
        MissingPackageError: if one is not.
    """
    converter(chosen.text.chinese)
    language.LanguageJudge(chosen.language).check()


def essence(value: str) -> str:
    """Returns the letters and digits of a text in lower case, to compare texts by; the text itself if it has none."""
    return patterns.NOT_LETTERS.sub("", value.casefold()) or value
