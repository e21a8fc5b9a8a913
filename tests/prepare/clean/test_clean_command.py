"""The commands `wenlan clean` and `wenlan score` from their arguments to what they print."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from repository import CONFIGS

from wenlan_jax.commands import clean as command
from wenlan_jax.commands import score
from wenlan_jax.config import settings
from wenlan_jax.data import sources
from wenlan_jax.prepare.clean import language, options, shards, signatures, texts

CONFIG = CONFIGS / "clean" / "web_zh.py"
EVERYTHING_OFF = [
    *("--config.language.action=off", "--config.text.chinese=off"),
    *("--config.duplicates.texts=off", "--config.leakage.text_similarity=0"),
]
PLAIN = ["--config.language.action=off", "--config.text.chinese=off"]


def parse(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def test_clean_and_score(plant: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("datasketch", reason="needs the extra `clean`")
    rows = [plant.clean_record(n) for n in range(6)] + [plant.clean_record(9, image=b"")]
    source = plant.write(tmp_path / "in", {"train": rows})
    assert command.run(parse(source, "--out", tmp_path / "out", "--config", CONFIG, "--workers", 0), PLAIN) == 0
    printed = capsys.readouterr().out
    assert "records   7 in = 6 out + 1 dropped" in printed and "1 corrupt_image" in printed
    assert plant.read(tmp_path / "out", "train") == rows[:6]

    arrays = tmp_path / "embeddings"
    arrays.mkdir()
    for name in ("images", "texts"):
        np.save(arrays / f"train.{name}.npy", np.eye(6, dtype=np.float32))
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    given = [tmp_path / "out", "--embeddings", arrays, "--out", tmp_path / "scores"]
    assert score.run(parser.parse_args([str(value) for value in given]), []) == 0
    assert "web: 6 pairs, 100.0% above the quantile 0.95 of shuffled pairs (0.000): 100.0% correlated" in (
        capsys.readouterr().out
    )


def test_wrong_arguments_are_named(plant: Any, tmp_path: Path) -> None:
    source = plant.write(tmp_path / "in", {"train": [plant.clean_record(0)]})
    common = (source, "--out", tmp_path / "out", "--config", CONFIG)
    with pytest.raises(settings.ConfigError, match="no such field"):
        command.run(parse(*common), ["--config.images.side=3"])
    with pytest.raises(shards.CleanError, match="only with --runner beam"):
        command.run(parse(*common, "--beam-options=--runner=X"), PLAIN)
    with pytest.raises(SystemExit):
        parse(*common, "--workers=-1")


PACKAGES = {
    "opencc": "--config.text.chinese=off",
    "py3langid": "--config.language.action=off",
    "datasketch": "--config.duplicates.texts=off --config.leakage.text_similarity=0",
}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_told_before_anything_is_made(
    package: str, plant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what the message advises works in the next call."""
    others = [option for name, remedy in PACKAGES.items() if name != package for option in remedy.split()]
    source = plant.write(tmp_path / "in", {"train": [plant.clean_record(n) for n in range(3)]})
    for cached in (texts.converter, language._identifier, signatures._empty_minhash):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    given = parse(source, "--out", tmp_path / "out", "--config", CONFIG, "--workers", 0)
    with pytest.raises(texts.MissingPackageError, match=f"{package}: install.*{PACKAGES[package]}"):
        command.run(given, others)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert command.run(given, [*others, *PACKAGES[package].split()]) == 0


def test_a_source_that_is_none_is_told_as_what_it_is(plant: Any, tmp_path: Path) -> None:
    plant.write(tmp_path / "in" / "1.0.0", {"train": [plant.clean_record(0)]})
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    scored = argparse.ArgumentParser()
    score.add_arguments(scored)
    for name, told in (
        ("nothing", "nothing: no such directory"),
        ("empty", "empty: no data set, it has no dataset_info.json"),
        ("file", "file: not a directory"),
        ("in", "in: no data set itself; name .*1.0.0"),
    ):
        place = tmp_path / name
        with pytest.raises(sources.SourceError, match=told) as caught:
            command.run(parse(place, "--out", tmp_path / "out", "--config", CONFIG, "--workers", 0), EVERYTHING_OFF)
        assert "remove it" not in str(caught.value)
        arguments = [str(place), "--embeddings", str(tmp_path / "empty"), "--out", str(tmp_path / "scores")]
        with pytest.raises(sources.SourceError, match=told):
            score.run(scored.parse_args(arguments), [])


def test_every_field_is_described() -> None:
    text = options.FORM.describe()
    assert all(f"--config.{name}" in text for name in ("image.min_side", "text.emoji", "leakage.sets", "memory"))


def test_workers_do_not_import_jax() -> None:
    code = "import sys; import wenlan_jax.prepare.clean.job; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
