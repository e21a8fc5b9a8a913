"""SentencePiece vocabularies: how one is trained on texts, and which sizes they fill."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from wenlan_jax.data import text
from wenlan_jax.data.text import TokenizerError
from wenlan_jax.util import atomic_files

TRAIN_THREADS = 2
"""Fixed: scores differ in the last digits between thread counts, and a vocabulary should not depend on the machine."""
LONGEST_SENTENCE_BYTES = 1 << 16  # SentencePiece leaves out longer ones without an error
_SEED = 0


class VocabularySizeError(TokenizerError):
    """The texts cannot fill, or do not fit in, a vocabulary of this size; the message holds the sizes that do.

    Attributes:
        most: the largest size that the texts fill; None where the size asked for is too small.
    """

    def __init__(self, message: str, most: int | None = None) -> None:
        super().__init__(message)
        self.most = most


def train_sentencepiece(
    texts: Iterable[str],
    out: Path,
    vocab_size: int,
    character_coverage: float,
    max_sentences: int,
    algorithm: str = "unigram",
    split_han: bool = False,
) -> int:
    """Trains a SentencePiece model with byte fallback and writes it.

    Ids: `[PAD]` 0, `[UNK]` 1, `[CLS]` 2, `[SEP]` 3, `[MASK]` 4, then 256 bytes, then pieces. Text is normalised by
    nmt_nfkc. Equal input gives equal bytes.

    Args:
        texts: the corpus.
        out: the file to write, `*.model`.
        vocab_size: the number of pieces, special ones included.
        character_coverage: characters beyond this share of the text are spelled in bytes.
        max_sentences: of more texts a sample of this size is used.
        algorithm: `unigram` or `bpe`.
        split_han: makes every Han character a piece of its own, so that a small corpus does not become a vocabulary of
            whole Chinese phrases.

    Returns:
        The number of texts given.

    Raises:
        VocabularySizeError: if the texts do not fill the vocabulary, or do not fit in it.
        TokenizerError: if there is no text or `out` cannot be written.
    """
    if out.suffix != text.MODEL_SUFFIX:
        raise TokenizerError(f"{out}: the name of a SentencePiece model ends in {text.MODEL_SUFFIX}")
    corpus = _Corpus(texts)
    model = _train(corpus, vocab_size, character_coverage, max_sentences, algorithm, split_han)
    try:
        atomic_files.write(out, model)
    except OSError as error:
        raise TokenizerError(f"{out}: cannot be written ({error.strerror or error})") from error
    return corpus.count


class _Corpus:
    """Texts as SentencePiece wants them, one line each, counted. An error of the texts is kept: it names the cause."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.count = 0
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for raw in self._texts:
                line = " ".join(text.without_surrogates(raw).replace("\0", " ").split())
                if line:
                    self.count += 1
                    yield line
        except Exception as error:
            self.error = error
            raise


def _train(
    corpus: _Corpus, vocab_size: int, character_coverage: float, max_sentences: int, algorithm: str, split_han: bool
) -> bytes:
    import sentencepiece

    sentencepiece.set_random_generator_seed(_SEED)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=map(_split_han, corpus) if split_han else iter(corpus),
            model_writer=model,
            model_type=algorithm,
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            byte_fallback=True,
            normalization_rule_name="nmt_nfkc",
            num_threads=TRAIN_THREADS,
            input_sentence_size=max_sentences,
            max_sentence_length=LONGEST_SENTENCE_BYTES,
            pretokenization_delimiter=_DELIMITER if split_han else "",
            **_SPECIAL_PIECES,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        if corpus.error is not None:
            raise corpus.error from None
        raise _explained(str(error), corpus.count, vocab_size) from error
    return model.getvalue()


_DELIMITER = "\ue000"
"""Of private use, so no text means anything by it; no piece crosses it, and trained models never see it."""


def _split_han(line: str) -> str:
    return _HAN.sub(rf"{_DELIMITER}\g<0>{_DELIMITER}", line.replace(_DELIMITER, ""))


_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
"""The blocks of Han characters, as in BERT's tokenizer."""

_SPECIAL_PIECES: dict[str, Any] = {
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": 2,
    "eos_id": 3,
    "pad_piece": text.PAD,
    "unk_piece": text.UNKNOWN,
    "bos_piece": text.CLS,
    "eos_piece": text.SEP,
    "control_symbols": [text.MASK],  # a control symbol is never read from text
}


def _explained(message: str, count: int, vocab_size: int) -> TokenizerError:
    """SentencePiece's complaint in the user's terms."""
    if not count:
        return TokenizerError("no text to train on: every text is empty")
    if found := re.search(r"too high .*<= (\d+)", message):
        return VocabularySizeError(
            f"a vocabulary of {vocab_size} is too large for these {count} texts, which fill {found[1]} pieces; "
            f"set {found[1]} or less, or add text",
            int(found[1]),
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return VocabularySizeError(
            f"a vocabulary of {vocab_size} is too small: the characters, bytes and special pieces alone take "
            f"{found[1]}; set more than {found[1]}, or lower the character coverage"
        )
    return TokenizerError(f"SentencePiece cannot train on these {count} texts: {message}")
