"""Numbers on the command line: what is none, or is out of range, is told with the range."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from wenlan_jax import arguments, cli


@pytest.mark.parametrize("text", ["0", "7", "2147483647"])
def test_whole_numbers_within_the_range(text: str) -> None:
    assert arguments.whole(0)(text) == int(text)


@pytest.mark.parametrize("text", ["-1", "2147483648", "1.5", "nan", "inf", "", "one", "1e3"])
def test_what_is_no_whole_number_within_the_range(text: str) -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match=rf"from 0 to 2,147,483,647 is needed, not {re.escape(repr(text))}"
    ):
        arguments.whole(0)(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-0.1", "1.01", "", "half", "1,5"])
def test_what_is_no_number_within_the_range(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="a number from 0 to 1 is needed"):
        arguments.real(0, 1)(text)
    assert arguments.real(0, 1)("0.25") == 0.25


@pytest.mark.parametrize(
    "command",
    [
        ["export", "--workdir=a", "--format=torch", "--out=b", "--tolerance=nan"],
        ["score", "a", "--embeddings=b", "--out=c", "--quantile=nan"],
        ["score", "a", "--embeddings=b", "--out=c", "--seed=-1"],
        ["regions", "a", "--out=b", "--detector=c", "--threshold=inf"],
        ["bench", "--config=a", "--steps=0"],
        ["eval", "--workdir=a", "--step=-3"],
        ["data", "inspect", "a", "--limit=0"],
    ],
    ids=" ".join,
)
def test_commands_refuse_them(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "is needed, not" in capsys.readouterr().err


def test_no_command_takes_any_number() -> None:
    package = Path(cli.__file__).parent
    bare = re.compile(r"add_argument\([^)]*\btype=(int|float)\b")
    assert [str(file) for file in package.rglob("*.py") if bare.search(file.read_text(encoding="utf-8"))] == []
