"""In which language a text is, as far as that can be told.

py3langid carries its model with it (nothing is downloaded). Restricted to a few languages it is right in 99.6% or more
of the cases that it is at least 0.9 sure of, down to words of a few letters; below that the declaration stands.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from wenlan_jax.config import settings
from wenlan_jax.prepare.clean import options, patterns
from wenlan_jax.prepare.clean.errors import MissingPackageError


@dataclasses.dataclass(frozen=True)
class FoundLanguage:
    """The language a text shall have. `other`: the one it surely is in, where that is not the declared one."""

    language: str
    other: str = ""
    drop: bool = False


class LanguageJudge:
    """Compares declared languages with found ones; texts without a declared language get the found one."""

    def __init__(self, chosen: options.LanguageChecks) -> None:
        self._options = chosen

    def check(self) -> None:
        """Raises what `__call__` would of a package or a language that is missing."""
        if self._options.action != "off":
            _identifier(self._options.languages)

    def __call__(self, text: str, declared: str) -> FoundLanguage:
        """Judges one text. Raises an ImportError naming the remedy when py3langid is not installed."""
        chosen = self._options
        if chosen.action == "off" or (declared and declared not in chosen.languages):
            return FoundLanguage(declared)
        letters = patterns.NOT_LETTERS.sub("", text)
        if len(letters) < chosen.min_letters or letters.isdecimal():
            return FoundLanguage(declared)
        found, confidence = _identifier(chosen.languages).classify(text)
        if confidence < chosen.confidence or found == declared:
            return FoundLanguage(declared)
        if {found, declared} == {"zh", "ja"} and not patterns.KANA.search(text):
            return FoundLanguage(declared)  # Han characters alone are in both languages
        if not declared:
            return FoundLanguage(found)
        return FoundLanguage(found, other=found, drop=chosen.action == "drop")


@functools.lru_cache(maxsize=4)
def _identifier(languages: tuple[str, ...]) -> Any:
    try:
        from py3langid import langid
    except ImportError as error:
        raise MissingPackageError(
            "language identification needs py3langid: install wenlan_jax[clean], or set --config.language.action=off"
        ) from error
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    try:
        identifier.set_languages(list(languages))
    except ValueError as error:
        raise settings.ConfigError(f"language.languages: {error}") from error
    return identifier
