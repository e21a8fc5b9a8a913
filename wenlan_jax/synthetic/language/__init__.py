"""The languages that can speak about scenes, in the order of `languages.LANGUAGES`."""

from __future__ import annotations

from wenlan_jax.synthetic.language.base import QUERY_KINDS, Language, Noun, Query, Setting, relation
from wenlan_jax.synthetic.language.cs import CZECH
from wenlan_jax.synthetic.language.de import GERMAN
from wenlan_jax.synthetic.language.en import ENGLISH
from wenlan_jax.synthetic.language.fr import FRENCH
from wenlan_jax.synthetic.language.ja import JAPANESE
from wenlan_jax.synthetic.language.ko import KOREAN
from wenlan_jax.synthetic.language.zh import CHINESE
from wenlan_jax.util.languages import LANGUAGES as CODES

_SPOKEN = (CHINESE, ENGLISH, GERMAN, FRENCH, CZECH, JAPANESE, KOREAN)
LANGUAGES: dict[str, Language] = {
    code: next(language for language in _SPOKEN if language.code == code) for code in CODES
}
"""One speaker per language code."""

__all__ = ["LANGUAGES", "QUERY_KINDS", "Language", "Noun", "Query", "Setting", "relation"]
