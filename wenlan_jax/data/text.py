"""Text to token ids: the tokenizer protocol and its two implementations, BERT word pieces and SentencePiece.

A tokenizer is made from one file of the user's, holds that file's bytes and nothing open, and so travels to
spawned data workers. Two rules hold for both kinds:

* A row is `[CLS] pieces... [SEP]`, cut to the asked length (the last piece kept is followed by `[SEP]`), then padded.
* A caption never yields a special token: `[SEP]` written in a text is read as the characters `[`, `SEP`, `]`. This is
  what the first BERT code does, and transformers under `split_special_tokens=True`; by default transformers would let
  a caption end its own sentence.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int32

from wenlan_jax.util.errors import WenlanError

TokenIds = Int32[np.ndarray, "texts length"]
TokenMask = Bool[np.ndarray, "texts length"]

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
VOCAB_NAME = "vocab.txt"
MODEL_SUFFIX = ".model"


class TokenizerError(WenlanError, ValueError):
    """A tokenizer file that is missing or cannot be used; the message names the file and the remedy."""


@runtime_checkable
class Tokenizer(Protocol):
    """What the data pipeline needs of a tokenizer. `size` is the number of rows of the embedding table."""

    @property
    def pad_id(self) -> int:
        """The id of padding."""
        ...

    @property
    def mask_id(self) -> int | None:
        """The id of `[MASK]`, or None when the vocabulary has no such piece."""

    @property
    def size(self) -> int:
        """The number of rows of the embedding table."""
        ...

    @property
    def file_name(self) -> str:
        """The usual name of the tokenizer's file."""

    @property
    def fingerprint(self) -> str:
        """Kind, options and sha256 of the file: equal fingerprints give equal ids for every text."""

    def save(self, folder: Path) -> Path:
        """Writes the tokenizer's file into `folder` under its usual name and returns its path."""

    def description(self) -> dict[str, Any]:
        """Says what `encode` does besides the file's part, in JSON's types, for code that has nothing of ours."""

    def encode(self, texts: Sequence[str], length: int) -> tuple[TokenIds, TokenMask]:
        """Encodes texts.

        Args:
            texts: any number of texts.
            length: tokens a row, at least 2.

        Returns:
            Ids, and a mask that is True on every real token.
        """

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Spells ids as the vocabulary does, special pieces too.

        Args:
            ids: of tokens.

        Returns:
            The spelling of each.

        Raises:
            ValueError: for an id that the vocabulary has not.
        """


class _FileTokenizer:
    """A tokenizer made from the bytes of one file; its library object is built on first use, in each process."""

    pad_id: int
    size: int
    file_name: str
    _cls_id: int
    _sep_id: int

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_library"}

    def save(self, folder: Path) -> Path:
        """Writes the file the tokenizer was made from into `folder` under its usual name, byte for byte."""
        path = folder / self.file_name
        path.write_bytes(self._content)
        return path

    def description(self) -> dict[str, Any]:
        """Kind, file and special ids, in JSON's types."""
        return {"file": self.file_name, "pad": self.pad_id, "cls": self._cls_id, "sep": self._sep_id}

    @functools.cached_property
    def _library(self) -> Any:
        raise NotImplementedError

    def _pieces(self, texts: list[str]) -> list[list[int]]:
        """The piece ids of each text, without `[CLS]` and `[SEP]`."""
        raise NotImplementedError

    def encode(self, texts: Sequence[str], length: int) -> tuple[TokenIds, TokenMask]:
        """`[CLS] pieces [SEP]` of each text, int32 ids and their mask, both `(len(texts), length)`.

        Raises ValueError when `length` < 2, and TypeError when `texts` is one string.
        """
        if isinstance(texts, str):
            raise TypeError("encode() takes a sequence of texts; wrap a single text in a list")
        if length < 2:
            raise ValueError(f"length is {length}, but [CLS] and [SEP] alone take 2 tokens")
        ids = np.full((len(texts), length), self.pad_id, np.int32)
        mask = np.zeros((len(texts), length), np.bool_)
        for row, pieces in enumerate(self._pieces([without_surrogates(text) for text in texts])):
            tokens = [self._cls_id, *pieces[: length - 2], self._sep_id]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return ids, mask

    def _piece(self, number: int) -> str | None:
        """The spelling of an id from 0 to `size` - 1; None where the vocabulary leaves one out."""
        raise NotImplementedError

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """How the vocabulary spells each id, special pieces too.

        A piece keeps its marks: `##` before what goes on with a word (word pieces), U+2581 for the space before a
        word (SentencePiece). Raises ValueError for an id that the vocabulary has not.
        """
        found = []
        for number in map(int, ids):
            piece = self._piece(number) if 0 <= number < self.size else None
            if piece is None:
                raise ValueError(f"id {number} is none of the tokenizer, which has {self.size} ids from 0")
            found.append(piece)
        return found


class WordPiece(_FileTokenizer):
    """BERT word pieces from a `vocab.txt` (one piece a line, its id is the line's index from 0).

    Ids equal those of transformers' `BertTokenizer(..., split_special_tokens=True)`: control characters dropped, each
    Chinese character a word of its own, accents stripped when lower-cased, words of over 100 characters unknown. Lone
    surrogates, which no UTF-8 file can hold but JSON escapes can, are dropped.

    Args:
        vocab_path: the file.
        lower_case: whether texts are lower-cased.

    Raises:
        TokenizerError: for a file that cannot be read or is no vocabulary.
    """

    file_name = VOCAB_NAME

    def __init__(self, vocab_path: Path, lower_case: bool) -> None:
        super().__init__(_read(vocab_path))
        self._lower_case = lower_case
        self._vocab = _parse_vocab(self._content, vocab_path)
        self.size = max(self._vocab.values()) + 1
        self.pad_id = self._vocab[PAD]
        self.mask_id = self._vocab.get(MASK)
        self._cls_id, self._sep_id = self._vocab[CLS], self._vocab[SEP]
        self.fingerprint = f"wordpiece:{'lower' if lower_case else 'cased'}:{_sha256(self._content)}"

    def description(self) -> dict[str, Any]:
        """Says also whether texts are lower-cased, under the name that `tokenizer_config.json` has for it."""
        return {"kind": "wordpiece", **super().description(), "do_lower_case": self._lower_case}

    @functools.cached_property
    def _library(self) -> Any:
        from tokenizers import Tokenizer as Pipeline
        from tokenizers import models, normalizers, pre_tokenizers

        pipeline = Pipeline(models.WordPiece(self._vocab, unk_token=UNKNOWN))
        # strip_accents=None follows lowercase, as in the first BERT code.
        pipeline.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=self._lower_case
        )
        pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return pipeline

    def _pieces(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._library.encode_batch_fast(texts, add_special_tokens=False)]

    def _piece(self, number: int) -> str | None:
        return self._library.id_to_token(number)


class SentencePiece(_FileTokenizer):
    """Sub-words from a SentencePiece model, such as `wenlan vocab` trains.

    The model must declare pad, begin and end pieces; the last two stand for `[CLS]` and `[SEP]`.

    Args:
        model_path: the file.

    Raises:
        TokenizerError: for a file that cannot be read, is no model, or lacks these pieces.
    """

    file_name = f"tokenizer{MODEL_SUFFIX}"

    def __init__(self, model_path: Path) -> None:
        super().__init__(_read(model_path))
        try:
            processor = self._library
        except RuntimeError as error:
            raise TokenizerError(f"{model_path}: not a SentencePiece model ({error})") from error
        self.size = processor.get_piece_size()
        self.pad_id = processor.pad_id()
        self._cls_id, self._sep_id = processor.bos_id(), processor.eos_id()
        self.mask_id: int | None
        if min(self.pad_id, self._cls_id, self._sep_id) < 0:
            raise TokenizerError(
                f"{model_path}: the model lacks a pad, begin or end piece; train it with pad_id, bos_id and eos_id "
                "set, as `wenlan vocab` does"
            )
        mask = processor.piece_to_id(MASK)
        self.mask_id = mask if processor.id_to_piece(mask) == MASK else None
        self.fingerprint = f"sentencepiece:{_sha256(self._content)}"

    def description(self) -> dict[str, Any]:
        """Says also how ids differ from those of the file: pieces are `shift` further, unknown ones have their own."""
        return {"kind": "sentencepiece", **super().description(), "unknown": self._library.unk_id(), "shift": 0}

    @functools.cached_property
    def _library(self) -> Any:
        return _processor(self._content)

    def _pieces(self, texts: list[str]) -> list[list[int]]:
        return self._library.encode(texts, out_type=int, num_threads=1)

    def _piece(self, number: int) -> str | None:
        return self._library.id_to_piece(number)


def _processor(content: bytes) -> Any:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_proto=content)


class XlmRoberta(_FileTokenizer):
    """Sub-words with the ids of XLM-R, from its `sentencepiece.bpe.model`.

    The model file knows `<unk>`, `<s>` and `</s>` as 0, 1 and 2; XLM-R was trained with fairseq's ids, in which `<s>`,
    `<pad>`, `</s>`, `<unk>` are 0 to 3, every other piece is one further than in the file, and `<mask>` is the last.

    Args:
        model_path: the file.

    Raises:
        TokenizerError: for a file that cannot be read.
    """

    file_name = f"sentencepiece.bpe{MODEL_SUFFIX}"
    pad_id, _cls_id, _sep_id = 1, 0, 2
    _UNKNOWN, _SHIFT = 3, 1
    _FIRST = ("<s>", "<pad>", "</s>", "<unk>")

    def __init__(self, model_path: Path) -> None:
        super().__init__(_read(model_path))
        self.size = self._library.get_piece_size() + 2
        self.mask_id = self.size - 1
        self.fingerprint = f"xlm-roberta:{_sha256(self._content)}"

    def description(self) -> dict[str, Any]:
        """Says the same as `SentencePiece.description`, with fairseq's ids."""
        ids = {"unknown": self._UNKNOWN, "shift": self._SHIFT}
        return {"kind": "sentencepiece", **super().description(), **ids}

    @staticmethod
    def made(processor: Any) -> bool:
        """Says whether a SentencePiece model is of this kind: its first pieces are those that fairseq's ids replace."""
        first = [processor.id_to_piece(number) for number in range(min(3, processor.get_piece_size()))]
        return processor.pad_id() < 0 and first == ["<unk>", "<s>", "</s>"]

    @functools.cached_property
    def _library(self) -> Any:
        return _processor(self._content)

    def _pieces(self, texts: list[str]) -> list[list[int]]:
        found = self._library.encode(texts, out_type=int, num_threads=1)
        return [[piece + self._SHIFT if piece else self._UNKNOWN for piece in pieces] for pieces in found]

    def _piece(self, number: int) -> str | None:
        if number < len(self._FIRST):
            return self._FIRST[number]
        return "<mask>" if number == self.mask_id else self._library.id_to_piece(number - self._SHIFT)


def load_tokenizer(path: Path, lower_case: bool | None = None) -> Tokenizer:
    """Loads a tokenizer.

    Args:
        path: a `vocab.txt`, a SentencePiece `*.model`, or a directory that holds one of them.
        lower_case: of word pieces only. None takes `do_lower_case` of the `tokenizer_config.json` beside the
            vocabulary, and else True, as for the Chinese RoBERTa vocabularies.

    Returns:
        The tokenizer.

    Raises:
        TokenizerError: for a file that is missing or cannot be used.

    Example:
        >>> ids, mask = load_tokenizer(Path("vocab.txt")).encode(["一只猫"], length=16)
    """
    file = _tokenizer_file(Path(path))
    if file.suffix == MODEL_SUFFIX:
        return _sentence_pieces(file)
    return WordPiece(file, _declared_lower_case(file) if lower_case is None else lower_case)


def _sentence_pieces(file: Path) -> Tokenizer:
    try:
        of_xlm_roberta = XlmRoberta.made(_processor(_read(file)))
    except RuntimeError:
        of_xlm_roberta = False
    return XlmRoberta(file) if of_xlm_roberta else SentencePiece(file)


def _tokenizer_file(path: Path) -> Path:
    if not path.exists():
        raise TokenizerError(f"{path}: cannot read: there is no such file or directory; see tokenizer.path")
    if not path.is_dir():
        if path.suffix not in (MODEL_SUFFIX, ".txt"):
            raise TokenizerError(
                f"{path}: not a tokenizer; give a BERT vocab.txt, a SentencePiece *.model, or their directory"
            )
        return path
    found = [path / VOCAB_NAME] if (path / VOCAB_NAME).is_file() else []
    found += sorted(path.glob(f"*{MODEL_SUFFIX}"))
    if len(found) != 1:
        state = f"holds several tokenizers ({', '.join(file.name for file in found)})" if found else "holds none"
        raise TokenizerError(f"{path}: {state}; give the path of one vocab.txt or *.model file")
    return found[0]


def _declared_lower_case(vocab_path: Path) -> bool:
    config = vocab_path.with_name("tokenizer_config.json")
    if not config.is_file():
        return True
    try:
        declared = json.loads(config.read_text("utf-8"))["do_lower_case"]
    except KeyError:
        return True
    except (ValueError, TypeError) as error:
        raise TokenizerError(f"{config}: cannot be read ({error}); mend it or remove it") from error
    return bool(declared)


def _read(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: cannot read the tokenizer file ({error.strerror or error})") from error


def _parse_vocab(content: bytes, path: Path) -> dict[str, int]:
    """Piece -> id. Split at line feeds only: vocabularies hold pieces that `str.splitlines` would split at."""
    try:
        lines = content.decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8 at byte {error.start}; save the vocabulary as UTF-8") from error
    if lines[-1] == "":
        lines.pop()
    vocab = {piece: index for index, piece in enumerate(lines)}
    missing = [piece for piece in (PAD, UNKNOWN, CLS, SEP) if piece not in vocab]
    if missing:
        raise TokenizerError(f"{path}: lacks {', '.join(missing)}; is this a BERT vocabulary, one piece a line?")
    return vocab


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def without_surrogates(text: str) -> str:
    """Drops the lone surrogates of a text, which cannot be written as UTF-8."""
    return text.encode("utf-8", "ignore").decode("utf-8")
