"""The SentencePiece tokenizer of this folder: `[CLS] pieces [SEP]`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizer


class WenLanTokenizer(PreTrainedTokenizer):
    """Sub-words from a SentencePiece model; its begin and end pieces stand for `[CLS]` and `[SEP]`.

    fairseq_ids: those of XLM-R, in which `<s>`, `<pad>`, `</s>`, `<unk>` are 0 to 3, every other piece is one further
    than in the file, and `<mask>` is the last.

    A text never yields a special token: `[SEP]` written in it is read as its characters. Lone surrogates are dropped.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, fairseq_ids: bool = False, **kwargs: Any) -> None:
        self.vocab_file = vocab_file
        self.pieces = SentencePieceProcessor(model_file=str(vocab_file))
        self.spelled = [self.pieces.id_to_piece(index) for index in range(self.pieces.get_piece_size())]
        special = self._special_tokens()
        if fairseq_ids:
            special = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
            self.spelled = [*special.values(), *self.spelled[3:], "<mask>"]
        self.numbers = {piece: index for index, piece in enumerate(self.spelled)}
        super().__init__(**{"split_special_tokens": True, **special, "fairseq_ids": fairseq_ids, **kwargs})

    def _special_tokens(self) -> dict[str, str]:
        pieces = self.pieces
        ids = {
            "pad_token": pieces.pad_id(),
            "unk_token": pieces.unk_id(),
            "cls_token": pieces.bos_id(),
            "sep_token": pieces.eos_id(),
        }
        return {name: pieces.id_to_piece(index) for name, index in ids.items() if index >= 0}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "pieces": self.pieces.serialized_model_proto()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, pieces=SentencePieceProcessor(model_proto=state["pieces"]))

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return len(self.spelled)

    def get_vocab(self) -> dict[str, int]:
        """Ids by piece."""
        return dict(self.numbers)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        # By way of ids: as a string, an unknown run of characters could be read as a special piece.
        clean = text.encode("utf-8", "ignore").decode("utf-8")
        return [self.pieces.id_to_piece(index) for index in self.pieces.encode(clean)]

    def _convert_token_to_id(self, token: str) -> int:
        return self.numbers.get(token, self.numbers[str(self.unk_token)])

    def _convert_id_to_token(self, index: int) -> str:
        return self.spelled[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that pieces spell."""
        return self.pieces.decode_pieces(tokens)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`[CLS] first [SEP]`, or `[CLS] first [SEP] second [SEP]`."""
        second = [] if token_ids_1 is None else [*token_ids_1, self.sep_token_id]
        return [self.cls_token_id, *token_ids_0, self.sep_token_id, *second]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Copies the model's file."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory) / f"{prefix}{self.vocab_files_names['vocab_file']}"
        if not path.exists() or not path.samefile(self.vocab_file):
            shutil.copyfile(self.vocab_file, path)
        return (str(path),)
