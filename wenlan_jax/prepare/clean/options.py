"""The thresholds of a cleaning job: every field with its default, unit or choices, and how they are read from a file.

A file in `configs/clean/` starts from `default()` and returns an ml_collections `ConfigDict`, as experiments do.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from ml_collections import config_dict

from wenlan_jax.config import settings
from wenlan_jax.config.settings import field, section
from wenlan_jax.util import languages

Removal = Literal["keep", "remove", "drop"]
_LENGTH = re.compile(r"(?P<language>[^=]+|\*)=(?P<low>\d+)-(?P<high>\d+)")


@dataclasses.dataclass(frozen=True)
class ImageChecks:
    """Which images are worth keeping."""

    min_side: int = field(32, "pixels of the shorter side below which an image goes", low=1)
    max_side: int = field(16384, "pixels of the longer side above which an image goes", low=1)
    max_aspect: float = field(5.0, "longer side over shorter side above which an image goes", low=1)
    min_deviation: float = field(
        2.0, "standard deviation of the grey values (0 to 255) below which an image counts as constant", low=0
    )


@dataclasses.dataclass(frozen=True)
class TextChecks:
    """How texts are normalised, and which go."""

    html: bool = field(True, "resolve HTML entities and take out tags")
    control: bool = field(True, "take out control, zero-width and direction characters")
    width: Literal["keep", "half", "all"] = field(
        "half",
        "half: full-width Latin letters, digits and signs become half-width, half-width Katakana full-width; all: "
        "Chinese commas, brackets and marks (but not 。) become half-width, too",
    )
    chinese: Literal["off", "t2s", "s2t"] = field("t2s", "OpenCC on Chinese texts: to simplified, to traditional")
    emoji: Literal["keep", "strip", "text"] = field("keep", "text: each becomes its Unicode name in English")
    whitespace: bool = field(True, "runs of white space become one blank, none at the ends")
    urls: Removal = field("remove", "web addresses: leave, take out, or drop the text")
    emails: Removal = field("remove", "e-mail addresses")
    contacts: Removal = field("remove", "telephone numbers (Chinese forms), QQ and WeChat ids")
    mentions: Removal = field("remove", "@-names")
    topics: Literal["keep", "unwrap", "remove", "drop"] = field(
        "unwrap",
        "#topics# of Weibo and #hashtags; unwrap: only the signs go",
    )
    advertising: tuple[str, ...] = field(
        (
            r"(?:点击|戳)(?:下方|链接|这里|此处|查看|购买|领取)",
            r"(?:扫码|扫描|长按)[^，,。]{0,6}(?:二维码|关注|加群|领取)",
            r"(?:加|添加)(?:微信|客服|V信|vx)", r"(?:限时|全场|今日)(?:特价|优惠|抢购|秒杀|包邮|\d折)", r"包邮",
            r"(?:代理|加盟|招商)(?:热线|电话|咨询)",
            r"(?:免费|立即)(?:领取|咨询|下载|注册|试用)", r"(?:优惠|折扣)(?:券|码)",
            r"(?i)\b(?:buy now|free shipping|click here|limited offer|\d+% off|subscribe now)\b",
        ),
        "expressions that mark advertising; the report counts each [W]",
    )  # fmt: skip
    advertising_matches: int = field(1, "different expressions that must match for a text to go; 0: off", low=0)
    templates: tuple[str, ...] = field(
        (
            r"(?i)(?:img|dsc|dscn|pic|image|photo|screenshot|wx)[_\-\s]?\d[\d_\-\s]*(?:\.(?:jpe?g|png|webp|gif))?",
            r"(?:图|图片|照片|截图|配图|插图|附图)\s*\d*", r"(?:点击)?(?:查看)?(?:大图|原图|图片|全图)",
            r"(?:图片|图)(?:来源|源自|来自)[:： ]?.{0,20}", r"(?i)untitled(?:\s*\d*)?",
            r"分享图片|转发微博|网页链接|分享视频",
            r"(?i)(?:all rights reserved|copyright|©).{0,60}",
        ),
        "expressions that match the whole of a caption that says nothing; the report counts each [W]",
    )  # fmt: skip
    lengths: tuple[str, ...] = field(
        ("zh=2-512", "ja=2-512", "ko=2-512", "*=3-1024"),
        "LANGUAGE=LOW-HIGH characters after normalisation; * is for all languages not named",
    )


@dataclasses.dataclass(frozen=True)
class RepeatLimits:
    """Captions that cover many different images describe none of them."""

    max_images: int = field(20, "different images that one caption may have; 0: off", low=0)
    max_template_images: int = field(
        50, "different images of captions that are equal once `masks` are taken out; 0: off", low=0
    )
    masks: tuple[str, ...] = field(
        (
            r"[「『《【“\"](?:[^」』》】”\"]{1,40})[」』》】”\"]", r"\d+(?:[.,:/\-]\d+)*",
            r"[零〇一二三四五六七八九十百千万两]+(?=[年月日号个张元岁款第期])", r"\b[A-Z][\w'-]*",
        ),
        "what differs between captions of one template: quoted names, numbers, capitalised words [W]",
    )  # fmt: skip
    min_fixed: int = field(4, "letters outside the masks that a template must have", low=1)


@dataclasses.dataclass(frozen=True)
class LanguageChecks:
    """Language identification by py3langid among a few languages; short texts keep what they were declared as."""

    action: Literal["off", "label", "drop"] = field(
        "label",
        "when the text is surely in another language than declared: put the found one, or drop the text",
    )
    languages: tuple[str, ...] = field(
        languages.LANGUAGES, "to choose among; texts declared in others are left alone", each=languages.typed
    )
    confidence: float = field(0.9, "probability above which a found language is trusted", low=0, high=1)
    min_letters: int = field(6, "letters below which a text is not judged", low=1)


@dataclasses.dataclass(frozen=True)
class DuplicateLimits:
    """What is there already. The first stays: of protected splits, then of sources as named, then of rows."""

    exact_images: bool = field(True, "of images with equal pixels all but the first go")
    merge_texts: bool = field(True, "texts of exact duplicates go to the image that stays")
    image_distance: int = field(
        10, "bits in which two hashes differ at most if the later image is to go; -1: off", low=-1
    )
    colour_distance: int = field(
        32, "largest difference (0 to 255) of mean colours in 4x4 parts of near images; the hash sees grey alone",
        low=0, high=255,
    )  # fmt: skip
    hash_side: int = field(16, "the perceptual hash has this number squared bits; a multiple of 8", low=8, high=32)
    texts: Literal["off", "record", "all"] = field(
        "record",
        "near-equal texts go within a record, or across all records (which also drops weak pairs with common captions)",
    )
    text_similarity: float = field(
        0.8, "Jaccard similarity of character n-grams from which texts are equal", low=0.1, high=1
    )
    shingle: int = field(3, "characters of an n-gram", low=1)
    min_letters: int = field(8, "letters below which texts are only alike when equal", low=1)
    permutations: int = field(128, "of MinHash; the error of a similarity is at most 0.5 / sqrt of it", low=16)


@dataclasses.dataclass(frozen=True)
class LeakageLimits:
    """What evaluation sets hold must not be trained on."""

    own_splits: tuple[str, ...] = field(
        ("validation", "test"), "splits of the sources that count as evaluation sets; all others are trained on"
    )
    sets: tuple[str, ...] = field(
        (), "more evaluation sets: packed directories (all splits), or *.jsonl with `image` and `caption` or `texts`"
    )
    image_distance: int = field(10, "as duplicates.image_distance; -1: off", low=-1)
    text_similarity: float = field(0.8, "as duplicates.text_similarity; 0: off", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class ScoreLimits:
    """Filter by a model's own similarities, which `wenlan score` measures."""

    directories: tuple[str, ...] = field((), "what `wenlan score` wrote, one directory a source; empty: no filter")
    quantile: float = field(
        0.0, "pairs below this quantile of the source's shuffled pairs go; 0: off", low=0, high=0.999
    )


@dataclasses.dataclass(frozen=True)
class CleanOptions:
    """One cleaning job."""

    image: ImageChecks = section(ImageChecks)
    text: TextChecks = section(TextChecks)
    language: LanguageChecks = section(LanguageChecks)
    repeats: RepeatLimits = section(RepeatLimits)
    duplicates: DuplicateLimits = section(DuplicateLimits)
    leakage: LeakageLimits = section(LeakageLimits)
    scores: ScoreLimits = section(ScoreLimits)
    samples: int = field(16, "dropped items of each reason that are kept to look at", low=0)
    memory: int = field(
        512, "MiB that the search for duplicates may take, beside some 30 bytes a record and text", low=16
    )


def length_limits(lengths: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Reads the option `text.lengths`.

    Args:
        lengths: `LANGUAGE=LOW-HIGH` each.

    Returns:
        (low, high) by language.

    Raises:
        ValueError: for what is no language.
    """
    found = [match for text in lengths if (match := _LENGTH.fullmatch(text))]
    named = [match["language"] if match["language"] == "*" else languages.typed(match["language"]) for match in found]
    return {name: (int(match["low"]), int(match["high"])) for name, match in zip(named, found, strict=True)}


def _clashes(options: CleanOptions) -> Iterator[str]:
    """Faults beyond type and range."""
    for name in ("advertising", "templates"):
        yield from _bad_patterns(f"text.{name}", getattr(options.text, name))
    yield from _bad_patterns("repeats.masks", options.repeats.masks)
    for text in options.text.lengths:
        match = _LENGTH.fullmatch(text)
        if match is None or int(match["low"]) > int(match["high"]):
            yield f"text.lengths: {text!r} is not LANGUAGE=LOW-HIGH, e.g. zh=2-512"
    try:
        if "*" not in length_limits(options.text.lengths):
            yield "text.lengths: needs limits for languages not named, e.g. '*=3-1024'"
    except ValueError as error:
        yield f"text.lengths: {error}"
    if options.image.min_side > options.image.max_side:
        yield "image.min_side: more than image.max_side"
    if options.duplicates.hash_side % 8:
        yield "duplicates.hash_side: must be a multiple of 8"
    bits = options.duplicates.hash_side**2
    for name in ("duplicates", "leakage"):
        distance = getattr(options, name).image_distance
        if distance + 1 > bits // 8:
            yield f"{name}.image_distance: {distance} of {bits} bits leaves bands under 8 bits, which find nothing"
    if options.scores.quantile > 0 and not options.scores.directories:
        yield "scores.quantile: a filter needs scores.directories, one a source"


def _bad_patterns(name: str, patterns: Sequence[str]) -> Iterator[str]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"{name}: {pattern!r} is not a regular expression ({error})"


FORM = settings.SettingsForm(CleanOptions, "configs/clean/", _clashes)


def default() -> config_dict.ConfigDict:
    """A fresh ConfigDict of the defaults."""
    return FORM.default()


def load(path: Path, overrides: Sequence[str] = ()) -> CleanOptions:
    """The checked options of a file with `--config.field=value` overrides; see `settings.SettingsForm.load`."""
    return FORM.load(path, overrides)
