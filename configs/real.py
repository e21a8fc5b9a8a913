"""BriVL's heads over real encoders that pip brings: emoji with names in seven languages, on a CPU.

Command   bash launch/real_encoders.sh
          wenlan train --config=configs/real.py --workdir=runs/real
          wenlan eval --workdir=runs/real --out=runs/real/emojione --config.data.source=wenlan_emoji/emojione
          wenlan eval --workdir=runs/real --out=runs/real/stamps --config.data.source=wenlan_stamps
Data      Debian packages, as configs/emoji.py
Hardware  2 CPU cores
Time      not yet run
Metric    not yet run

EfficientNet-Lite0 has seen ImageNet's labels, multilingual-e5-small has read texts of all seven languages and no image.
Both are frozen; what is trained are the Transformer block and the projection behind each.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs


def get_config() -> config_dict.ConfigDict:
    """The default with the sizes of the two encoders and small heads."""
    c = configs.default()
    c.task = "clip"
    c.init_from = c.tokenizer.path = "imported/real"
    c.data.source = "wenlan_emoji/noto"
    c.data.image_size = 128
    c.data.kinds = ("descriptive", "weak")
    c.data.kind_choice = "weighted"
    c.data.kind_weights = (0.6, 0.4)
    c.data.text_length = 20

    c.model.dtype, c.model.embedding = "float32", 256
    c.model.freeze = ("image/backbone/", "text/backbone/")
    image, bert = c.model.image, c.model.text.bert
    image.backbone.lite = True
    image.backbone.width_multiplier = image.backbone.depth_multiplier = 1.0
    image.batch_norm.mode = "frozen"
    image.regions.grid = (4,)  # the whole map
    image.regions.project = False
    c.augment.mean, c.augment.std = (0.498039,) * 3, (0.501961,) * 3
    bert.vocab_size, bert.width, bert.layers, bert.heads, bert.feed_forward = 250037, 384, 12, 12, 1536
    bert.dropout = 0.0
    for encoder in (image.encoder, c.model.text.encoder):
        encoder.layers, encoder.feed_forward, encoder.dropout = 1, 512, 0.1

    c.optimizer.learning_rate = 1e-3
    c.optimizer.b2 = 0.98
    c.optimizer.clip_norm = 1.0
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 20
    c.train.steps = 300
    c.train.batch_size = 128
    c.train.log_every = 25
    c.eval.final_splits = ("test",)
    c.eval.kinds = ("descriptive",)
    c.checkpoint.every = 300
    return c
