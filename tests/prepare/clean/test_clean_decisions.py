"""How the rules work together: what precedes what, what a merge saves, and which records live without texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wenlan_jax.data import records
from wenlan_jax.prepare.clean import job, options
from wenlan_jax.prepare.clean.runners import Local
from wenlan_jax.util import resumable_jobs

pytest.importorskip("datasketch", reason="needs the extra `clean`")


@pytest.fixture
def clean(plant: Any, configure: Callable[..., options.CleanOptions], tmp_path: Path) -> Callable[..., Any]:
    """Cleans splits and returns (report, records left by split)."""

    def run(splits: dict[str, list[records.Record]], **changes: Any) -> tuple[job.CleanReport, dict[str, list[Any]]]:
        source = plant.write(tmp_path / "in", splits)
        chosen = configure(**{"language__action": "off", "text__chinese": "off", **changes})
        report = job.clean([source], tmp_path / "out", chosen, Local(0))
        return report, {split: plant.read(tmp_path / "out", split) for split in report.records}

    return run


def test_record_without_texts_of_its_own_lives_on_those_it_takes_over(plant: Any, clean: Callable[..., Any]) -> None:
    first, copy = plant.clean_record(0), plant.clean_record(5, id="copy", image=plant.clean_record(1).image)
    robbed = plant.clean_record(1, texts=first.texts)  # its only text is that of `first`
    report, left = clean({"train": [first, robbed, copy]}, duplicates__texts="all")
    assert left["train"] == [first, dataclasses.replace(robbed, texts=copy.texts)]
    assert report.counts["texts_dropped"] == {"near_text": 1}
    assert report.counts["texts_moved"] == report.counts["texts_received"] == {"all": 1}


def test_merged_texts_may_all_be_duplicates_too(plant: Any, clean: Callable[..., Any]) -> None:
    first, robbed = plant.clean_record(0), plant.clean_record(1, texts=plant.clean_record(0).texts)
    report, left = clean({"train": [first, robbed, dataclasses.replace(robbed, id="copy")]}, duplicates__texts="all")
    assert left["train"] == [first]
    assert report.counts["records_dropped"] == {"equal_image": 1, "no_text_left": 1}
    assert report.counts["texts_dropped"] == {"near_text": 2}


def test_without_merging_texts_go_with_their_record(plant: Any, clean: Callable[..., Any]) -> None:
    first = plant.clean_record(0)
    copy = plant.clean_record(1, image=first.image)
    report, left = clean({"train": [first, copy]}, duplicates__merge_texts=False)
    assert left["train"] == [first]
    assert report.counts["texts_dropped"] == {"record: equal_image": 1}


def test_image_that_loses_its_texts_does_not_take_its_near_copy_along(plant: Any, clean: Callable[..., Any]) -> None:
    repeated = [plant.clean_record(n, texts=plant.text("祝大家新年快乐万事如意")) for n in range(4)]
    copy = plant.clean_record(9, id="copy", image=plant.jpeg(plant.image(0), 90))
    _, left = clean({"train": [*repeated, copy]}, repeats__max_images=3)
    assert left["train"] == [copy]


def test_protected_split_comes_first_although_it_is_written_last(plant: Any, clean: Callable[..., Any]) -> None:
    record = plant.clean_record(0)
    report, left = clean({"train": [record, plant.clean_record(1)], "validation": [record]})
    assert left == {"train": [plant.clean_record(1)], "validation": [record]}
    assert report.counts["records_dropped"] == {"leakage_image": 1}
    assert report.counts["records_in"] == {"train": 2, "validation": 1}


def test_records_that_came_without_texts_stay(plant: Any, clean: Callable[..., Any]) -> None:
    bare = plant.clean_record(0, texts=())
    asking = plant.clean_record(1, texts=plant.text("图片1"), questions=(records.Question("zh", "几只猫？", "两只"),))
    report, left = clean({"train": [bare, asking]})
    assert left["train"] == [bare, dataclasses.replace(asking, texts=())]
    assert report.counts["texts_dropped"] == {"template_text": 1}


def test_a_source_without_any_text(plant: Any, clean: Callable[..., Any]) -> None:
    rows = [plant.clean_record(n, texts=()) for n in (0, 1, 0)]
    _, left = clean({"train": rows}, duplicates__texts="all")
    assert left["train"] == rows[:2]


def test_unfinished_work_is_not_continued_with_other_options(
    plant: Any, configure: Callable[..., options.CleanOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = plant.write(tmp_path / "in", {"train": [plant.clean_record(n) for n in range(3)]})
    plain = {"language__action": "off", "text__chinese": "off"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(job, "_decide", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        job.clean([source], tmp_path / "out", configure(**plain), Local(0))
    with pytest.raises(resumable_jobs.JobError, match="unfinished work with other options"):
        job.clean([source], tmp_path / "out", configure(**plain, samples=3), Local(0))
    assert job.clean([source], tmp_path / "out", configure(**plain), Local(0)).records == {"train": 3}
