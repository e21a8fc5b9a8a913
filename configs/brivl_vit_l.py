"""BriVL around a Vision Transformer: DINOv2's ViT-L/14 and RoBERTa large, with a fixed grid; the design is ours [W].

Command   wenlan train --config=configs/brivl_vit_l.py --workdir=DIR --config.data.source=DIR_OF_PACKED_PAIRS
          --config.init_from=imported/vit --config.tokenizer.path=imported/vit   (configs/WEIGHTS.md makes them)
Hardware  planned on 64 TPU v5p, run on nothing yet: 4.1 of 95 GiB a device with 32 pairs each
          (wenlan plan --config=configs/brivl_vit_l.py --topology=v5p:4x4x4 --config.mesh.preset=slice)
Time      not yet run; planned: .29 s a step, 26 hours for 650 million pairs, if devices reach .4 of their peak
Metric    not yet run

The backbone's map is that of its patch tokens: images of 392 pixels are 28 x 28 patches, to which the position table of
37 x 37 is interpolated. As in BriVL, the first layers of both backbones stay as they are imported; they are loops of
their own, so that frozen and trained layers are separate leaves.
"""

from ml_collections import config_dict

from wenlan_jax import config as configs
from wenlan_jax.tasks.two_tower import presets


def get_config() -> config_dict.ConfigDict:
    """The large towers with another image backbone, a 6x6 grid and the whole image."""
    c = configs.default()
    presets.make_large(c)
    presets.make_vit_large(c, frozen_layers=18)
    c.data.image_size = 392
    c.data.text_length = 50
    c.model.embedding = 1024
    c.model.image.vit.remat = c.model.text.bert.remat = True
    c.contrast.bank_size = 16384
    c.optimizer.warmup_steps = 1000
    c.optimizer.schedule = "cosine"
    c.train.batch_size = 2048
    return c
