"""The public sets: small files in the layout of each, their splits, and what is said of missing and wrong ones."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from wenlan_jax.data.tfds_builder import BuildError
from wenlan_jax.prepare.builders import registry, sets
from wenlan_jax.prepare.builders.public import SetReader

Layout = tuple[dict[str, str | bytes], dict[str, list[list[tuple[str, str]]]]]
"""Published files, and the texts or questions of each record by split."""


def _jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (18, 24, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def _jpegs(*names: str) -> dict[str, str | bytes]:
    return {name: _jpeg(seed) for seed, name in enumerate(names)}


def _text(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)


def _lines(*lines: str) -> str:
    return "".join(line + "\n" for line in lines)


COCO = [f"COCO_{folder}_{number:012d}" for number, folder in enumerate(("train2014", "val2014", "val2014", "val2014"))]
COCO_SPLITS = ("train", "restval", "val", "test")
COCO_IMAGES = _jpegs(*(f"{name.split('_')[1]}/{name}.jpg" for name in COCO))
FLICKR_SPLITS = ("train", "val", "test")
FLICKR_IMAGES = _jpegs(*(f"flickr30k-images/{number}.jpg" for number in range(3)))


def _karpathy_coco() -> str:
    rows = [
        {
            "filepath": name.split("_")[1],
            "filename": f"{name}.jpg",
            "split": split,
            "sentences": [{"raw": f"{split} one"}, {"raw": f"{split} two"}],
        }
        for name, split in zip(COCO, COCO_SPLITS, strict=True)
    ]
    return _text({"images": rows, "dataset": "coco"})


def _mscoco() -> Layout:
    said = {split: [[("en", f"{split} one"), ("en", f"{split} two")]] for split in COCO_SPLITS}
    expected = {"train": said["train"] + said["restval"], "validation": said["val"], "test": said["test"]}
    return {"dataset_coco.json": _karpathy_coco(), **COCO_IMAGES}, expected


def _coco_cn() -> Layout:
    written = _lines(*(f"{name}#0\t\u56fe{number}" for number, name in enumerate(COCO)))
    lists = {"coco-cn_train.txt": COCO[:2], "coco-cn_val.txt": COCO[2:3], "coco-cn_test.txt": COCO[3:]}
    files: dict[str, str | bytes] = {name: _lines(*names) for name, names in lists.items()}
    expected = {
        "train": [[("zh", "\u56fe0")], [("zh", "\u56fe1")]],
        "validation": [[("zh", "\u56fe2")]],
        "test": [[("zh", "\u56fe3")]],
    }
    return {"imageid.human-written-caption.txt": written, **files, **COCO_IMAGES}, expected


def _stair() -> Layout:
    files: dict[str, str | bytes] = {"dataset_coco.json": _karpathy_coco()}
    for part, names in (("train", COCO[:1]), ("val", COCO[1:])):
        rows = [{"id": int(name[-1]), "file_name": f"{name}.jpg"} for name in names]
        captions = [
            {"id": 9, "image_id": row["id"], "caption": f"\u732b{row['id']}", "tokenized_caption": "\u732b"}
            for row in rows
        ]
        files[f"stair_captions_v1.2_{part}.json"] = _text({"images": rows, "annotations": captions})
    expected = {
        "train": [[("ja", "\u732b0")], [("ja", "\u732b1")]],
        "validation": [[("ja", "\u732b2")]],
        "test": [[("ja", "\u732b3")]],
    }
    return {**files, **COCO_IMAGES}, expected


def _flickr30k() -> Layout:
    rows = [
        {"filename": f"{number}.jpg", "split": split, "sentences": [{"raw": f"{split} one"}]}
        for number, split in enumerate(FLICKR_SPLITS)
    ]
    expected = {
        name: [[("en", f"{split} one")]]
        for name, split in zip(("train", "validation", "test"), FLICKR_SPLITS, strict=True)
    }
    return {"dataset_flickr30k.json": _text({"images": rows, "dataset": "flickr30k"}), **FLICKR_IMAGES}, expected


def _flickr30k_cn() -> Layout:
    files: dict[str, str | bytes] = dict(FLICKR_IMAGES)
    expected = {}
    folders = {"train": "flickr30kzhbbosontrain", "validation": "flickr30kzhbbosonval", "test": "flickr30kzhmbosontest"}
    for number, (split, folder) in enumerate(folders.items()):
        mark = "zhm" if split == "test" else "zhb"
        files[f"{folder}/TextData/seg.{folder}.caption.txt"] = _lines(
            f"{number}#{mark}#0 \u4e24\u4e2a:m \u4eba:n \u3002:wj", f"{number}#{mark}#1 \u6bd4\u5206:n 1:2:m"
        )
        expected[split] = [[("zh", "\u4e24\u4e2a\u4eba\u3002"), ("zh", "\u6bd4\u52061:2")]]
    return files, expected


def _multi30k() -> Layout:
    files: dict[str, str | bytes] = dict(FLICKR_IMAGES)
    expected = {}
    names = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
    for number, (split, name) in enumerate(names.items()):
        files[f"data/task1/image_splits/{name}.txt"] = f"{number}.jpg\n"
        for language in ("cs", "de", "en", "fr"):
            files[f"data/task1/raw/{name}.{language}.gz"] = gzip.compress(f"{language} {split}\n".encode())
        expected[split] = [[(language, f"{language} {split}") for language in ("cs", "de", "en", "fr")]]
    files["data/task1/image_splits/test_2017_flickr.txt"] = "elsewhere.jpg\n"
    files["data/task1/raw/test_2017_flickr.en.gz"] = gzip.compress(b"of another test set\n")
    return files, expected


def _muge() -> Layout:
    files: dict[str, str | bytes] = {}
    for number, name in enumerate(("train", "valid")):
        files[f"{name}_imgs.tsv"] = f"{number}\t{base64.b64encode(_jpeg(number)).decode()}\n"
        files[f"{name}_texts.jsonl"] = _text({"text_id": 1, "text": f"\u88d9{number}", "image_ids": [number]}) + "\n"
    return files, {"train": [[("zh", "\u88d90")]], "validation": [[("zh", "\u88d91")]]}


def _cc3m() -> Layout:
    files = _jpegs("train/000000000.jpg", "train/000000002.jpg", "validation/000000000.jpg")
    files["Train_GCC-training.tsv"] = _lines("a cat\thttp://a/1", "gone\thttp://a/2", "a dog\thttp://a/3")
    files["Validation_GCC-1.1.0-Validation.tsv"] = _lines("a cow\thttp://a/4")
    return files, {"train": [[("en", "a cat")], [("en", "a dog")]], "validation": [[("en", "a cow")]]}


def _cc12m() -> Layout:
    files = {**_jpegs("train/000000000.jpg"), "cc12m.tsv": _lines("http://a/1\ta cat")}
    return files, {"train": [[("en", "a cat")]]}


def _vqa_v2() -> Layout:
    files: dict[str, str | bytes] = {}
    for number, subtype in enumerate(("train2014", "val2014", "test2015")):
        asked = [{"image_id": number, "question": "Which?", "question_id": number}]
        answers = [{"answer": f"a{k}", "answer_id": k} for k in (2, 1)]
        files[f"v2_OpenEnded_mscoco_{subtype}_questions.json"] = _text({"questions": asked})
        files[f"{subtype}/COCO_{subtype}_{number:012d}.jpg"] = _jpeg(number)
        if subtype != "test2015":
            files[f"v2_mscoco_{subtype}_annotations.json"] = _text(
                {"annotations": [{"question_id": number, "answers": answers}]}
            )
    both = [[("Which?", "a1"), ("Which?", "a2")]]
    return files, {"train": both, "validation": both, "test": [[("Which?", "")]]}


def _vqa_vg_ja() -> Layout:
    qas = [{"qa_id": 1, "image_id": 7, "question": "\u4f55\u3067\u3059\u304b", "answer": "\u732b"}]
    files = {"question_answers.json": _text([{"id": 7, "qas": qas}]), "VG_100K_2/7.jpg": _jpeg(7)}
    return files, {"train": [[("\u4f55\u3067\u3059\u304b", "\u732b")]]}


LAYOUTS: dict[str, Callable[[], Layout]] = {
    "mscoco": _mscoco,
    "coco_cn": _coco_cn,
    "stair": _stair,
    "flickr30k": _flickr30k,
    "flickr30k_cn": _flickr30k_cn,
    "multi30k": _multi30k,
    "muge": _muge,
    "cc3m": _cc3m,
    "cc12m": _cc12m,
    "vqa_v2": _vqa_v2,
    "vqa_vg_ja": _vqa_vg_ja,
}


def test_every_set_of_the_table_is_tested_here() -> None:
    assert set(LAYOUTS) | {"aic_icc"} == set(sets.SETS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_set_in_its_published_layout(name: str, files: Any, built: Any) -> None:
    content, expected = LAYOUTS[name]()
    found = built(f"wenlan_public/{name}", files(content))
    said = {
        split: [
            [(text.language, text.text) for text in record.texts]
            or [(question.question, question.answer) for question in record.questions]
            for record in records
        ]
        for split, records in found.items()
    }
    assert said == expected
    assert all(record.source == name and record.width == 24 for records in found.values() for record in records)


def _aic(rows: int, root: Path) -> None:
    names = [f"{number:05d}.jpg" for number in range(rows)]
    for part, date, listed in (("train", "20170902", names[:1]), ("validation", "20170910", names)):
        folder = root / f"ai_challenger_caption_{part}_{date}"
        (folder / f"caption_{part}_images_{date}").mkdir(parents=True)
        (folder / f"caption_{part}_images_{date}" / names[0]).write_bytes(_jpeg(0))
        content = [{"url": "", "image_id": name, "caption": [f"\u56fe {name}"]} for name in listed]
        (folder / f"caption_{part}_annotations_{date}.json").write_text(_text(content), "utf-8")


def test_aic_tests_on_its_first_ten_thousand_validation_images(tmp_path: Path) -> None:
    _aic(10_003, tmp_path)
    last = tmp_path / "ai_challenger_caption_validation_20170910" / "caption_validation_images_20170910"
    for name in ("09999.jpg", "10000.jpg"):
        (last / name).write_bytes(_jpeg(1))
    reading = SetReader(sets.SETS["aic_icc"], tmp_path)
    found = {split: [record.id for record in reading.records(split)] for split in reading.splits}
    assert found == {"train": ["00000.jpg"], "validation": ["10000.jpg"], "test": ["00000.jpg", "09999.jpg"]}
    report = reading.report()
    assert (report["read"], report["packed"], report["rejected"]) == (10_004, 4, {"missing_image": 10_000})


def test_every_item_is_packed_or_rejected_and_sizes_are_compared(
    files: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content, _ = _coco_cn()
    content["imageid.human-written-caption.txt"] = str(content["imageid.human-written-caption.txt"]) + _lines(
        f"{COCO[0]}#1\t\u53c8", "COCO_val2014_000000000099#0\tof no list", "no mark at all"
    )
    place = registry.build("wenlan_public/coco_cn", tmp_path / "data", files(content))
    told = json.loads((place / "metadata.json").read_text("utf-8"))
    assert (told["read"], told["packed"]) == (7, 5)
    assert told["rejected"] == {"missing_field": 1, "wrong_columns": 1}
    assert "no list of a split" in told["samples"]["missing_field"][0]
    shown = capfd.readouterr().err
    assert "warning: coco_cn train: 2 images, published are 18,341" in shown
    assert "7 read; rejected: missing_field 1, wrong_columns 1" in shown


def test_optional_files_may_be_absent(files: Any, built: Any) -> None:
    content, expected = _vqa_v2()
    del content["v2_OpenEnded_mscoco_test2015_questions.json"]
    assert list(built("wenlan_public/vqa_v2", files(content))) == [split for split in expected if split != "test"]


def test_missing_files_and_unknown_names_are_explained(files: Any, tmp_path: Path) -> None:
    content, _ = _coco_cn()
    del content["coco-cn_val.txt"]
    with pytest.raises(BuildError, match=r"lacks coco-cn_val.txt\. COCO-CN.*\n(.*\n)*  train2014/"):
        registry.build("wenlan_public/coco_cn", tmp_path / "data", files(content))
    with pytest.raises(BuildError, match=r"wenlan data build wenlan_public/muge --manual-dir DIR.*\n  train_imgs.tsv"):
        registry.build("wenlan_public/muge", tmp_path / "data")
    with pytest.raises(BuildError, match="perhaps wenlan_public/mscoco"):
        registry.build("wenlan_public/coco", tmp_path / "data")
    with pytest.raises(BuildError, match="no such directory"):
        registry.build("wenlan_public/muge", tmp_path / "data", tmp_path / "nowhere")


def test_a_split_without_records_ends_the_build_and_leaves_nothing(files: Any, built: Any, tmp_path: Path) -> None:
    content, expected = _mscoco()
    broken = {**content, f"val2014/{COCO[3]}.jpg": b"not an image"}
    place = files(broken)
    with pytest.raises(BuildError, match=r"no record for split 'test'.*corrupt_image"):
        built("wenlan_public/mscoco", place)
    assert not list((tmp_path / "data").glob("wenlan_public/mscoco/1*"))
    (place / "val2014" / f"{COCO[3]}.jpg").write_bytes(_jpeg(0))
    assert len(built("wenlan_public/mscoco", place)["test"]) == len(expected["test"])


def test_image_folders_may_be_links_and_images_may_not_lead_out(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "files", tmp_path / "elsewhere"
    for name, content in COCO_IMAGES.items():
        place = elsewhere / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
    root.mkdir()
    (tmp_path / "secret.jpg").write_bytes(_jpeg(9))
    for folder in ("train2014", "val2014"):
        (root / folder).symlink_to(elsewhere / folder)
    (root / "dataset_coco.json").write_text(_karpathy_coco())
    first = elsewhere / "train2014" / f"{COCO[0]}.jpg"
    assert len(list(SetReader(sets.SETS["mscoco"], root).records("train"))) == 2
    first.unlink()
    first.symlink_to(tmp_path / "secret.jpg")
    reading = SetReader(sets.SETS["mscoco"], root)
    assert len(list(reading.records("train"))) == 1
    assert reading.report()["rejected"] == {"untrusted_place": 1}
