"""Rules for text backbones in the Hugging Face layout of BERT, RoBERTa and XLM-R.

`BertModel`, `RobertaModel` and `XLMRobertaModel` name their leaves alike; models with a head put them under
`bert.` or `roberta.`. The Flax side is `text/params/backbone/...`. What sets the families apart is the row of
the position table that the first token takes, see `position_offset`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from wenlan_jax import schema
from wenlan_jax.convert.brivl import bert_rules
from wenlan_jax.convert.rules import ConversionError, Ignore, Rule, Table

BACKBONE = "text/params/backbone/"
ROBERTA_FAMILY = ("roberta", "xlm-roberta", "camembert")
"""Values of `model_type` in config.json whose positions start behind the padding row."""
ROBERTA_PAD_ID = 1
"""What a config.json of this family means when it leaves out `pad_token_id`."""

_WORDS = "embeddings.word_embeddings.weight"
_HEADS = (
    Ignore(r"cls\..*", "heads of BERT's pretraining: masked words and next sentence"),
    Ignore(r"lm_head\..*", "RoBERTa's head for masked words"),
    Ignore(r"(classifier|qa_outputs)\..*", "head of a fine-tuned task"),
)
_OLD_NORM = {"weight": "gamma", "bias": "beta"}
"""Names of LayerNorm's leaves in files converted from TensorFlow by early versions of the library."""


def detect(keys: Iterable[str]) -> str:
    """The prefix of the encoder's keys: empty for a bare model, `bert.` or `roberta.` for one with a head.

    Raises ConversionError if the keys hold no word embeddings, or several.
    """
    prefixes = sorted(key.removesuffix(_WORDS) for key in keys if key == _WORDS or key.endswith("." + _WORDS))
    if not prefixes:
        raise ConversionError(f"not a BERT or RoBERTa of Hugging Face: no key ends in {_WORDS}")
    if len(prefixes) > 1:
        raise ConversionError(f"several text encoders, under {', '.join(prefixes)}: give a file with one of them")
    return prefixes[0]


def bert_table(prefix: str) -> Table:
    """The rules of an encoder whose keys start with `prefix`, for both directions."""
    rules = bert_rules(prefix, BACKBONE)
    return Table((*rules, *_old_norms(rules)), (*_unused(prefix), *_HEADS))


def position_offset(config: Mapping[str, Any]) -> int:
    """Row of the position table for the first token, from a Hugging Face `config.json`.

    BERT counts from 0. RoBERTa and XLM-R keep the rows up to the padding id unused: `max_position_embeddings`
    counts them, so a table of 514 rows with padding id 1 serves 512 tokens. With this offset a `BertEncoder` takes
    their table as it is, all rows included.
    """
    if config.get("model_type") not in ROBERTA_FAMILY:
        return 0
    return int(config.get("pad_token_id", ROBERTA_PAD_ID)) + 1


def _old_norms(rules: Iterable[Rule]) -> list[Rule]:
    """The norms once more under their old names; export takes the first rule for a leaf, so never these."""
    old = []
    for rule in rules:
        layer, _, leaf = rule.torch.rpartition(".")
        if layer.endswith("LayerNorm"):
            old.append(Rule(f"{layer}.{_OLD_NORM[leaf]}", rule.flax, rule.layout))
    return old


def _unused(prefix: str) -> tuple[Ignore, ...]:
    start = prefix.replace(".", r"\.")
    return (
        Ignore(rf"{start}pooler\..*", "pooler; the token encoder reads the hidden states"),
        Ignore(rf"{start}embeddings\.(position_ids|token_type_ids)", "constants stored by older files"),
    )


def bert_description(bert: schema.Bert) -> dict[str, Any]:
    """The sizes of a text backbone under the names of transformers' `BertConfig`."""
    return {
        "vocab_size": bert.vocab_size,
        "hidden_size": bert.width,
        "num_hidden_layers": bert.layers,
        "num_attention_heads": bert.heads,
        "intermediate_size": bert.feed_forward,
        "max_position_embeddings": bert.positions,
        "type_vocab_size": bert.types,
        "hidden_dropout_prob": bert.dropout,
        "attention_probs_dropout_prob": bert.dropout,
        "layer_norm_eps": bert.eps,
    }
