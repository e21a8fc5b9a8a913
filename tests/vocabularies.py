"""A tokenizer of every kind that the training reads."""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece

from wenlan_jax.convert import sample_inputs
from wenlan_jax.data.text import SentencePiece, Tokenizer, WordPiece, XlmRoberta

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"一只黑白猫的Aabcdefghijkln坐[]", "##n", "##e", "red")


def tokenizer(kind: str, folder: Path) -> Tokenizer:
    """One of every kind that the training reads, also with the special pieces at unusual ids."""
    if kind in ("cased", "lower"):
        # The special pieces are not the first: an example that counts on their places reads wrongly.
        path = folder / "vocab.txt"
        path.write_text("".join(f"{piece}\n" for piece in (*PIECES[4:], *PIECES[:4])), "utf-8")
        return WordPiece(path, lower_case=kind == "lower")
    ids = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
    if kind == "other_ids":
        ids = {"pad_id": 3, "unk_id": 2, "bos_id": 1, "eos_id": 0}
    if kind == "xlm_roberta":
        ids = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
    model, limits = io.BytesIO(), {"vocab_size": 110, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(list(sample_inputs.TEXTS[:7]) * 9),
        model_writer=model,
        model_type="unigram",
        **limits,
        **ids,
    )
    (folder / "any.model").write_bytes(model.getvalue())
    return XlmRoberta(folder / "any.model") if kind == "xlm_roberta" else SentencePiece(folder / "any.model")
