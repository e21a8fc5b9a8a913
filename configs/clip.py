"""CLIP on BriVL's towers: in-batch negatives, no key encoders, no banks; the papers' baseline.

Command   wenlan train --config=configs/clip.py --workdir=DIR --config.data.source=DIR_OF_PACKED_PAIRS
          --config.init_from=imported/base --config.tokenizer.path=imported/base   (configs/WEIGHTS.md makes them)
Hardware  8 accelerators of 80 GB or more (not yet planned)
Time      not yet run
Metric    not yet run

Towers, data and optimiser are those of `brivl_2_released`; only the objective differs: a learnable temperature that
starts at .07 and negatives from the batch alone (Radford et al. 2021, section 2.3).
"""

from ml_collections import config_dict

from wenlan_jax import config as configs


def get_config() -> config_dict.ConfigDict:
    """The released towers under the objective of CLIP."""
    c = configs.default()
    c.task = "clip"
    c.contrast.learnable_temperature = True
    c.optimizer.warmup_steps = 2000
    return c
