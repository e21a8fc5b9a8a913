"""Languages by every spelling, in options, configurations, tables and archives alike."""

from __future__ import annotations

from typing import Any

import pytest

from wenlan_jax.config import settings
from wenlan_jax.data import records
from wenlan_jax.prepare.clean import options
from wenlan_jax.tasks import experiment
from wenlan_jax.util import languages

SPELLINGS = {
    "zh": "zh ZH zh-CN zh_Hans zh-TW zh_Hant_HK zh-cn.UTF-8 cn chi zho cmn chs cht Chinese chinese Mandarin "
    "中文 汉语 简体中文",
    "en": "en EN en_US en-GB en_US.UTF-8 eng English 英语",
    "de": "de de-AT de_DE@euro deu ger German Deutsch 德语",
    "fr": "fr fr-CA fra fre French français Français FRANCAIS 法语",
    "cs": "cs cs-CZ ces cze cz Czech čeština",
    "ja": "ja ja-JP jpn jp Japanese 日本語 日语",
    "ko": "ko ko_KR kor kr Korean 한국어 韩语",
}


@pytest.mark.parametrize(
    ("code", "spelling"), [(code, one) for code, words in SPELLINGS.items() for one in words.split()]
)
def test_spellings_of_the_seven(code: str, spelling: str) -> None:
    assert languages.code(f" {spelling} ") == code == languages.known_code(spelling)


def test_several_words() -> None:
    for spelling in (
        "Chinese (Simplified)",
        "Traditional Chinese",
        "Mandarin Chinese",
        "Chinese language",
        "中文（简体）",
    ):
        assert languages.code(spelling) == "zh"


def test_other_languages_keep_their_code_and_words_are_refused() -> None:
    assert [languages.code(one) for one in ("", "es", "pt_BR", "NL", "yue")] == ["", "es", "pt-br", "nl", "yue"]
    assert {languages.code(one) for one in ("nolang", "Unknown", "und")} == {""}
    for wrong in ("Klingon", "a red cat", "z", "zh CN EN", "en,de", "../zh", "12"):
        with pytest.raises(ValueError, match="use a code such as zh"):
            languages.code(wrong)


def test_typed_codes_of_no_language_are_refused() -> None:
    typed = ("", "es", "pt_BR", "Chinese", "zh-TW", "cn", "yue", "cz")
    assert [languages.typed(one) for one in typed] == ["", "es", "pt-br", "zh", "zh", "zh", "yue", "cs"]
    for wrong in ("zz", "xx", "zz-CN"):
        assert languages.code(wrong)  # data may say so
        with pytest.raises(ValueError, match="is the code of no language"):
            languages.typed(wrong)


@pytest.mark.parametrize("wrong", ["mul", "MUL", "mis", "zxx", "qqq", "qaa", "qtz"])
def test_typed_codes_of_several_languages_or_of_none_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="stands for no single language"):
        languages.typed(wrong)
    assert languages.typed("quz") == "quz"


@pytest.mark.parametrize("wrong", ["cn-en", "en_zh", "de-cs", "ja-ko", "es-en"])
def test_two_languages_that_are_typed_as_one_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="names two languages"):
        languages.typed(wrong)
    assert [languages.typed(one) for one in ("en-DE", "zh-CN", "cz-cs", "de-FR")] == ["en", "zh", "cs", "de"]


def test_no_spelling_is_of_two_languages() -> None:
    words = [languages._folded(word) for spelled in languages._SPELLINGS.values() for word in spelled.split()]
    assert len(words) == len(set(words))


def test_fields_of_configurations() -> None:
    for name in ("data", "eval"):
        c = experiment.default()
        c[name].languages = ("zh-CN", "Chinese", "English", "pt_BR")
        assert getattr(experiment.parse(c), name).languages == ("zh", "en", "pt-br")
        c[name].languages = ("Klingon",)
        with pytest.raises(settings.ConfigError, match=f"{name}.languages: 'Klingon' is not a language"):
            experiment.parse(c)
    c = experiment.default()
    c.data.mixture = ({"source": "a", "languages": ("cn",)},)
    assert experiment.parse(c).data.mixture[0].languages == ("zh",)
    chosen = options.default()
    chosen.language.languages, chosen.text.lengths = ("Chinese", "en"), ("zh-CN=2-9", "*=1-9")
    parsed = options.FORM.parse(chosen)
    assert parsed.language.languages == ("zh", "en")
    assert options.length_limits(parsed.text.lengths) == {"zh": (2, 9), "*": (1, 9)}
    chosen.text.lengths = ("Klingon=2-9", "*=1-9")
    with pytest.raises(settings.ConfigError, match="text.lengths: 'Klingon' is not a language"):
        options.FORM.parse(chosen)


def test_records_of_older_directories() -> None:
    record = records.Record(
        "a", b"x", 1, 1, texts=(records.Text("weak", "zh-cn", "猫"), records.Text("weak", "es", "x"))
    )
    stored: dict[str, Any] = dict(records.to_example(record))
    for name, columns in {
        "texts": ("kind", "language", "text"),
        "regions": ("box", "label", "attributes", "score"),
        "questions": ("language", "question", "answer"),
    }.items():
        stored[name] = {column: [row[column] for row in stored[name]] for column in columns}
    assert [text.language for text in records.from_example(stored).texts] == ["zh", "es"]
