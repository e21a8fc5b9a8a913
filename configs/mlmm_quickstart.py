"""Quickstart of the single tower: four objectives in seven languages on drawn scenes, on a CPU.

Command   wenlan train --config=configs/mlmm_quickstart.py --workdir=runs/mlmm_quickstart
Hardware  2 CPU cores
Time      21 minutes beside other work (2,000 steps, measured once); the aim is 8
Metric    matching 73.4% (chance 50.1), masked words 50.3% (3.8), classes 28.9% (7.3); features: none learnt

What matching hangs on, in short trials of 77,000 to 150,000 pairs, one of each:
- It stays at chance for long and then rises within a few hundred steps. With batches of 64, a learning rate of 2e-3 and
  pieces that cut English words (unigram), it did not within 1,600 steps; with batches of 256 and whole words it does.
- Kernels of deviation .02, which suit a width of 768, leave a width of 64 without a signal: .06 here.
- Masked words come first: matching rises when the tower can tell a masked colour from the regions.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax import config_single


def get_config() -> config_dict.ConfigDict:
    """A small tower and a short run."""
    c = configs.default()
    config_single.make_single(c)
    config_single.make_scenes(c)
    c.pretrain.weights = (10.0, 10.0, 1.5, 2.5)
    c.pretrain.mrc_reduction = "batchmean"
    c.pretrain.mask_probability, c.pretrain.masked_words = 0.3, 8
    c.optimizer.learning_rate, c.optimizer.warmup_steps, c.optimizer.clip_norm = 2e-3, 150, 1.0
    c.train.steps, c.train.batch_size = 2000, 256
    c.train.log_every = 100
    c.checkpoint.every = 1000
    c.eval.batches = 4
    return c
