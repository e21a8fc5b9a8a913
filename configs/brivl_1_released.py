"""The BriVL 1 whose weights were released ("BriVL-1.0-5500w"): EfficientNet-B5 and RoBERTa base, detector boxes.

Command   wenlan train --config=configs/brivl_1_released.py --workdir=DIR --config.data.source=DIR_OF_PACKED_PAIRS
          --config.init_from=imported/base --config.tokenizer.path=imported/base   (configs/WEIGHTS.md makes them)
Hardware  8 accelerators of 80 GB or more (not yet planned)
Time      not yet run
Metric    not yet run

36 detector boxes and the whole image, 37 tokens; images of 380 pixels, as the later of the two releases has them [C].
Batch 2,048 is that of the paper's 1.0 [X], learning rate 1e-5 is recalled and not verified [R].
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.two_tower import presets


def get_config() -> config_dict.ConfigDict:
    """The default with boxes, and the switches that the released weights need."""
    c = configs.default()
    presets.make_loops(c, frozen_layers=8)
    c.data.image_size = 380
    c.model.image.regions.kind = "boxes"
    c.model.image.regions.coordinates = "official"
    c.model.text.bert.attention_mask = False
    c.optimizer.learning_rate = 1e-5
    c.train.batch_size = 2048
    return c
