"""Quickstart of the single tower: four objectives in seven languages on drawn scenes, on a CPU.

Command   GLIBC_TUNABLES=glibc.malloc.hugetlb=1 wenlan train --config=configs/mlmm_quickstart.py
          --workdir=runs/mlmm
          (the variable has large buffers in large pages, a third less time a step; launch/environment.sh sets it, too)
Hardware  2 CPU cores, 3 GiB of memory (measured: 1.8 GiB)
Time      7.3 minutes, 67 s of them compiling, the data already drawn (measured once on quiet cores, jax 0.10.2)
Metric    on 1,000 held-out images, all languages, beside a constant guess: matching 95.6% (50.1), masked words 67.9%
          (5.1), classes of masked regions 89.7% (7.3), squared error of masked regions 25.5 (54.7)

What it hangs on, in trials of one run each:
- Masked words can be guessed from words alone. Runs at BERT's scale of kernels (.02 for 768 numbers, .06 here) had half
  of them right after 300,000 pairs and lost nothing when they were shown another image, which is why the evaluation
  tells that loss, too. With kernels of 1 / sqrt(width) the attention to one or two regions among twenty words matters.
- A mask vector much smaller than features has its LayerNorm make the gradient of masked regions 36 in norm, where all
  else is about 1: clipping then leaves nothing of what they should teach.
- Orthogonal momentum (muon) needs about half of the pairs of adamw. Matching rises at 1,100 steps of 128.
- Negatives must come from all images. From those of texts of the same length alone, matching stays at chance longer:
  how many things there are is the first thing it learns.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.single_tower import presets


def get_config() -> config_dict.ConfigDict:
    """A small tower and a short run."""
    c = configs.default()
    presets.make_single(c)
    presets.make_scenes(c)
    c.pretrain.weights = (9.0, 9.5, 3.0, 2.5)
    c.pretrain.mrfr_reduction = c.pretrain.mrc_reduction = "batchmean"
    c.pretrain.mask_probability, c.pretrain.masked_words = 0.3, 8
    c.optimizer.name = "muon"
    c.optimizer.learning_rate, c.optimizer.warmup_steps, c.optimizer.clip_norm = 3e-3, 100, 1.0
    c.train.steps, c.train.batch_size = 4400, 128
    c.train.log_every = 100
    c.checkpoint.every = 1100
    c.eval.batches = 4
    return c
