"""The two public layouts of the single tower: what tells them apart, and the sizes of a model under their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from wenlan_jax.convert import bert
from wenlan_jax.convert.rules import ConversionError
from wenlan_jax.convert.single_tower import UC2_PREFIX, TiedTable, uc2_table, uniter_table
from wenlan_jax.models.single_tower import TYPES
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.single_tower import schema
from wenlan_jax.tasks.single_tower.batch import trained

UNITER_PREFIX = "uniter."


@dataclasses.dataclass(frozen=True)
class SingleTowerLayout:
    """A public layout of the single tower.

    Attributes:
        name: of the format.
        code: the repository whose code reads it.
        table: makes its rules.
        prefix: of its encoder's keys.
        position_offset: where positions start.
        padding: the padding id.
        text_eps: of the LayerNorms of the text side, which its code has as a constant; `single.text_eps`.
        eps: of the other LayerNorms.
    """

    name: str
    code: str
    table: Callable[[], TiedTable]
    prefix: str
    position_offset: int
    padding: int
    text_eps: float
    eps: float


LAYOUTS = {
    layout.name: layout
    for layout in (
        SingleTowerLayout(
            "uniter", "ChenRocks/UNITER", lambda: uniter_table(UNITER_PREFIX), UNITER_PREFIX, 0, 0, 1e-12, 1e-12
        ),
        SingleTowerLayout(
            "uc2", "zmykevin/UC2", uc2_table, UC2_PREFIX, bert.ROBERTA_PAD_ID + 1, bert.ROBERTA_PAD_ID, 1e-5, 1e-12
        ),
    )
}


def layout_of(single: schema.SingleTowerConfig) -> SingleTowerLayout:
    """Finds the layout whose positions start where the tower's do.

    Args:
        single: the section `single` of the configuration.

    Returns:
        The layout.

    Raises:
        ConversionError: where none does.
    """
    for layout in LAYOUTS.values():
        if layout.position_offset == single.position_offset:
            return layout
    offsets = ", ".join(f"{layout.position_offset} ({name})" for name, layout in LAYOUTS.items())
    raise ConversionError(
        f"single.position_offset: {single.position_offset} is that of no public layout, which have {offsets}"
    )


def torch_sizes(config: experiment.Config, layout: SingleTowerLayout) -> dict[str, Any]:
    """Returns the fields of `reference.torch_single.UniterSizes`; heads that the tower lacks have one unused column."""
    single = config.single
    return {
        "prefix": layout.prefix.removesuffix("."),
        "vocab_size": single.vocab_size,
        "width": single.width,
        "layers": single.layers,
        "heads": single.heads,
        "feed_forward": single.feed_forward,
        "positions": single.positions,
        "padding": layout.padding,
        "features": single.regions.width,
        "classes": max(single.regions.classes, 1),
        "answers": config.vqa.answers if "vqa" in trained(config) else 1,
        "text_eps": single.text_eps,
        "eps": single.eps,
        "dropout": single.dropout,
    }


def description(config: experiment.Config, layout: SingleTowerLayout) -> dict[str, Any]:
    """Makes the `config.json` of a model: transformers' names, and those of UNITER's code for what only it has."""
    single = config.single
    return {
        "model_type": layout.name,
        "vocab_size": single.vocab_size,
        "hidden_size": single.width,
        "num_hidden_layers": single.layers,
        "num_attention_heads": single.heads,
        "intermediate_size": single.feed_forward,
        "hidden_act": bert.ACTIVATION,
        "hidden_dropout_prob": single.dropout,
        "attention_probs_dropout_prob": single.dropout,
        "max_position_embeddings": single.positions,
        "type_vocab_size": TYPES,
        "layer_norm_eps": single.text_eps,
        "encoder_layer_norm_eps": single.eps,
        "pad_token_id": layout.padding,
        "img_dim": single.regions.width,
        "img_label_dim": single.regions.classes,
        "num_answer": config.vqa.answers if "vqa" in trained(config) else 0,
    }
