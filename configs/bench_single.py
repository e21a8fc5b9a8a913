"""The step of the single tower that is timed beside PyTorch: masked words in UNITER with 4 of its 12 layers.

Command   wenlan bench --config=configs/bench_single.py --against=torch
Hardware  2 CPU cores, 8 GiB of memory
Time      94 s with --steps=5
Metric    a speed: not meant to be trained
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.single_tower import presets


def get_config() -> config_dict.ConfigDict:
    """UNITER's widths, vocabulary and optimiser; 32 word pieces and 36 regions, of which all are real."""
    c = configs.default()
    presets.make_single(c)
    presets.make_uniter(c)
    c.model.dtype = "float32"
    c.single.layers = 4
    c.single.regions.limit = 36
    c.pretrain.masked_words = 6
    c.pretrain.text_buckets, c.pretrain.region_buckets = (32,), (36,)
    c.data.text_length = 32
    c.train.batch_size = 8
    return c
