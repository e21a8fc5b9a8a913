"""`wenlan attention`'s work: the last layer's attention of a single tower for some records, drawn a page a record."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32

from wenlan_jax.applications import attention_page
from wenlan_jax.applications.loaded_model import LoadedModel, ModelPlace, find, read
from wenlan_jax.applications.requests import AttentionRequest
from wenlan_jax.config import sections
from wenlan_jax.data import images, sources
from wenlan_jax.data.loader import HostBatch
from wenlan_jax.data.mixture import WantedTexts
from wenlan_jax.data.records import Text
from wenlan_jax.data.sources import Source
from wenlan_jax.data.text import Tokenizer, WordPiece
from wenlan_jax.models.single_tower import attention
from wenlan_jax.parallel import compilation_cache, distributed
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks.shared_data import data_dir
from wenlan_jax.tasks.single_tower import data
from wenlan_jax.tasks.single_tower.spec import SINGLE_TOWER, TOWER
from wenlan_jax.tasks.single_tower.tower import Tower
from wenlan_jax.util.errors import WenlanError


class AttentionError(WenlanError, ValueError):
    """Records that are not there, or that say nothing in the wanted languages."""


def run(request: AttentionRequest) -> list[Path]:
    """Draws the attention of some records.

    Args:
        request: what was asked for.

    Returns:
        The pages.

    Raises:
        AttentionError: for records that are not there or have no text in a wanted language.
        BadRecord: for a record whose image is damaged or that has no regions.
        CheckpointError: see `trained.find`.
        TaskError: if the model is no single tower.
    """
    same = {field.name: str(getattr(request, field.name)) for field in dataclasses.fields(request)}
    distributed.start(
        sections.DistributedConfig(), same
    )  # the configuration lies in a checkpoint, which needs the devices
    place = ModelPlace("--workdir", request.workdir, request.step)
    trained = find(place, request.fields, SINGLE_TOWER)
    config = trained.current.config
    print(distributed.introduction(trained.current.mesh), flush=True)
    compilation_cache.use_cache(config.compilation)
    split = request.split or config.eval.final_splits[0]
    source = sources.open_source(config.data.source, split, data_dir(config))
    beyond = [row for row in request.rows if not 0 <= row < len(source)]
    if beyond:
        raise AttentionError(f"--rows: {source.name} has rows 0 to {len(source) - 1}, not {beyond[0]}")
    wanted = WantedTexts(config.eval.kinds, request.languages or config.eval.languages)
    viewer = Viewer(read(place, trained))
    pages = []
    for row in request.rows:
        pages.append(request.out / f"{split}.{row}.html")
        texts = one_a_language(source, row, wanted)
        view = viewer.look(source, row, texts, request.renormalise)
        if jax.process_index() == 0:
            image = images.decode(source[row].image)
            title = f"Where words look: {source.name}, row {row}"
            attention_page.write(pages[-1], image, view.boxes, view.readings, request.renormalise, title)
        say(f"{pages[-1]}: {', '.join(text.language for text in texts)}")
    return pages


def one_a_language(source: Source, row: int, wanted: WantedTexts) -> list[Text]:
    """Takes the first wanted text of each language of a record.

    Args:
        source: the records.
        row: of the record.
        wanted: the kinds and languages of the texts.

    Returns:
        One text a language.

    Raises:
        AttentionError: where a wanted language has none.
    """
    record = source[row]
    found: dict[str, Text] = {}
    for text in wanted.of(record):
        found.setdefault(text.language, text)
    lacking = [language for language in wanted.languages if language not in found]
    if lacking or not found:
        has = ", ".join(f"{text.kind}/{text.language}" for text in record.texts) or "no text"
        raise AttentionError(
            f"{source.name}, row {row}: no text of kinds {list(wanted.kinds) or 'any'} in "
            f"{', '.join(lacking) or 'any language'}; it has {has}"
        )
    return list(found.values())


@dataclasses.dataclass(frozen=True)
class View:
    """What the tower saw of an image.

    Attributes:
        boxes: of the regions, in units of the image's sides.
        readings: where the words of each text look in them.
    """

    boxes: Float32[np.ndarray, "regions 4"]
    readings: list[attention_page.AttendedText]


class Viewer:
    """Looks at the attention of a single tower's last layer; compiled once for each number of texts.

    Args:
        model: the single tower.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model, config = model, model.run.config
        self._recipe, self._shape = data.recipe(config, model.tokenizer), data.largest(config)
        self._tower = Tower(config, model.run.mesh)
        self._jitted = jax.jit(self._last_layer, out_shardings=meshes.batch_sharding(model.run.mesh))

    def look(self, source: Source, row: int, texts: Sequence[Text], renormalise: bool) -> View:
        """Computes where texts look in the image of a record.

        Args:
            source: the records.
            row: of the record.
            texts: the texts.
            renormalise: whether a word's weights are divided by their sum over the regions.

        Returns:
            The regions, and where the words look.

        Raises:
            BadRecord: for a record whose image is damaged or that has no regions.
        """
        fields = self._recipe.encode([text.text for text in texts], self._shape.tokens)
        regions = self._recipe.regions.empty(1, self._shape.regions, with_classes=False)
        self._recipe.regions.write(source, row, source[row], regions, 0)
        weights = self._weights(fields, regions, len(texts))
        seen = regions["region_mask"][0]
        readings = []
        for text, ids, mask, heads in zip(texts, fields["token_ids"], fields["token_mask"], weights, strict=True):
            words = words_of(self._model.tokenizer, ids[mask].tolist())
            rows = attention_page.text_to_regions(heads, len(ids), seen, renormalise)
            of_words = attention_page.of_words(rows, words)
            readings.append(attention_page.AttendedText(text.text, text.language, words, of_words))
        return View(regions["region_boxes"][0][seen], readings)

    def _weights(
        self, texts: HostBatch, regions: HostBatch, count: int
    ) -> Float32[np.ndarray, "texts heads length length"]:
        """Rows are filled up to a multiple of the devices, on which they lie."""
        mesh, model = self._model.run.mesh, self._model
        size = -(-count // mesh.size) * mesh.size
        rows = np.resize(np.arange(count), size)[list(meshes.share(mesh, size))]
        batch = {name: values[rows] for name, values in texts.items()}
        batch |= {name: np.repeat(values, len(rows), axis=0) for name, values in regions.items()}
        on_devices = meshes.to_devices(mesh, batch)
        return meshes.to_host(self._jitted(model.params, model.batch_stats, on_devices))[:count]

    def _last_layer(self, params: dict, batch_stats: dict, batch: dict[str, jax.Array]) -> jax.Array:
        features = self._tower.features(params, batch_stats, batch)
        names = ("region_boxes", "region_mask")
        inputs = (batch["token_ids"], batch["token_mask"], features, *(batch[name] for name in names))
        return attention(self._tower.module, params[TOWER], *inputs)[-1]


def words_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[attention_page.Word]:
    """Puts together the words of a row of real tokens, which begins and ends with a special one."""
    pieces = tokenizer.pieces(ids)
    special = {pieces[0], pieces[-1]}
    if isinstance(tokenizer, WordPiece):
        return attention_page.merge_word_pieces(pieces, special)
    return attention_page.merge_sentence_pieces(pieces, special)
