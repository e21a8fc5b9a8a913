"""Training and trained models in a few lines of Python: `wenlan_jax.train`, `wenlan_jax.load`; README shows how."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, PyTree
from ml_collections import config_dict

from wenlan_jax.data import images as pictures
from wenlan_jax.data.loader import Batch
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.parallel import waiting
from wenlan_jax.tasks import experiment, registry, shared_data
from wenlan_jax.tasks.experiment import Config
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.two_tower.spec import TWO_TOWERS
from wenlan_jax.tasks.two_tower.towers import Towers
from wenlan_jax.training import loop
from wenlan_jax.training import trained as restore
from wenlan_jax.util.errors import WenlanError

SECTIONS = ("mesh.", "data.", "eval.")
"""Sections of the configuration that `load` may change: they do not change the model."""

Embeddings = Float32[np.ndarray, "n dim"]


class ModelError(WenlanError, ValueError):
    """A model or an input that cannot be encoded; the message says which, and what is needed."""


def train(
    config: Config | config_dict.ConfigDict | str | Path, workdir: str | Path, *, overrides: Sequence[str] = ()
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
    fields = [f"--config.{field.removeprefix('--config.')}" for field in overrides]
    if isinstance(config, str | Path):
        checked = experiment.load(Path(config), fields)
    else:
        given = config_dict.ConfigDict(dataclasses.asdict(config)) if isinstance(config, Config) else config
        checked = experiment.override(given, fields)
    return loop.train(checked, Path(workdir))


def load(place: str | Path, step: int | None = None, *, overrides: Sequence[str] = ()) -> Model:
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
      ModelError: the model is a single tower, which scores pairs and encodes neither side alone, or has no tokenizer.
    """
    fields = [f"--config.{field.removeprefix('--config.')}" for field in overrides]
    one_device = [*meshes.ONE_DEVICE, *fields]
    trained = restore.load(Path(place), step, one_device, SECTIONS, jax.devices()[:1])
    if registry.of(trained.config).model != TWO_TOWERS:
        raise ModelError(
            f"{place}: a model of task {trained.config.task!r} scores pairs and encodes neither side alone; "
            "see `wenlan rerank`"
        )
    if trained.tokenizer is None:
        raise ModelError(f"{place}: was imported without a tokenizer; import again with --config.tokenizer.path")
    state = trained.read("params", "batch_stats")
    return Model(trained.current, trained.tokenizer, state["params"], state["batch_stats"], trained.step)


Image = Any
"""A path, the bytes of a file, an image of PIL, or an array (height, width[, 3]) of uint8."""


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
        self, images: Image | Sequence[Image], boxes: Sequence[Float[np.ndarray, "boxes 4"]] | None = None
    ) -> Embeddings:
        """Encodes images, any number of them.

        Args:
          images: one image or a sequence: paths, bytes of files, images of PIL, or arrays (height, width[, 3]) of uint8
            in RGB. Files are read as in training and by `wenlan embed`.
          boxes: for a model with `regions.kind=boxes`, of each image the boxes (x1, y1, x2, y2) in its pixels.

        Returns:
          Unit rows (images, dim), float32, in the order of the images.

        Raises:
          ModelError: an image cannot be read, by its place in the sequence; boxes that are missing or not asked for.
        """
        given = [images] if _is_one(images, (str, Path, bytes, np.ndarray)) else list(images)
        self._check_boxes(len(given), boxes)

        def part(rows: slice) -> Batch:
            return self._preprocess(given[rows], None if boxes is None else boxes[rows], rows.start)

        return self._encode(self._image_program, part, len(given))

    def encode_texts(self, texts: str | Sequence[str]) -> Embeddings:
        """Encodes texts, any number of them, cut to `data.text_length` tokens as in training.

        Args:
          texts: one text or a sequence.

        Returns:
          Unit rows (texts, dim), float32, in the order of the texts.

        Raises:
          ModelError: something is no text.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        _check_texts(given)

        def part(rows: slice) -> Batch:
            return dict(zip(("token_ids", "token_mask"), self.tokenize(given[rows]), strict=True))

        return self._encode(self._text_program, part, len(given))

    def similarity(
        self, queries: Float[np.ndarray, "queries dim"], candidates: Float[np.ndarray, "candidates dim"]
    ) -> Float32[np.ndarray, "queries candidates"]:
        """Cosines of what `encode_texts` or `encode_images` gave."""
        return np.asarray(queries, np.float32) @ np.asarray(candidates, np.float32).T

    def preprocess(self, images: Sequence[Image], boxes: Sequence[Float[np.ndarray, "boxes 4"]] | None = None) -> Batch:
        """The fields of a batch of images, as the towers take them: `image` (n, side, side, 3) of uint8, and boxes.

        See `encode_images`; the results are those of `wenlan embed`, bit for bit.
        """
        self._check_boxes(len(images), boxes)
        return self._preprocess(images, boxes, 0)

    def _check_boxes(self, images: int, boxes: Sequence[Any] | None) -> None:
        with_boxes = self.config.model.image.regions.kind == "boxes"
        if with_boxes != (boxes is not None):
            raise ModelError(
                "boxes: " + ("this model needs those of each image" if with_boxes else "this model takes none")
            )
        if boxes is not None and len(boxes) != images:
            raise ModelError(f"boxes: {images} images have {len(boxes)} sets of boxes")

    def _preprocess(self, images: Sequence[Image], boxes: Sequence[Any] | None, first: int) -> Batch:
        """`preprocess` of images of which the first has the number `first`."""
        how = shared_data.pictures(self.config)
        batch = how.empty(len(images))
        for row, image in enumerate(images):
            of_image = np.zeros((0, 4)) if boxes is None else np.asarray(boxes[row], np.float64).reshape(-1, 4)
            try:
                how.write_image(_content(image), of_image, batch, row)
            except (OSError, pictures.CorruptImage) as error:
                raise ModelError(f"image {first + row}: {error}") from error
        return batch

    def tokenize(
        self, texts: Sequence[str]
    ) -> tuple[Int32[np.ndarray, "texts length"], Bool[np.ndarray, "texts length"]]:
        """Token ids and which of them are no filling, `data.text_length` of each text."""
        _check_texts(texts)
        return self.tokenizer.encode(list(texts), self.config.data.text_length)

    def _encode(self, program: Callable[..., jax.Array], make: Callable[[slice], Batch], count: int) -> Embeddings:
        found = [program(self.params, self.batch_stats, part)[:rows] for part, rows in self._parts(make, count)]
        return np.concatenate([np.zeros((0, self.dim), np.float32), *map(np.asarray, found)])

    def _parts(self, make: Callable[[slice], Batch], count: int) -> Iterator[tuple[dict[str, jax.Array], int]]:
        """Parts as they are made, so that never all is in memory; filled up to a power of two, so few are compiled."""
        most = self.config.eval.batch_size
        for start in range(0, count, most):
            rows = min(most, count - start)
            size = min(1 << (rows - 1).bit_length(), most)
            part = {name: _filled(field, size) for name, field in make(slice(start, start + rows)).items()}
            yield meshes.to_devices(self.run.mesh, part), rows

    @functools.cached_property
    def _image_program(self) -> Callable[..., jax.Array]:
        towers = Towers(self.config, self.run.mesh)

        def embed(params: PyTree, batch_stats: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
            return towers.embed_images(params, batch_stats, towers.prepare(batch, None), None)[0].embedding

        return _aloud("encoding images", jax.jit(embed))

    @functools.cached_property
    def _text_program(self) -> Callable[..., jax.Array]:
        towers = Towers(self.config, self.run.mesh)

        def embed(params: PyTree, batch_stats: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
            del batch_stats  # the text tower has none
            return towers.embed_texts(params, batch, None).embedding

        return _aloud("encoding texts", jax.jit(embed))


def _check_texts(texts: Sequence[str]) -> None:
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ModelError(f"text {row}: a text is needed, not {type(text).__name__}")


def _aloud(what: str, program: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The program, whose compilation says that it goes on."""
    return lambda *inputs: waiting.aloud(what, lambda: jax.block_until_ready(program(*inputs)))


def _filled(field: np.ndarray, size: int) -> np.ndarray:
    """The rows of a field, the last one repeated up to `size`: no row may be without a valid token or box."""
    return np.concatenate([field, np.repeat(field[-1:], size - len(field), axis=0)])


def _is_one(images: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(images, kinds) or not isinstance(images, Iterable)


def _content(image: Image) -> bytes | np.ndarray:
    """The bytes of a file, or pixels. Raises CorruptImage for what is no image, and OSError."""
    if isinstance(image, str | Path):
        return Path(image).expanduser().read_bytes()
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
            raise pictures.CorruptImage(
                f"an array (height, width[, 3]) of uint8 is needed, not {image.dtype}{image.shape}"
            )
        return np.ascontiguousarray(np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image)
    if hasattr(image, "save") and hasattr(image, "convert"):  # of PIL, which need not be installed
        kept = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else image.convert("RGB")
        with io.BytesIO() as file:
            kept.save(file, "PNG", compress_level=0)  # the same rules for transparency and 16 bits as for files
            return file.getvalue()
    raise pictures.CorruptImage(f"a path, bytes, an image of PIL or an array is needed, not {type(image).__name__}")
