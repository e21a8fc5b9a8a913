"""`wenlan import --write-config`: a configuration of the sizes of weights, read off them and their config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import config_dict

from wenlan_jax import __version__
from wenlan_jax.convert import (
    backbone_weights,
    bert,
    e5_q4,
    efficientnet,
    import_formats,
    import_single,
    queues,
    weights,
)
from wenlan_jax.convert.backbone_weights import Fields, count, rows
from wenlan_jax.convert.brivl import QUERY_TOWERS
from wenlan_jax.convert.import_formats import FORMATS, WHOLE_MODEL, ImportingError
from wenlan_jax.convert.rules import ConversionError, flatten
from wenlan_jax.tasks import experiment, registry
from wenlan_jax.tasks.single_tower.spec import SINGLE_TOWER, TOWER
from wenlan_jax.tasks.two_tower import backbones

HEAD_WIDTH = 64
"""Of one attention head in every published BERT, where no config.json gives their number."""

_TEMPLATE = '''\
"""Sizes of imported weights, written by `wenlan import --write-config` of wenlan_jax {version}.

The sizes below are those of the weights; what else is here differs from the default configuration. All that is not
here is to be chosen, such as data, batch, schedule and model.freeze, whose patterns count layers.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs

# --format={format} --from={source}


def get_config() -> config_dict.ConfigDict:
    c = configs.default()
{lines}
    return c
'''


def write(base: experiment.Config | None, form: str, source: Path, trust_pickle: bool, path: Path) -> experiment.Config:
    """Writes a configuration file of the sizes of weights.

    Args:
        base: what it starts from; None for the default.
        form: the format of the weights.
        source: the weights.
        trust_pickle: run whatever code a pickled file contains.
        path: the file to write.

    Returns:
        The configuration: `base` with the sizes of `source`.

    Raises:
        ImportingError: where the sizes are none that a configuration can have, or the file exists.
    """
    if path.exists():
        raise ImportingError(f"{path} exists; remove it or choose another --write-config")
    state = import_formats.load(form, source, trust_pickle)
    try:
        fields = sizes(form, state, source, base)
    except ConversionError as error:
        raise ImportingError(f"{source}: {error}") from error
    config = _with(base, fields)
    values = _paths(dataclasses.asdict(config))
    named = {*fields, *_changed(values)}
    lines = [f"    c.{name} = {value!r}" for name, value in values.items() if name in named]
    text = _TEMPLATE.format(version=__version__, format=form, source=repr(str(source)), lines="\n".join(lines))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return config


def sizes(form: str, state: weights.StateDict, source: Path, base: experiment.Config | None) -> Fields:
    """Reads the sizes of weights.

    Args:
        form: their format.
        state: the file's arrays by key.
        source: the file; a config.json beside it is read.
        base: the configuration to change; None for the default.

    Returns:
        The fields that they settle.

    Raises:
        ConversionError: for weights of another format.
    """
    if not FORMATS[form].knows(state):
        raise ConversionError(f"its keys are not those of --format={form}")
    description = bert.read_description(source)
    of_single = base is not None and _is_single(base)
    if form == "brivl":
        return _brivl({key.removeprefix(WHOLE_MODEL): array for key, array in state.items()})
    if form == "efficientnet_lite":
        return _backbone("efficientnet", state, source, experiment.Config() if base is None else base)
    if form in backbones.BACKBONES:
        return _backbone(form, state, source, experiment.Config() if base is None else base)
    if form == "e5_q4" or (form == "bert" and not of_single):
        known = e5_q4.description(source) if form == "e5_q4" else description
        return {f"model.text.bert.{name}": value for name, value in _bert(state, bert.detect(state), known).items()}
    return _single(form, state, description)


def _is_single(config: experiment.Config) -> bool:
    return registry.of(config).model == SINGLE_TOWER


def _encoder(state: weights.StateDict, prefix: str, description: Mapping[str, Any]) -> Fields:
    """What the text encoder of two towers and the single tower have in common; `positions` are all rows."""
    words = f"{prefix}embeddings.word_embeddings.weight"
    usual = bert.DEFAULTS["num_attention_heads"] if description else rows(state, words, 1) // HEAD_WIDTH
    return {
        "vocab_size": rows(state, words),
        "width": rows(state, words, 1),
        "layers": count(state, f"{prefix}encoder.layer."),
        "heads": description.get("num_attention_heads", max(1, usual)),
        "feed_forward": rows(state, f"{prefix}encoder.layer.0.intermediate.dense.weight"),
        "positions": rows(state, f"{prefix}embeddings.position_embeddings.weight"),
    }


def _bert(state: weights.StateDict, prefix: str, description: Mapping[str, Any]) -> Fields:
    """The fields of `two_tower.schema.BertConfig`."""
    known = {**bert.DEFAULTS, **(description or bert.implied_description(state, prefix))}
    found = _encoder(state, prefix, description)
    return {
        **found,
        "positions": found["positions"] - bert.position_offset(known),
        "types": rows(state, f"{prefix}embeddings.token_type_embeddings.weight"),
        "eps": known["layer_norm_eps"],
    }


def _backbone(name: str, state: weights.StateDict, source: Path, base: experiment.Config) -> Fields:
    """Architecture, sizes and normalisation of an image backbone; patterns that freeze parts of another go."""
    told = backbone_weights.normalisation(source)
    fields: Fields = {f"augment.{moment}": values for moment, values in told.items()}
    fields |= backbone_weights.of(name).sizes(state, source, base)
    if base.model.image.architecture != name:
        fields["model.image.architecture"] = name
        fields["model.freeze"] = tuple(pattern for pattern in base.model.freeze if "image/backbone/" not in pattern)
    return fields


def _brivl(state: weights.StateDict) -> Fields:
    """Both towers of the official layout, as the released code computes them."""
    image, text = QUERY_TOWERS
    fields: Fields = {
        "model.embedding": rows(state, f"{image}.learnable.imgFC.fc2.weight"),
        "model.image.regions.project": any(key.startswith(f"{image}.learnable.max_pool.") for key in state),
        "model.image.regions.coordinates": "official",
        "model.text.bert.attention_mask": False,
        **efficientnet.sizes(state, f"{image}.backbone.", "timm"),
    }
    fields |= {f"model.text.bert.{name}": value for name, value in _bert(state, f"{text}.backbone.bert.", {}).items()}
    for tower, block in (("image", f"{image}.learnable.imgAtt."), ("text", f"{text}.learnable.textAtt.")):
        fields[f"model.{tower}.encoder.layers"] = count(state, f"{block}layers.")
        fields[f"model.{tower}.encoder.feed_forward"] = rows(state, f"{block}layers.0.linear1.weight")
    queue = next((state[name] for name in queues.NAMES["image"] if name in state), None)
    if queue is not None:
        fields["contrast.bank_size"] = next((n for n in queue.shape if n != fields["model.embedding"]), queue.shape[0])
    return fields


def _single(form: str, state: weights.StateDict, description: Mapping[str, Any]) -> Fields:
    """The fields of `single_tower.schema.SingleTowerConfig`."""
    beginnings = (f"{name}." for name in ("uniter", "roberta", "bert"))
    prefix = next((name for name in beginnings if any(key.startswith(name) for key in state)), "")
    of_roberta = form in ("uc2", "xlm_roberta")
    fields: Fields = {
        **_encoder(state, prefix, description),
        "position_offset": bert.ROBERTA_PAD_ID + 1 if of_roberta else 0,
        "text_eps": description.get("layer_norm_eps", 1e-5 if of_roberta else 1e-12),
        "eps": description.get("encoder_layer_norm_eps", 1e-12),
    }
    images = f"{prefix}{import_single.IMAGES}"
    if images in state:
        fields["regions.width"] = rows(state, images, 1)
    if _CLASSES in state:
        fields["regions.classes"] = rows(state, _CLASSES)
    return {"task": "mlmm"} | {f"single.{name}": value for name, value in fields.items()}


_CLASSES = "region_classifier.net.3.weight"
"""The key of UNITER's head for classes of regions, whose rows are the classes."""


def _with(base: experiment.Config | None, fields: Fields) -> experiment.Config:
    """The configuration with fields set, and without loops over numbers of layers that are no more."""
    start = experiment.default() if base is None else config_dict.ConfigDict(dataclasses.asdict(base))
    if base is not None and "task" in fields and _is_single(base):
        fields = {name: value for name, value in fields.items() if name != "task"}
    for name, value in fields.items():
        *sections, leaf = name.split(".")
        section = start
        for part in sections:
            section = section[part]
        section[leaf] = value
    for tower in (start.model.text.bert, start.model.image.vit, start[TOWER]):
        if sum(tower.scan_segments) not in (0, tower.layers):
            tower.scan_segments = ()
    return experiment.parse(start)


def _changed(values: Fields) -> set[str]:
    """The fields that differ from the default."""
    usual = _paths(dataclasses.asdict(experiment.parse(experiment.default())))
    return {name for name, value in values.items() if usual[name] != value}


def _paths(tree: Mapping[str, Any]) -> Fields:
    return {path.replace("/", "."): value for path, value in flatten(tree).items()}
