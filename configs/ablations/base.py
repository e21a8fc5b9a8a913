"""What the rows of every ablation share: a small BriVL on drawn scenes with English captions, in a short run.

Command   wenlan train --config=configs/ablations/base.py --workdir=runs/ablations/base
Hardware  2 CPU cores, 3 GiB of memory (measured: 1.7 GiB)
Time      180 s of processor time, 134 s with compiled programs kept in $JAX_COMPILATION_CACHE_DIR, one run each beside
          other work, where they took 3.0 and 5.2 minutes
Metric    text to image, 1,000 held-out: recall@1 31.5%, @5 72.6%, @10 87.6% (chance .1, .5, 1.0), seed 0, both runs

The quickstart in one language and for a third of its pairs: 240 steps of 64, which is 2.5 times the training set.
Recall is then far above chance and far from its end, so that rows can differ both ways. What is held back:

- `test` is read once, at the end, and is what tables report. `validation` gives the curves, and what was chosen here
  was chosen on it.
- Statistics of batch normalisation are over 16 images whatever the batch, as the papers' 16 a GPU [X], so that
  a row of another batch size differs in nothing else.
- The banks are filled from the start and count from step 80 on, for the reason that `configs/quickstart.py` gives.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.two_tower import presets


def get_config() -> config_dict.ConfigDict:
    """The quickstart in one language, for fewer steps."""
    c = configs.default()
    c.data.source = "wenlan_scenes/close64"
    c.data.image_size = 64
    c.data.kinds = ("descriptive",)
    c.data.languages = ("en",)
    c.data.text_length = 40
    c.tokenizer.train_size = 600

    presets.make_small(c, stage_width=24)
    c.model.image.batch_norm.group_size = 16
    c.model.image.regions.grid = (4,)  # the whole map
    c.model.text.bert.positions = 64

    c.contrast.bank_size = 1024
    c.contrast.bank_from_step = 80
    c.contrast.in_batch_negatives = True
    c.optimizer.learning_rate = 2e-3
    c.optimizer.b2 = 0.98
    c.optimizer.clip_norm = 1.0
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 20
    c.train.steps = 240
    c.train.batch_size = 64
    c.eval.splits = ("validation",)
    c.eval.final_splits = ("test",)
    c.eval.every = 40
    c.eval.kinds = ("descriptive",)
    c.eval.languages = ("en",)
    c.eval.one_text_per_image = True
    c.checkpoint.every = 240
    c.checkpoint.keep = 1
    c.augment.jitter_probability = 0.0  # the captions speak of colours
    c.augment.grayscale_probability = 0.0
    return c
