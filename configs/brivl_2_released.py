"""The BriVL 2 whose weights were released: EfficientNet-B5 and RoBERTa base, a 6x6 grid and the whole image.

Command   wenlan train --config=configs/brivl_2_released.py --workdir=DIR --config.data.source=DIR_OF_PACKED_PAIRS
          --config.init_from=imported/base --config.tokenizer.path=imported/base   (configs/WEIGHTS.md makes them)
Hardware  8 accelerators of 80 GB or more (not yet planned)
Time      not yet run
Metric    not yet run

It is the default configuration: sizes, freezing, temperature and momentum are the official code's [C]; batch, learning
rate and weight decay are recalled and not verified [R]; `wenlan fields` gives the source of each. Released weights need
the official coordinates of regions and no mask in the text backbone, which this file sets.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.two_tower import presets


def get_config() -> config_dict.ConfigDict:
    """The default, with the switches that the released weights need."""
    c = configs.default()
    presets.make_loops(c, frozen_layers=8)
    c.model.image.regions.coordinates = "official"
    c.model.text.bert.attention_mask = False
    return c
