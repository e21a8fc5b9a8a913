"""Normalisation and filters of single texts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wenlan_jax.data import records
from wenlan_jax.prepare.clean import options, texts

pytest.importorskip("opencc", reason="needs the extra `clean`")
pytest.importorskip("py3langid", reason="needs the extra `clean`")

Configure = Callable[..., options.CleanOptions]

NORMALISED = {
    "ＡＢＣ１２３！（全角）": ("ABC123！（全角）", ("width",)),
    "ｶﾀｶﾅ和漢字、句讀。": ("カタカナ和汉字、句读。", ("width", "chinese")),
    "這隻貓在軟體公園裡": ("这只猫在软体公园里", ("chinese",)),
    "一只&nbsp;猫&amp;狗<br/>在&#x5ba4;外": ("一只 猫&狗 在室外", ("html", "whitespace")),
    "价格 a < b 且 b > c": ("价格 a < b 且 b > c", ()),
    "看\u200b不\ufeff见\u0007的\u202e字": ("看不见的字", ("control",)),
    "一家人👨\u200d👩\u200d👧在海边❤\ufe0f": ("一家人👨\u200d👩\u200d👧在海边❤\ufe0f", ()),
    "می\u200cخواهم دوست": ("می\u200cخواهم دوست", ()),
    "海边 日落\n\t很美　": ("海边 日落 很美", ("width", "whitespace")),
    "日落https://t.cn/A6abc很美": ("日落 很美", ("urls",)),
    "官网www.example.com.cn/a?b=1有售": ("官网 有售", ("urls",)),
    "版本3.14发布，见第2.5节": ("版本3.14发布，见第2.5节", ()),
    "来信cat.dog-1@mail.example.com即可": ("来信 即可", ("emails",)),
    "电话：138 1234 5678 有惊喜": ("有惊喜", ("contacts", "whitespace")),
    "热线400-810-8888和010-62511234": ("和", ("contacts", "whitespace")),
    "编号13812345678901不是电话": ("编号13812345678901不是电话", ()),
    "加QQ群：123456789看花": ("加 看花", ("contacts",)),
    "微信号：wx_cat2020看猫": ("看猫", ("contacts", "whitespace")),
    "微信小程序很好用": ("微信小程序很好用", ()),
    "//@小明:@李_雷 去看海": ("去看海", ("mentions", "whitespace")),
    "#春天来了#花开了": ("春天来了 花开了", ("topics", "whitespace")),
    "第#1名": ("第#1名", ()),
    "学习C#语言": ("学习C#语言", ()),
    "一只安静的猫": ("一只安静的猫", ()),
}


@pytest.mark.parametrize("value", NORMALISED, ids=range(len(NORMALISED)))
def test_normalisation(configure: Configure, value: str) -> None:
    clean = texts.TextCleaner(configure(text__lengths=("*=1-100",), language__action="off"))
    outcome = clean(records.Text("weak", "zh", value))
    wanted, changes = NORMALISED[value]
    assert outcome.text == records.Text("weak", "zh", wanted)
    assert tuple(change for change in outcome.changes if change in changes) == changes
    assert set(outcome.changes) - {"whitespace"} == set(changes) - {"whitespace"}


@pytest.mark.parametrize("value", NORMALISED, ids=range(len(NORMALISED)))
def test_normalisation_is_idempotent(configure: Configure, value: str) -> None:
    clean = texts.TextCleaner(configure(text__lengths=("*=1-100",), language__action="off"))
    once = clean(records.Text("weak", "zh", value)).text
    assert once is not None and clean(once) == texts.TextOutcome(once)


def test_chinese_punctuation_changes_only_when_asked_for(configure: Configure) -> None:
    value = records.Text("", "zh", "看，（Ａ）猫！。")
    found = [texts.TextCleaner(configure(text__width=width))(value).text for width in ("keep", "half", "all")]
    assert [text.text for text in found if text] == ["看，（Ａ）猫！。", "看，（A）猫！。", "看,(A)猫!。"]


def test_simplified_becomes_traditional_and_japanese_stays(configure: Configure) -> None:
    clean = texts.TextCleaner(configure(text__chinese="s2t", language__action="off"))
    assert clean(records.Text("", "zh", "头发与发展")).text == records.Text("", "zh", "頭髮與發展")
    simplifying = texts.TextCleaner(configure(language__action="off"))
    assert simplifying(records.Text("", "ja", "東京の駅で電車")).text == records.Text("", "ja", "東京の駅で電車")


def test_emoji_as_asked(configure: Configure) -> None:
    value = records.Text("", "zh", "海边❤\ufe0f日落🌇")
    found = {
        action: texts.TextCleaner(configure(text__emoji=action))(value).text for action in ("keep", "strip", "text")
    }
    assert {action: text.text for action, text in found.items() if text} == {
        "keep": "海边❤\ufe0f日落🌇",
        "strip": "海边 日落",
        "text": "海边 heavy black heart 日落 sunset over buildings",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("urls", "见 http://a.cn/x 好"), ("emails", "写信 a@b.com 好"), ("contacts", "拨打 13912345678 好"),
        ("mentions", "感谢 @小红 好"), ("topics", "今天 #花开# 好"),
    ],
)  # fmt: skip
def test_what_is_taken_out_may_drop_the_text_or_stay(configure: Configure, field: str, value: str) -> None:
    text = records.Text("", "zh", value)
    dropping = texts.TextCleaner(configure(**{f"text__{field}": "drop"}))(text)
    assert dropping.text is None and dropping.reason == f"with_{field}"
    assert texts.TextCleaner(configure(**{f"text__{field}": "keep"}))(text).text == text


def test_several_signs_of_advertising_may_be_asked_for(configure: Configure) -> None:
    one, two = records.Text("", "zh", "本店包邮"), records.Text("", "zh", "本店包邮，扫码关注")
    clean = texts.TextCleaner(configure(text__advertising_matches=2))
    assert clean(one).text == one
    assert clean(two).reason == "advertising_text"
    assert sum(change.startswith("advertising:") for change in clean(two).changes) == 2


def test_lengths_are_those_of_the_language(configure: Configure) -> None:
    clean = texts.TextCleaner(configure(text__lengths=("zh=2-4", "*=3-10"), language__action="off"))
    reasons = [
        clean(records.Text("", *pair)).reason
        for pair in [
            *(("zh", "猫"), ("zh", "黑白猫咪"), ("zh", "黑白的猫咪")),
            *(("en", "ox"), ("en", "black cats"), ("en", "x" * 11)),
        ]
    ]
    assert reasons == ["too_short_text", "", "too_long_text", "too_short_text", "", "too_long_text"]


def test_language_is_labelled_dropped_or_left(configure: Configure) -> None:
    german = "Die kleine Katze liegt am Nachmittag ruhig auf dem Sofa"
    wrong = records.Text("", "zh", german)
    labelled = texts.TextCleaner(configure(language__action="label"))(wrong)
    assert labelled.text == records.Text("", "de", german) and labelled.changes == ("language:zh-de",)
    dropped = texts.TextCleaner(configure(language__action="drop"))(wrong)
    assert dropped.reason == "language_mismatch" and dropped.changes == ("language:zh-de",)
    assert texts.TextCleaner(configure(language__action="off"))(wrong).text == wrong
    label = texts.TextCleaner(configure())
    assert label(records.Text("", "", german)).text == records.Text("", "de", german)
    for kept in (
        records.Text("", "zh", "Katze"),
        records.Text("", "es", german),
        records.Text("", "zh", "2019 12345"),
        records.Text("", "ja", "日本国東京都千代田区"),
    ):
        assert label(kept).text == kept
