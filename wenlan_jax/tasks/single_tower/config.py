"""Faults of the fields of the single tower."""

from __future__ import annotations

from wenlan_jax.config.settings import Faults
from wenlan_jax.tasks.schema import Config
from wenlan_jax.tasks.single_tower.schema import OBJECTIVES
from wenlan_jax.tasks.two_tower import backbones


def clashes(c: Config) -> list[str]:
    """Lists the faults of the fields that the tasks of the single tower read.

    Args:
        c: a configuration whose fields are valid one by one.

    Returns:
        One message a fault, the name of the field first; empty if there is none.
    """
    faults = Faults()
    check = faults.check

    single, regions, pretrain, backbone = c.single, c.single.regions, c.pretrain, backbones.of(c.model)
    faults += backbone.clashes(c) if regions.features == "map" else []
    check(single.width % single.heads == 0, "single.heads: must divide single.width")
    check(
        not single.scan_segments or sum(single.scan_segments) == single.layers,
        "single.scan_segments: must sum to single.layers",
    )
    room = single.positions - single.position_offset
    check(c.data.text_length <= room, f"data.text_length: single.positions has room for {room} tokens")
    for name, values, least in (
        ("text_buckets", pretrain.text_buckets, c.data.text_length),
        ("region_buckets", pretrain.region_buckets, _regions(c)),
    ):
        check(
            bool(values) and list(values) == sorted(set(values)) and values[-1] >= least,
            f"pretrain.{name}: ascending numbers are needed, the last at least {least}",
        )
    if regions.features == "pixels":
        width = 3 * regions.crop**2
        check(regions.width == width, f"single.regions.width: {width} = 3 * crop * crop where features are pixels")
    check(
        regions.features != "stored" or regions.boxes == "stored",
        "single.regions.features: a grid has no features stored; pool them on the 'map' or take 'pixels'",
    )
    check(
        not regions.labels or regions.classes == len(regions.labels) + 1,
        f"single.regions.classes: {len(regions.labels) + 1}, the labels and the background",
    )
    faults += _objectives(c)
    check(c.rank.hard <= c.rank.candidates, "rank.hard: at most rank.candidates")
    check(
        regions.features != "map" or not backbone.batch_norm or c.model.image.batch_norm.mode == "frozen",
        "model.image.batch_norm.mode: 'frozen', as the backbone under single.regions.features='map' stays as it is",
    )
    check(
        regions.features != "map" or "image/" in c.model.freeze,
        "model.freeze: ('image/',), as the backbone under single.regions.features='map' stays as it is",
    )
    return faults


def pretraining_clashes(c: Config) -> list[str]:
    """Lists the faults of `clashes`, and those of the fields that pretraining alone reads.

    Args:
        c: a configuration whose fields are valid one by one.

    Returns:
        One message a fault, the name of the field first; empty if there is none.
    """
    faults, names = clashes(c), c.pretrain.objectives
    if c.eval.zero_shot and "itm" not in names:
        faults.append("eval.zero_shot: pairs are ranked by what 'itm' teaches, which is not among pretrain.objectives")
    if "mrc" in names and not c.single.regions.classes:
        faults.append("pretrain.objectives: 'mrc' needs single.regions.classes; leave it out without a detector")
    if "mrc" in names and c.single.regions.boxes == "grid":
        faults.append("pretrain.objectives: 'mrc' needs a detector's regions; leave it out with a grid")
    return faults


def _regions(c: Config) -> int:
    regions = c.single.regions
    return regions.limit if regions.boxes == "stored" else regions.grid**2 + 1


def _objectives(c: Config) -> list[str]:
    pretrain, faults = c.pretrain, []
    unknown = sorted(set(pretrain.objectives) - set(OBJECTIVES))
    if unknown or not pretrain.objectives or len(set(pretrain.objectives)) < len(pretrain.objectives):
        faults.append(f"pretrain.objectives: some of {', '.join(OBJECTIVES)}, each once")
    if len(pretrain.weights) != len(pretrain.objectives) or min(pretrain.weights, default=0) <= 0:
        faults.append("pretrain.weights: a positive number for each of pretrain.objectives is needed")
    for at, part in enumerate(c.data.mixture):
        other = [name for name in part.objectives if name not in pretrain.objectives]
        if other:
            faults.append(f"data.mixture[{at}].objectives: {', '.join(other)} is not among pretrain.objectives")
    return faults
