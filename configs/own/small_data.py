"""Your own pairs where there are few, some 30,000: trained backbones stay as they are, heads learn over them.

Command   wenlan train --config=configs/own/small_data.py --workdir=runs/mine --config.data.source=data/mine
          --config.init_from=imported/start --config.tokenizer.path=imported/start   (README.md says how to get both)
Hardware  one GPU of 24 GB: 16.6 of 20.1 GiB planned (from a program for CPUs, an upper estimate:
          wenlan plan --config=configs/own/small_data.py --topology=rtx4090:1); not run on one
Time      not yet run
Metric    not yet run

Trained backbones forget more than 30,000 pairs teach. So both are frozen, and batch normalisation keeps its stored
statistics; what learns is the pooling's layer, the Transformer blocks and the projections, 141 million parameters.
Unfreeze the last layers (model.freeze) where validation recall is still rising at the end. Otherwise as `one_card`:
epochs, warm-up, recall after every epoch, and a bank that counts once the heads have settled.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.two_tower import presets


def get_config() -> config_dict.ConfigDict:
    """The released towers with frozen backbones, and a length in epochs."""
    c = configs.default()
    presets.make_loops(c, frozen_layers=12)
    c.data.image_size = 380
    c.model.freeze = ("image/backbone/", "text/backbone/")
    c.model.image.batch_norm.mode = "frozen"
    c.contrast.bank_size = 4096
    c.contrast.in_batch_negatives = True
    c.contrast.bank_from_step = 500
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_fraction = 0.05
    c.optimizer.clip_norm = 1.0
    c.train.epochs = 20.0
    c.train.batch_size = 128
    c.eval.every_epochs = 1.0
    return c
