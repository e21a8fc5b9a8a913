"""Faults of the fields of two towers."""

from __future__ import annotations

from wenlan_jax.config.settings import Faults
from wenlan_jax.tasks.schema import Config
from wenlan_jax.tasks.two_tower import backbones


def clashes(c: Config) -> list[str]:
    """Lists the faults of the fields that BriVL and CLIP read.

    Args:
        c: a configuration whose fields are valid one by one.

    Returns:
        One message a fault, the name of the field first; empty if there is none.
    """
    faults = Faults()
    check = faults.check

    bert, norm, backbone = c.model.text.bert, c.model.image.batch_norm, backbones.of(c.model)
    micro, unit = c.train.batch_size // c.train.accumulation, backbones.micro_batch_unit(c)
    faults += backbone.clashes(c)
    check(bert.width % bert.heads == 0, "model.text.bert.heads: must divide model.text.bert.width")
    check(
        bert.width % c.model.text.encoder.heads == 0,
        "model.text.encoder.heads: must divide model.text.bert.width",
    )
    check(c.data.text_length <= bert.positions, "data.text_length: longer than model.text.bert.positions")
    check(
        not bert.scan_segments or sum(bert.scan_segments) == bert.layers,
        "model.text.bert.scan_segments: must sum to model.text.bert.layers",
    )
    check(
        micro % unit == 0,
        f"model.image.batch_norm.group_size: must divide the micro-batch of {micro} "
        "(train.batch_size / train.accumulation)",
    )
    check(
        not backbone.batch_norm or norm.mode != "batch" or c.train.accumulation == 1,
        "train.accumulation: statistics of the whole batch cannot be had from micro-batches; "
        "use model.image.batch_norm.mode='group' or 'frozen'",
    )
    check(
        bool(c.model.image.regions.grid) or c.model.image.regions.kind == "boxes",
        "model.image.regions.grid: no region is left; (1,) is the whole image",
    )
    check(
        c.contrast.multi_label_top_k <= c.contrast.bank_size,
        "contrast.multi_label_top_k: more than contrast.bank_size",
    )
    check(
        c.contrast.bank_from_step == 0 or c.contrast.in_batch_negatives,
        "contrast.bank_from_step: without contrast.in_batch_negatives there is no negative before that step",
    )
    return faults


def clip_clashes(c: Config) -> list[str]:
    """Lists the faults of the fields that CLIP reads.

    Args:
        c: a configuration whose fields are valid one by one.

    Returns:
        One message a fault, the name of the field first; empty if there is none.
    """
    faults = clashes(c)
    if c.contrast.multi_label_top_k:
        faults.append("contrast.multi_label_top_k: the task 'clip' has no bank")
    return faults
