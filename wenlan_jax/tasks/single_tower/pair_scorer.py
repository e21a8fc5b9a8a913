"""Scores of pairs by the single tower, which sees a text and an image together: retrieval pair by pair, re-ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float32, Int, PyTree

from wenlan_jax.data.loader import HostBatch
from wenlan_jax.data.sources import Source
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.models.single_tower import MATCH
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.single_tower import data
from wenlan_jax.tasks.single_tower.batch import trained
from wenlan_jax.tasks.single_tower.tower import Tower


class PairScorer:
    """Scores pairs of the texts and images it is given.

    The score is that of the rank head if there is one, else the logit of "these belong together": UNITER's ranking
    without fine-tuning.

    Args:
        run: the run.
        tokenizer: its tokenizer.
        batch_size: pairs that are scored at once, rounded up to a multiple of the devices. It is compiled once.
    """

    def __init__(self, run: Run, tokenizer: Tokenizer, batch_size: int) -> None:
        self.run = run
        self.batch_size = -(-batch_size // run.mesh.size) * run.mesh.size
        self._share = list(meshes.share(run.mesh, self.batch_size))
        self._recipe = data.recipe(run.config, tokenizer)
        self._shape = data.largest(run.config)
        self._tower = Tower(run.config, run.mesh)
        self._jitted = jax.jit(self._score, out_shardings=meshes.batch_sharding(run.mesh))

    def texts(self, texts: Sequence[str]) -> HostBatch:
        """Encodes texts.

        Args:
            texts: any number of texts.

        Returns:
            The fields of texts, one a row.
        """
        return self._recipe.encode(texts, self._shape.tokens)

    def images(self, source: Source, rows: Sequence[int]) -> HostBatch:
        """Reads images and their regions.

        Args:
            source: the records.
            rows: which of them.

        Returns:
            The fields of images, one a row.

        Raises:
            BadRecord: if a record lacks what is needed, or its image is damaged.
        """
        found = self._recipe.regions.empty(len(rows), self._shape.regions, with_classes=False)
        for place, row in enumerate(rows):
            self._recipe.regions.write(source, row, source[row], found, place)
        return found

    def scores(
        self,
        params: PyTree,
        batch_stats: PyTree,
        texts: HostBatch,
        images: HostBatch,
        text_of_pair: Int[np.ndarray, " pairs"],
        image_of_pair: Int[np.ndarray, " pairs"],
    ) -> Float32[np.ndarray, " pairs"]:
        """Scores pairs. All processes call it alike, and each gets all scores.

        Args:
            params: the parameters of the tower.
            batch_stats: the running statistics of an image backbone, if there is one.
            texts: fields of texts.
            images: fields of images.
            text_of_pair: the row of each pair's text.
            image_of_pair: the row of each pair's image.

        Returns:
            One score a pair; higher fits better.
        """
        found = np.empty(len(text_of_pair), np.float32)
        for start in range(0, len(found), self.batch_size):
            chosen = np.arange(start, min(start + self.batch_size, len(found)))
            filled = np.resize(chosen, self.batch_size)[self._share]
            batch = {name: values[text_of_pair[filled]] for name, values in texts.items()}
            batch |= {name: values[image_of_pair[filled]] for name, values in images.items()}
            on_devices = meshes.to_devices(self.run.mesh, batch)
            found[chosen] = meshes.to_host(self._jitted(params, batch_stats, on_devices))[: len(chosen)]
        return found

    def matrix(
        self, params: PyTree, batch_stats: PyTree, texts: HostBatch, images: HostBatch
    ) -> Float32[np.ndarray, "texts images"]:
        """Scores all pairs of some texts and images.

        Args:
            params: the parameters of the tower.
            batch_stats: the running statistics of an image backbone, if there is one.
            texts: fields of texts.
            images: fields of images.

        Returns:
            The scores, texts along the first axis.
        """
        shape = (len(_any(texts)), len(_any(images)))
        text_of_pair, image_of_pair = (places.reshape(-1) for places in np.indices(shape))
        scores = self.scores(params, batch_stats, texts, images, text_of_pair, image_of_pair)
        return scores.reshape(shape)

    def _score(self, params: PyTree, batch_stats: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
        hidden = self._tower.encode(params, batch, self._tower.features(params, batch_stats, batch), None)
        if "rank" in trained(self.run.config):
            score: jax.Array = self._tower.call(params, "rank_score", hidden.pooled)
            return score
        logits: jax.Array = self._tower.call(params, "itm_logits", hidden.pooled)
        return logits[:, MATCH]


def _any(fields: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(fields.values()))
