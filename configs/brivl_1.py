"""BriVL 1 as the paper describes it: EfficientNet-B7 and RoBERTa large on 30 million pairs, with detector boxes.

Command   wenlan train --config=configs/brivl_1.py --workdir=DIR --config.data.source=DIR_OF_PACKED_PAIRS
          --config.init_from=imported/large --config.tokenizer.path=imported/large   (configs/WEIGHTS.md makes them)
Hardware  the paper: 16 x 8 A100 [S]
Time      the paper: 7 days [S]; here not yet run
Metric    not yet run; the papers' figures are in no public data

Batch 2,048 = 16 a GPU [X]. Recalled and not verified [R]: images of 600 pixels, queue 16,384, learning rate 1e-5.
Frozen layers are taken over from the released model [C]: the stem, blocks 0 to 2, the head, all text layers but the
last four.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.two_tower import presets


def get_config() -> config_dict.ConfigDict:
    """The large towers with boxes."""
    c = configs.default()
    presets.make_large(c)
    c.data.image_size = 600
    c.model.image.regions.kind = "boxes"
    c.contrast.bank_size = 16384
    c.optimizer.learning_rate = 1e-5
    c.train.batch_size = 2048
    return c
