"""The smallest configuration with each image backbone, as changes to `tiny_dict`."""

from __future__ import annotations

from typing import Any

_VIT: dict[str, Any] = {
    "model__image__architecture": "vit",
    "model__freeze": (r"image/backbone/patch_embedding/",),
    "model__image__vit__patch": 4,
    "model__image__vit__width": 16,
    "model__image__vit__layers": 3,
    "model__image__vit__heads": 2,
    "model__image__vit__feed_forward": 24,
    "model__image__vit__registers": 2,
    "model__image__vit__positions": 6,  # more than the 4 of the images
    "model__image__vit__layer_scale": 0.5,
}

_RESNET: dict[str, Any] = {
    "model__image__architecture": "resnet",
    "model__freeze": (r"image/backbone/stem_",),
    "model__image__resnet__blocks": (3, 1),
    "model__image__resnet__width": 4,
    "model__image__batch_norm__eps": 1e-5,
    "data__image_size": 32,
}

TINY: dict[str, dict[str, Any]] = {
    "efficientnet": {},
    "vit": _VIT,
    "vit, scanned": {**_VIT, "model__image__vit__scan_segments": (1, 2)},
    "vit, plain positions": {**_VIT, "model__image__vit__interpolation": "plain", "model__image__vit__qkv_bias": False},
    "vit, offset positions": {**_VIT, "model__image__vit__interpolation": "offset"},
    "resnet": _RESNET,
    "resnet, scanned": {**_RESNET, "model__image__resnet__scan": True},
}

OTHER_BACKBONES = tuple(name for name in TINY if name != "efficientnet")
