"""The tokenizer of a run: the configured one, or one trained on the training texts and kept in the work directory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import jax

from wenlan_jax.checkpoints.errors import CheckpointError
from wenlan_jax.data import text, vocab
from wenlan_jax.parallel import distributed
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks import experiment, shared_data

FILE = text.SentencePiece.file_name
"""In the work directory: the vocabulary trained for a run that was configured without one."""

KEPT = (text.WordPiece.file_name, FILE, text.XlmRoberta.file_name)
"""What the copy of a run's tokenizer may be called."""


def prepare(config: experiment.Config, workdir: Path) -> text.Tokenizer:
    """Loads the configured tokenizer; without one, the first process trains one on the training texts.

    Where the configured file is gone, the copy that an earlier start has kept in the work directory stands in for it.

    Args:
        config: the configuration.
        workdir: the work directory of the run, which keeps a trained vocabulary.

    Returns:
        The tokenizer.

    Raises:
        ConfigError: if this process does not see the file that the first process made.
        TokenizerError: for a file that is missing or cannot be used.
    """
    path = Path(config.tokenizer.path).expanduser()
    if jax.process_index() == 0 and not config.tokenizer.path and not _places(config, workdir):
        train(config, workdir / FILE)
    distributed.barrier("tokenizer")
    found = _places(config, workdir)
    if not found and not config.tokenizer.path:
        raise experiment.ConfigError(
            f"{workdir}: process {jax.process_index()} does not find {FILE}, which process 0 made; the work "
            "directory of a job must lie on a file system that all its processes share"
        )
    return text.load_tokenizer(found[0] if found else path, config.tokenizer.lower_case)


def keep(tokenizer: text.Tokenizer, workdir: Path) -> None:
    """Copies the tokenizer's file into the work directory, so that the run's ids mean the same pieces ever after.

    Args:
        tokenizer: the tokenizer of the run.
        workdir: the work directory of the run.
    """
    with tempfile.TemporaryDirectory(prefix=".tokenizer-", dir=workdir) as folder:
        os.replace(tokenizer.save(Path(folder)), workdir / tokenizer.file_name)
    for name in KEPT:
        if name != tokenizer.file_name:
            (workdir / name).unlink(missing_ok=True)


def saved(config: experiment.Config, workdir: Path, fingerprint: str = "") -> text.Tokenizer | None:
    """Loads the tokenizer with which a model was trained.

    Args:
        config: the configuration of the model.
        workdir: the work directory of its run.
        fingerprint: of its tokenizer, as the checkpoint notes it; '' where that is not known.

    Returns:
        The tokenizer; None if the model has none.

    Raises:
        CheckpointError: where it is gone, or only other tokenizers are found, since their ids would mean other pieces.
    """
    found = _places(config, workdir)[::-1]  # the copy in the work directory goes before the file it was made from
    loaded = [text.load_tokenizer(file, config.tokenizer.lower_case) for file in found]
    right = [one for one in loaded if fingerprint in ("", one.fingerprint)]
    if right:
        return right[0]
    remedy = f"put the right file there, or into {workdir} as {' or '.join(KEPT)}"
    if loaded:
        raise CheckpointError(
            f"{' and '.join(map(str, found))}: not the tokenizer that this model was trained with, so that ids would "
            f"mean other pieces of text ({loaded[0].fingerprint}, its checkpoint notes {fingerprint}); {remedy}"
        )
    if config.tokenizer.path:
        raise CheckpointError(f"tokenizer.path: {config.tokenizer.path} is gone; {remedy}")
    if fingerprint:
        raise CheckpointError(
            f"{workdir}: the file of the tokenizer that this model was trained with is gone ({fingerprint}); put it "
            f"back into {workdir} as {' or '.join(KEPT)}"
        )
    return None


def _places(config: experiment.Config, workdir: Path) -> list[Path]:
    """Where a tokenizer lies, the configured place before the copies in the work directory."""
    configured = [Path(config.tokenizer.path).expanduser()] if config.tokenizer.path else []
    return [place for place in [*configured, *(workdir / name for name in KEPT)] if place.exists()]


def train(config: experiment.Config, path: Path) -> None:
    """Trains a vocabulary on the training texts; a smaller one where they do not fill it.

    Args:
        config: the configuration.
        path: the file to write.

    Raises:
        ConfigError: if `tokenizer.train_size` is too small.
    """
    size = config.tokenizer.train_size
    say(f"training a vocabulary of {size} pieces on the training texts ...")
    try:
        _train(config, path, size)
    except vocab.VocabularySizeError as error:
        if error.most is None:
            raise experiment.ConfigError(f"tokenizer.train_size: {error}") from error
        say(f"the training texts fill {error.most} pieces, fewer than tokenizer.train_size={size}: training as many")
        _train(config, path, error.most)


def _train(config: experiment.Config, path: Path, size: int) -> None:
    settings = config.tokenizer
    vocab.train_sentencepiece(
        shared_data.texts(config.data),
        path,
        size,
        settings.character_coverage,
        settings.train_texts,
        settings.algorithm,
        settings.split_han,
    )
