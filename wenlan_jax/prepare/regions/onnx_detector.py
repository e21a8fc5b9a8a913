"""A detector as an ONNX graph with a contract, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from wenlan_jax.prepare.regions import boxes, contract, heads
from wenlan_jax.prepare.regions.contract import DetectorError
from wenlan_jax.prepare.regions.detections import UNIT, Detections

Pixels = UInt8[np.ndarray, "height width 3"]
AnyPixels = UInt8[np.ndarray, "_height _width 3"]
"""One of several images, each of a size of its own."""
Results = Mapping[str, Float[np.ndarray, "batch boxes ..."]]


class OnnxDetector:
    """The detector in the file `model`, whose contract lies beside it.

    threads: of onnxruntime; 0 uses all cores.
    nms: in place of that of the contract, unless None. An accelerator that the installed onnxruntime knows is used.
    Raises DetectorError for a graph that is damaged or does not keep its contract.
    """

    def __init__(self, model: Path, threads: int, nms: float | None = None) -> None:
        self._model, self.contract = model, contract.read(model)
        self._nms = self.contract.nms if nms is None else nms
        self._session = _session(model, threads)
        entry = next((one for one in self._session.get_inputs() if one.name == self.contract.input.name), None)
        if entry is None:
            raise DetectorError(f"{model}: has no input {self.contract.input.name!r}; it has {_names(self._session)}")
        given = [output.name for output in self._session.get_outputs()]
        for role, name in self.contract.outputs.named().items():
            if name not in given:
                raise DetectorError(f"{model}: has no output {name!r} for {role}; it has {', '.join(given)}")
        self._fixed_batch = entry.shape[0] if isinstance(entry.shape[0], int) else None

    def describe(self) -> dict[str, Any]:
        """What the arrays of its records are."""
        return {"class_names": list(self.contract.class_names), "features": self.contract.outputs.features}

    def __call__(self, images: Sequence[AnyPixels]) -> list[Detections]:
        """What is in each image, after suppression where that is asked for."""
        step = self._fixed_batch or len(images)
        found: list[Detections] = []
        for start in range(0, len(images), step):
            batch = images[start : start + step]
            results = self._run(batch, step)
            found.extend(self._read(results, row, image) for row, image in enumerate(batch))
        return found

    def _run(self, images: Sequence[AnyPixels], size: int) -> Results:
        """The outputs by role of a batch, filled up to `size` with its last image."""
        inputs = np.stack([prepare(image, self.contract.input) for image in images])
        inputs = np.concatenate([inputs, np.repeat(inputs[-1:], size - len(inputs), axis=0)])
        named = self.contract.outputs.named()
        try:
            values = self._session.run(list(named.values()), {self.contract.input.name: inputs})
        except Exception as error:  # onnxruntime has a dozen kinds without a common one
            raise DetectorError(
                f"{self._model}: failed on a batch of {inputs.shape} ({error}); compare the input with the contract"
            ) from error
        results = dict(zip(named, values, strict=True))
        self._check(results, size)
        return results

    def _check(self, results: Results, size: int) -> None:
        count = results["boxes"].shape[1] if results["boxes"].ndim == 3 else -1
        columns = len(self.contract.class_names) + (self.contract.background is not None)
        wanted = {"boxes": 4, "classes": columns, "features": None, "scores": 0, "labels": 0}
        for role, values in results.items():
            width = wanted[role]
            shape = (size, count) if width == 0 else (size, count, values.shape[-1] if width is None else width)
            if values.shape != shape:
                name = self.contract.outputs.named()[role]
                raise DetectorError(f"{self._model}: {role} ({name!r}) are {values.shape}; the contract says {shape}")

    def _read(self, results: Results, row: int, image: Pixels) -> Detections:
        of = {role: values[row] for role, values in results.items()}
        classes, scores, labels = None, None, np.zeros(0, np.int64)
        if "classes" in of:
            classes, scores, labels = heads.distribution(
                heads.probabilities(of["classes"], self.contract.activation), self.contract.background
            )
        scores = of["scores"].astype(np.float64) if "scores" in of else scores
        labels = of["labels"].astype(np.int64) if "labels" in of else labels
        assert scores is not None  # the contract has one of the two
        found = self._in_image(of["boxes"], image)
        kept = np.flatnonzero(scores > 0)
        if self._nms is not None:
            kept = kept[boxes.unsuppressed(found[kept], scores[kept], self._nms)]
        return Detections(
            found[kept],
            UNIT,
            scores[kept],
            heads.names(labels[kept], self.contract.class_names) if len(labels) else (),
            of["features"][kept] if "features" in of else None,
            None if classes is None else classes[kept],
        )

    def _in_image(self, given: Float[np.ndarray, "boxes 4"], image: Pixels) -> Float[np.ndarray, "boxes 4"]:
        """Boxes of the graph as fractions of the sides of the image."""
        entry = self.contract.input
        found = boxes.corners(given, self.contract.box_format)
        if self.contract.box_unit == "fractions":
            found = found * (entry.width, entry.height, entry.width, entry.height)
        filled_width, filled_height = _filled(image, entry)
        return found / (filled_width, filled_height, filled_width, filled_height)


def prepare(image: Pixels, entry: contract.Input) -> Float32[np.ndarray, "3 input_height input_width"]:
    """An image as the input of a graph."""
    width, height = _filled(image, entry)
    shrinks = width < image.shape[1] and height < image.shape[0]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if entry.channels == "bgr":
        resized = resized[:, :, ::-1]
    values = (resized.astype(np.float32) / 255.0 - np.array(entry.mean, np.float32)) / np.array(entry.std, np.float32)
    canvas = np.zeros((3, entry.height, entry.width), np.float32)
    canvas[:, :height, :width] = values.transpose(2, 0, 1)
    return canvas


def _filled(image: Pixels, entry: contract.Input) -> tuple[int, int]:
    """Width and height of the part of the input that the image fills."""
    if entry.resize == "stretch":
        return entry.width, entry.height
    height, width = image.shape[:2]
    scale = min(entry.height / height, entry.width / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _session(model: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DetectorError("a detector of kind onnx needs onnxruntime: install wenlan_jax[onnx]") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime has a dozen kinds without a common one
        raise DetectorError(f"{model}: not an ONNX file that onnxruntime opens ({error})") from error


def _names(session: Any) -> str:
    return ", ".join(one.name for one in session.get_inputs())
