"""The two towers of the configuration, as BriVL and CLIP both use them: built, initialised, applied."""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Float, Int, PRNGKeyArray, PyTree

from wenlan_jax.core.task import Batch
from wenlan_jax.models import augment
from wenlan_jax.models.arrays import Array
from wenlan_jax.models.backbone import Backbone
from wenlan_jax.models.bert import BertEncoder
from wenlan_jax.models.placement import placing
from wenlan_jax.models.regions import RegionPooling
from wenlan_jax.models.transformer import TransformerEncoder
from wenlan_jax.models.two_tower import ImageTower, Projection, TextTower, TowerOutput
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.batch import zeros
from wenlan_jax.tasks.two_tower import backbones
from wenlan_jax.tasks.two_tower import schema as two_towers
from wenlan_jax.tasks.two_tower.batch import batch_spec

Variables = dict[str, PyTree]
"""`params` and `batch_stats`, each by tower."""


def image_backbone(config: two_towers.ModelConfig, platform: str | None = None) -> Backbone:
    """Builds the image backbone of a configuration.

    Args:
        config: the section `model`.
        platform: what it runs on, in jax's name; it chooses between computations with equal results. None for the
            default backend.

    Returns:
        The module.
    """
    dtype = jnp.dtype(config.dtype)
    return backbones.of(config).create(config, dtype, platform or jax.default_backend())


def image_tower(config: two_towers.ModelConfig, platform: str | None = None) -> ImageTower:
    """Builds the image tower of a configuration.

    Args:
        config: the section `model`.
        platform: see `image_backbone`.

    Returns:
        The module.
    """
    image, dtype = config.image, jnp.dtype(config.dtype)
    regions = RegionPooling(
        grid=image.regions.grid if image.regions.kind == "grid" else (),
        whole_image=image.regions.whole_image,
        coordinates=image.regions.coordinates,
        samples=image.regions.samples,
        project=image.regions.project,
        dtype=dtype,
    )
    return ImageTower(
        image_backbone(config, platform), regions, _encoder(image.encoder, dtype), Projection(config.embedding, dtype)
    )


def text_tower(config: two_towers.ModelConfig) -> TextTower:
    """Builds the text tower of a configuration.

    Args:
        config: the section `model`; its vocabulary size must be known.

    Returns:
        The module.
    """
    bert, dtype = config.text.bert, jnp.dtype(config.dtype)
    backbone = BertEncoder(
        vocab_size=bert.vocab_size,
        width=bert.width,
        depth=bert.layers,
        heads=bert.heads,
        mlp_width=bert.feed_forward,
        max_positions=bert.positions,
        type_vocab_size=bert.types,
        position_offset=0,
        eps=bert.eps,
        dropout=bert.dropout,
        attention_dropout=bert.dropout,
        dtype=dtype,
        scan_segments=bert.scan_segments,
        remat=bert.remat,
    )
    encoder = _encoder(config.text.encoder, dtype)
    return TextTower(backbone, encoder, Projection(config.embedding, dtype), mask_backbone=bert.attention_mask)


def _encoder(config: two_towers.EncoderConfig, dtype: DTypeLike) -> TransformerEncoder:
    return TransformerEncoder(
        depth=config.layers,
        heads=config.heads,
        mlp_width=config.feed_forward,
        dropout=config.dropout,
        dtype=dtype,
        scan_segments=(config.layers,) if config.scan and config.layers else (),
        remat=config.remat,
    )


class Towers:
    """Both towers as pure functions of their variables.

    Args:
        config: the configuration.
        mesh: the devices they run on; None for one default device.

    Attributes:
        image: the image tower.
        text: the text tower.
        places: how arrays lie on the mesh; None without one.
    """

    def __init__(self, config: experiment.Config, mesh: Mesh | None = None) -> None:
        self.config = config
        self.places = None if mesh is None else meshes.places(mesh)
        self.image = image_tower(config.model, None if mesh is None else meshes.platform(mesh))
        self.text = text_tower(config.model)

    def init(self, rng: PRNGKeyArray) -> Variables:
        """Initialises the variables of both towers.

        Args:
            rng: a key of jax.random.

        Returns:
            `params` and `batch_stats`, each by tower.
        """
        batch = zeros(batch_spec(self.config, size=1))
        batch["image"] = jnp.zeros(batch["image"].shape)  # as it is once prepared
        image_rng, text_rng = jax.random.split(rng)
        image = self.image.init(image_rng, batch["image"], batch.get("boxes"), batch.get("box_mask"), train=False)
        text = self.text.init(text_rng, batch["token_ids"], batch["token_mask"], train=False)
        return {
            "params": {"image": image["params"], "text": text["params"]},
            "batch_stats": {"image": image.get("batch_stats", {})},
        }

    def prepare(self, batch: Batch, rng: PRNGKeyArray | None, positions: Int[Array, " n"] | None = None) -> Batch:
        """Makes images normalised floats, jittered if a key is given.

        Args:
            batch: a batch as the loader gives it.
            rng: the key of the jitter; None for no jitter.
            positions: of the examples in the whole batch, which the jitter depends on; None if they are all of it.

        Returns:
            The batch with prepared images.
        """
        a = self.config.augment
        images = augment.unit_range(augment.whole(batch))
        if rng is not None:
            strengths = (a.brightness, a.contrast, a.saturation, a.hue)
            probabilities = (a.jitter_probability, a.grayscale_probability)
            images = augment.jitter_and_grayscale(images, rng, strengths, *probabilities, positions)
        return {**batch, "image": augment.normalise(images, a.mean, a.std)}

    def embed_images(
        self, params: PyTree, batch_stats: PyTree, batch: Batch, rng: PRNGKeyArray | None
    ) -> tuple[TowerOutput, PyTree]:
        """Embeds the images of a batch.

        Args:
            params: parameters by tower.
            batch_stats: running statistics by tower.
            batch: a prepared batch.
            rng: the key of dropout, which also turns on training mode; None for inference.

        Returns:
            What the image tower gives, and the running statistics after the batch.
        """
        variables = {"params": params["image"], "batch_stats": batch_stats["image"]}
        inputs = (batch["image"], batch.get("boxes"), batch.get("box_mask"))
        with placing(self.places):
            if rng is None:
                return cast(TowerOutput, self.image.apply(variables, *inputs, train=False)), batch_stats
            output, changed = self.image.apply(
                variables, *inputs, train=True, rngs={"dropout": rng}, mutable=["batch_stats"]
            )
        return output, {"image": changed.get("batch_stats", {})}

    def embed_texts(self, params: PyTree, batch: Batch, rng: PRNGKeyArray | None) -> TowerOutput:
        """Embeds the captions of a batch.

        Args:
            params: parameters by tower.
            batch: the batch.
            rng: the key of dropout; None for inference.

        Returns:
            What the text tower gives.
        """
        rngs = {} if rng is None else {"dropout": rng}
        inputs = (batch["token_ids"], batch["token_mask"])
        variables = {"params": params["text"]}
        with placing(self.places):
            return cast(TowerOutput, self.text.apply(variables, *inputs, train=rng is not None, rngs=rngs))

    def image_embeddings(self, params: PyTree, batch_stats: PyTree, batch: Batch) -> Float[Array, "n d"]:
        """Embeds the images of a batch as the loader gives it, in evaluation mode.

        Args:
          params: by tower.
          batch_stats: by tower.
          batch: `image`, uint8, and what the configuration adds to it; see `batch_spec`.

        Returns:
          Unit rows, one an image.
        """
        return self.embed_images(params, batch_stats, self.prepare(batch, None), None)[0].embedding

    def text_embeddings(self, params: PyTree, batch_stats: PyTree, batch: Batch) -> Float[Array, "n d"]:
        """Embeds the texts of a batch in evaluation mode; `batch_stats` are not read, as the text tower has none."""
        del batch_stats
        return self.embed_texts(params, batch, None).embedding

    def embed(
        self, params: PyTree, batch_stats: PyTree, batch: Batch, rng: PRNGKeyArray
    ) -> tuple[dict[str, Float[Array, "n d"]], PyTree]:
        """Embeds both sides of a batch in training mode.

        Args:
            params: parameters by tower.
            batch_stats: running statistics by tower.
            batch: a prepared batch.
            rng: the key of dropout.

        Returns:
            Unit embeddings by tower, float32, and the running statistics after the batch.
        """
        image_rng, text_rng = jax.random.split(rng)
        images, stats = self.embed_images(params, batch_stats, batch, image_rng)
        texts = self.embed_texts(params, batch, text_rng)
        return {"image": images.embedding, "text": texts.embedding}, stats
