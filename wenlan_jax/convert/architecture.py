"""The dictionary from which the PyTorch modules of an export are built, read off the configured JAX towers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wenlan_jax.convert import backbone_weights
from wenlan_jax.models.transformer import TransformerEncoder
from wenlan_jax.models.two_tower import ImageTower, TextTower
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower.towers import image_tower, text_tower

if TYPE_CHECKING:  # that module imports torch, which is optional
    from wenlan_jax.convert import torch_modules


def architecture_of(config: experiment.Config) -> torch_modules.Architecture:
    """Reads the sizes and switches off a configuration's towers, ready for JSON (see `torch_modules.Architecture`).

    Args:
        config: the configuration.

    Returns:
        The architecture.

    Raises:
        ValueError: if the size of the vocabulary is not known, as in a configuration that no run has filled in.
    """
    if not config.model.text.bert.vocab_size:
        raise ValueError(
            "model.text.bert.vocab_size is 0, as many as the tokenizer has: take the configuration from a checkpoint,"
            " where the number is known, or set it."
        )
    return {
        "embedding": config.model.embedding,
        "image": _image(config, image_tower(config.model)),
        "text": _text(config, text_tower(config.model)),
    }


def image_settings(config: experiment.Config) -> dict[str, Any]:
    """Says how images are prepared, under the names of transformers' preprocessor_config.json."""
    return {
        "size": {"height": config.data.image_size, "width": config.data.image_size},
        "antialias": config.data.antialias,
        "averaging": config.data.averaging,
        "image_mean": list(config.augment.mean),
        "image_std": list(config.augment.std),
    }


def _image(config: experiment.Config, tower: ImageTower) -> torch_modules.ImageArchitecture:
    return {
        "size": config.data.image_size,
        "antialias": config.data.antialias,
        "averaging": config.data.averaging,
        "mean": list(config.augment.mean),
        "std": list(config.augment.std),
        "backbone": backbone_weights.of(config.model.image.architecture).architecture(tower.backbone),
        "features": tower.backbone.channels,
        "regions": {
            "grid": list(tower.regions.grid),
            "boxes": 0 if tower.regions.grid else config.model.image.regions.boxes,
            "whole_image": tower.regions.whole_image,
            "samples": tower.regions.samples,
            "project": tower.regions.project,
            "coordinates": tower.regions.coordinates,
        },
        "encoder": _encoder(tower.encoder),
    }


def _text(config: experiment.Config, tower: TextTower) -> torch_modules.TextArchitecture:
    bert = tower.backbone
    return {
        "length": config.data.text_length,
        "bert": {
            "vocab_size": bert.vocab_size,
            "width": bert.width,
            "layers": bert.depth,
            "heads": bert.heads,
            "feed_forward": bert.mlp_width,
            "positions": bert.max_positions,
            "first_position": bert.position_offset,
            "types": bert.type_vocab_size,
            "norm_eps": bert.eps,
            "dropout": bert.dropout,
            "attention_mask": tower.mask_backbone,
        },
        "encoder": _encoder(tower.encoder),
    }


def _encoder(encoder: TransformerEncoder) -> torch_modules.EncoderArchitecture:
    return {
        "layers": encoder.depth,
        "heads": encoder.heads,
        "feed_forward": encoder.mlp_width,
        "dropout": encoder.dropout,
    }
