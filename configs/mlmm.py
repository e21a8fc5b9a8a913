"""MLMM as far as it is described: one tower, seven languages, four objectives, of which weak pairs train one.

Command   wenlan train --config=configs/mlmm.py --workdir=runs/mlmm --config.tokenizer.path=sentencepiece.bpe.model
          --config.init_from=imported/xlm_roberta --config.data.source=packed/cc, whose held-out splits are evaluated,
          after setting `data.mixture` below to your packed data
Hardware  not stated; a slice of 32 TPU v5e by `wenlan plan`
Time      not yet run
Metric    not yet run; the papers' data are not public

Stated [S]: the four objectives without word-region alignment, regions of a Faster R-CNN, seven languages, CC3M and
CC12M for all objectives and 15 million pairs of RUC-CAS-WenLan for matching only, each translated into all languages.
Not stated: the size of the tower, its vocabulary and start (XLM-R base here, as its baselines UC2 and M3P have), the
shares of objectives and languages, regions an image, batch, steps and learning rate; UNITER's and UC2's values stand
for these, see `wenlan fields`.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.single_tower import presets


def get_config() -> config_dict.ConfigDict:
    """XLM-R base with regions; two sources to be packed by the user."""
    c = configs.default()
    presets.make_single(c)
    c.data.mixture = (
        {"source": "packed/cc", "weight": 0.5},
        {"source": "packed/wenlan", "weight": 0.5, "objectives": ("itm",)},
    )
    c.single.scan_segments = (12,)
    c.pretrain.language_alpha = 0.0
    return c
