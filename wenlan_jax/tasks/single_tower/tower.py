"""The single tower of a configuration: built, initialised, applied."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Bool, Float, PRNGKeyArray, PyTree

from wenlan_jax.core import trees
from wenlan_jax.core.state import Params
from wenlan_jax.core.task import Batch
from wenlan_jax.models import augment
from wenlan_jax.models.arrays import Array
from wenlan_jax.models.backbone import Backbone
from wenlan_jax.models.initializers import BERT_DEVIATION
from wenlan_jax.models.placement import placing
from wenlan_jax.models.regions import RegionPooling
from wenlan_jax.models.single_tower import Hidden, SingleTower
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.batch import zeros
from wenlan_jax.tasks.single_tower import schema
from wenlan_jax.tasks.single_tower.batch import objective_spec, trained
from wenlan_jax.tasks.single_tower.spec import TOWER
from wenlan_jax.tasks.two_tower.towers import image_backbone


def single_tower(config: experiment.Config) -> SingleTower:
    """Builds the tower of a configuration, with the heads that its task trains.

    Args:
        config: the configuration; its vocabulary size must be known.

    Returns:
        The module.
    """
    single, objectives_trained = config.single, trained(config)
    return SingleTower(
        vocab_size=single.vocab_size,
        width=single.width,
        depth=single.layers,
        heads=single.heads,
        mlp_width=single.feed_forward,
        max_positions=single.positions,
        position_offset=single.position_offset,
        feature_width=single.regions.width,
        classes=single.regions.classes,
        answers=config.vqa.answers if "vqa" in objectives_trained else 0,
        rank="rank" in objectives_trained,
        text_eps=single.text_eps,
        eps=single.eps,
        dropout=single.dropout,
        dtype=jnp.dtype(config.model.dtype),
        scan_segments=single.scan_segments,
        remat=single.remat,
    )


class Tower:
    """The tower as a function of a state's parameters and a batch.

    Args:
        config: the configuration.
        mesh: the devices it runs on; None for one default device.

    Attributes:
        module: the tower.
        backbone: the image backbone whose map regions are pooled on; None where features come with the data.
        places: how arrays lie on the mesh; None without one.

    Raises:
        ConfigError: for regions of another width than the map's.
    """

    def __init__(self, config: experiment.Config, mesh: Mesh | None = None) -> None:
        self.config = config
        self.places = None if mesh is None else meshes.places(mesh)
        self.module = single_tower(config)
        self.backbone: Backbone | None = None
        if config.single.regions.features == "map":
            self.backbone = image_backbone(config.model, None if mesh is None else meshes.platform(mesh))
            if config.single.regions.width != self.backbone.channels:
                raise experiment.ConfigError(
                    f"single.regions.width: {config.single.regions.width}, and the map of model.image.architecture="
                    f"{config.model.image.architecture!r} has {self.backbone.channels} channels; set it to that"
                )
            self.pooling = RegionPooling(
                grid=(),
                whole_image=False,
                coordinates=config.model.image.regions.coordinates,
                samples=config.model.image.regions.samples,
                project=False,
                dtype=jnp.dtype(config.model.dtype),
            )

    def init(self, rng: PRNGKeyArray) -> tuple[Params, PyTree]:
        """Initialises parameters and batch statistics.

        Args:
            rng: a key of jax.random.

        Returns:
            The parameters, and the running statistics of an image backbone, if there is one.
        """
        batch = zeros(objective_spec(self.config, "itm", 1, self.config.pretrain.text_buckets[0], 1))
        single_rng, image_rng = jax.random.split(rng)
        features = jnp.zeros((1, 1, self.config.single.regions.width))
        inputs = (batch["token_ids"], batch["token_mask"], features, batch["region_boxes"], batch["region_mask"])
        drawn = self.module.init(single_rng, *inputs, train=False, method="everything")["params"]
        params = {TOWER: _scaled(drawn, self.config.single)}
        if self.backbone is None:
            return params, {}
        variables = self.backbone.init(image_rng, self.normalised(batch), False)
        stats = {"image": {"backbone": variables.get("batch_stats", {})}}
        return {**params, "image": {"backbone": variables["params"]}}, stats

    def normalised(self, batch: Batch) -> Float[Array, "rows height width 3"]:
        """Normalises the images of a batch, as the backbone takes them."""
        images = augment.unit_range(augment.whole(batch))
        return augment.normalise(images, self.config.augment.mean, self.config.augment.std)

    def features(self, params: Params, batch_stats: PyTree, batch: Batch) -> Float[Array, "rows regions width"]:
        """Computes the features of a batch's regions, without gradient.

        Args:
            params: parameters by tower.
            batch_stats: running statistics by tower.
            batch: the batch.

        Returns:
            Those of the data, or those pooled on the backbone's map.
        """
        if self.backbone is None:
            return batch["region_features"]
        variables = {"params": params["image"]["backbone"], "batch_stats": batch_stats["image"]["backbone"]}
        with placing(self.places):
            map_ = self.backbone.apply(variables, self.normalised(batch), False)
            pooled, _ = self.pooling.apply({}, map_, batch["region_boxes"], batch["region_mask"])
        return jax.lax.stop_gradient(pooled)

    def encode(
        self,
        params: Params,
        batch: Batch,
        features: Float[Array, "rows regions width"],
        rng: PRNGKeyArray | None,
        region_masked: Bool[Array, "rows regions"] | None = None,
    ) -> Hidden:
        """Computes the hidden states of the rows of a batch.

        Args:
            params: parameters by tower.
            batch: the batch.
            features: of its regions.
            rng: the key of dropout; None for inference.
            region_masked: regions whose features stay hidden; None for none.

        Returns:
            The hidden states of words and regions, and the pooled ones.
        """
        inputs = (batch["token_ids"], batch["token_mask"], features, batch["region_boxes"], batch["region_mask"])
        return self.call(params, "encode", *inputs, region_masked, train=rng is not None, rng=rng)

    def call(self, params: Params, method: str, *inputs: Any, rng: PRNGKeyArray | None = None, **options: Any) -> Any:
        """Calls a method of the module, such as a head.

        Args:
            params: parameters by tower.
            method: the name of the method.
            *inputs: its arguments.
            rng: the key of dropout; None for none.
            **options: its keyword arguments.

        Returns:
            What the method returns.
        """
        rngs = {} if rng is None else {"dropout": rng}
        with placing(self.places):
            return self.module.apply({"params": params[TOWER]}, *inputs, method=method, rngs=rngs, **options)


def _scaled(params: Params, single: schema.SingleTowerConfig) -> Params:
    """Fresh parameters, drawn with BERT's deviation, with those of the configuration."""
    deviations = {
        "kernel": single.initial_deviation,
        "embedding": single.initial_deviation,
        "mask_vector": single.regions.mask_deviation,
    }

    def scale(name: str, leaf: Array) -> Array:
        deviation = deviations.get(name.rsplit("/", 1)[-1], BERT_DEVIATION)
        return leaf * (deviation / BERT_DEVIATION) if deviation != BERT_DEVIATION else leaf

    return trees.map_named(scale, params)
