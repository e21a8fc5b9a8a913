"""`wenlan vocab`: trains a SentencePiece vocabulary on the texts of data sets or of plain text files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from wenlan_jax.config import sections
from wenlan_jax.config.options import Options
from wenlan_jax.data import sources, text, vocab
from wenlan_jax.data.text import TokenizerError
from wenlan_jax.util.arguments import real, whole

DATA = Options(sections.DataConfig, {"dir": "data-dir"})
TOKENIZER = Options(sections.TokenizerConfig)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan vocab`; their defaults are those of a training run."""
    data, tokenizer = sections.DataConfig(), sections.TokenizerConfig()
    parser.description = (
        "Train a SentencePiece vocabulary (with byte fallback) on the texts of data sets and text files."
    )
    parser.epilog = "example: wenlan vocab --data wenlan_scenes/s64 --out vocab/scenes.model --size 2000"
    parser.add_argument("--data", action="append", default=[], metavar="SPEC", help="data set; may be repeated")
    parser.add_argument("--text", action="append", default=[], type=Path, metavar="FILE", help="UTF-8, a text a line")
    parser.add_argument("--split", default=data.train_split, help="split of the data sets (default: %(default)s)")
    DATA.add(parser, "dir", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="model file to write, *.model")
    parser.add_argument("--size", type=whole(1), required=True, help="number of pieces, special ones included")
    TOKENIZER.add(parser, "algorithm", help="bpe keeps frequent words whole on a small corpus (default: %(default)s)")
    parser.add_argument(
        "--split-han", action="store_true", help="make every Han character a piece of its own (default: %(default)s)"
    )
    parser.add_argument(
        "--coverage",
        type=real(0, 1),
        default=tokenizer.character_coverage,
        help="share of characters with a piece (default: %(default)s)",
    )
    parser.add_argument(
        "--max-sentences",
        type=whole(1),
        default=tokenizer.train_texts,
        help="texts to train on at most (default: %(default)s)",
    )


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan vocab` and returns the exit status. Raises TokenizerError if there is nothing to train on."""
    del fields
    if not arguments.data and not arguments.text:
        raise TokenizerError("nothing to train on; give --data or --text")
    texts = _all_texts(arguments.data, arguments.split, arguments.data_dir.expanduser(), arguments.text)
    try:
        count = vocab.train_sentencepiece(
            texts,
            arguments.out,
            arguments.size,
            arguments.coverage,
            arguments.max_sentences,
            arguments.algorithm,
            arguments.split_han,
        )
    except vocab.VocabularySizeError as error:
        raise vocab.VocabularySizeError(f"--size: {error}") from error
    tokenizer = text.SentencePiece(arguments.out)
    print(f"{arguments.out}: {tokenizer.size} pieces from {count} texts, {tokenizer.fingerprint}")
    return 0


def _all_texts(specs: list[str], split: str, data_dir: Path, files: list[Path]) -> Iterator[str]:
    for spec in specs:
        source = sources.open_source(spec, split, data_dir)
        for row in range(len(source)):
            yield from (entry.text for entry in source[row].texts)
    for file in files:
        yield from _lines(file)


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8") as lines:
            yield from lines
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{file}: not UTF-8 ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise TokenizerError(f"{file}: cannot be read ({error.strerror or error})") from error
