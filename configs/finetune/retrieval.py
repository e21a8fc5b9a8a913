"""Fine-tuning of UNITER, UC2 or MLMM for retrieval: a hinge on the scores of true and false pairs.

Command   wenlan train --config=configs/finetune/retrieval.py --workdir=runs/retrieval
          --config.data.source=packed/flickr30k --config.init_from=runs/mlmm --config.tokenizer.path=runs/mlmm
Hardware  8 V100 in the published recipes [U] [UC2]
Time      not yet run
Metric    not yet run

The papers' three settings are languages of the training texts: `--config.data.languages="('en',)"` is theirs "en", one
language at a time "each", all of them (the default) "all". Evaluation is in all languages. UNITER's hard negatives:
`--config.rank.candidates=399 --config.rank.hard=31 --config.train.batch_size=128 --config.train.steps=5000`. Batch 320
is UNITER's 40 on 8 GPUs for Flickr30k; MLMM's values are not stated.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax import config_single


def get_config() -> config_dict.ConfigDict:
    """MLMM's tower with a rank head."""
    c = configs.default()
    config_single.make_single(c)
    config_single.make_fine_tuning(c, "rank")
    c.single.scan_segments = (12,)
    c.optimizer.warmup_steps, c.optimizer.clip_norm = 2000, 2.0
    c.train.steps, c.train.batch_size = 20_000, 320
    return c
