"""The batches of the single tower: one objective each, which its fields tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wenlan_jax.tasks import batch, experiment
from wenlan_jax.tasks.batch import BatchSpec, Field
from wenlan_jax.tasks.single_tower.input.examples import NEGATIVE
from wenlan_jax.tasks.two_tower.batch import image_fields

FIELDS = {
    "itm": "match",
    "mlm": "masked_ids",
    "mrc": "region_classes",
    "mrfr": "region_masked",
    "rank": "negative_token_ids",
    "vqa": "answers",
}
"""Objective by the field that tells its batches; the first that is found counts."""

VALID = "valid"
"""In batches of an evaluation: rows that count, the others fill up the last batch."""

TEXT = ("token_ids", "token_mask")
IMAGE = ("region_features", "region_boxes", "region_mask", "image", "image_sides")

FIRST_ID = 5
"""Ids below are special in every vocabulary; XLM-R's padding has no position of its own."""


def of_batch(found: Mapping[str, Any]) -> str:
    """Says which objective a batch is for.

    Args:
        found: the batch, or its spec, by field.

    Returns:
        The name of the objective.
    """
    return next(name for name, field in FIELDS.items() if field in found)


def trained(config: experiment.Config) -> dict[str, float]:
    """Lists the objectives of a configuration's task with their weights.

    A task of fine-tuning has the one of its name.

    Args:
        config: the configuration.

    Returns:
        The weight of each objective by its name.
    """
    if config.task in FIELDS:
        return {config.task: 1.0}
    return dict(zip(config.pretrain.objectives, config.pretrain.weights, strict=True))


def batch_spec(config: experiment.Config) -> BatchSpec:
    """Declares the training batch of the largest bucket.

    It is of the objective that needs most memory: words, where they are trained.

    Args:
        config: the configuration; its vocabulary size must be known.

    Returns:
        The fields by name.
    """
    names = list(trained(config))
    objective = "mlm" if "mlm" in names else names[0]
    pretrain = config.pretrain
    sizes = (config.train.batch_size, pretrain.text_buckets[-1], pretrain.region_buckets[-1])
    return objective_spec(config, objective, *sizes)


def objective_spec(config: experiment.Config, objective: str, size: int, tokens: int, regions: int) -> BatchSpec:
    """Declares the batch of an objective.

    Args:
        config: the configuration; its vocabulary size must be known.
        objective: such as `itm`.
        size: the number of examples.
        tokens: of each text, padding included.
        regions: of each image, padding included.

    Returns:
        The fields by name.
    """
    shared = {
        "id": Field((size,), np.int32, "of the image; equal ids, same image", batch.numbered),
        **_text_fields(config, (size,), tokens),
        **_region_fields(config, (size,), regions),
    }
    return {**shared, **_own_fields(config, objective, size, tokens, regions)}


def _text_fields(config: experiment.Config, rows: tuple[int, ...], tokens: int) -> dict[str, Field]:
    ids = batch.ids(config.single.vocab_size, FIRST_ID)
    return {
        "token_ids": Field((*rows, tokens), np.int32, "of the text", ids),
        "token_mask": Field((*rows, tokens), np.bool_, "True at tokens, False at padding", batch.full),
    }


def _region_fields(config: experiment.Config, rows: tuple[int, ...], regions: int) -> dict[str, Field]:
    """Boxes and masks, and features, or the image on whose map they are pooled."""
    meaning = "left, top, right, bottom in units of the image's sides"
    fields = {
        "region_boxes": Field((*rows, regions, 4), np.float32, meaning, batch.boxes),
        "region_mask": Field((*rows, regions), np.bool_, "True at regions, False at padding", batch.full),
    }
    if config.single.regions.features != "map":
        width = (*rows, regions, config.single.regions.width)
        return fields | {"region_features": Field(width, np.float16, "of each region", batch.uniform)}
    for name, field in image_fields(config, 1).items():
        fields[name] = field._replace(shape=(*rows, *field.shape[1:]))
    return fields


def _own_fields(config: experiment.Config, objective: str, size: int, tokens: int, regions: int) -> dict[str, Field]:
    """What an objective needs beside text and regions."""
    pretrain, single = config.pretrain, config.single
    masked = Field((size, regions), np.bool_, "regions to guess", batch.chosen(pretrain.mask_probability))
    match objective:
        case "itm":
            return {"match": Field((size,), np.int32, "1 where text and image belong together, else 0", batch.below(2))}
        case "mlm":
            words = (size, min(pretrain.masked_words, tokens))
            ids = batch.ids(single.vocab_size, FIRST_ID)
            return {
                "masked_places": Field(words, np.int32, "of the tokens to guess", batch.places(tokens)),
                "masked_ids": Field(words, np.int32, "of the tokens to guess", ids),
                "masked_valid": Field(words, np.bool_, "True at places, False at padding", batch.full),
            }
        case "mrfr":
            return {"region_masked": masked}
        case "mrc":
            classes = (size, regions, single.regions.classes)
            meaning = "the detector's distribution, background first"
            return {"region_masked": masked, "region_classes": Field(classes, np.float16, meaning, batch.shares)}
        case "vqa":
            return {"answers": Field((size, config.vqa.answers), np.float32, "score of each answer", batch.uniform)}
        case "rank":
            rows = (size, config.rank.candidates)
            fields = {**_text_fields(config, rows, tokens), **_region_fields(config, rows, regions)}
            return {NEGATIVE + name: field for name, field in fields.items()}
    raise ValueError(f"{objective!r} is no objective of the single tower")
