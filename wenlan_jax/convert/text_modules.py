"""Texts as the WenLan (BriVL) towers of this folder want them. This file is complete: it needs nothing of wenlan_jax.

    import wenlan_text  # this file, which an export of wenlan_jax holds under that name

    words = wenlan_text.load("folder")               # reads tokenizer_config.json and the vocabulary that it names
    ids, mask = words.encode(["一只猫", "a dog"])     # lists of numbers, one row a text, all rows equally long

Needs `tokenizers` for a vocab.txt and `sentencepiece` for a *.model. The ids are those of the training: `[CLS] pieces
[SEP]`, cut to the length of the training and padded to it. A text never yields a special token: `[SEP]` written in it
is read as its characters. Lone surrogates are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SETTINGS = "tokenizer_config.json"

Pieces = Callable[[list[str]], list[list[int]]]


class Words:
    """A tokenizer. settings: what tokenizer_config.json holds; pieces: the ids of texts without special ones."""

    def __init__(self, settings: dict[str, Any], pieces: Pieces) -> None:
        self.settings, self._pieces = settings, pieces

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """Ids of each text, and 1 for every id that is no padding."""
        if isinstance(texts, str):
            raise TypeError("encode() takes several texts; wrap a single one in a list")
        length, pad = self.settings["length"], self.settings["pad"]
        clean = [text.encode("utf-8", "ignore").decode("utf-8") for text in texts]
        rows = [[self.settings["cls"], *pieces[: length - 2], self.settings["sep"]] for pieces in self._pieces(clean)]
        masks = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
        return [row + [pad] * (length - len(row)) for row in rows], masks


def load(folder: str | Path) -> Words:
    """The tokenizer of an exported folder."""
    settings = json.loads((Path(folder) / SETTINGS).read_text(encoding="utf-8"))
    make = {"wordpiece": _word_pieces, "sentencepiece": _sentence_pieces}[settings["kind"]]
    return Words(settings, make(Path(folder) / settings["file"], settings))


def _word_pieces(path: Path, settings: dict[str, Any]) -> Pieces:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    # Split at line feeds only: vocabularies hold pieces that `splitlines` would split at.
    lines = path.read_bytes().decode("utf-8").replace("\r\n", "\n").split("\n")
    vocabulary = {piece: index for index, piece in enumerate(lines[:-1] if lines[-1] == "" else lines)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=settings["do_lower_case"]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return lambda texts: [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]


def _sentence_pieces(path: Path, settings: dict[str, Any]) -> Pieces:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(path))
    # XLM-R has ids of its own: all pieces are one further than in the file, and the unknown one is elsewhere.
    shift, unknown, theirs = settings["shift"], settings["unknown"], processor.unk_id()

    def pieces(texts: list[str]) -> list[list[int]]:
        found = processor.encode(texts, out_type=int, num_threads=1)
        return [[unknown if piece == theirs else piece + shift for piece in row] for row in found]

    return pieces
