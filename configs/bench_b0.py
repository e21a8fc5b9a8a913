"""The step that is timed beside PyTorch: BriVL with EfficientNet-B0 at 224 pixels and a 4-layer RoBERTa.

Command   wenlan bench --config=configs/bench_b0.py --against=torch
Hardware  2 CPU cores, 8 GiB of memory
Time      3.6 s a step (configs/README.md), a minute or more of compiling
Metric    a speed, no recall: not meant to be trained
"""

from ml_collections import config_dict

from wenlan_jax import config as configs


def get_config() -> config_dict.ConfigDict:
    """The released recipe with the smallest backbone, as the official code would run it."""
    c = configs.default()
    c.data.image_size = 224
    c.data.text_length = 64
    c.model.dtype = "float32"
    c.model.embedding = 1280
    c.model.freeze = ()
    c.model.image.backbone.width_multiplier = 1.0
    c.model.image.backbone.depth_multiplier = 1.0
    c.model.image.batch_norm.group_size = 8
    c.model.image.regions.coordinates = "official"
    c.model.text.bert.layers = 4
    c.model.text.bert.attention_mask = False
    c.contrast.bank_start = "random"
    c.contrast.mask_false_negatives = False
    c.train.batch_size = 8
    return c
