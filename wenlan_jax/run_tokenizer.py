"""The tokenizer of a run: the configured one, or one trained on the training texts and kept in the work directory."""

from __future__ import annotations

from pathlib import Path

import jax

from wenlan_jax import config as configs
from wenlan_jax import distributed, schema, training_data
from wenlan_jax.data import text, vocab
from wenlan_jax.progress import say

FILE = "tokenizer.model"
"""In the work directory: the vocabulary trained for a run that was configured without one."""


def prepare(config: schema.Config, workdir: Path) -> text.Tokenizer:
    """The tokenizer of the configuration, or one that the first process trains on the training texts into `workdir`."""
    if jax.process_index() == 0 and saved(config, workdir) is None:
        train(config, workdir / FILE)
    distributed.barrier("tokenizer")
    tokenizer = saved(config, workdir)
    if tokenizer is None:
        raise configs.ConfigError(
            f"{workdir}: process {jax.process_index()} does not find {FILE}, which process 0 made; the work "
            "directory of a job must lie on a file system that all its processes share"
        )
    return tokenizer


def saved(config: schema.Config, workdir: Path) -> text.Tokenizer | None:
    """The tokenizer of the configuration, or the one that a run has trained and left in `workdir`, if there is one."""
    settings = config.tokenizer
    if settings.path:
        return text.load_tokenizer(Path(settings.path).expanduser(), settings.lower_case)
    return text.load_tokenizer(workdir / FILE) if (workdir / FILE).exists() else None


def train(config: schema.Config, path: Path) -> None:
    """Trains a vocabulary on the training texts and keeps it at `path`."""
    settings = config.tokenizer
    say(f"training a vocabulary of {settings.train_size} pieces on the training texts ...")
    try:
        vocab.train_sentencepiece(
            training_data.texts(config.data),
            path,
            settings.train_size,
            settings.character_coverage,
            settings.train_texts,
            settings.algorithm,
            settings.split_han,
        )
    except vocab.VocabularySizeError as error:
        raise configs.ConfigError(f"tokenizer.train_size: {error}") from error
