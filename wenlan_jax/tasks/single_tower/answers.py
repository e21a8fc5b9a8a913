"""The answers of a run that is trained on questions: counted once, kept in the work directory, the same ever after."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax

from wenlan_jax.evaluation.vqa import Answers, VqaError
from wenlan_jax.parallel import distributed
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.single_tower import data
from wenlan_jax.tasks.single_tower.spec import ANSWERS
from wenlan_jax.util import atomic_files, json_files


def settle(config: experiment.Config, workdir: Path) -> experiment.Config:
    """Settles the list of answers of a run; the first process counts them where none is given.

    Args:
        config: the configuration.
        workdir: the run's work directory, which keeps the list.

    Returns:
        The configuration with its list of answers.

    Raises:
        ConfigError: for a list that is not the one the run began with.
    """
    place = workdir / ANSWERS
    if jax.process_index() == 0 and not _is_whole(place):
        atomic_files.write(place, atomic_files.text_bytes(_given(config).to_json()))
    distributed.barrier("answers")
    return read_settled(config, workdir)


def _is_whole(place: Path) -> bool:
    """Whether the list of an earlier start can be read; one that is damaged is counted again, and then compared."""
    try:
        return Answers.from_json(json_files.read_bytes(place).decode("utf-8")) is not None
    except ValueError as error:
        if place.exists():
            say(f"{place}: damaged ({error}); making it anew")
        return False


def read_settled(config: experiment.Config, workdir: Path) -> experiment.Config:
    """Takes the list of answers that a run has left in its work directory.

    Args:
        config: the configuration.
        workdir: the run's work directory.

    Returns:
        The configuration with that list; as it is if there is none.

    Raises:
        ConfigError: if the list is not the one that the model was trained with.
    """
    place = workdir / ANSWERS
    if not place.exists():
        return config
    vqa = dataclasses.replace(config.vqa, answers_file=str(place))
    answers = data.answers(dataclasses.replace(config, vqa=vqa))
    if config.vqa.fingerprint not in ("", answers.fingerprint):
        raise experiment.ConfigError(
            f"{place}: is not the list of answers that this model was trained with; its columns mean other answers"
        )
    return dataclasses.replace(config, vqa=dataclasses.replace(vqa, fingerprint=answers.fingerprint))


def _given(config: experiment.Config) -> Answers:
    if config.vqa.answers_file:
        return data.answers(config)
    say("counting the answers of the training questions ...")
    try:
        found = data.count_answers(config)
    except VqaError as error:
        raise experiment.ConfigError(f"vqa.smallest_count: {error}") from error
    say(f"{len(found)} answers can be given, {found.texts[0]!r} the most frequent")
    return found
