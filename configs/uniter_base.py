"""UNITER base on English pairs with detector features (Chen et al. 2020).

Command   wenlan train --config=configs/uniter_base.py --workdir=runs/uniter --config.data.source=packed/coco_vg
          --config.tokenizer.path=vocab.txt --config.init_from=imported/uniter
Hardware  8 V100 in UNITER's published recipe [U]
Time      not yet run
Metric    not yet run

Sizes, masking, shares of the objectives and optimiser are those of the released code [U]; word-region alignment, which
MLMM leaves out, is not here either. UNITER fills batches by tokens, here a step has a fixed number of pairs.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.single_tower import presets


def get_config() -> config_dict.ConfigDict:
    """The base model."""
    c = configs.default()
    presets.make_single(c)
    presets.make_uniter(c)
    c.single.scan_segments = (12,)
    return c
