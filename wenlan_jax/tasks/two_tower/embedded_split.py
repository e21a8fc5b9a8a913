"""Retrieval of a trained model on the splits of its data: embeddings of everything, then the protocol."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, PyTree

from wenlan_jax.data import loader, sources
from wenlan_jax.data.mixture import WantedTexts
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.evaluation import metric_names, query_ranks, retrieval, true_pairs
from wenlan_jax.parallel import interruptible_calls
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks import experiment, shared_data
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.shared_data import data_dir
from wenlan_jax.tasks.two_tower.towers import Towers


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A split in the common space.

    Attributes:
        source: the records of the split.
        texts: the captions; caption m belongs to the images of the records `texts[m].rows`.
        image_embeddings: unit vectors, one a record.
        text_embeddings: unit vectors, one a caption.
    """

    source: sources.Source
    texts: Sequence[loader.RecordText]
    image_embeddings: Float32[np.ndarray, "images dim"]
    text_embeddings: Float32[np.ndarray, "texts dim"]

    @functools.cached_property
    def links(self) -> true_pairs.Links:
        """Which captions and images belong together."""
        return true_pairs.of_texts(self.texts, len(self.image_embeddings))

    def metrics(self, ks: Sequence[int], prefix: str, folds: int = 1) -> tuple[dict[str, float], query_ranks.Ranks]:
        """Computes recall both ways, over all captions and within each language.

        Args:
            ks: the ranks up to which a hit counts.
            prefix: what the names of the metrics begin with.
            folds: where more than one, recall within each fold is averaged as well, see `retrieval.over_folds`.

        Returns:
            The metrics by name (means over folds under `folds/<name>`), and the rank of every query.
        """
        languages = [text.text.language for text in self.texts]
        image_ranks, text_ranks = retrieval.truth_ranks(self.image_embeddings, self.text_embeddings, self.links)
        found = retrieval.of_ranks(image_ranks, text_ranks, self.links, ks)
        if len(set(languages)) > 1:
            found |= retrieval.by_language(self.image_embeddings, self.text_embeddings, self.links, languages, ks)
        if folds > 1:
            of_fold = functools.partial(self._of_fold, ks)
            means = retrieval.over_folds(of_fold, self.links, len(self.image_embeddings), folds)
            found |= {f"{metric_names.FOLDS}/{name}": value for name, value in means.items()}
        metrics = {f"{prefix}/{name}": value for name, value in found.items()}
        texts = [text.text.text for text in self.texts]
        return metrics, query_ranks.of_queries(image_ranks, text_ranks, self.links, languages, texts)

    def _of_fold(
        self, ks: Sequence[int], images: np.ndarray, texts: np.ndarray, within: true_pairs.Links
    ) -> dict[str, float]:
        """Recall among some of the images and texts alone."""
        seen, captions = self.image_embeddings[images], self.text_embeddings[texts]
        languages = [self.texts[number].text.language for number in texts]
        found = retrieval.retrieval_metrics(seen, captions, within, ks)
        if len(set(languages)) > 1:
            found |= retrieval.by_language(seen, captions, within, languages, ks)
        return found


@dataclasses.dataclass(frozen=True)
class Scored:
    """A split with the rank of each of its queries.

    Attributes:
        split: the name of the split.
        embedded: its embeddings.
        ranks: the rank of each query.
    """

    split: str
    embedded: Embedded
    ranks: query_ranks.Ranks


@dataclasses.dataclass(frozen=True)
class EmbeddingChunks:
    """Embeddings as consecutive parts, made when they are iterated over.

    Attributes:
        rows: the number of embeddings in all parts.
        make: starts an iteration; each part is an array (part, dim).
    """

    rows: int
    make: Callable[[], Iterator[Float32[np.ndarray, "part dim"]]]

    def __iter__(self) -> Iterator[Float32[np.ndarray, "part dim"]]:
        return self.make()


class Evaluator:
    """Embeds and scores splits; each tower is compiled once.

    Args:
        run: the run.
        tokenizer: its tokenizer.

    Raises:
        RetrievalError: if `eval.folds` does not fit a split of `eval.final_splits`.
    """

    def __init__(self, run: Run, tokenizer: Tokenizer) -> None:
        self.run = run
        self.tokenizer = tokenizer
        self.towers = Towers(run.config, run.mesh)
        at = meshes.batch_sharding(run.mesh)
        self._images = jax.jit(self.towers.image_embeddings, out_shardings=at)
        self._texts = jax.jit(self.towers.text_embeddings, out_shardings=at)
        self._splits: dict[str, tuple[sources.Source, list[loader.RecordText]]] = {}
        if run.config.eval.folds > 1:  # what cannot be folded is refused before a training, not after it
            for split in run.config.eval.final_splits:
                retrieval.check_folds(len(self._open(split)[0]), run.config.eval.folds)

    def embed(self, params: PyTree, batch_stats: PyTree, split: str) -> Embedded:
        """Embeds all images and all wanted captions of a split, see `wanted_texts`.

        Args:
            params: the parameters of the towers.
            batch_stats: their running statistics.
            split: the name of a split.

        Returns:
            The embeddings, in memory.
        """
        source, texts = self._open(split)
        parts = self._parts(params, batch_stats, source, texts)
        arrays = {name: np.concatenate(list(of)) for name, of in parts.items()}
        return Embedded(source, texts, arrays["images"], arrays["texts"])

    def parts(self, params: PyTree, batch_stats: PyTree, split: str) -> dict[str, EmbeddingChunks]:
        """Embeds all images, and the captions of each record, part by part, for splits that do not fit in memory.

        Args:
            params: the parameters of the towers.
            batch_stats: their running statistics.
            split: the name of a split.

        Returns:
            `images` and `texts`; each part is made when it is asked for.
        """
        source = self._source(split)
        return self._parts(params, batch_stats, source, each_text(self.run.config, source))

    def _parts(
        self, params: PyTree, batch_stats: PyTree, source: sources.Source, texts: Sequence[loader.RecordText]
    ) -> dict[str, EmbeddingChunks]:
        config = self.run.config
        rows = _rounded(config.eval.batch_size, self.run.mesh)
        share = meshes.share(self.run.mesh, rows)
        images = loader.ImageBatches(source, rows, share, shared_data.image_reader(config))
        captions = loader.TextBatches(texts, self.tokenizer, rows, share, config.data.text_length)
        return {
            "images": EmbeddingChunks(len(source), lambda: self._embed(self._images, params, batch_stats, images)),
            "texts": EmbeddingChunks(len(texts), lambda: self._embed(self._texts, params, batch_stats, captions)),
        }

    def score(self, params: PyTree, batch_stats: PyTree, split: str) -> tuple[dict[str, float], Scored]:
        """Measures a split by retrieval.

        Args:
            params: the parameters of the towers.
            batch_stats: their running statistics.
            split: the name of a split.

        Returns:
            The metrics, named `retrieval/<split>/...`, and what they were computed from.
        """
        config, embedded = self.run.config.eval, self.embed(params, batch_stats, split)
        metrics, of_queries = embedded.metrics(config.ks, f"retrieval/{split}", config.folds)
        return metrics, Scored(split, embedded, of_queries)

    def _open(self, split: str) -> tuple[sources.Source, list[loader.RecordText]]:
        if split not in self._splits:
            source = self._source(split)
            self._splits[split] = (source, wanted_texts(self.run.config, source))
        return self._splits[split]

    def _source(self, split: str) -> sources.Source:
        return sources.open_source(self.run.config.data.source, split, data_dir(self.run.config))

    def _embed(
        self, embed: Any, params: PyTree, batch_stats: PyTree, maker: loader.ImageBatches | loader.TextBatches
    ) -> Iterator[Float32[np.ndarray, "rows dim"]]:
        config, mesh = self.run.config, self.run.mesh
        with loader.eval_batches(maker, config.data.workers, config.data.prefetch) as batches:
            for _, batch in batches:
                on_device = meshes.to_devices(mesh, batch)
                valid = meshes.to_host(on_device.pop("valid"))
                # The first batch compiles the tower.
                found = interruptible_calls.aloud(
                    "embedding a batch", functools.partial(embed, params, batch_stats, on_device)
                )
                yield meshes.to_host(found)[valid]


def wanted_texts(config: experiment.Config, source: sources.Source) -> list[loader.RecordText]:
    """Lists the captions of a split that are queries and candidates under `eval`.

    Args:
        config: the configuration.
        source: the records of the split.

    Returns:
        The captions; equal ones come once, with all their rows.
    """
    texts = each_text(config, source)
    return true_pairs.distinct(_taking_turns(texts) if config.eval.one_text_per_image else texts, texts)


def each_text(config: experiment.Config, source: sources.Source) -> list[loader.RecordText]:
    """Lists every caption of every record of a split, of the kinds and languages of `eval`.

    Args:
        config: the configuration.
        source: the records of the split.

    Returns:
        The captions, equal ones as often as they come.
    """
    return loader.list_texts(source, WantedTexts(config.eval.kinds, config.eval.languages))


def _rounded(batch: int, mesh: jax.sharding.Mesh) -> int:
    """An evaluation batch that divides over the mesh: the wanted one, rounded up."""
    return -(-batch // mesh.size) * mesh.size


def _taking_turns(texts: Sequence[loader.RecordText]) -> list[loader.RecordText]:
    """One text a record: the first text of the first record, the second of the second, and so on in turn."""
    of_row: dict[int, list[loader.RecordText]] = {}
    for text in texts:
        of_row.setdefault(text.row, []).append(text)
    return [found[row % len(found)] for row, found in of_row.items()]
