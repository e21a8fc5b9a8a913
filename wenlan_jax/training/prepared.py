"""What a configuration leaves to the data, settled in one place: tokenizer, vocabulary, answers, length of a run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from wenlan_jax.data.text import Tokenizer
from wenlan_jax.tasks import experiment, registry, shared_data
from wenlan_jax.tasks.experiment import Config
from wenlan_jax.training import setup
from wenlan_jax.training import tokenizer as run_tokenizer


class PreparedRun(NamedTuple):
    """A complete configuration and its tokenizer.

    Attributes:
        config: the configuration, with everything settled that depends on the data.
        tokenizer: the tokenizer of the run.
    """

    config: Config
    tokenizer: Tokenizer


def for_training(config: Config, workdir: Path) -> PreparedRun:
    """Settles a configuration before a training; what is made of the data is kept in the work directory.

    All processes of a job call it together.

    Args:
        config: the configuration.
        workdir: the work directory of the run.

    Returns:
        The complete configuration and the tokenizer.

    Raises:
        ConfigError: the word table is smaller than the vocabulary, or what the task settles is not what the run began
            with.
    """
    tokenizer = run_tokenizer.prepare(config, workdir)
    config = registry.of(config).settle(setup.with_vocabulary(config, tokenizer), workdir)
    if config.train.epochs or config.optimizer.warmup_fraction or config.eval.every_epochs:
        config = experiment.with_length(config, shared_data.records(config.data))
    return PreparedRun(config, tokenizer)


def of_trained(config: Config, workdir: Path, fingerprint: str) -> tuple[Config, Tokenizer | None]:
    """Settles a saved configuration by what its training left in the work directory.

    Args:
        config: as the checkpoint has it.
        workdir: the work directory, or that of an import.
        fingerprint: of the tokenizer, as the checkpoint notes it; '' where that is not known.

    Returns:
        The configuration, and the tokenizer; None where there is none.

    Raises:
        CheckpointError: the tokenizer is not the one that the model was trained with.
        ConfigError: what the task settles is not what the model was trained with.
    """
    config = registry.of(config).read_settled(config, workdir)
    return config, run_tokenizer.saved(config, workdir, fingerprint)
