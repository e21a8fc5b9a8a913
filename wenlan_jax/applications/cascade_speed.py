"""What a query takes in the cascade, and what ranking takes with each of its models alone; all measured, none inferred.

Every program has run once before it is timed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from wenlan_jax.applications.loaded_model import LoadedModel
from wenlan_jax.data import sources
from wenlan_jax.data.loader import HostBatch
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks.shared_data import data_dir
from wenlan_jax.tasks.single_tower.pair_scorer import PairScorer
from wenlan_jax.tasks.two_tower import embedded_split
from wenlan_jax.tasks.two_tower.embedded_split import Embedded
from wenlan_jax.tasks.two_tower.towers import Towers

QUERIES = 20
"""Texts that are served alone, one after the other, for their latency; the median counts."""

ROUNDS = 3
"""Times that both models rank the same images in turn; the medians count."""


class _TextQuery:
    """The two towers as a service: the embedding of one text at a time."""

    def __init__(self, model: LoadedModel) -> None:
        self._model, self._towers = model, Towers(model.run.config, model.run.mesh)
        self._jitted = jax.jit(self._embed, out_shardings=meshes.batch_sharding(model.run.mesh))

    def _embed(self, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        return self._towers.embed_texts(params, batch, None).embedding

    def __call__(self, text: str) -> Float32[np.ndarray, " dim"]:
        model = self._model
        ids, mask = model.tokenizer.encode([text], model.run.config.data.text_length)
        rows = np.zeros(len(meshes.share(model.run.mesh, model.run.mesh.size)), np.int64)  # one for each device
        batch = meshes.to_devices(model.run.mesh, {"token_ids": ids[rows], "token_mask": mask[rows]})
        return meshes.to_host(self._jitted(model.params, batch))[0]


def latency(
    two: LoadedModel, single: LoadedModel, embedded: Embedded, images: HostBatch, depths: Sequence[int]
) -> dict[str, float]:
    """Times a text query that is served alone.

    From the text to its ranking of all images of the split: embedding, product with those of the images, order,
    then the scores of k pairs in one batch. Embeddings and `images` are in memory.

    Args:
        two: the two towers.
        single: the single tower.
        embedded: the split, embedded by the two towers.
        images: the single tower's fields of all images.
        depths: how many candidates are re-ranked.

    Returns:
        `latency/top_<k>/seconds`, the median over queries, with depth 0 for two towers.
    """
    numbers = np.unique(np.linspace(0, len(embedded.texts) - 1, QUERIES).astype(int))
    texts = [embedded.texts[number].text.text for number in numbers]
    embed = _TextQuery(two)

    def first(text: str) -> np.ndarray:
        return np.argsort(-(embedded.image_embeddings @ embed(text)), kind="stable")

    found = {"latency/top_0/seconds": _median(first, texts)}
    for depth in depths:
        scorer = PairScorer(single.run, single.tokenizer, min(depth, len(embedded.image_embeddings)))

        def both(text: str, depth: int = depth, scorer: PairScorer = scorer) -> np.ndarray:
            rows = first(text)[:depth]
            fields, zeros = scorer.texts([text]), np.zeros(len(rows), np.int64)
            scores = scorer.scores(single.params, single.batch_stats, fields, images, zeros, rows)
            return rows[np.argsort(-scores, kind="stable")]

        found[f"latency/top_{depth}/seconds"] = _median(both, texts)
    return found


def _median(serve: Callable[[str], Any], texts: Sequence[str]) -> float:
    serve(texts[0])
    return float(np.median([_seconds(serve, text) for text in texts]))


def _seconds(work: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def gap(two: LoadedModel, single: LoadedModel, split: str, images: int) -> dict[str, float]:
    """Times both models at the same task: to rank the first images of a split for each of their texts.

    Args:
        two: the two towers.
        single: the single tower.
        split: the name of the split.
        images: how many images.

    Returns:
        `speed/<name>`: `two_towers_seconds` for reading, embedding each image and text once, the product, the order;
        `single_tower_seconds` for reading, scoring every pair, the order; `times`, one by the other, which grows with
        the number of images; and how many items and pairs there are and were done a second.
    """
    config = two.run.config
    part = f"{split}[:{images}]"
    size = dataclasses.replace(config.eval, batch_size=min(config.eval.batch_size, images))
    evaluator = embedded_split.Evaluator(
        dataclasses.replace(two.run, config=dataclasses.replace(config, eval=size)), two.tokenizer
    )
    source = sources.open_source(config.data.source, part, data_dir(config))
    texts = [text.text.text for text in embedded_split.wanted_texts(config, source)]
    scorer = PairScorer(single.run, single.tokenizer, single.run.config.eval.batch_size)

    def by_two() -> np.ndarray:
        embedded = evaluator.embed(two.params, two.batch_stats, part)
        return np.argsort(-(embedded.text_embeddings @ embedded.image_embeddings.T), axis=1)

    def by_one() -> np.ndarray:
        fields = scorer.images(source, range(images))
        return np.argsort(-scorer.matrix(single.params, single.batch_stats, scorer.texts(texts), fields), axis=1)

    by_two()
    by_one()
    seconds = np.median([(_seconds(by_two), _seconds(by_one)) for _ in range(ROUNDS)], axis=0)
    items, pairs = images + len(texts), images * len(texts)
    return {
        "speed/images": float(images),
        "speed/texts": float(len(texts)),
        "speed/pairs": float(pairs),
        "speed/two_towers_seconds": float(seconds[0]),
        "speed/single_tower_seconds": float(seconds[1]),
        "speed/items_per_second": items / float(seconds[0]),
        "speed/pairs_per_second": pairs / float(seconds[1]),
        "speed/times": float(seconds[1] / seconds[0]),
    }


def table(figures: dict[str, float], depths: Sequence[int]) -> str:
    """Writes both in a few lines.

    Args:
        figures: those of `latency` and, where it was asked for, of `gap`.
        depths: how many candidates were re-ranked.

    Returns:
        The lines.
    """
    alone = ", ".join(f"best {depth} {1e3 * figures[f'latency/top_{depth}/seconds']:.1f} ms" for depth in depths)
    lines = [f"a text query served alone: none {1e3 * figures['latency/top_0/seconds']:.1f} ms, {alone}"]
    if "speed/times" in figures:
        lines.append(
            f"{figures['speed/images']:.0f} images ranked for each of {figures['speed/texts']:.0f} texts: "
            f"two towers {figures['speed/two_towers_seconds']:.3f} s ({figures['speed/items_per_second']:.0f} "
            f"images and texts/s), single tower {figures['speed/single_tower_seconds']:.3f} s "
            f"({figures['speed/pairs_per_second']:.0f} pairs/s): {figures['speed/times']:.1f} times as long"
        )
    return "\n".join(lines)
