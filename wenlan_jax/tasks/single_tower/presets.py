"""What configurations of the single tower have in common."""

from __future__ import annotations

from ml_collections import config_dict

from wenlan_jax.synthetic.world import SHAPES


def make_single(c: config_dict.ConfigDict) -> None:
    """Turns the default into MLMM's configuration: its task, nothing of BriVL's recipe, UNITER's optimiser [U].

    Args:
        c: a configuration; changed in place.
    """
    c.task = "mlmm"
    c.model.freeze = ()
    c.optimizer.name, c.optimizer.b1, c.optimizer.b2, c.optimizer.eps = "adamw", 0.9, 0.98, 1e-6
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.clip_norm = 5e-5, 0.01, 5.0
    c.optimizer.schedule, c.optimizer.warmup_steps = "linear", 10_000
    c.train.steps, c.train.batch_size = 200_000, 1024
    c.data.text_length = 62  # 60 pieces and two special ones [U]


def make_uniter(c: config_dict.ConfigDict) -> None:
    """Turns MLMM's tower into UNITER's: English, BERT's vocabulary with its positions from 0 [U].

    Args:
        c: a configuration; changed in place.
    """
    single = c.single
    single.vocab_size, single.positions, single.position_offset, single.text_eps = 28996, 512, 0, 1e-12
    c.tokenizer.lower_case = False


def make_fine_tuning(c: config_dict.ConfigDict, task: str) -> None:
    """Turns a configuration of pretraining into one of fine-tuning; heads of pretraining are kept as they are.

    Args:
        c: a configuration; changed in place.
        task: `rank` or `vqa`.
    """
    c.task = task
    c.model.freeze = (*c.model.freeze, "single/(word_head|feature_head|class_head|itm_head)/")


def make_scenes(c: config_dict.ConfigDict) -> None:
    """Makes the single tower small, on the boxes of drawn scenes, whose pixels stand for a detector's features.

    Args:
        c: a configuration; changed in place.
    """
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
