"""Thresholds: read from files and the command line, checked as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from repository import CONFIGS

from wenlan_jax.config import settings
from wenlan_jax.prepare.clean import job, options, shards
from wenlan_jax.prepare.clean.runners import Local

CONFIGS = CONFIGS / "clean"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_shipped_files_load(path: Path) -> None:
    assert isinstance(options.load(path), options.CleanOptions)


def test_fields_are_set_on_the_command_line() -> None:
    chosen = options.load(
        CONFIGS / "web_zh.py",
        ["--config.image.min_side=48", "--config.text.emoji=strip", "--config.text.lengths=('*=1-9',)"],
    )
    assert (chosen.image.min_side, chosen.text.emoji, chosen.text.lengths) == (48, "strip", ("*=1-9",))


def test_every_fault_is_listed() -> None:
    wrong = {
        "image.min_side=0": "image.min_side: at least 1",
        "image.max_aspect=wide": "image.max_aspect: ",
        "text.emoji=gone": "text.emoji: one of keep, strip, text",
        "text.emojis=keep": "text.emojis: no such field; did you mean text.emoji?",
        "samples": "write --config.samples=VALUE",
    }
    with pytest.raises(settings.ConfigError) as caught:
        options.load(CONFIGS / "web_zh.py", [f"--config.{text}" for text in wrong])
    assert all(message in str(caught.value) for message in wrong.values()), caught.value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text__advertising": ("(",)}, "text.advertising: '\\(' is not a regular expression"),
        ({"text__lengths": ("zh=9-2", "*=1-2")}, "'zh=9-2' is not LANGUAGE=LOW-HIGH"),
        ({"text__lengths": ("zh=2-9",)}, "languages not named"),
        ({"duplicates__hash_side": 12}, "multiple of 8"),
        ({"leakage__image_distance": 40}, "bands under 8 bits"),
        ({"scores__quantile": 0.5}, "needs scores.directories"),
    ],
)
def test_clashes_are_named(configure: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(settings.ConfigError, match=message):
        configure(**changes)


def test_bad_places_are_named(configure: Any, plant: Any, tmp_path: Path) -> None:
    pytest.importorskip("datasketch", reason="needs the extra `clean`")
    chosen = configure(language__action="off", text__chinese="off")
    source = plant.write(tmp_path / "in", {"train": [plant.clean_record(0)]})
    with pytest.raises(shards.CleanError, match="also a source|not made by `wenlan clean`"):
        job.clean([source], source, chosen, Local(0))
    with pytest.raises(shards.CleanError, match="no record is left .*small_image 1"):
        job.clean([source], tmp_path / "out", configure(image__min_side=500), Local(0))
    with pytest.raises(shards.CleanError, match="no such evaluation set"):
        job.clean([source], tmp_path / "other", configure(leakage__sets=(str(tmp_path / "no.jsonl"),)), Local(0))


def test_listed_evaluation_set(configure: Any, plant: Any, tmp_path: Path) -> None:
    pytest.importorskip("datasketch", reason="needs the extra `clean`")
    first, second, third = (plant.clean_record(n) for n in range(3))
    (tmp_path / "one.jpg").write_bytes(plant.jpeg(plant.image(0), 95))
    said = second.texts[0].text
    lines = ['{"image": "one.jpg"}', "", f'{{"texts": ["{said}！"], "language": "zh"}}']
    (tmp_path / "list.jsonl").write_text("\n".join(lines), "utf-8")
    source = plant.write(tmp_path / "in", {"train": [first, second, third]})
    chosen = configure(leakage__sets=(str(tmp_path / "list.jsonl"),), language__action="off", text__chinese="off")
    report = job.clean([source], tmp_path / "out", chosen, Local(0))
    assert report.counts["records_dropped"] == {"leakage_image": 1, "no_text_left": 1}
    assert report.counts["texts_dropped"] == {"record: leakage_image": 1, "leakage_text": 1}
    assert plant.read(tmp_path / "out", "train") == [third]
    (tmp_path / "list.jsonl").write_text('{"image": "two.jpg"}', "utf-8")
    with pytest.raises(shards.CleanError, match=r"list.jsonl: line 1: .*two.jpg: .*No such file.*correct the list"):
        job.clean([source], tmp_path / "again", chosen, Local(0))
