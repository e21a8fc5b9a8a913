"""Your own pairs on one card with 24 GB: the released sizes, from trained backbones, some 100,000 pairs or more.

Command   wenlan train --config=configs/own/one_card.py --workdir=runs/mine --config.data.source=data/mine
          --config.init_from=imported/start --config.tokenizer.path=imported/start   (README.md says how to get both)
Hardware  one GPU of 24 GB: 12.9 of 20.1 GiB planned (from a program for CPUs, an upper estimate:
          wenlan plan --config=configs/own/one_card.py --topology=rtx4090:1); not run on one
Time      not yet run
Metric    not yet run

Length and warm-up are in epochs, since only your data say how many steps that is; recall on the split `validation` is
told after every epoch. Batches of 64 with a bank of 4,096 keys: BriVL was made for small batches, and in our ablations
(configs/ablations/RESULTS.md) 16 with a bank reach what CLIP needs 64 for. The bank counts from step 1,000 on: heads
that start from nothing move fast at first, and old keys would differ by drift alone. All of this is a choice of ours.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.two_tower import presets


def get_config() -> config_dict.ConfigDict:
    """The released towers, small batches, and a length in epochs."""
    c = configs.default()
    presets.make_loops(c, frozen_layers=8)
    c.data.image_size = 380
    c.model.image.backbone.remat = c.model.text.bert.remat = True
    c.contrast.bank_size = 4096
    c.contrast.in_batch_negatives = True
    c.contrast.bank_from_step = 1000
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_fraction = 0.05
    c.optimizer.clip_norm = 1.0
    c.train.epochs = 10.0
    c.train.batch_size = 64
    c.eval.every_epochs = 1.0
    return c
