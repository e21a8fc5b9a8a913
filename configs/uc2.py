"""UC2's tower on captions in six languages (Zhou et al. 2021), without its two objectives on translated pairs.

Command   wenlan train --config=configs/uc2.py --workdir=runs/uc2 --config.data.source=packed/cc
          --config.tokenizer.path=sentencepiece.bpe.model --config.init_from=imported/xlm_roberta
Hardware  8 V100 [UC2]
Time      not yet run
Metric    not yet run

As `mlmm`, with UC2's languages, learning rate and shares of itm and mlm [UC2]. Its masked region-to-token modelling and
translation modelling are not built: MLMM has neither. `pretrain.uc2_start` imports XLM-R as UC2's code does, whose
names miss the head for words and the type rows, so that these start random.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.single_tower import presets


def get_config() -> config_dict.ConfigDict:
    """XLM-R base, regions, matching and masked words."""
    c = configs.default()
    presets.make_single(c)
    c.data.languages = ("en", "de", "zh", "ja", "fr", "cs")
    c.single.scan_segments = (12,)
    c.pretrain.objectives, c.pretrain.weights = ("itm", "mlm"), (9.0, 12.0)
    c.pretrain.uc2_start = True
    c.optimizer.learning_rate = 4e-5
    return c
