"""Numbers on the command line: what is none, or is out of range, is told with the range."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from wenlan_jax import cli
from wenlan_jax.util import arguments


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


@pytest.mark.parametrize("text", ["0", "1", "0.0", "1.0", "-1", "nan"])
def test_what_is_not_between_the_ends(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="a number between 0 and 1 is needed"):
        arguments.real(0, 1, inside=True)(text)
    assert arguments.real(0, 1, inside=True)("0.25") == 0.25


@pytest.mark.parametrize(
    "command",
    [
        ["export", "--workdir=a", "--format=torch", "--out=b", "--tolerance=nan"],
        ["score", "a", "--embeddings=b", "--out=c", "--quantile=nan"],
        ["score", "a", "--embeddings=b", "--out=c", "--quantile=0"],
        ["score", "a", "--embeddings=b", "--out=c", "--quantile=1"],
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


def test_texts_are_utf8_whatever_the_locale() -> None:
    for written in ("zh", "中文", "čeština", ""):
        assert arguments.text(written) == written
        assert arguments.text(written.encode().decode("ascii", "surrogateescape")) == written
    with pytest.raises(argparse.ArgumentTypeError, match="is no UTF-8"):
        arguments.text("\udcff")


def test_a_language_that_is_typed_under_a_locale_without_utf8(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("image,标题\na.jpg,一只猫\n", "utf-8")
    (tmp_path / "a.jpg").write_bytes(cv2.imencode(".jpg", np.full((6, 8, 3), 90, np.uint8))[1].tobytes())
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    asked = ["--language", "中文", "--text-field", "标题=title", "--source", "网", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "wenlan_jax.cli", "pack", str(tmp_path / "c.csv"), *asked]
    done = subprocess.run(command, env={**os.environ, **plain}, capture_output=True, check=False)
    assert done.returncode == 0 and b"texts     zh 1" in done.stdout, done
    report = json.loads((tmp_path / "out" / "pack.json").read_text("utf-8"))["report"]
    assert (report["texts"], list(report["sources"])) == ({"zh": 1}, ["网"])
