"""Sizes of two towers that configurations have in common."""

from __future__ import annotations

from ml_collections import config_dict


def make_large(c: config_dict.ConfigDict) -> None:
    """Turns the towers of `c` into EfficientNet-B7 and RoBERTa large with embeddings of 2,560 numbers [C].

    Args:
        c: a configuration; changed in place.
    """
    c.model.embedding = 2560
    c.model.image.backbone.width_multiplier = 2.0
    c.model.image.backbone.depth_multiplier = 3.1
    bert = c.model.text.bert
    bert.width, bert.layers, bert.heads, bert.feed_forward = 1024, 24, 16, 4096
    make_loops(c, frozen_layers=20)


def make_small(c: config_dict.ConfigDict, stage_width: int) -> None:
    """Turns the towers of `c` into some of about a million parameters, in float32, all trained, for minutes on a CPU.

    The image backbone has three stages of one block and a total stride of 16.

    Args:
        c: a configuration; changed in place.
        stage_width: channels of the first stage; they double with each stage.
    """
    c.tokenizer.algorithm, c.tokenizer.split_han = "bpe", True
    c.model.dtype, c.model.embedding, c.model.freeze = "float32", 128, ()
    image, text = c.model.image, c.model.text
    # (kernel, stride, expansion, width, repeats)
    image.backbone.stages = (
        (3, 2, 1, stage_width, 1),
        (5, 2, 2, 2 * stage_width, 1),
        (5, 2, 2, 4 * stage_width, 1),
    )
    image.backbone.head = 256
    image.backbone.width_multiplier = image.backbone.depth_multiplier = 1.0
    image.regions.project = False
    bert = text.bert
    bert.vocab_size, bert.width, bert.layers, bert.heads, bert.feed_forward, bert.dropout = 0, 128, 1, 4, 256, 0.0
    for encoder in (image.encoder, text.encoder):
        encoder.layers, encoder.feed_forward, encoder.dropout = 1, 256, 0.0


def make_loops(c: config_dict.ConfigDict, frozen_layers: int) -> None:
    """Has equal layers and blocks compiled once and looped over; they are then stored together, as fewer leaves.

    Args:
        c: a configuration; changed in place.
        frozen_layers: the first layers of the text backbone, which are not trained and stay apart from the others.
    """
    c.model.image.backbone.scan = c.model.image.encoder.scan = c.model.text.encoder.scan = True
    bert = c.model.text.bert
    bert.scan_segments = tuple(length for length in (frozen_layers, bert.layers - frozen_layers) if length)
    c.model.freeze = (c.model.freeze[0], rf"text/backbone/(embeddings|layers_0_{frozen_layers - 1})/")


def make_vit_large(c: config_dict.ConfigDict, frozen_layers: int) -> None:
    """Turns the image backbone of `c` into DINOv2's ViT-L/14, as timm has it (Oquab et al. 2023).

    Args:
        c: a configuration; changed in place. Its patterns for another image backbone are left out.
        frozen_layers: the first layers, which are not trained and neither are the embeddings; 0 to train all of it.
    """
    c.model.image.architecture = "vit"
    vit = c.model.image.vit
    vit.patch, vit.positions, vit.layer_scale = 14, 37, 1e-5
    vit.width, vit.layers, vit.heads, vit.feed_forward = 1024, 24, 16, 4096
    vit.scan_segments = tuple(length for length in (frozen_layers, vit.layers - frozen_layers) if length)
    parts = rf"image/backbone/(patch_embedding|positions|class_token|layers_0_{frozen_layers - 1}/)"
    others = tuple(pattern for pattern in c.model.freeze if not pattern.startswith("image/backbone/"))
    c.model.freeze = ((parts,) if frozen_layers else ()) + others
