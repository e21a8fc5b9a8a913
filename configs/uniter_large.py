"""UNITER large on English pairs with detector features (Chen et al. 2020).

Command   wenlan train --config=configs/uniter_large.py --workdir=runs/uniter_large --config.data.source=packed/coco_vg
          --config.tokenizer.path=vocab.txt --config.init_from=imported/uniter_large
Hardware  16 V100 in UNITER's published recipe [U]
Time      not yet run
Metric    not yet run

As `uniter_base`, with BERT large's sizes and 500,000 steps [U].
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.single_tower import presets


def get_config() -> config_dict.ConfigDict:
    """The large model."""
    c = configs.default()
    presets.make_single(c)
    presets.make_uniter(c)
    single = c.single
    single.width, single.layers, single.heads, single.feed_forward = 1024, 24, 16, 4096
    single.scan_segments, single.remat = (24,), True
    c.train.steps = 500_000
    return c
