"""The public sets as a table: which files each consists of, how they are read, its splits, and its published sizes.

File names are those the sets are published under. Sizes are images per split, from the sets' own papers and pages;
what is not known for certain is not written down.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from wenlan_jax.prepare.builders import splits
from wenlan_jax.prepare.builders.splits import TEST, TRAIN, VALIDATION


@dataclasses.dataclass(frozen=True)
class SetPart:
    """Files of a set that are read alike.

    Attributes:
        files: below the manual directory; a folder, or files that belong together.
        format: a name in `formats/registry.py`.
        split: of all items, or the rule that tells it.
        language: of texts which name none.
        images: folder that image names are relative to; "" where names tell their folder.
        optional: the set is built without it where it is absent.
        text: what is done to every text.
        image_name: where images lie that the set names by URL, of {number}; ids then keep the folder.
    """

    files: tuple[str, ...]
    format: str
    split: str | splits.SplitRule
    language: str = ""
    images: str = ""
    optional: bool = False
    text: Callable[[str], str] | None = None
    image_name: str = ""

    @property
    def fixed_split(self) -> str:
        """The split of all items, "" where a rule tells it."""
        return self.split if isinstance(self.split, str) else ""


@dataclasses.dataclass(frozen=True)
class PublicSet:
    """One published set.

    Attributes:
        name: of the set.
        title: for a person.
        homepage: of the set.
        license: of texts and images.
        parts: its files.
        lists: files that rules for splits read.
        images: folders of images.
        splits: of the set.
        sizes: images per split where known.
        notes: traps that a user meets.
    """

    name: str
    title: str
    homepage: str
    license: str
    parts: tuple[SetPart, ...]
    lists: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    splits: tuple[str, ...] = (TRAIN, VALIDATION, TEST)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: str = ""

    @property
    def instructions(self) -> str:
        """Which files to put where."""
        files = [f"  {name}{'  (optional)' if part.optional else ''}" for part in self.parts for name in part.files]
        files += [f"  {name}" for name in self.lists]
        files += [f"  {name}/  (images, or a link to them)" for name in self.images]
        notes = f"\n{self.notes}" if self.notes else ""
        return f"{self.title}, {self.homepage}. Put into one directory:\n" + "\n".join(files) + notes


_COCO_IMAGES, _FLICKR_IMAGES = ("train2014", "val2014"), "flickr30k-images"
_KARPATHY_SIZES = {TRAIN: 113_287, VALIDATION: 5_000, TEST: 5_000}
_FLICKR_SIZES = {TRAIN: 29_000, VALIDATION: 1_014, TEST: 1_000}
_KARPATHY_COCO, _KARPATHY_FLICKR = "dataset_coco.json", "dataset_flickr30k.json"
_COCO_LICENSE = "captions CC BY 4.0; images under Flickr's terms"
_FLICKR_LICENSE = "images under Flickr's terms, for research and teaching"


def _unsegmented(text: str) -> str:
    """A text without the spaces and part-of-speech marks of its words, as in `\u4e24\u4e2a:m \u4eba:n`."""
    return "".join(word.rpartition(":")[0] or word for word in text.split())


def _flickr_cn(name: str, split: str) -> SetPart:
    file = f"{name}/TextData/seg.{name}.caption.txt"
    return SetPart((file,), "token", split, "zh", images=_FLICKR_IMAGES, text=_unsegmented)


def _muge(prefix: str, split: str) -> SetPart:
    return SetPart((f"{prefix}_imgs.tsv", f"{prefix}_texts.jsonl"), "muge", split)


def _aic(part: str, date: str, split: str | splits.SplitRule) -> SetPart:
    folder = f"ai_challenger_caption_{part}_{date}"
    return SetPart(
        (f"{folder}/caption_{part}_annotations_{date}.json",),
        "aic_icc",
        split,
        images=f"{folder}/caption_{part}_images_{date}",
    )


def _vqa(subtype: str, split: str, answered: bool = True) -> SetPart:
    questions = f"v2_OpenEnded_mscoco_{subtype}_questions.json"
    annotations = (f"v2_mscoco_{subtype}_annotations.json",) if answered else ()
    return SetPart((questions, *annotations), "vqa", split, optional=not answered)


def _conceptual(file: str, split: str, optional: bool) -> SetPart:
    return SetPart((file,), "conceptual", split, optional=optional, image_name=f"{split}/{{number:09d}}.jpg")


_CAPTIONS = (
    PublicSet(
        "mscoco",
        "MSCOCO captions in Karpathy's splits (train with restval)",
        "https://cocodataset.org",
        _COCO_LICENSE,
        (SetPart((_KARPATHY_COCO,), "karpathy", splits.named()),),
        images=_COCO_IMAGES,
        sizes=_KARPATHY_SIZES,
    ),
    PublicSet(
        "coco_cn",
        "COCO-CN, captions written in Chinese",
        "https://github.com/li-xirong/coco-cn",
        f"captions on request, for research; {_COCO_LICENSE}",
        (
            SetPart(
                ("imageid.human-written-caption.txt",),
                "token",
                splits.listed({TRAIN: "coco-cn_train.txt", VALIDATION: "coco-cn_val.txt", TEST: "coco-cn_test.txt"}),
                "zh",
            ),
        ),
        lists=("coco-cn_train.txt", "coco-cn_val.txt", "coco-cn_test.txt"),
        images=_COCO_IMAGES,
        sizes={TRAIN: 18_341, VALIDATION: 1_000, TEST: 1_000},
        notes="Its test images may be training images in Karpathy's splits; ids are image names, compare them.",
    ),
    PublicSet(
        "stair",
        "STAIR captions, Japanese, on MSCOCO in Karpathy's splits",
        "https://stair-lab-cit.github.io/STAIR-captions-web/",
        f"captions CC BY 4.0; {_COCO_LICENSE}",
        tuple(
            SetPart((f"stair_captions_v1.2_{part}.json",), "stair", splits.karpathy(_KARPATHY_COCO))
            for part in ("train", "val")
        ),
        lists=(_KARPATHY_COCO,),
        images=_COCO_IMAGES,
        sizes=_KARPATHY_SIZES,
    ),
    PublicSet(
        "flickr30k",
        "Flickr30k in Karpathy's splits",
        "https://shannon.cs.illinois.edu/DenotationGraph/",
        _FLICKR_LICENSE,
        (SetPart((_KARPATHY_FLICKR,), "karpathy", splits.named(), images=_FLICKR_IMAGES),),
        images=(_FLICKR_IMAGES,),
        sizes=_FLICKR_SIZES,
    ),
    PublicSet(
        "flickr30k_cn",
        "Flickr30k-CN: translated by machine (train, validation) and by people (test)",
        "https://github.com/li-xirong/cross-lingual-cap",
        _FLICKR_LICENSE,
        (
            _flickr_cn("flickr30kzhbbosontrain", TRAIN),
            _flickr_cn("flickr30kzhbbosonval", VALIDATION),
            _flickr_cn("flickr30kzhmbosontest", TEST),
        ),
        images=(_FLICKR_IMAGES,),
        notes="The published words are joined again: spaces and marks of their part of speech are taken out.",
    ),
    PublicSet(
        "multi30k",
        "Multi30K: Flickr30k in en, de, fr and cs, both tasks, and its test set of 2016",
        "https://github.com/multi30k/dataset",
        _FLICKR_LICENSE,
        (SetPart(("data",), "multi30k", splits.named(), images=_FLICKR_IMAGES),),
        images=(_FLICKR_IMAGES,),
        sizes=_FLICKR_SIZES,
        notes="`data` is the folder of the repository, with task1 and task2. Later test sets are left out.",
    ),
    PublicSet(
        "aic_icc",
        "AIC-ICC, Chinese; test is the first 10,000 images of the published validation set",
        "https://github.com/AIChallenger/AI_Challenger_2017",
        "for research, by AI Challenger",
        (
            _aic("train", "20170902", TRAIN),
            _aic("validation", "20170910", splits.first(10_000, TEST, VALIDATION)),
        ),
        sizes={TRAIN: 210_000, VALIDATION: 20_000, TEST: 10_000},
    ),
    PublicSet(
        "muge",
        "MUGE: queries and products of Chinese e-commerce",
        "https://tianchi.aliyun.com/muge",
        "for research, by Alibaba",
        (_muge("train", TRAIN), _muge("valid", VALIDATION)),
        splits=(TRAIN, VALIDATION),
        notes="Its test split has no pairs and is left out. Images without a text are counted as rejected.",
    ),
)

_LARGE_AND_QUESTIONS = (
    PublicSet(
        "cc3m",
        "Conceptual Captions 3M, with images that you have downloaded",
        "https://ai.google.com/research/ConceptualCaptions",
        "captions free to use, by Google; images under their owners' terms",
        (
            _conceptual("Train_GCC-training.tsv", TRAIN, optional=False),
            _conceptual("Validation_GCC-1.1.0-Validation.tsv", VALIDATION, optional=True),
        ),
        images=(TRAIN, VALIDATION),
        splits=(TRAIN, VALIDATION),
        notes="Images are named by the line of their URL, from 0: train/000000000.jpg. Dead links count as rejected.",
    ),
    PublicSet(
        "cc12m",
        "Conceptual Captions 12M, with images that you have downloaded",
        "https://github.com/google-research-datasets/conceptual-12m",
        "captions free to use, by Google; images under their owners' terms",
        (_conceptual("cc12m.tsv", TRAIN, optional=False),),
        images=(TRAIN,),
        splits=(TRAIN,),
        notes="Images are named by the line of their URL, from 0: train/000000000.jpg. Dead links count as rejected.",
    ),
    PublicSet(
        "vqa_v2",
        "VQA v2: questions about MSCOCO with ten answers each",
        "https://visualqa.org",
        f"questions CC BY 4.0; {_COCO_LICENSE}",
        (_vqa("train2014", TRAIN), _vqa("val2014", VALIDATION), _vqa("test2015", TEST, answered=False)),
        images=(*_COCO_IMAGES, "test2015"),
        sizes={TRAIN: 82_783, VALIDATION: 40_504, TEST: 81_434},
        notes="The answers of the test split are not public; they are empty here.",
    ),
    PublicSet(
        "vqa_vg_ja",
        "VQA on Visual Genome in Japanese",
        "https://github.com/yahoojapan/ja-vg-vqa",
        "questions CC BY 4.0; images under Visual Genome's terms",
        (SetPart(("question_answers.json",), "vg_qa", TRAIN, "ja"),),
        images=("VG_100K", "VG_100K_2"),
        splits=(TRAIN,),
        sizes={TRAIN: 99_208},
        notes="No split is published: all of it is `train`; take slices such as train[:90%].",
    ),
)

SETS = {one.name: one for one in (*_CAPTIONS, *_LARGE_AND_QUESTIONS)}
"""Every public set by its name."""
