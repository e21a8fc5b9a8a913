"""What the single tower trains on and is evaluated on, by its configuration.

`tasks/shared_data.py` is the same for two towers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wenlan_jax.data import loader, sources, text
from wenlan_jax.data.mixture import MixturePart, TextChoice, WantedTexts
from wenlan_jax.data.sources import Source
from wenlan_jax.evaluation import vqa
from wenlan_jax.tasks import shared_data
from wenlan_jax.tasks.experiment import Config, ConfigError
from wenlan_jax.tasks.single_tower.batch import trained
from wenlan_jax.tasks.single_tower.input import examples, lengths, masking
from wenlan_jax.tasks.single_tower.input.batches import FixedBatches, SingleBatches, whole_pool
from wenlan_jax.tasks.single_tower.input.buckets import Shape
from wenlan_jax.tasks.single_tower.input.questions import (
    FixedQuestionBatches,
    QuestionBatches,
    Questions,
    list_questions,
)
from wenlan_jax.tasks.single_tower.input.regions import RegionReader
from wenlan_jax.tasks.single_tower.input.schedule import Schedule, ScheduledPart
from wenlan_jax.util import json_files

CACHE = "wenlan_lengths"
"""Under `data.dir`: the tables of lengths, see `tasks/single_tower/input/lengths.py`."""


def regions(config: Config) -> RegionReader:
    """Says how the regions of a record become arrays, by the section `single.regions`."""
    c = config.single.regions
    return RegionReader(
        features=c.features,
        boxes=c.boxes,
        grid=c.grid,
        limit=c.limit,
        width=c.width,
        crop=c.crop,
        classes=c.classes,
        labels=c.labels,
        images=shared_data.image_reader(config, boxes=0) if c.features == "map" else None,
    )


def recipe(config: Config, tokenizer: text.Tokenizer) -> examples.ExampleOptions:
    """Says how records become examples.

    Args:
        config: the configuration.
        tokenizer: for texts and masked words.

    Returns:
        The recipe.

    Raises:
        MaskingError: if words are masked and the tokenizer has no `[MASK]`.
    """
    pretrain = config.pretrain
    words = None
    if "mlm" in trained(config):
        words = masking.word_masking(tokenizer, pretrain.mask_probability, pretrain.masked_words)
    return examples.ExampleOptions(
        tokenizer=tokenizer,
        text_length=config.data.text_length,
        regions=regions(config),
        words=words,
        region_probability=pretrain.mask_probability,
        match_probability=pretrain.match_probability,
        negatives=config.rank.candidates,
        seed=config.seed,
    )


def batches(config: Config, tokenizer: text.Tokenizer, share: tuple[int, ...]) -> loader.TrainMaker:
    """Makes the training batches of the single tower. Measures the lengths of the data first, which are kept.

    Args:
        config: the configuration.
        tokenizer: for the texts.
        share: the places of each global batch that this process makes.

    Returns:
        A maker of batches by step.

    Raises:
        ScheduleError: for data that cannot be trained on with these objectives and buckets.
    """
    pretrain = config.pretrain
    weights = trained(config)
    # Parts name objectives of pretraining; a task of fine-tuning trains its own on all of them.
    named = (part.objectives for part in shared_data.parts(config.data))
    allowed = [tuple(name for name in names if name in weights) for names in named]
    parts = [
        ScheduledPart(part, measured(config, tokenizer, part.source, part.texts.wanted), names)
        for part, names in zip(shared_data.opened(config.data), allowed, strict=True)
    ]
    schedule = Schedule(
        parts,
        weights,
        config.train.batch_size,
        pretrain.text_buckets,
        pretrain.region_buckets,
        pretrain.language_alpha,
        config.seed,
    )
    return SingleBatches(schedule, recipe(config, tokenizer), share, config.data.bad_records)


def measured(config: Config, tokenizer: text.Tokenizer, source: Source, wanted: WantedTexts) -> lengths.Lengths:
    """Measures the lengths of the texts and the numbers of regions of a source, or reads them from the cache.

    Args:
        config: the configuration.
        tokenizer: counts the tokens.
        source: the records.
        wanted: which of their texts.

    Returns:
        The table of lengths.
    """
    cache = Path(config.data.dir).expanduser() / CACHE
    measure = lengths.Measure(source, wanted, tokenizer, config.data.text_length, regions(config))
    return lengths.load(measure, cache, config.data.workers)


def held_out(
    config: Config,
    tokenizer: text.Tokenizer,
    source: Source,
    languages: Sequence[str],
    share: tuple[int, ...],
) -> dict[tuple[str, str], FixedBatches]:
    """Makes the batches of an evaluation on held-out records, padded to the largest bucket.

    Args:
        config: the configuration.
        tokenizer: for the texts.
        source: the records of a split.
        languages: of the texts; empty for all.
        share: the places of each global batch that this process makes.

    Returns:
        A maker of batches by objective and language.
    """
    wanted = WantedTexts(config.eval.kinds, tuple(languages))
    choice = TextChoice(wanted, "any", (), 1.0)
    part, table = MixturePart(source, choice, 0.0), measured(config, tokenizer, source, wanted)
    how, shape = recipe(config, tokenizer), largest(config)
    return {
        (name, language): FixedBatches(
            how, whole_pool(part, table, language), name, shape, config.eval.batch_size, share
        )
        for name in trained(config)
        for language in table.languages
    }


def largest(config: Config) -> Shape:
    """Returns the largest bucket."""
    return Shape(config.pretrain.text_buckets[-1], config.pretrain.region_buckets[-1])


def answers(config: Config) -> vqa.Answers:
    """Reads the answers that can be given, from `vqa.answers_file`.

    Args:
        config: the configuration.

    Returns:
        The answers in the order of the columns of the head.

    Raises:
        ConfigError: for a file that holds no list of answers, or one of more than the head has columns.
    """
    place = Path(config.vqa.answers_file).expanduser()
    try:
        found = vqa.Answers.from_json(json_files.read_bytes(place).decode("utf-8"))
    except ValueError as error:
        raise ConfigError(f"vqa.answers_file: {place}: {error}") from error
    if len(found) > config.vqa.answers:
        raise ConfigError(f"vqa.answers: {len(found)} are in {place}; give the head at least as many columns")
    return found


def count_answers(config: Config) -> vqa.Answers:
    """Counts the most frequent answers of the training questions; the consensus of each question counts once.

    Args:
        config: `vqa.answers` and `vqa.smallest_count` say how many are kept.

    Returns:
        The answers, the most frequent first.
    """
    asked = open_questions(config, config.data.train_split, config.vqa.languages)
    consensus = (vqa.consensus(question.answers, question.language) for question in asked)
    return vqa.Answers.most_frequent(consensus, config.vqa.answers, config.vqa.smallest_count)


def open_questions(config: Config, split: str, languages: tuple[str, ...]) -> Questions:
    """Lists the questions of a split.

    Args:
        config: names the data set.
        split: the name of a split.
        languages: of the questions; empty for all.

    Returns:
        The questions.
    """
    source = sources.open_source(config.data.source, split, Path(config.data.dir).expanduser())
    return list_questions(source, languages)


def training_questions(config: Config, tokenizer: text.Tokenizer, share: tuple[int, ...]) -> QuestionBatches:
    """Makes the training batches of questions.

    Args:
        config: the configuration.
        tokenizer: for the questions.
        share: the places of each global batch that this process makes.

    Returns:
        A maker of batches by step.
    """
    return QuestionBatches(
        questions=open_questions(config, config.data.train_split, config.vqa.languages),
        bad_records=config.data.bad_records,
        **_question_options(config, tokenizer, config.train.batch_size, share),
    )


def held_out_questions(
    config: Config, tokenizer: text.Tokenizer, questions: Questions, share: tuple[int, ...]
) -> FixedQuestionBatches:
    """Makes the batches of an evaluation: all questions of a split, once.

    Args:
        config: the configuration.
        tokenizer: for the questions.
        questions: of the split.
        share: the places of each global batch that this process makes.

    Returns:
        A maker of batches by number.
    """
    options = _question_options(config, tokenizer, config.eval.batch_size, share)
    return FixedQuestionBatches(questions=questions, **options)


def _question_options(
    config: Config, tokenizer: text.Tokenizer, batch_size: int, share: tuple[int, ...]
) -> dict[str, Any]:
    known = answers(config)
    # The head may have more columns than there are answers: these are never right.
    columns = dict(known.columns) | {f"{UNUSED}{number}": number for number in range(len(known), config.vqa.answers)}
    return {
        "recipe": recipe(config, tokenizer),
        "columns": columns,
        "soften": vqa.soft_scores,
        "shape": largest(config),
        "batch_size": batch_size,
        "share": share,
        "blind": config.vqa.blind,
    }


UNUSED = "\0"
"""Begins the names of columns without an answer, as no answer does."""
