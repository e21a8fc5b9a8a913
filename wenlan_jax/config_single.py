"""What configurations of the single tower have in common, and the faults of several of its fields together."""

from __future__ import annotations

from ml_collections import config_dict

from wenlan_jax.config import Config
from wenlan_jax.data.scenes.world import SHAPES
from wenlan_jax.schema_single import OBJECTIVES


def make_single(c: config_dict.ConfigDict) -> None:
    """Turns the default into MLMM's: its task, nothing of BriVL's recipe, UNITER's optimiser [U]."""
    c.task = "mlmm"
    c.model.freeze = ()
    c.optimizer.name, c.optimizer.b1, c.optimizer.b2, c.optimizer.eps = "adamw", 0.9, 0.98, 1e-6
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.clip_norm = 5e-5, 0.01, 5.0
    c.optimizer.schedule, c.optimizer.warmup_steps = "linear", 10_000
    c.train.steps, c.train.batch_size = 200_000, 1024
    c.data.text_length = 62  # 60 pieces and two special ones [U]


def make_uniter(c: config_dict.ConfigDict) -> None:
    """Turns MLMM's tower into UNITER's: English, BERT's vocabulary with its positions from 0 [U]."""
    single = c.single
    single.vocab_size, single.positions, single.position_offset, single.text_eps = 28996, 512, 0, 1e-12
    c.tokenizer.lower_case = False


def make_fine_tuning(c: config_dict.ConfigDict, task: str) -> None:
    """Turns a configuration of pretraining into one of `rank` or `vqa`; heads of pretraining are kept as they are."""
    c.task = task
    c.model.freeze = (*c.model.freeze, "single/(word_head|feature_head|class_head|itm_head)/")


def make_scenes(c: config_dict.ConfigDict) -> None:
    """Makes the single tower small, on the boxes of drawn scenes, whose pixels stand for a detector's features."""
    c.data.source = "wenlan_scenes/close64"
    c.data.kinds = c.eval.kinds = ("descriptive",)
    c.data.image_size, c.data.text_length = 64, 36
    c.data.remembered = 8192
    c.tokenizer.train_size, c.tokenizer.algorithm = 2000, "bpe"
    c.model.dtype = "float32"
    single, regions = c.single, c.single.regions
    single.vocab_size, single.positions, single.position_offset = 0, 40, 0
    single.width, single.layers, single.heads, single.feed_forward, single.dropout = 64, 2, 2, 256, 0.0
    single.initial_deviation, regions.mask_deviation = 0.125, 0.5  # pixels from -1 to 1
    regions.features, regions.crop, regions.width, regions.limit = "pixels", 8, 192, 4
    regions.labels, regions.classes = tuple(SHAPES), len(SHAPES) + 1
    c.pretrain.text_buckets, c.pretrain.region_buckets = (20, 36), (4,)
    c.eval.batch_size = 250


def clashes(c: Config) -> list[str]:
    """Faults of the fields that the tasks of the single tower read."""
    faults: list[str] = []

    def check(ok: bool, message: str) -> None:
        if not ok:
            faults.append(message)

    single, regions, pretrain = c.single, c.single.regions, c.pretrain
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
        regions.features != "map" or c.model.image.batch_norm.mode == "frozen",
        "model.image.batch_norm.mode: 'frozen', as the backbone under single.regions.features='map' stays as it is",
    )
    check(
        regions.features != "map" or "image/" in c.model.freeze,
        "model.freeze: ('image/',), as the backbone under single.regions.features='map' stays as it is",
    )
    return faults


def pretraining_clashes(c: Config) -> list[str]:
    """The same, and faults of the fields that pretraining alone reads."""
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
