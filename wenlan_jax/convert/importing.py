"""`wenlan import`: PyTorch weights as a checkpoint that training starts from (`init_from`).

What is written is a part of the train state: the leaves that the files gave, and no others. One directory can take
several files in turn, say the image backbone from one and the text backbone from another. Everything is checked
against the configuration's shapes before anything is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from wenlan_jax import checkpoint, host_memory, run, schema, warm_start
from wenlan_jax import config as configs
from wenlan_jax.convert import UNUSED_LAYERS, bert, efficientnet, queues, weights
from wenlan_jax.convert.brivl import MOMENTUM_TOWERS, QUERY_TOWERS, brivl_table, is_unused_layer
from wenlan_jax.convert.rules import ConversionError, FlatTree, Table, flatten, to_flax, unflatten
from wenlan_jax.data import text
from wenlan_jax.progress import say
from wenlan_jax.state import MOMENTUM, TrainState
from wenlan_jax.tasks.towers import image_tower

TOWERS = ("image", "text")
BOTH = "both"

_WHOLE_MODEL = "learnable."
"""Before the towers' keys in the state dict of the official model as a whole, queues included."""

MOST_KINDS = 12
"""Kinds of ignored keys listed for one reason; more are those of whole towers, which are named instead."""


class ImportingError(ValueError):
    """Weights that cannot be imported; the message lists every fault, and nothing was written."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What to import: `tower` is `image`, `text` or `both`; `replace` allows leaves that `out` has already."""

    format: str
    source: Path
    out: Path
    tower: str
    trust_pickle: bool
    replace: bool


@dataclasses.dataclass(frozen=True)
class Found:
    """Leaves by their path in the train state, and the keys of the file left out, with the reason."""

    leaves: FlatTree
    ignored: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Target:
    """What the leaves must fit: the configuration, the shapes of its train state, and the towers asked for."""

    config: schema.Config
    shapes: TrainState
    towers: Sequence[str]

    def template(self, tower: str, part: str = "") -> dict[str, Any]:
        """The shapes of a tower by collection, or of one part of it such as `backbone`."""
        collections = {"params": self.shapes.params, "batch_stats": self.shapes.batch_stats}
        found = {name: tree[tower] for name, tree in collections.items() if tower in tree}
        return {name: {part: tree[part]} for name, tree in found.items()} if part else found


def run_import(config: schema.Config, request: Request) -> None:
    """Reads a file, checks it against the configuration, writes the checkpoint and prints what came from where.

    Raises ImportingError, WeightsError, ConfigError or CheckpointError with every fault found; a directory that did
    not exist is then not made.
    """
    tokenizer = _tokenizer(config)
    target = _target(config, request, tokenizer)
    state = weights.read(request.source, request.trust_pickle)
    found = _read(state, target, request)
    unused = {key.removeprefix(_WHOLE_MODEL): array for key, array in state.items() if is_unused_layer(key)}
    del state
    stored = _stored(request.out, target)
    merged = _merge(stored, found.leaves, request)
    _write(request.out, merged, unused, config, tokenizer.fingerprint if tokenizer else "")
    say(summary(found, target.shapes, merged))
    say(f"start from it with: wenlan train --config=... --config.init_from={request.out}")


def _tokenizer(config: schema.Config) -> text.Tokenizer | None:
    """The configured tokenizer; None where the run is to train its own."""
    settings = config.tokenizer
    return text.load_tokenizer(Path(settings.path).expanduser(), settings.lower_case) if settings.path else None


def _target(config: schema.Config, request: Request, tokenizer: text.Tokenizer | None) -> Target:
    wanted = _towers(request)
    if tokenizer is not None:
        config = run.with_vocabulary(config, tokenizer)
    elif config.model.text.bert.vocab_size == 0 and "text" not in wanted:
        return dataclasses.replace(_target(_with_some_vocabulary(config), request, None), config=config)
    elif config.model.text.bert.vocab_size == 0:
        raise configs.ConfigError(
            "model.text.bert.vocab_size: 0 leaves the size to a tokenizer that is still to be trained; give the "
            "imported model's with --config.tokenizer.path=vocab.txt, or set the number of its rows"
        )
    # Shapes do not depend on the mesh, and the machine that imports need not be the one that trains.
    one_device = dataclasses.replace(config, mesh=schema.Mesh())
    return Target(config, run.set_up(one_device, jax.devices()[:1]).shapes, wanted)


def _with_some_vocabulary(config: schema.Config) -> schema.Config:
    """For shapes of the image tower alone, which do not depend on the vocabulary."""
    bert_sizes = dataclasses.replace(config.model.text.bert, vocab_size=config.tokenizer.train_size)
    text_sizes = dataclasses.replace(config.model.text, bert=bert_sizes)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, text=text_sizes))


def _towers(request: Request) -> Sequence[str]:
    """The towers asked for, as far as the format has them."""
    asked = TOWERS if request.tower == BOTH else (request.tower,)
    wanted = [tower for tower in asked if tower in FORMATS[request.format].towers]
    if not wanted:
        raise ImportingError(f"--format={request.format} holds no {request.tower} tower; leave --tower out")
    return wanted


def _read(state: weights.State, target: Target, request: Request) -> Found:
    """What the reader of the format finds; raises ImportingError with all faults, the file and the remedy."""
    chosen = FORMATS[request.format]
    known = [name for name, form in FORMATS.items() if form.knows(state)]
    if known and request.format not in known:
        raise ImportingError(
            f"{request.source}: its keys are not those of --format={request.format}; choose --format={known[0]}"
        )
    try:
        return chosen.read(state, target, request.source)
    except ConversionError as error:
        raise ImportingError(
            f"{request.source} does not fit the configuration:\n  {error}\n"
            f"Set {chosen.sizes} to the sizes of this model, or give a file that holds all of the configured one."
        ) from error


def _has_towers(keys: Iterable[str]) -> bool:
    prefixes = {key.removeprefix(_WHOLE_MODEL).partition(".")[0] for key in keys}
    return not prefixes.isdisjoint((*QUERY_TOWERS, *MOMENTUM_TOWERS))


def _is_backbone(detect: Callable[[Iterable[str]], Any], keys: Iterable[str]) -> bool:
    """Whether `detect` knows the keys, and they are not those of a BriVL that has such a backbone."""
    try:
        detect(keys)
    except ConversionError:
        return False
    return not _has_towers(keys)


def read_brivl(state: weights.State, target: Target, source: Path) -> Found:
    """The official checkpoint, or the state dict of the whole official model, whose queues fill the banks."""
    state = {key.removeprefix(_WHOLE_MODEL): array for key, array in state.items()}
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
    return Found({**found.leaves, **banks.leaves}, {**found.ignored, **banks.ignored})


def read_bert(state: weights.State, target: Target, source: Path) -> Found:
    """A text encoder of Hugging Face. RoBERTa's position table loses the rows before its first token's."""
    prefix = bert.detect(state)
    description = bert.read_description(source) or bert.implied_description(state, prefix)
    faults = bert.differences(target.config.model.text.bert, description)
    if faults:
        raise ConversionError("\n  ".join(faults))
    key, offset = f"{prefix}embeddings.position_embeddings.weight", bert.position_offset(description)
    if key in state and state[key].ndim:
        state = {**state, key: state[key][offset:]}
    return _convert(state, bert.bert_table(prefix), {"text": target.template("text", "backbone")})


def read_efficientnet(state: weights.State, target: Target, source: Path) -> Found:
    """An EfficientNet of timm or Hugging Face."""
    table = efficientnet.efficientnet_table(
        efficientnet.detect(state), image_tower(target.config.model).backbone.stages
    )
    return _convert(state, table, {"image": target.template("image", "backbone")})


class Format(NamedTuple):
    """The towers that a format can give, its reader, whether keys are of it, and the fields that set the sizes."""

    towers: Sequence[str]
    read: Callable[[weights.State, Target, Path], Found]
    knows: Callable[[Iterable[str]], bool]
    sizes: str


FORMATS: dict[str, Format] = {
    "brivl": Format(TOWERS, read_brivl, _has_towers, "model.*"),
    "bert": Format(("text",), read_bert, functools.partial(_is_backbone, bert.detect), "model.text.bert.*"),
    "efficientnet": Format(
        ("image",), read_efficientnet, functools.partial(_is_backbone, efficientnet.detect), "model.image.backbone.*"
    ),
}


def _convert(state: weights.State, table: Table, template: Mapping[str, Any], faults: Sequence[str] = ()) -> Found:
    """The leaves of `template`; raises ConversionError with all faults, those found before among them."""
    messages = list(faults)
    try:
        imported = to_flax(state, table, template, host_memory.page_out)
    except ConversionError as error:
        messages.append(str(error))
    if messages:
        raise ConversionError("\n  ".join(messages))
    leaves = {_state_path(path): np.asarray(leaf, np.float32) for path, leaf in imported.leaves.items()}
    return Found(leaves, imported.ignored)


def _state_path(path: str) -> str:
    """`image_momentum/params/...` as `momentum/params/image/...`."""
    tower, collection, rest = path.split("/", 2)
    momentum = "momentum/" if tower.endswith(MOMENTUM) else ""
    return f"{momentum}{collection}/{tower.removesuffix(MOMENTUM)}/{rest}"


def _stored(out: Path, target: Target) -> FlatTree:
    """What earlier imports left in `out`, checked against the shapes of this configuration."""
    place = out / "checkpoints"
    if not place.is_dir():
        return {}
    with checkpoint.Checkpoints(place, target.config.checkpoint) as checkpoints:
        if checkpoints.latest() is None:
            return {}
        _, stored = checkpoints.stored()
        if warm_start.is_whole(stored):
            raise ImportingError(f"{out} is the work directory of a training run; choose another --out")
        at = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = warm_start.matching(target.shapes, stored, out)
        placed = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at) for name, leaf in abstract.items()}
        _, tree = checkpoints.restore(unflatten(placed))
    return {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}


def _merge(stored: FlatTree, new: FlatTree, request: Request) -> FlatTree:
    """The earlier leaves and the new ones. Replaced leaves take their momentum copies and the banks with them."""
    again = stored.keys() & new.keys()
    if again and not request.replace:
        parts = ", ".join(sorted({warm_start.part_of(name) for name in again}))
        raise ImportingError(f"{request.out} has {parts} already; pass --replace, or choose another --out")
    outdated = {f"momentum/{name}" for name in again}
    kept = {
        name: leaf
        for name, leaf in stored.items()
        if name not in outdated and not (again and name.startswith("banks/"))
    }
    return {**kept, **new}


def _write(out: Path, leaves: FlatTree, unused: FlatTree, config: schema.Config, fingerprint: str) -> None:
    """Writes the next checkpoint of `out`; it holds all that the earlier ones do, so they go."""
    with (
        _directory(out) as folder,
        checkpoint.Checkpoints(
            folder / "checkpoints", dataclasses.replace(config.checkpoint, keep=1), host_arrays=True
        ) as checkpoints,
    ):
        if unused:
            weights.write_safetensors(unused, folder / UNUSED_LAYERS, {})
        latest = checkpoints.latest()
        checkpoints.save(0 if latest is None else latest + 1, unflatten(leaves), config, fingerprint)


@contextlib.contextmanager
def _directory(out: Path) -> Iterator[Path]:
    """A directory to write into: `out`, or one beside it that gets its name once all is written."""
    if out.exists():
        yield out
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir()
        yield part
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def summary(found: Found, shapes: TrainState, stored: Mapping[str, np.ndarray]) -> str:
    """The table that the command prints: loaded parts, ignored keys by reason, and what starts fresh."""
    lines = [f"{'loaded':<34}{'leaves':>8}{'numbers':>16}"]
    lines += _rows(found.leaves)
    lines += _ignored_lines(found.ignored)
    initial = warm_start.initial_leaves(shapes)
    fresh = {name: leaf for name, leaf in initial.items() if name not in stored and not name.startswith("momentum/")}
    if fresh:
        lines += [f"{'freshly initialised by train':<34}{'leaves':>8}{'numbers':>16}", *_rows(fresh)]
    if shapes.momentum is not None and not any(name.startswith("momentum/") for name in stored):
        lines.append("momentum towers start as copies of the query towers")
    return "\n".join(lines)


def _ignored_lines(ignored: Mapping[str, str]) -> list[str]:
    """The keys left out, by reason; those that differ in the number of a layer alone are listed as one."""
    lines = []
    for reason in sorted(set(ignored.values()) - {""}):
        keys = [key for key in ignored if ignored[key] == reason]
        kinds = dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", key) for key in keys)
        if len(kinds) > MOST_KINDS:
            kinds = dict.fromkeys(f"{key.partition('.')[0]}.*" for key in keys)
        lines += [f"ignored: {len(keys)} key(s), {reason}", *(f"  {kind}" for kind in kinds)]
    return lines


def _rows(leaves: Mapping[str, Any]) -> list[str]:
    parts: dict[str, list[int]] = {}
    for name, leaf in leaves.items():
        parts.setdefault(warm_start.part_of(name), []).append(int(np.prod(leaf.shape)))
    return [f"  {part:<32}{len(sizes):>8,}{sum(sizes):>16,}" for part, sizes in parts.items()]
