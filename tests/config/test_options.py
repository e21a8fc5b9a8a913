"""Options that are stated once, in the fields of a dataclass: what is typed, what help says, what Python is told."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest

from wenlan_jax.applications.requests import AttentionRequest, RerankRequest
from wenlan_jax.commands import attention, data, export, import_, pack, regions, rerank
from wenlan_jax.config import options, sections
from wenlan_jax.config.options import REQUIRED, Options, option
from wenlan_jax.convert.requests import ExportRequest, ImportRequest
from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.inspect import InspectOptions
from wenlan_jax.prepare.pack import PackOptions
from wenlan_jax.prepare.raw_images import ImageOptions
from wenlan_jax.prepare.regions.detections import Selection
from wenlan_jax.prepare.regions.detector import UserDetector
from wenlan_jax.prepare.regions.stored import StoredRegions


def _upper(text: str) -> str:
    if not text.isalpha():
        raise ValueError(f"{text!r} has other signs than letters")
    return text.upper()


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


@dataclasses.dataclass(frozen=True)
class Every:
    """A field of each kind."""

    places: tuple[str, ...] = option(REQUIRED, "what is read", read=str, metavar="PLACE", positional=True)
    out: Path = option(REQUIRED, "where to")
    side: int | None = option(None, "of {all} 100% squares", low=1, high=64)
    share: float = option(0.25, "of the whole", low=0, high=1)
    exif: Literal["ignore", "apply"] = option("ignore", "what to do")
    form: str | None = option(None, "of the file", among=lambda: ("csv", "tsv"), usual="found")
    rows: tuple[int, ...] = option((0, 1), "to show", low=0)
    codes: tuple[str, ...] = option((), "of languages", read=_upper)
    named: dict[str, str] = option({"a": "b"}, "given again and again", read=_pair, repeated=True)
    deep: bool = option(False, "look at all")
    inner: object = None


EVERY = Options(Every, {"share": "part-of-it", "places": "places"})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    EVERY.add(parser)
    return parser


def test_what_is_not_typed_is_the_default_of_the_dataclass() -> None:
    assert EVERY.read(_parser().parse_args(["a", "b", "--out=o"])) == Every(("a", "b"), Path("o"))


def test_what_is_typed_has_the_type_of_its_field() -> None:
    words = [
        "a",
        "--out",
        "o",
        "--side",
        "64",
        "--part-of-it",
        "1",
        "--exif",
        "apply",
        "--form",
        "tsv",
        "--rows",
        "3",
        "4",
        "--codes",
        "zh",
        "en",
        "--deep",
    ]
    found = EVERY.read(_parser().parse_args([*words, "--named", "x=1", "--named", "y=2"]), inner="given")
    assert found == Every(
        *(("a",), Path("o"), 64, 1.0, "apply", "tsv", (3, 4), ("ZH", "EN"), {"x": "1", "y": "2"}, True, "given")
    )


def test_a_default_that_can_be_changed_is_made_anew() -> None:
    Every(("a",), Path("o")).named["c"] = "d"
    assert Every(("a",), Path("o")).named == {"a": "b"}


WRONG = {
    "--side=0": "from 1 to 64 is needed, not '0'",
    "--side=65": "from 1 to 64 is needed, not '65'",
    "--side=x": "from 1 to 64 is needed, not 'x'",
    "--part-of-it=1.5": "from 0 to 1 is needed, not '1.5'",
    "--part-of-it=nan": "from 0 to 1 is needed, not 'nan'",
    "--rows=-1": "from 0 to 2,147,483,647 is needed, not '-1'",
    "--rows=2147483648": "is needed, not '2147483648'",
    "--exif=no": "invalid choice: 'no'",
    "--form=doc": "invalid choice: 'doc'",
    "--codes=z1": "'z1' has other signs than letters",
    "--deep=yes": "ignored explicit argument 'yes'",
}


@pytest.mark.parametrize("word", WRONG)
def test_what_a_field_cannot_be_is_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(["a", "--out=o", word])
    assert WRONG[word] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"side": 0}, "side: at least 1 is needed, not 0"),
        ({"side": 65}, "side: at most 64 is needed, not 65"),
        ({"share": float("nan")}, "share: a finite number is needed, not nan"),
        ({"form": "doc"}, "form: one of csv, tsv is needed, not 'doc'"),
        ({"rows": (3, -1)}, "rows: at least 0 is needed, not -1"),
    ],
    ids=str,
)
def test_python_is_told_the_same_limits(changes: dict[str, Any], fault: str) -> None:
    assert list(options.faults(Every(("a",), Path("o"), **changes))) == [fault]


def test_the_defaults_have_no_fault() -> None:
    assert list(options.faults(Every(("a",), Path("o")))) == []


def test_the_help_has_the_meaning_and_the_default() -> None:
    text = " ".join(_parser().format_help().split())
    assert "PLACE what is read" in text and "--out OUT where to --side" in text
    assert "of {all} 100% squares --part-of-it" in text
    assert "of the whole (default: 0.25)" in text and "what to do (default: ignore)" in text
    assert "of the file (default: found)" in text and "to show (default: 0 1)" in text
    assert "look at all" in text and "inner" not in text


def test_some_fields_with_changes() -> None:
    parser = argparse.ArgumentParser()
    EVERY.add(parser, "out", required=False)
    assert parser.parse_args([]).out is None
    with pytest.raises(KeyError, match="inner"):
        EVERY.add(parser, "inner")


def test_fields_of_a_configuration_are_options_too() -> None:
    parser = argparse.ArgumentParser()
    Options(sections.TokenizerConfig).add(parser, "algorithm", "train_texts")
    found = parser.parse_args(["--algorithm=bpe"])
    assert (found.algorithm, found.train_texts) == ("bpe", sections.TokenizerConfig().train_texts)


PLACE = Path("a")
MADE = [
    (pack.PACK, PackOptions(("a",), PLACE), ["a", "--out=a"]),
    (pack.READ, raw_items.ReadOptions(), []),
    (pack.IMAGES, ImageOptions(), []),
    (pack.FIELDS, raw_items.FieldNames(), []),
    (pack.REGIONS, StoredRegions("a", "butd_tsv"), ["--regions=a", "--regions-format=butd_tsv"]),
    (data.INSPECT, InspectOptions("a"), ["a"]),
    (regions.SELECTION, Selection(), []),
    (regions.SUPPLIED, UserDetector(PLACE, "onnx"), ["--detector=a", "--kind=onnx"]),
    (regions.STORED, StoredRegions("a", "butd_tsv"), ["--stored=a", "--format=butd_tsv"]),
    (rerank.REQUEST, RerankRequest(PLACE, PLACE, PLACE), ["--workdir=a", "--single=a", "--out=a"]),
    (attention.REQUEST, AttentionRequest(PLACE, PLACE), ["--workdir=a", "--out=a"]),
    (import_.REQUEST, ImportRequest("bert", PLACE, PLACE), ["--format=bert", "--from=a", "--out=a"]),
    (export.REQUEST, ExportRequest(PLACE, "torch", PLACE), ["--workdir=a", "--format=torch", "--out=a"]),
]


@pytest.mark.parametrize(("declared", "made", "words"), MADE, ids=[type(made).__name__ for _, made, _ in MADE])
def test_commands_and_python_have_the_same_defaults(declared: Options[Any], made: object, words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    declared.add(parser)
    assert declared.read(parser.parse_args(words)) == made
    assert list(options.faults(made)) == []
