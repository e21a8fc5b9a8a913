"""BriVL 2 as the paper describes it: EfficientNet-B7 and RoBERTa large on 650 million pairs, with a fixed grid.

Command   wenlan train --config=configs/brivl_2.py --workdir=DIR --config.data.source=DIR_OF_PACKED_PAIRS
          --config.init_from=imported/large --config.tokenizer.path=imported/large   (configs/WEIGHTS.md makes them)
Hardware  recalled and not verified: 14 x 8 A100 [R]
Time      recalled and not verified: about 10 days [R]; here not yet run
Metric    not yet run; the papers' figures are in no public data

Recalled and not verified [R]: images of 600 pixels, batch 2,688, queue 13,440 = 5 x 2,688, texts of 50 word pieces,
Adam with learning rate 1e-4 and weight decay 1e-5. In-batch negatives are one reading of the paper [X] and are off, as
in the official code [C].
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.two_tower import presets


def get_config() -> config_dict.ConfigDict:
    """The large towers with a 6x6 grid and the whole image."""
    c = configs.default()
    presets.make_large(c)
    c.data.image_size = 600
    c.data.text_length = 50
    c.contrast.bank_size = 13440
    c.model.image.batch_norm.group_size = 24  # 192 a machine over 8 GPUs [R]
    c.train.batch_size = 2688
    return c
