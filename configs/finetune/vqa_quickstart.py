"""The quickstart's tower fine-tuned for questions about drawn scenes in seven languages.

Command   wenlan train --config=configs/finetune/vqa_quickstart.py --workdir=runs/vqa
          --config.init_from=runs/mlmm --config.tokenizer.path=runs/mlmm
Hardware  2 CPU cores
Time      5 minutes beside other work (measured once, jax 0.10.2)
Metric    accuracy on 21,000 held-out questions in seven languages 43.7%; 38.1% by language alone, with
          --config.vqa.blind=true added; the commonest answer to questions that begin alike 34.0%, the commonest
          answer 17.2% (single runs)
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.single_tower import presets


def get_config() -> config_dict.ConfigDict:
    """A short run over all answers of the training questions."""
    c = configs.default()
    presets.make_single(c)
    presets.make_scenes(c)
    presets.make_fine_tuning(c, "vqa")
    c.single.initial_deviation = 0.02  # of the head of answers, which alone starts fresh
    c.data.text_length, c.pretrain.text_buckets = 32, (32,)
    c.vqa.answers, c.vqa.smallest_count = 512, 1
    c.optimizer.learning_rate, c.optimizer.warmup_steps, c.optimizer.clip_norm = 1e-3, 50, 2.0
    c.train.steps, c.train.batch_size = 1000, 128
    c.train.log_every = 50
    c.checkpoint.every = 500
    return c
