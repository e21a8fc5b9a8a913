"""The fields of the single tower (MLMM, UNITER, UC2), of its pretraining and of its fine-tuning.

Values of UNITER [U] and UC2 [UC2] stand where the description of MLMM says nothing; `SOURCES` in
`config/sections.py` explains all tags.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from wenlan_jax.config.settings import field, section
from wenlan_jax.util import languages

OBJECTIVES = ("itm", "mlm", "mrfr", "mrc")
"""Matching of image and text, masked words, regression of masked regions, classes of masked regions [S]."""


@dataclasses.dataclass(frozen=True)
class SingleRegionsConfig:
    """What the tower sees of an image."""

    features: Literal["stored", "map", "pixels"] = field(
        "stored",
        "of a region: those a detector left in the records (`wenlan regions`), pooled on the map of BriVL's backbone "
        "(model.image.backbone, which stays as it is), or its pixels",
    )
    boxes: Literal["stored", "grid"] = field(
        "stored", "those in the records, or a fixed grid where there is no detector"
    )
    grid: int = field(6, "cells along each side of the grid; the whole image is one more region", low=1)
    limit: int = field(100, "regions of an image at most, the first ones [U]", low=1)
    width: int = field(2048, "numbers of a feature; 3 * crop * crop where features are pixels [U]", low=1)
    crop: int = field(8, "side of a region's pixels, where they are its features [W]", low=1)
    mask_deviation: float = field(
        0.02,
        "of the fresh vector in place of a masked feature [U]; so small beside the features, its LayerNorm makes the "
        "gradient of masked regions tens of times that of all else, which 'clip_norm' then hides; a tower that starts "
        "from nothing needs that of the features [W]",
        low=1e-4,
    )
    classes: int = field(1601, "of a detector, background first [U]; 0: none, and no objective mrc", low=0)
    labels: tuple[str, ...] = field(
        (),
        "names of the classes but the background, for records with labels instead of distributions; empty: records "
        "have distributions",
    )


@dataclasses.dataclass(frozen=True)
class SingleTowerConfig:
    """One Transformer over the tokens of a text and the regions of an image; MLMM's sizes are not stated [S]."""

    vocab_size: int = field(250002, "rows of the word table [UC2]; 0: as many as the tokenizer has pieces", low=0)
    width: int = field(768, "of hidden states; 768 in base, 1024 in large models [U]", low=1)
    layers: int = field(12, "Transformer layers; 12 in base, 24 in large models [U]", low=1)
    heads: int = field(12, "attention heads of a layer; they divide width [U]", low=1)
    feed_forward: int = field(3072, "width of the hidden layer of the feed-forward network [U]", low=1)
    positions: int = field(514, "rows of the position table [UC2]; 512 in UNITER [U]", low=3)
    position_offset: int = field(2, "row of the first token [UC2]; 0 in UNITER [U]", low=0)
    eps: float = field(1e-12, "of the LayerNorms of layers, regions and their heads [U]", low=1e-20)
    text_eps: float = field(
        1e-5, "of those of words, of their head and of answers [UC2]; 1e-12 in UNITER [U]", low=1e-20
    )
    dropout: float = field(0.1, "of hidden states and attention [U]", low=0, high=0.99)
    initial_deviation: float = field(
        0.02, "of fresh kernels and tables [U]; a narrow tower that starts from nothing needs more [W]", low=1e-4
    )
    scan_segments: tuple[int, ...] = field((), "compile one layer per segment and loop; lengths sum to layers", low=1)
    remat: bool = field(False, "recompute each layer in the backward pass to save memory", free=True)
    regions: SingleRegionsConfig = section(SingleRegionsConfig)


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """The objectives of task 'mlmm': one a step, drawn with language and bucket of lengths from (seed, step)."""

    objectives: tuple[str, ...] = field(OBJECTIVES, f"out of {', '.join(OBJECTIVES)} [S]")
    weights: tuple[float, ...] = field((9.0, 12.0, 6.0, 6.0), "relative shares of the steps [U]; not stated [S]")
    mask_probability: float = field(0.15, "of a word piece and of a region [U]", low=0, high=1)
    masked_words: int = field(16, "masked pieces of a text at most: the head for words runs for these only [W]", low=1)
    match_probability: float = field(0.5, "share of matching pairs in itm [U]", low=0, high=1)
    text_buckets: tuple[int, ...] = field((16, 32, 64), "lengths that texts are padded to, ascending [W]", low=1)
    region_buckets: tuple[int, ...] = field((36, 64, 100), "numbers of regions that images are padded to [W]", low=1)
    language_alpha: float = field(
        1.0, "a step's language is drawn in proportion to the number of its texts to this power; 0: alike", low=0,
        high=1,
    )  # fmt: skip
    mrc_kind: Literal["kl", "hard"] = field("kl", "against the detector's distribution [S], or its best class")
    mrc_reduction: Literal["elementwise", "batchmean"] = field(
        "elementwise",
        "KL is averaged over regions and classes as in UNITER's code, or summed over classes, 1601 times as much [U]",
    )
    mrfr_reduction: Literal["elementwise", "batchmean"] = field(
        "elementwise",
        "squared errors are averaged over regions and numbers as in UNITER's code, or summed over the numbers of a "
        "region, without which objectives of larger gradients leave this one unlearnt in a short run [U]",
    )
    uc2_start: bool = field(
        False,
        "an import of XLM-R leaves the head for words and both type rows random, as UC2's code does by its names; "
        "otherwise both are taken over [UC2]",
    )


@dataclasses.dataclass(frozen=True)
class RankConfig:
    """Fine-tuning for retrieval, task 'rank': a hinge on the scores of a pair and of pairs with another side [U]."""

    margin: float = field(0.2, "between the scores, after the logistic function [U]", low=0)
    candidates: int = field(1, "negatives drawn for each side of a pair; 399 for UNITER's hard ones [U]", low=1)
    hard: int = field(
        1,
        "of the candidates, trained on: those that score highest without dropout; 31 in UNITER; as many as candidates: "
        "no choice [U]",
        low=1,
    )


@dataclasses.dataclass(frozen=True)
class VqaConfig:
    """Fine-tuning for questions, task 'vqa'."""

    answers: int = field(3129, "most frequent answers of the training questions that can be given; columns of the head "
                         "[U]", low=2)  # fmt: skip
    smallest_count: int = field(9, "times an answer occurs at least to be among them [U]", low=1)
    answers_file: str = field(
        "", "JSON list of the answers in the order of the columns, instead of counting; a run keeps its own", free=True
    )
    fingerprint: str = field("", "of the list of answers; a run writes it down and refuses another list")
    languages: tuple[str, ...] = field((), "of the training questions; empty: all", each=languages.typed)
    blind: bool = field(False, "show no image, in training and evaluation: what language alone can answer")
