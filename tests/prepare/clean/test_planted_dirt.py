"""Dirt of every kind, planted in known numbers: all of it is found, nothing else is, the rest comes through as is."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from wenlan_jax.data import records
from wenlan_jax.prepare.clean import job, options, shards
from wenlan_jax.prepare.clean.runners import Local

pytest.importorskip("datasketch", reason="needs the extra `clean`")
pytest.importorskip("opencc", reason="needs the extra `clean`")
pytest.importorskip("py3langid", reason="needs the extra `clean`")

GERMAN = "Die kleine Katze liegt am Nachmittag ruhig auf dem alten Sofa"


def bad_images(plant: Any) -> list[tuple[str, records.Record]]:
    """Records whose images must go, with the reason."""
    noise = np.random.default_rng(5).integers(0, 256, (20, 200, 3)).astype(np.uint8)
    images = {
        "corrupt_image": [plant.png(plant.image(900))[:-40], b"", b"no image at all"],
        "small_image": [plant.png(plant.image(901, 31))],
        "aspect_of_image": [plant.png(cv2.resize(noise, (240, 48))), plant.png(cv2.resize(noise, (48, 240)))],
        "constant_image": [plant.png(np.full((64, 64, 3), grey, np.uint8)) for grey in (0, 128, 255)],
        "large_image": [plant.png(cv2.resize(plant.image(902), (260, 100)))],
    }
    return [
        (reason, plant.clean_record(1000 + 10 * kind + n, id=f"{reason}{n}", image=data))
        for kind, (reason, many) in enumerate(images.items())
        for n, data in enumerate(many)
    ]


BAD_TEXTS = {
    "advertising_text": [
        "点击下方链接购买本店新款连衣裙",
        "全场包邮，扫码关注领取优惠券",
        "Buy now! Free shipping on all shoes",
    ],
    "template_text": ["IMG_20190304_1234.jpg", "图片12", "点击查看大图", "DSC00231", "转发微博"],
    "empty_text": ["\u200b\u200b", "https://t.cn/A6abc", "@小明 @小红"],
    "too_short_text": ["猫"],
    "too_long_text": ["长" * 513],
    "language_mismatch": [GERMAN, "고양이가 오래된 소파 위에서 조용히 잠을 자고 있습니다"],
}


@dataclasses.dataclass
class Planted:
    """Rows of a source and what must become of them: reasons of dropped records and texts by count, ids that stay."""

    train: list[records.Record]
    test: list[records.Record]
    evaluation: list[records.Record]
    records_dropped: Counter[str]
    texts_dropped: Counter[str]
    stays: dict[str, records.Record]


@pytest.fixture(scope="module")
def planted(plant: Any) -> Planted:
    return make_planted(plant)


def make_planted(plant: Any) -> Planted:
    """Clean records with dirt of every kind among them."""
    dropped, texts_dropped = Counter[str](), Counter[str]()
    clean = [plant.clean_record(seed) for seed in range(40)]
    stays = {record.id: record for record in clean}
    test = [plant.clean_record(seed) for seed in range(100, 106)]
    evaluation = [plant.clean_record(seed) for seed in range(200, 204)]
    dirty: list[records.Record] = []
    for reason, record in bad_images(plant):
        dirty.append(record)
        dropped[reason] += 1
        texts_dropped[f"record: {reason}"] += 1
    number = 2000
    for reason, values in BAD_TEXTS.items():
        for value in values:
            number += 1
            dirty.append(plant.clean_record(number, id=f"{reason}{number}", texts=plant.text(value)))
            dropped["no_text_left"] += 1
            texts_dropped[reason] += 1
    dirty += _global_dirt(plant, clean, test, evaluation, dropped, texts_dropped, stays)
    order = np.random.default_rng(3).permutation(len(dirty))
    train = clean + [dirty[index] for index in order]
    stays |= {record.id: record for record in test}
    return Planted(train, test, evaluation, dropped, texts_dropped, stays)


def _global_dirt(
    plant: Any, clean: list, test: list, evaluation: list, dropped: Counter, texts_dropped: Counter, stays: dict
) -> list[records.Record]:
    """Dirt that only shows beside other records: repeated captions, templates, duplicates, leakage."""
    dirty = [
        plant.clean_record(3000 + n, id=f"repeat{n}", texts=plant.text("祝大家新年快乐万事如意")) for n in range(6)
    ]
    dirty += [
        plant.clean_record(3100 + n, id=f"template{n}", texts=plant.text(f"{2000 + n}年第{n}期开奖结果公布"))
        for n in range(8)
    ]
    texts_dropped["repeated_text"], texts_dropped["repeated_template"] = 6, 8
    dropped["no_text_left"] += 14
    for n in range(3):  # re-encoded and rescaled copies with texts of their own
        copy = plant.jpeg(cv2.resize(plant.image(n), (80, 80), interpolation=cv2.INTER_AREA))
        dirty.append(plant.clean_record(3200 + n, id=f"near{n}", image=copy))
        dropped["near_image"] += 1
        texts_dropped["record: near_image"] += 1
    for n in range(3, 7):  # the same pixels, one of them in another file, with a further text and one that is there
        said = plant.text(plant.sentence(3300 + n)) + clean[n].texts
        dirty.append(plant.clean_record(3300 + n, id=f"equal{n}", image=plant.png(plant.image(n)), texts=said))
        dropped["equal_image"] += 1
        texts_dropped["duplicate_text_in_record"] += 1
        stays[clean[n].id] = dataclasses.replace(clean[n], texts=clean[n].texts + said[:1])
    for n, of in enumerate([test[0], test[1], evaluation[0]]):
        dirty.append(plant.clean_record(3400 + n, id=f"leak{n}", image=of.image))
        dropped["leakage_image"] += 1
        texts_dropped["record: leakage_image"] += 1
    for n, of in enumerate([test[2], evaluation[1]]):  # one text leaks, the record has another one
        own = plant.text(plant.sentence(3500 + n))
        record = plant.clean_record(3500 + n, id=f"leaktext{n}", texts=of.texts + own)
        dirty.append(record)
        texts_dropped["leakage_text"] += 1
        stays[record.id] = dataclasses.replace(record, texts=own)
    return dirty


@pytest.fixture
def strict(
    configure: Callable[..., options.CleanOptions], tmp_path: Path, planted: Planted, plant: Any
) -> options.CleanOptions:
    """Options under which every planted kind is dirt."""
    evaluation = plant.write(tmp_path / "evaluation", {"test": planted.evaluation})
    return configure(
        image__max_side=250, image__max_aspect=4.0, language__action="drop", repeats__max_images=4,
        repeats__max_template_images=5, leakage__sets=(str(evaluation),),
    )  # fmt: skip


def test_everything_planted_is_found_and_nothing_else(
    planted: Planted, plant: Any, strict: options.CleanOptions, tmp_path: Path
) -> None:
    source = plant.write(tmp_path / "in", {"train": planted.train, "test": planted.test})
    report = job.clean([source], tmp_path / "out", strict, Local(0))
    assert Counter(report.counts["records_dropped"]) == planted.records_dropped
    assert Counter(report.counts["texts_dropped"]) == planted.texts_dropped
    left = {record.id: record for split in ("train", "test") for record in plant.read(tmp_path / "out", split)}
    assert left == planted.stays  # bytes of images and all fields
    assert report.records == {"train": len(planted.stays) - 6, "test": 6}
    named = [json.loads(line) for line in (tmp_path / "out" / job.DROPPED_NAME).read_text("utf-8").split("\n") if line]
    wanted = planted.records_dropped + Counter(
        {reason: count for reason, count in planted.texts_dropped.items() if not reason.startswith("record:")}
    )
    assert Counter(sample["reason"] for sample in named) == {r: min(c, strict.samples) for r, c in wanted.items()}
    assert {sheet.stem for sheet in (tmp_path / "out" / job.SHEETS_NAME).iterdir()} == set(wanted)


def test_result_depends_on_no_worker_count_and_on_no_memory(
    planted: Planted, plant: Any, strict: options.CleanOptions, tmp_path: Path
) -> None:
    half = len(planted.train) // 2
    sources = [
        plant.write(tmp_path / "a", {"train": planted.train[:half], "test": planted.test}),
        plant.write(tmp_path / "b", {"train": planted.train[half:]}),
    ]
    one = job.clean(sources, tmp_path / "one", strict, Local(0))
    two = job.clean(sources, tmp_path / "two", dataclasses.replace(strict, memory=16), Local(2))
    assert one.counts == two.counts
    for split in ("train", "test"):
        assert plant.read(tmp_path / "one", split) == plant.read(tmp_path / "two", split)
    assert (tmp_path / "one" / job.DROPPED_NAME).read_text() == (tmp_path / "two" / job.DROPPED_NAME).read_text()
    assert Counter(one.counts["records_dropped"]) == planted.records_dropped


def test_interrupted_job_continues_by_unit(
    planted: Planted, plant: Any, strict: options.CleanOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [plant.write(tmp_path / name, {"train": planted.train[part::3]}) for part, name in enumerate("abc")]
    whole = job.clean(sources, tmp_path / "whole", strict, Local(0))
    read, reads = shards.RecordShard.read, []

    def failing(shard: shards.RecordShard) -> Any:
        reads.append(shard.place)
        if len(reads) in (3, 7):  # once in the survey, once when rewriting
            raise OSError("the disk went away")
        return read(shard)

    monkeypatch.setattr(shards.RecordShard, "read", failing)
    for _ in range(2):
        with pytest.raises(OSError, match="went away"):
            job.clean(sources, tmp_path / "again", strict, Local(0))
    again = job.clean(sources, tmp_path / "again", strict, Local(0))
    # Four surveys (the evaluation set too) and three rewrites, and each failure once more.
    assert len(reads) == 4 + 3 + 2
    assert again.counts == whole.counts
    assert plant.read(tmp_path / "again", "train") == plant.read(tmp_path / "whole", "train")


def test_beam_gives_the_same(planted: Planted, plant: Any, strict: options.CleanOptions, tmp_path: Path) -> None:
    pytest.importorskip("apache_beam", reason="needs the extra `beam`")
    from wenlan_jax.prepare.clean.beam import Beam

    sources = [plant.write(tmp_path / name, {"train": planted.train[part::2]}) for part, name in enumerate("ab")]
    local = job.clean(sources, tmp_path / "local", strict, Local(0))
    beam = job.clean(sources, tmp_path / "beam", strict, Beam())
    assert beam.counts == local.counts
    assert plant.read(tmp_path / "beam", "train") == plant.read(tmp_path / "local", "train")
    assert (tmp_path / "beam" / job.DROPPED_NAME).read_text() == (tmp_path / "local" / job.DROPPED_NAME).read_text()
