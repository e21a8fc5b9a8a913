"""Training and trained models in a few lines of Python: `wenlan_jax.train`, `wenlan_jax.load`; README shows how."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int32, PyTree
from ml_collections import config_dict

from wenlan_jax.applications import api_inputs
from wenlan_jax.applications.api_inputs import Image, ModelError
from wenlan_jax.applications.loaded_model import SECTIONS
from wenlan_jax.data import images as image_files
from wenlan_jax.data.loader import HostBatch
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.parallel import interruptible_calls
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks import experiment, registry, shared_data
from wenlan_jax.tasks.experiment import Config
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.two_tower.spec import TWO_TOWERS
from wenlan_jax.tasks.two_tower.towers import Towers
from wenlan_jax.training import loop
from wenlan_jax.training import restore as restore

Embeddings = Float32[np.ndarray, "n dim"]


def train(
    config: Config | config_dict.ConfigDict | str | Path, workdir: str | Path, *, overrides: str | Sequence[str] = ()
) -> dict[str, float]:
    """Trains a model, or continues its training, as `wenlan train` does.

    A training catches SIGINT and SIGTERM only in the main thread; elsewhere it runs on.

    Args:
        config: a configuration, the `ConfigDict` of a configuration file, or the path of such a file.
        workdir: where the run keeps its checkpoints, metrics and pages; one that holds a run is continued.
        overrides: fields as on the command line, such as `"train.steps=500"`.

    Returns:
        The final figures by name, as `result.json` holds them.

    Raises:
        ConfigError: the configuration cannot be used, or is not the one that the run in `workdir` began with.
        Stopped: a signal ended the training; its state is saved.
        NonFiniteError: a loss or a gradient was not finite, and `train.non_finite` is `stop`.
    """
    fields = api_inputs.overrides(overrides)
    if isinstance(config, str | Path):
        checked = experiment.load(Path(config), fields)
    else:
        given = config_dict.ConfigDict(dataclasses.asdict(config)) if isinstance(config, Config) else config
        checked = experiment.override(given, fields)
    return loop.train(checked, Path(workdir))


def load(place: str | Path, step: int | None = None, *, overrides: str | Sequence[str] = ()) -> Model:
    """Loads the two towers of a training run or of an import, on one device.

    Args:
        place: the work directory of `wenlan train`, or the directory that `wenlan import` wrote.
        step: the checkpoint; the newest by default.
        overrides: fields of the sections `data` and `eval` as on the command line. `"eval.batch_size=16"` sets how many
            images or texts are encoded at once.

    Returns:
        The model. Its parameters are in memory; its programs are compiled when they are first needed.

    Raises:
        CheckpointError: there is no checkpoint.
        ConfigError: an override names a field that cannot be changed, or a wrong value.
        ModelError: the model is a single tower, which scores pairs and encodes neither side alone, or has no tokenizer;
            an argument is not what it should be.
    """
    where, number = api_inputs.path(place, "place"), api_inputs.step(step)
    fields = [*meshes.ONE_DEVICE, *api_inputs.overrides(overrides)]
    trained = restore.load(where, number, fields, SECTIONS, jax.devices()[:1])
    if registry.of(trained.config).model != TWO_TOWERS:
        raise ModelError(
            f"{place}: a model of task {trained.config.task!r} scores pairs and encodes neither side alone; "
            "see `wenlan rerank`"
        )
    if trained.tokenizer is None:
        raise ModelError(f"{place}: was imported without a tokenizer; import again with --config.tokenizer.path")
    state = trained.read("params", "batch_stats")
    return Model(trained.current, trained.tokenizer, state["params"], state["batch_stats"], trained.step)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """Two towers with all that they need to encode images and texts.

    Attributes:
        run: configuration, mesh, shapes and shardings.
        tokenizer: turns texts into token ids, as in training.
        params: the parameters, by tower.
        batch_stats: the statistics of batch normalisation, by tower.
        step: the number of the checkpoint.
    """

    run: Run
    tokenizer: Tokenizer
    params: PyTree
    batch_stats: PyTree
    step: int

    @property
    def config(self) -> experiment.Config:
        """The configuration that the model was trained with, but for its mesh of one device."""
        return self.run.config

    @property
    def dim(self) -> int:
        """The width of an embedding."""
        return self.config.model.embedding

    def encode_images(
        self, images: Image | Iterable[Image], boxes: Iterable[Float[np.ndarray, "boxes 4"]] | None = None
    ) -> Embeddings:
        """Encodes images, any number of them.

        Args:
            images: one image or a sequence: paths, bytes of files, open files, images of PIL, or arrays
                (height, width[, 3]) of uint8 in RGB. Files are read as in training and by `wenlan embed`.
            boxes: for a model with `regions.kind=boxes`, of each image the boxes (x1, y1, x2, y2) in its pixels.

        Returns:
            Unit rows (images, dim), float32, in the order of the images.

        Raises:
            ModelError: an image cannot be read, by its place in the sequence; boxes that are missing or not asked for.
        """
        given = api_inputs.images(images)
        of_images = self._boxes(len(given), boxes)

        def part(rows: slice) -> HostBatch:
            return self._preprocess(given[rows], of_images[rows], rows.start)

        return self._encode(self._image_program, part, len(given))

    def encode_texts(self, texts: str | Iterable[str]) -> Embeddings:
        """Encodes texts, any number of them, cut to `data.text_length` tokens as in training.

        Args:
            texts: one text or a sequence.

        Returns:
            Unit rows (texts, dim), float32, in the order of the texts.

        Raises:
            ModelError: something is no text.
        """
        given = api_inputs.texts(texts)

        def part(rows: slice) -> HostBatch:
            return dict(zip(("token_ids", "token_mask"), self.tokenize(given[rows]), strict=True))

        return self._encode(self._text_program, part, len(given))

    def similarity(
        self, queries: Float[np.ndarray, "queries dim"], candidates: Float[np.ndarray, "candidates dim"]
    ) -> Float32[np.ndarray, "queries candidates"]:
        """Computes the cosines of embeddings.

        Args:
            queries: what `encode_texts` or `encode_images` gave.
            candidates: the same.

        Returns:
            One row a query, one column a candidate, in [-1, 1].

        Raises:
            ModelError: for what cannot be compared.
        """
        rows, columns = api_inputs.embeddings(queries, "queries"), api_inputs.embeddings(candidates, "candidates")
        api_inputs.check_widths(rows, columns)
        return rows @ columns.T

    def preprocess(
        self, images: Image | Iterable[Image], boxes: Iterable[Float[np.ndarray, "boxes 4"]] | None = None
    ) -> HostBatch:
        """Makes the fields of a batch of images, as the towers take them; the same as `wenlan embed`, bit for bit.

        Args:
            images: see `encode_images`.
            boxes: see `encode_images`.

        Returns:
            `image` (n, side, side, 3) of uint8, and boxes for a model that reads them.

        Raises:
            ModelError: see `encode_images`.
        """
        given = api_inputs.images(images)
        return self._preprocess(given, self._boxes(len(given), boxes), 0)

    def _boxes(self, images: int, boxes: Iterable[Any] | None) -> list[Float64[np.ndarray, "boxes 4"]]:
        """The boxes of each image, of a model that takes some."""
        with_boxes = self.config.model.image.regions.kind == "boxes"
        if with_boxes != (boxes is not None):
            raise ModelError(
                "boxes: " + ("this model needs those of each image" if with_boxes else "this model takes none")
            )
        return [np.zeros((0, 4))] * images if boxes is None else api_inputs.boxes(boxes, images)

    def _preprocess(
        self, images: Sequence[Image], boxes: Sequence[Float64[np.ndarray, "boxes 4"]], first: int
    ) -> HostBatch:
        """`preprocess` of images of which the first has the number `first`."""
        how = shared_data.image_reader(self.config)
        batch = how.empty(len(images))
        for row, image in enumerate(images):
            what = f"image {first + row}"
            try:
                how.write_image(api_inputs.content(image, what), boxes[row], batch, row)
            except (OSError, image_files.CorruptImage) as error:
                raise ModelError(f"{what}: {error}") from error
        return batch

    def tokenize(
        self, texts: str | Iterable[str]
    ) -> tuple[Int32[np.ndarray, "texts length"], Bool[np.ndarray, "texts length"]]:
        """Turns texts into token ids, cut and padded to `data.text_length`.

        Args:
            texts: see `encode_texts`.

        Returns:
            Token ids, and True at the tokens that are no padding.

        Raises:
            ModelError: something is no text.
        """
        return self.tokenizer.encode(api_inputs.texts(texts), self.config.data.text_length)

    def _encode(self, program: Callable[..., jax.Array], make: Callable[[slice], HostBatch], count: int) -> Embeddings:
        found = [program(self.params, self.batch_stats, part)[:rows] for part, rows in self._parts(make, count)]
        return np.concatenate([np.zeros((0, self.dim), np.float32), *map(np.asarray, found)])

    def _parts(self, make: Callable[[slice], HostBatch], count: int) -> Iterator[tuple[dict[str, jax.Array], int]]:
        """Parts as they are made, so that never all is in memory; filled up to a power of two, so few are compiled."""
        most = self.config.eval.batch_size
        for start in range(0, count, most):
            rows = min(most, count - start)
            size = min(1 << (rows - 1).bit_length(), most)
            part = {name: _filled(field, size) for name, field in make(slice(start, start + rows)).items()}
            yield meshes.to_devices(self.run.mesh, part), rows

    @functools.cached_property
    def _image_program(self) -> Callable[..., jax.Array]:
        return _aloud("encoding images", jax.jit(self._towers.image_embeddings))

    @functools.cached_property
    def _text_program(self) -> Callable[..., jax.Array]:
        return _aloud("encoding texts", jax.jit(self._towers.text_embeddings))

    @functools.cached_property
    def _towers(self) -> Towers:
        return Towers(self.config, self.run.mesh)


def _aloud(what: str, program: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The program, whose compilation says that it goes on."""
    return lambda *inputs: interruptible_calls.aloud(what, lambda: jax.block_until_ready(program(*inputs)))


def _filled(field: np.ndarray, size: int) -> np.ndarray:
    """The rows of a field, the last one repeated up to `size`: no row may be without a valid token or box."""
    return np.concatenate([field, np.repeat(field[-1:], size - len(field), axis=0)])
