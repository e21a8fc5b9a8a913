"""What a configuration trains on: its sources as a mixture, and the maker of its batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wenlan_jax.config import sections
from wenlan_jax.data import loader, sources, text
from wenlan_jax.data.mixture import Mixture, MixturePart, TextChoice, WantedTexts
from wenlan_jax.tasks import experiment


def parts(data: sections.DataConfig) -> tuple[sections.MixturePartConfig, ...]:
    """Lists the parts of the mixture; without one, the single source is the only part."""
    if data.mixture:
        return data.mixture
    alone = sections.MixturePartConfig(
        source=data.source,
        split=data.train_split,
        kinds=data.kinds,
        kind_choice=data.kind_choice,
        kind_weights=data.kind_weights,
        languages=data.languages,
    )
    return (alone,)


def opened(data: sections.DataConfig) -> list[MixturePart]:
    """Opens the parts of the mixture.

    Args:
        data: the section `data` of the configuration.

    Returns:
        The parts with their sources. Those that read the same split share it, so that its images keep their ids.
    """
    places = {(part.source, part.split) for part in parts(data)}
    found = {place: open_source(data, *place) for place in places}
    return [
        MixturePart(found[part.source, part.split], _choice(part, data.language_alpha), part.weight)
        for part in parts(data)
    ]


def open_source(data: sections.DataConfig, spec: str, split: str) -> sources.Source:
    """Opens a source to train on.

    Args:
        data: the section `data` of the configuration.
        spec: the name or folder of a data set.
        split: the name of a split.

    Returns:
        The source, which keeps as many records in memory as `data.remembered` says.

    Raises:
        SourceError: if there is no such data set or split.
    """
    source = sources.open_source(spec, split, Path(data.dir).expanduser())
    return sources.CachedSource(source, data.remembered) if data.remembered else source


def mixture(data: sections.DataConfig, seed: int) -> Mixture:
    """Opens the mixture of training pairs.

    Args:
        data: the section `data` of the configuration.
        seed: of the order.

    Returns:
        The pairs, in the order of the seed.

    Raises:
        SourceError: if a part has no such data set or split.
        MixtureError: if the parts do not fit together.
    """
    return Mixture(opened(data), seed)


def records(data: sections.DataConfig) -> int:
    """Counts the training records over all parts; a split that two parts read counts twice."""
    return sum(len(part.source) for part in opened(data))


def texts(data: sections.DataConfig) -> Iterator[str]:
    """Iterates over every text that training may use, part by part."""
    for part in opened(data):
        for item in loader.list_texts(part.source, part.texts.wanted):
            yield item.text.text


def _choice(part: sections.MixturePartConfig, language_alpha: float) -> TextChoice:
    return TextChoice(
        wanted=WantedTexts(part.kinds, part.languages),
        kind_choice=part.kind_choice,
        kind_weights=part.kind_weights,
        language_alpha=language_alpha,
    )


def image_reader(config: experiment.Config, boxes: int | None = None) -> loader.ImageReader:
    """Says how images become arrays.

    Args:
        config: the configuration.
        boxes: how many boxes of each image are read; None for those that BriVL reads.

    Returns:
        The options of the loader.
    """
    data, regions = config.data, config.model.image.regions
    if boxes is None:
        boxes = regions.boxes if regions.kind == "boxes" else 0
    return loader.ImageReader(
        size=data.image_size,
        antialias=data.antialias,
        averaging=data.averaging,
        enlarge=data.enlarge == "host",
        box_limit=boxes,
    )


def batches(config: experiment.Config, tokenizer: text.Tokenizer, share: tuple[int, ...]) -> loader.TrainMaker:
    """Makes the training batches of two towers.

    Args:
        config: the configuration.
        tokenizer: for the captions.
        share: the places of each global batch that this process makes.

    Returns:
        A maker of batches by step.
    """
    return loader.TrainBatches(
        mixture=mixture(config.data, config.seed),
        tokenizer=tokenizer,
        batch_size=config.train.batch_size,
        share=share,
        reader=image_reader(config),
        text_length=config.data.text_length,
        bad_records=config.data.bad_records,
    )


def data_dir(config: experiment.Config) -> Path:
    """Says where data sets are built and looked for."""
    return Path(config.data.dir).expanduser()
