"""Fine-tuning of UNITER, UC2 or MLMM for VQA 2.0: soft scores of the most frequent answers.

Command   wenlan train --config=configs/finetune/vqa.py --workdir=runs/vqa --config.data.source=packed/vqa
          --config.init_from=runs/mlmm --config.tokenizer.path=runs/mlmm
Hardware  4 V100 in UNITER's recipe [U]
Time      not yet run
Metric    not yet run; test-dev needs the challenge's server, so figures are those of a held-out part

Questions come from `wenlan pack` of VQA v2 or VQA VG Japanese; for the latter, `--config.vqa.answers=3000
--config.vqa.smallest_count=1`. The list of answers is counted at the first start and kept as answers.json in the work
directory. The head of answers, which starts from nothing, learns ten times as fast as the rest [U].
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.single_tower import presets


def get_config() -> config_dict.ConfigDict:
    """MLMM's tower with a head for answers."""
    c = configs.default()
    presets.make_single(c)
    presets.make_fine_tuning(c, "vqa")
    c.single.scan_segments = (12,)
    c.optimizer.learning_rate, c.optimizer.warmup_steps, c.optimizer.clip_norm = 8e-5, 600, 2.0
    c.optimizer.faster, c.optimizer.faster_times = ("single/answer_head/",), 10.0
    c.train.steps, c.train.batch_size = 6000, 1024
    return c
