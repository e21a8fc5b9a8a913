"""Fine-tuning of UNITER, UC2 or MLMM for retrieval: a hinge on the scores of true and false pairs.

Command   wenlan train --config=configs/finetune/retrieval.py --workdir=runs/retrieval_all
          --config.data.source=packed/flickr30k --config.init_from=runs/mlmm --config.tokenizer.path=runs/mlmm
Hardware  8 V100 in the published recipes [U] [UC2]
Time      not yet run
Metric    not yet run

The papers' three settings are the languages of the training texts; each is the command above with its own --workdir:
  all    nothing more: one model for all languages of the data; UC2 trains it for 50,000 steps, `train.steps`
  en     `--config.data.languages="('en',)" --workdir=runs/retrieval_en`; UC2 trains it for 30,000 steps
  each   a model a language: `--config.data.languages="('de',)" --workdir=runs/retrieval_de`, and so on
Evaluation is in all languages whatever was trained on (`eval.languages`), and its last table is the papers' row. Where
some languages have fewer captions, as French and Czech in Multi30K (1 for 5), `--config.pretrain.language_alpha=0.0`
trains on all alike; no caption is repeated. MSCOCO in English and Japanese: `--config.eval.folds=5`. Test images of
COCO-CN can be among the training images of Karpathy's split: before "all" is trained, `wenlan clean` leaves out those
of the sets named in its `leakage.sets`. Without fine-tuning: `wenlan eval --workdir=runs/mlmm
--config.eval.zero_shot=true`.

UNITER's hard negatives: `--config.rank.candidates=399 --config.rank.hard=31 --config.train.batch_size=128
--config.train.steps=5000 --config.optimizer.warmup_steps=500`. Batch 320 is UNITER's 40 on 8 GPUs for Flickr30k;
MLMM's values are not stated.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.single_tower import presets


def get_config() -> config_dict.ConfigDict:
    """MLMM's tower with a rank head."""
    c = configs.default()
    presets.make_single(c)
    presets.make_fine_tuning(c, "rank")
    c.single.scan_segments = (12,)
    c.optimizer.warmup_steps, c.optimizer.clip_norm = 2000, 2.0
    c.train.steps, c.train.batch_size = 20_000, 320
    return c
