"""Reading checkpoints of UNITER, UC2 and XLM-R, and of BERT as what UNITER starts from, into the single tower."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from wenlan_jax.convert import bert, single_tower, weights
from wenlan_jax.convert.rules import ConversionError, Imported
from wenlan_jax.tasks import experiment
from wenlan_jax.util import host_memory

IMAGES = "img_embeddings.img_linear.weight"
"""Ends a key that only towers with regions have."""

_FAMILIES = (*bert.BERT_FAMILY, "uniter", "uc2")
"""Values of `model_type` in config.json; the last two are in our exports."""

_UC2_TYPES = "roberta.embeddings.new_token_type_embeddings.weight"

_TYPES = "embeddings.token_type_embeddings.weight"

FIELDS = {
    "num_attention_heads": "heads",
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "intermediate_size": "feed_forward",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "positions",
    "layer_norm_eps": "text_eps",
}
"""Names of transformers' configurations for the fields of `single`."""


def is_uniter(keys: Iterable[str]) -> bool:
    """Says whether keys are those of a UNITER."""
    known = set(keys)
    return _UC2_TYPES not in known and any(key.endswith(IMAGES) for key in known)


def is_uc2(keys: Iterable[str]) -> bool:
    """Says whether keys are those of a UC2."""
    return _UC2_TYPES in set(keys)


def read_uniter(
    state: weights.StateDict, config: experiment.Config, template: dict[str, object], source: Path
) -> Imported:
    """Reads a UNITER checkpoint.

    Args:
        state: the file's arrays by key.
        config: the configuration.
        template: the leaves of the tower, abstract.
        source: the file; a config.json beside it is read.

    Returns:
        The leaves.

    Raises:
        ConversionError: for another layout, or sizes that do not fit.
    """
    prefix = next((name for name in ("uniter.", "bert.") if f"{name}{IMAGES}" in state), "")
    if not prefix:
        raise ConversionError(f"not a UNITER: no key uniter.{IMAGES}")
    _check(config, source, offset=0)
    return _converted(single_tower.uniter_table(prefix), state, template)


def read_uc2(
    state: weights.StateDict, config: experiment.Config, template: dict[str, object], source: Path
) -> Imported:
    """Reads a UC2 checkpoint; see `read_uniter`."""
    if not is_uc2(state):
        raise ConversionError(f"not a UC2: no key {_UC2_TYPES}")
    _check(config, source, offset=bert.ROBERTA_PAD_ID + 1)
    return _converted(single_tower.uc2_table(), state, template)


def read_xlm_roberta(
    state: weights.StateDict, config: experiment.Config, template: dict[str, object], source: Path
) -> Imported:
    """Reads XLM-R with its head for words or without, as the text side of a tower whose regions start fresh.

    See `read_uniter`.
    """
    prefix = bert.detect(state)
    if _type_rows(state, prefix) != 1:
        raise ConversionError(f"not an XLM-R: {prefix}{_TYPES} has more than one row; choose --format=bert")
    _check(config, source, offset=bert.ROBERTA_PAD_ID + 1, prefix=prefix)
    return _converted(single_tower.xlm_roberta_table(config.pretrain.uc2_start, prefix), state, template)


def read_bert(
    state: weights.StateDict, config: experiment.Config, template: dict[str, object], source: Path
) -> Imported:
    """Reads BERT with its heads or without, as what UNITER's text side starts from; regions start fresh.

    See `read_uniter`.
    """
    prefix = bert.detect(state)
    if _type_rows(state, prefix) == 1:
        raise ConversionError(f"not a BERT: {prefix}{_TYPES} has one row, as XLM-R's; choose --format=xlm_roberta")
    _check(config, source, offset=0, prefix=prefix)
    return _converted(single_tower.bert_table(prefix), state, template)


def _type_rows(state: weights.StateDict, prefix: str) -> int:
    """Rows of the type table; 0 without one."""
    return len(state.get(prefix + _TYPES, ()))


def _converted(table: single_tower.TiedTable, state: weights.StateDict, template: dict[str, object]) -> Imported:
    return table.of_torch(state, template, host_memory.page_out)


def _check(config: experiment.Config, source: Path, offset: int, prefix: str = "") -> None:
    """Raises ConversionError for what no weight's shape tells: where positions start, heads, eps, activation."""
    single = config.single
    faults = []
    if single.position_offset != offset:
        faults.append(
            f"set single.position_offset={offset}, the row of the first token in this layout, which is "
            f"{single.position_offset}"
        )
    description = bert.read_description(source)
    faults += [
        f"{bert.DESCRIPTION} says {description[theirs]}; set single.{ours}={description[theirs]}, which is "
        f"{getattr(single, ours)}"
        for theirs, ours in FIELDS.items()
        if theirs in description and description[theirs] != getattr(single, ours)
    ]
    faults += bert.computed_otherwise(description, prefix, "the tower", _FAMILIES)
    if faults:
        raise ConversionError("\n  ".join(faults))
