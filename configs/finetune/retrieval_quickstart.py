"""The quickstart's tower fine-tuned for retrieval on English captions alone, measured in seven languages.

Command   wenlan train --config=configs/finetune/retrieval_quickstart.py --workdir=runs/rank_quickstart
          --config.init_from=runs/mlmm_quickstart --config.tokenizer.path=runs/mlmm_quickstart
Hardware  2 CPU cores
Time      not yet run in full
Metric    not yet run in full
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax import config_single


def get_config() -> config_dict.ConfigDict:
    """A short run with a hinge against the hardest of four candidates."""
    c = configs.default()
    config_single.make_single(c)
    config_single.make_scenes(c)
    config_single.make_fine_tuning(c, "rank")
    c.data.languages = ("en",)
    c.rank.candidates, c.rank.hard = 4, 1
    c.optimizer.learning_rate, c.optimizer.warmup_steps, c.optimizer.clip_norm = 2e-4, 20, 2.0
    c.train.steps, c.train.batch_size = 300, 32
    c.train.log_every = 50
    c.checkpoint.every = 300
    c.eval.rank_images = 100
    return c
