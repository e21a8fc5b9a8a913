"""A BriVL of ten billion parameters, the next target named in the announcement [S]; the design is ours [W].

Command   wenlan train --config=configs/brivl_10b.py --workdir=DIR --config.data.source=DIR_OF_PACKED_PAIRS
          --config.init_from=imported/b7 --config.tokenizer.path=vocab.txt --config.mesh.fsdp=64   (B7 alone, imported
          with this configuration, see configs/WEIGHTS.md)
Hardware  planned on 64 TPU v5p (launch/README.md), run on nothing yet; the state alone (parameters, momentum, Adam,
          banks) is 82 GB and must be split over `fsdp`
Time      not yet run
Metric    not yet run

The announcement counts query towers and key encoders ("one billion" for B7 + large, 1.202B [M]), and so do we: two
towers of about 2.5 billion each, twice. Reasons for the sizes:
- The text tower takes half of the parameters: matrix products of width 3,072 run near an accelerator's peak, while
  widening EfficientNet further mostly widens depthwise convolutions, which are bound by memory.
- The image tower keeps B7 for the map and grows in the block over region tokens, 37 an image, where width is cheap.
- Both blocks are compiled once and looped over (`scan`, `scan_segments`), so compile time does not grow with depth;
  layers are recomputed in the backward pass (`remat`).
- All layers but B7's early ones are trained: no public checkpoint of these sizes exists to freeze.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.two_tower import presets


def get_config() -> config_dict.ConfigDict:
    """Wide blocks on the large backbones, scanned and recomputed."""
    c = configs.default()
    presets.make_large(c)
    c.data.image_size = 600
    c.data.text_length = 50
    c.model.freeze = (r"image/backbone/(conv_stem|bn1|blocks_[012]_[\d_]+)/",)
    image, text = c.model.image, c.model.text
    image.backbone.remat = True
    image.encoder.layers = 30
    image.encoder.heads = 20
    image.encoder.feed_forward = 4 * 2560
    text.bert.width = 3072
    text.bert.layers = 18
    text.bert.heads = 24
    text.bert.feed_forward = 4 * 3072
    text.bert.scan_segments = (18,)
    text.encoder.heads = 24
    text.encoder.layers = 4
    text.encoder.feed_forward = 4 * 3072
    for encoder in (image.encoder, text.encoder):
        encoder.scan = True
        encoder.remat = True
    text.bert.remat = True
    c.contrast.bank_size = 65536
    c.optimizer.warmup_steps = 2000
    c.optimizer.schedule = "cosine"
    c.optimizer.clip_norm = 1.0
    c.train.batch_size = 8192
    c.train.accumulation = 2
    return c
