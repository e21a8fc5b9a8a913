"""The batch of two towers: images, captions, and the number of each image."""

from __future__ import annotations

import numpy as np

from wenlan_jax.tasks import batch, experiment
from wenlan_jax.tasks.batch import BatchSpec, Field


def image_fields(config: experiment.Config, size: int) -> dict[str, Field]:
    """Declares the images of a batch, as `data.loader.ImageReader` writes them.

    Args:
        config: the configuration.
        size: the number of examples.

    Returns:
        `image`, and `image_sides` where images are enlarged on the accelerator.
    """
    side = config.data.image_size
    fields = {"image": Field((size, side, side, 3), np.uint8, "RGB, 0 to 255", batch.below(256))}
    if config.data.enlarge == "accelerator":
        meaning = "height and width, in pixels, of the part of `image` that is enlarged on the accelerator"
        fields["image_sides"] = Field((size, 2), np.int32, meaning, batch.below(side + 1, 1))
    return fields


def batch_spec(config: experiment.Config, size: int | None = None) -> BatchSpec:
    """Declares the fields of a batch of two towers.

    Args:
        config: the configuration; its vocabulary size must be known.
        size: the number of examples; None for those of a training batch.

    Returns:
        The fields by name: image, caption, id of the image, and boxes where the image tower reads them.
    """
    size = config.train.batch_size if size is None else size
    length, regions = config.data.text_length, config.model.image.regions
    fields = {
        **image_fields(config, size),
        "token_ids": Field((size, length), np.int32, "of the caption", batch.ids(config.model.text.bert.vocab_size)),
        "token_mask": Field((size, length), np.bool_, "True at tokens, False at padding", batch.full),
        "id": Field((size,), np.int32, "of the image; equal ids, same image", batch.numbered),
    }
    if regions.kind == "boxes":
        boxes = (size, regions.boxes, 4)
        meaning = "left, top, right, bottom in units of the image's sides"
        fields["boxes"] = Field(boxes, np.float32, meaning, batch.boxes)
        fields["box_mask"] = Field(boxes[:2], np.bool_, "True at regions, False at padding", batch.full)
    return fields
