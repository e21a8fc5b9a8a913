"""Rules for text backbones in the Hugging Face layout of BERT, RoBERTa and XLM-R.

`BertModel`, `RobertaModel` and `XLMRobertaModel` name their leaves alike; models with a head put them under
`bert.` or `roberta.`. The Flax side is `text/params/backbone/...`. What sets the families apart is the row of
the position table that the first token takes, see `position_offset`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wenlan_jax.convert.layer_rules import layer_norm, linear
from wenlan_jax.convert.rules import ConversionError, Ignore, WeightRule, WeightTable
from wenlan_jax.tasks.two_tower import schema as two_towers

BACKBONE = "text/params/backbone/"
ROBERTA_FAMILY = ("roberta", "xlm-roberta", "camembert")
"""Values of `model_type` in config.json whose positions start behind the padding row."""
ROBERTA_PAD_ID = 1
"""What a config.json of this family means when it leaves out `pad_token_id`."""
DESCRIPTION = "config.json"
"""Beside the weights of Hugging Face: family and sizes of the model."""
ACTIVATION = "gelu"
"""The exact one, the only one that `BertEncoder` computes."""
BERT_FAMILY = ("bert", *ROBERTA_FAMILY)
"""Values of `model_type` whose models compute what `BertEncoder` does; others name their leaves alike, such as those
that normalise first."""
UNCHECKED = f"heads, epsilon of LayerNorms, activation: no {DESCRIPTION} beside the weights"

COMPUTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": (ACTIVATION, "gelu_python"),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}
"""Fields of transformers' `BertConfig` that change what is computed, and the values for which `BertEncoder` does it."""
SAID = ("hidden_act", "model_type", "position_embedding_type")
"""Of these, what the metadata of a file may say where there is no config.json."""
DEFAULTS = {"num_attention_heads": 12, "layer_norm_eps": 1e-12}
"""What such a file means when it leaves out what no weight's shape tells."""

_DROPOUT = "dropout"
_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "feed_forward",
    "max_position_embeddings": "positions",
    "type_vocab_size": "types",
    "hidden_dropout_prob": _DROPOUT,
    "attention_probs_dropout_prob": _DROPOUT,
    "layer_norm_eps": "eps",
}
"""Names of transformers' `BertConfig` for the fields of `model.text.bert`."""

_LAYER = {
    "attention.self.query": "attention/query",
    "attention.self.key": "attention/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/out",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
}
_NORMS = {"attention.output.LayerNorm": "norm1", "output.LayerNorm": "norm2"}
_WORDS = "embeddings.word_embeddings.weight"
_HEADS = (
    Ignore(r"cls\..*", "heads of BERT's pretraining: masked words and next sentence"),
    Ignore(r"lm_head\..*", "RoBERTa's head for masked words"),
    Ignore(r"(classifier|qa_outputs)\..*", "head of a fine-tuned task"),
)
_OLD_NORM = {"weight": "gamma", "bias": "beta"}
"""Names of LayerNorm's leaves in files converted from TensorFlow by early versions of the library."""


def detect(keys: Iterable[str]) -> str:
    """Finds the prefix of the encoder's keys.

    Args:
        keys: of a state dict.

    Returns:
        Empty for a bare model, `bert.` or `roberta.` for one with a head.

    Raises:
        ConversionError: if the keys hold no word embeddings, or several.
    """
    prefixes = sorted(key.removesuffix(_WORDS) for key in keys if key == _WORDS or key.endswith("." + _WORDS))
    if not prefixes:
        raise ConversionError(f"not a BERT or RoBERTa of Hugging Face: no key ends in {_WORDS}")
    if len(prefixes) > 1:
        raise ConversionError(f"several text encoders, under {', '.join(prefixes)}: give a file with one of them")
    return prefixes[0]


def bert_table(prefix: str) -> WeightTable:
    """Makes the rules of an encoder whose keys start with `prefix`, for both directions."""
    rules = bert_rules(prefix, BACKBONE)
    return WeightTable((*rules, *_old_norms(rules)), (*_unused(prefix), *_HEADS))


def bert_rules(prefix: str, scope: str) -> list[WeightRule]:
    """Makes the rules of a Hugging Face BertModel.

    Args:
        prefix: of its keys, maybe empty.
        scope: of our encoder's paths.

    Returns:
        The rules.
    """
    embeddings = prefix + "embeddings."
    rules = [
        WeightRule(f"{embeddings}{kind}_embeddings.weight", (f"{scope}embeddings/{name}/embedding",))
        for kind, name in (("word", "word"), ("position", "position"), ("token_type", "type"))
    ]
    rules += layer_norm(embeddings + "LayerNorm", scope + "embeddings/norm")
    torch, flax = prefix + "encoder.layer.{i}.", scope + "layers_{i}/"
    for theirs, ours in _LAYER.items():
        rules += linear(torch + theirs, flax + ours)
    for theirs, ours in _NORMS.items():
        rules += layer_norm(torch + theirs, flax + ours)
    return rules


def position_offset(config: Mapping[str, Any]) -> int:
    """Finds the row of the position table for the first token.

    BERT counts from 0. RoBERTa and XLM-R keep the rows up to the padding id unused: `max_position_embeddings`
    counts them, so a table of 514 rows with padding id 1 serves 512 tokens. With this offset a `BertEncoder` takes
    their table as it is, all rows included.

    Args:
        config: a Hugging Face `config.json`.

    Returns:
        The row.
    """
    if config.get("model_type") not in ROBERTA_FAMILY:
        return 0
    padding = config.get("pad_token_id")
    return (ROBERTA_PAD_ID if padding is None else int(padding)) + 1


def read_description(source: Path) -> dict[str, Any]:
    """Reads the `config.json` beside weights.

    Args:
        source: a directory of weights, or a file of them.

    Returns:
        Its fields; empty if there is none.

    Raises:
        ConversionError: if it cannot be read.
    """
    path = (source if source.is_dir() else source.parent) / DESCRIPTION
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ConversionError(f"{path} is not a JSON object ({error}); download it again") from error


def implied_description(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """Reads what the keys of a file without `config.json` tell: a model with a head has its family for a prefix.

    Args:
        state: the file's arrays by key.
        prefix: of the keys.

    Returns:
        The fields that `config.json` would have.

    Raises:
        ConversionError: for a bare model that may be a RoBERTa: where its positions start is then unknown.
    """
    types = state.get(f"{prefix}embeddings.token_type_embeddings.weight")
    if not prefix and types is not None and types.shape[:1] == (1,):
        raise ConversionError(
            f"one row of token types, as RoBERTa has, and no {DESCRIPTION} to tell where positions start; put the "
            "model's beside the file"
        )
    return {"model_type": prefix.removesuffix(".")}


def computed_otherwise(
    description: Mapping[str, Any], prefix: str, what: str, families: Sequence[str] = BERT_FAMILY
) -> list[str]:
    """Lists what a `config.json` asks of a model that ours does not compute.

    Args:
        description: the fields of `config.json`.
        prefix: of the keys, which for a model with a head names the family too.
        what: our model, for messages.
        families: values of `model_type` that are computed alike.

    Returns:
        One message a fault.
    """
    faults = [
        f"{DESCRIPTION} says {field}={description[field]}; {what} computes {allowed[0]} only"
        for field, allowed in {**COMPUTED, "model_type": (*families, "")}.items()
        if description.get(field) is not None and description[field] not in allowed
    ]
    family = description.get("model_type")
    if family and prefix in ("bert.", "roberta.") and (family in ROBERTA_FAMILY) != (prefix == "roberta."):
        faults.append(
            f"{DESCRIPTION} says model_type={family}, and keys begin with {prefix}: where positions start is unclear; "
            "give the file and the description of one model"
        )
    return faults


def differences(bert: two_towers.BertConfig, description: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lists what the configuration and a `config.json` disagree on, with the remedy.

    Heads and eps are in no weight's shape: with others than the model's, all would load and compute something else.
    Dropout is a choice of training.

    Args:
        bert: the section `model.text.bert`.
        description: the fields of `config.json`.
        prefix: of the keys.

    Returns:
        One message a fault.
    """
    described = {ours: description[theirs] for theirs, ours in _FIELDS.items() if theirs in description}
    described.pop(_DROPOUT, None)
    if isinstance(described.get("positions"), int):
        described["positions"] -= position_offset(description)
    faults = [
        f"{DESCRIPTION} says {value}; set model.text.bert.{field}={value}, which is {getattr(bert, field)}"
        for field, value in described.items()
        if getattr(bert, field) != value
    ]
    return faults + computed_otherwise(description, prefix, "the text backbone")


def _old_norms(rules: Iterable[WeightRule]) -> list[WeightRule]:
    """The norms once more under their old names; export takes the first rule for a leaf, so never these."""
    old = []
    for rule in rules:
        layer, _, leaf = rule.torch.rpartition(".")
        if layer.endswith("LayerNorm"):
            old.append(WeightRule(f"{layer}.{_OLD_NORM[leaf]}", rule.flax, rule.layout))
    return old


def _unused(prefix: str) -> tuple[Ignore, ...]:
    start = prefix.replace(".", r"\.")
    return (
        Ignore(rf"{start}pooler\..*", "pooler; the token encoder reads the hidden states"),
        Ignore(rf"{start}embeddings\.(position_ids|token_type_ids)", "constants stored by older files"),
    )


def bert_description(bert: two_towers.BertConfig) -> dict[str, Any]:
    """Returns the sizes of a text backbone under the names of transformers' `BertConfig`."""
    return {theirs: getattr(bert, ours) for theirs, ours in _FIELDS.items()}
