"""The public caption and question sets, each in its own layout, with the traps of each."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.formats import registry


def _json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    return path


def _lines(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


COCO = {
    "info": {"year": 2014},
    "images": [
        {"id": 42, "file_name": "COCO_val2014_000000000042.jpg", "height": 30, "width": 40},
        {"id": 73, "file_name": "COCO_val2014_000000000073.jpg", "height": 30, "width": 40},
        {"id": 74, "file_name": "COCO_val2014_000000000074.jpg", "height": 30, "width": 40},
    ],
    "annotations": [
        {"image_id": 42, "id": 1, "caption": "A cat.\n"},
        {"image_id": 73, "id": 2, "caption": "A\ndog."},
        {"image_id": 42, "id": 3, "caption": "One cat."},
        {"image_id": 99, "id": 4, "caption": "No such image."},
    ],
}


def test_coco(tmp_path: Path, packed: Any, images: Any) -> None:
    root = images("val2014/COCO_val2014_000000000042.jpg", "COCO_val2014_000000000073.jpg")
    found = packed(_json(tmp_path / "captions_val2014.json", COCO), images=str(root))
    assert found.texts() == [[("en", "A cat."), ("en", "One cat.")], [("en", "A dog.")]]
    assert found.report.read == 5 and sorted(found.reasons) == ["missing_image", "missing_text"]
    assert found.records["train"][0].id == "COCO_val2014_000000000042.jpg"


def test_stair_is_japanese_and_keeps_the_untokenised_caption(tmp_path: Path, packed: Any, images: Any) -> None:
    rows = [{"image_id": 42, "id": 1, "caption": "猫がいる", "tokenized_caption": "猫 が いる"}]
    root = images("COCO_val2014_000000000042.jpg")
    stair = _json(
        tmp_path / "stair_captions_v1.2_val_tokenized.json", {"images": COCO["images"][:1], "annotations": rows}
    )
    assert packed(stair, images=str(root)).texts() == [[("ja", "猫がいる")]]


def test_karpathy_splits(tmp_path: Path, packed: Any, images: Any) -> None:
    splits = ["train", "restval", "val", "test"]
    rows = [
        {
            "filepath": "val2014",
            "filename": f"{k}.jpg",
            "split": split,
            "sentences": [{"raw": f"{k} a"}, {"raw": f"{k} b"}],
        }
        for k, split in enumerate(splits)
    ]
    root = images(*(f"val2014/{k}.jpg" for k in range(4)))
    found = packed(_json(tmp_path / "dataset_coco.json", {"images": rows, "dataset": "coco"}), images=str(root))
    assert dict(found.report.records) == {"train": 2, "validation": 1, "test": 1}
    assert found.texts("validation") == [[("en", "2 a"), ("en", "2 b")]]


def test_flickr_tokens_and_coco_cn(tmp_path: Path, packed: Any, images: Any) -> None:
    root = images("1000.jpg", "train2014/COCO_train2014_000000000007.jpg", "val2014/COCO_val2014_000000000008.jpg")
    token = _lines(tmp_path / "results.token", "1000.jpg#0\tTwo men #1 .", "1000.jpg#1\tMen .", "no mark", "9.jpg#0\tx")
    found = packed(token, images=str(root), language="en")
    assert found.texts() == [[("en", "Two men #1 ."), ("en", "Men .")]]
    assert found.reasons == ["wrong_columns", "missing_image"]
    chinese = _lines(
        tmp_path / "imageid.human-written-caption.txt",
        "COCO_train2014_000000000007#0\t一只猫",
        "COCO_val2014_000000000008#1 一只狗",
        "1000#zhb#0 两个人",
    )
    found = packed(chinese, images=str(root), language="zh")
    assert found.texts() == [[("zh", "一只猫")], [("zh", "一只狗")], [("zh", "两个人")]]


def _multi30k(root: Path, short: bool = False) -> Path:
    names = ["a.jpg", "b.jpg"]
    _lines(root / "task1" / "image_splits" / "train.txt", *names)
    _lines(root / "task2" / "image_splits" / "train_images.txt", *names)
    _lines(root / "task1" / "image_splits" / "test_2016_flickr.txt", "c.jpg")
    for language in ("en", "de", "fr", "cs"):
        texts = [f"{language} a", f"{language} b"]
        _lines(root / "task1" / "raw" / f"train.{language}.gz", *texts[: 1 if short and language == "cs" else 2])
        _lines(root / "task1" / "raw" / f"test_2016_flickr.{language}.gz", f"{language} c")
    for k in range(1, 6):
        for language in ("en", "de"):
            _lines(root / "task2" / "raw" / f"train.{k}.{language}.gz", f"{language} a {k}", f"{language} b {k}")
            _lines(root / "task2" / "raw" / f"test_2016.{k}.{language}.gz", f"{language} c {k}")
    return root


def test_multi30k_joins_both_tasks_by_line(tmp_path: Path, packed: Any, images: Any) -> None:
    found = packed(_multi30k(tmp_path / "data"), images=str(images("a.jpg", "b.jpg", "c.jpg")))
    assert dict(found.report.records) == {"train": 2, "test": 1}
    (texts,) = found.texts("test")
    assert len(texts) == 14 and [text for text in texts if text[0] in ("fr", "cs")] == [("cs", "cs c"), ("fr", "fr c")]
    for letter, texts in zip("ab", found.texts(), strict=True):
        assert all(text.split()[1] == letter for _, text in texts)


def test_multi30k_out_of_step_is_refused(tmp_path: Path, packed: Any, images: Any) -> None:
    root = images("a.jpg", "b.jpg", "c.jpg")
    found = packed(_multi30k(tmp_path / "short", short=True), images=str(root))
    assert found.reasons == ["damaged_shard"] and "has 1 lines" in found.rejected[0]["detail"]
    assert dict(found.report.records) == {"test": 1}
    place = _multi30k(tmp_path / "swapped")
    _lines(place / "task2" / "image_splits" / "train_images.txt", "b.jpg", "a.jpg")
    found = packed(place, images=str(root))
    assert found.reasons == ["damaged_shard"] and "do not align" in found.rejected[0]["detail"]
    (place / "task1" / "image_splits" / "test_2016_flickr.txt").unlink()
    with pytest.raises(raw_items.ReadError, match="no list of images for test"):
        packed(place, images=str(root))


def test_brivl2_lists(tmp_path: Path, packed: Any, images: Any) -> None:
    root = images("a.jpg", "b.png")
    listed = _lines(tmp_path / "images.csv", "a.jpg", "b.png")
    _lines(tmp_path / "texts.csv", '一,"二', "三")
    assert packed(listed, images=str(root)).texts() == [[("zh", '一,"二')], [("zh", "三")]]
    _lines(tmp_path / "texts.csv", "一")
    with pytest.raises(raw_items.ReadError, match="has 1 lines, but .* names 2 images"):
        packed(listed, images=str(root))


def test_brivl_boxes_beside_the_image(tmp_path: Path, packed: Any, images: Any) -> None:
    import numpy as np

    root = images("a.jpg", "b.jpg", "c.jpg")
    np.savez(root / "a.npz", bbox=np.array([[1, 2, 30, 20], [0, 0, 100, 100]], np.float32))
    (root / "b.jpg.npz").write_bytes(b"PK not a zip")
    rows = [{"image_id": f"{name}.jpg", "sentences": [["easy", "猫"]]} for name in "abc"]
    listed = _lines(tmp_path / "c.jsonl", *(json.dumps(row) for row in rows))
    found = packed(listed, images=str(root), language="zh")
    assert found.reasons == ["bad_box_file"]
    assert [[region.box for region in record.regions] for record in found.records["train"]] == [
        [(1, 2, 30, 20), (0, 0, 40, 30)],
        [],
    ]


def test_aic_icc(tmp_path: Path, packed: Any, images: Any) -> None:
    rows = [
        {"url": "http://a", "image_id": "a.jpg", "caption": ["一", "二\n三", "", "四", "一"]},
        {"url": "http://b", "image_id": "b.jpg", "caption": ["", "\n"]},
    ]
    found = packed(
        _json(tmp_path / "caption_train_annotations_20170902.json", rows), images=str(images("a.jpg", "b.jpg"))
    )
    assert found.texts() == [[("zh", "一"), ("zh", "二 三"), ("zh", "四")]]
    assert found.reasons == ["empty_caption"] and found.report.fixes == {"text_empty_dropped": 1}


def test_muge(tmp_path: Path, packed: Any, image: Any) -> None:
    encoded = [base64.b64encode(image(seed)).decode() for seed in range(3)]
    lines = [f"{key}\t{data}" for key, data in zip(("10", "11", "12"), encoded, strict=True)]
    _lines(tmp_path / "valid_imgs.tsv", *lines, "13\tnot base64!", "10\t" + encoded[0])
    rows = [
        {"text_id": 1, "text": "红裙子", "image_ids": [10, 11]},
        {"text_id": 2, "text": "连衣裙", "image_ids": [10]},
        {"text_id": 3, "text": "别的", "image_ids": [99]},
        {"text_id": 4, "text": "坏的", "image_ids": [13]},
        {"text_id": 5, "text": "", "image_ids": [12]},
    ]
    texts = _lines(tmp_path / "valid_texts.jsonl", *(json.dumps(row, ensure_ascii=False) for row in rows))
    found = packed(texts)
    assert found.texts("validation") == [[("zh", "红裙子"), ("zh", "连衣裙")], [("zh", "红裙子")]]
    assert [record.id for record in found.records["validation"]] == ["10", "11"]
    assert found.records["validation"][1].image == image(1)
    assert sorted(found.reasons) == ["corrupt_image", "empty_caption", "missing_image", "missing_text", "missing_text"]


def test_conceptual_captions_in_either_order(tmp_path: Path, packed: Any, images: Any) -> None:
    root = images("000000000.jpg", "000000001.jpg", "000000003.jpg")
    first = _lines(tmp_path / "cc3m.tsv", "a cat\thttp://a/1", "a dog\thttp://a/2", "dead\thttp://a/3", "x", "y\tz")
    found = packed(first, images=str(root))
    assert found.texts() == [[("en", "a cat")], [("en", "a dog")]]
    assert sorted(found.reasons) == ["missing_image", "wrong_columns", "wrong_columns"]
    second = _lines(tmp_path / "cc12m.tsv", "https://a/1\ta cat")
    assert packed(second, images=str(root)).texts() == [[("en", "a cat")]]
    for wrong in ("{row}.jpg", "{url.__class__}", "{url[0]}", "{number:99999999999}", "{}", "{number!r}", "{"):
        with pytest.raises(raw_items.ReadError, match=r"--image-name .*may hold \{number\}, \{url\}"):
            packed(second, images=str(root), image_name=wrong)


def test_vqa_keeps_every_annotator(tmp_path: Path, packed: Any, images: Any) -> None:
    root = images("val2014/COCO_val2014_000000000042.jpg")
    asked = [{"image_id": 42, "question": "What?", "question_id": k} for k in (420, 421)]
    given = [{"answer": "cat" if k < 7 else "dog", "answer_id": 10 - k, "answer_confidence": "yes"} for k in range(10)]
    questions = _json(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": asked})
    answers = {"annotations": [{"question_id": 420, "image_id": 42, "answers": given}]}
    annotations = _json(tmp_path / "v2_mscoco_val2014_annotations.json", answers)
    found = packed(annotations, questions, images=str(root))
    (record,) = found.records["train"]
    assert [question.answer for question in record.questions] == ["dog"] * 3 + ["cat"] * 7
    assert record.texts == () and found.reasons == ["missing_field"]
    (record,) = packed(questions, images=str(root)).records["train"]
    assert [question.answer for question in record.questions] == ["", ""]


def test_visual_genome_questions_in_japanese(tmp_path: Path, packed: Any, images: Any) -> None:
    root = images("VG_100K/1.jpg", "VG_100K_2/2.jpg")
    rows = [
        {"id": 1, "qas": [{"question": "これは何ですか?", "answer": "猫", "image_id": 1, "qa_id": 1}]},
        {
            "id": 2,
            "qas": [
                {"question": "何色?", "answer": "", "image_id": 2, "qa_id": 2},
                {"question": "色は?", "answer": "赤"},
            ],
        },
    ]
    found = packed(_json(tmp_path / "question_answers.json", rows), images=str(root))
    assert [(q.language, q.answer) for r in found.records["train"] for q in r.questions] == [("ja", "猫"), ("ja", "赤")]
    assert found.reasons == ["missing_field"]


def test_inputs_that_tell_no_format(tmp_path: Path) -> None:
    options = raw_items.ReadOptions()
    with pytest.raises(raw_items.ReadError, match="nothing matches"):
        registry.shards([str(tmp_path / "*.tar")], None, options)
    with pytest.raises(raw_items.ReadError, match="no file in this folder"):
        registry.shards([str(tmp_path)], None, options)
    annotations = _json(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": [{"question_id": 1}]})
    with pytest.raises(raw_items.ReadError, match="give both"):
        registry.shards([str(annotations)], None, options)
    broken = _lines(tmp_path / "captions.json", '{"images": [{"file_name": ')
    _, shards = registry.shards([str(broken)], None, options)
    with pytest.raises(raw_items.ReadError, match="not whole JSON"):
        list(shards[0].read())


def test_shards_are_named_apart(tmp_path: Path) -> None:
    for place in ("a/00.csv", "b/00.csv", "b/01.csv"):
        _lines(tmp_path / place, "image,caption")
    _, shards = registry.shards([str(tmp_path / "{a,b}" / "0[0-9].csv")], "csv", raw_items.ReadOptions())
    assert [shard.name for shard in shards] == ["a/00", "b/00", "b/01"]


def test_an_id_that_several_images_have_is_of_none(tmp_path: Path, packed: Any, images: Any) -> None:
    names = [(1, "a.jpg"), (2, "b.jpg"), (1, "c.jpg"), ("2", "b.jpg"), (3, "d.jpg"), (3, "e.jpg")]
    document = {
        "images": [{"id": key, "file_name": name} for key, name in names],
        "annotations": [{"image_id": key, "caption": "x"} for key in (1, 2)],
    }
    found = packed(_json(tmp_path / "c.json", document), images=str(images("a.jpg", "b.jpg", "c.jpg")))
    assert [record.id for record in found.all()] == ["b.jpg"]
    assert found.reasons == ["missing_image", "missing_text"]
    assert "image_id '1' names 2 images" in found.rejected[0]["detail"]


def test_a_question_that_is_answered_twice_has_no_answer(tmp_path: Path, packed: Any, images: Any) -> None:
    asked = [{"question_id": key, "image_id": 9, "question": "What?"} for key in (1, 2)]
    questions = _json(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": asked})
    given = [(1, "cat"), (1, "dog"), (2, "cat"), (2, "cat")]
    rows = [{"question_id": key, "answers": [{"answer": answer, "answer_id": 1}]} for key, answer in given]
    annotations = _json(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": rows})
    root = images("COCO_val2014_000000000009.jpg")
    found = packed(questions, annotations, images=str(root))
    assert [row["detail"] for row in found.rejected] == ["several annotations of one question_id"]
    assert [question.answer for question in found.records["train"][0].questions] == ["cat"]
    for file in (questions, annotations):
        file.rename(root / file.name)
    assert packed(root).report.packed == 1
