"""A detector as a transformers directory of the DETR family: queries, each with a box, logits and a state."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wenlan_jax.prepare.regions import boxes, heads
from wenlan_jax.prepare.regions.contract import DetectorError
from wenlan_jax.prepare.regions.detections import UNIT, DetectionError, Detections
from wenlan_jax.prepare.regions.onnx_detector import AnyPixels, Pixels


class TransformersDetector:
    """The model and the image processor in the directory `place`, as `save_pretrained` writes them; nothing is fetched.

    Features are the last hidden states of the queries, as wide as the model. A model with one logit more than it has
    labels ends with the background (DETR, YOLOS); with as many, logits are independent (Deformable DETR, RT-DETR).
    nms: the overlap above which a worse box goes; None keeps all.
    threads: of torch; 0 leaves them as they are. A GPU is used where torch has one.
    Raises DetectorError for a directory that holds no such model.
    """

    def __init__(self, place: Path, threads: int, nms: float | None) -> None:
        try:
            import torch
            from transformers import AutoImageProcessor, AutoModelForObjectDetection
        except ImportError as error:
            raise DetectorError(
                f"a detector of kind transformers needs more ({error}): install wenlan_jax[torch]"
            ) from error
        if not (place / "config.json").is_file():
            raise DetectorError(f"{place}: has no config.json; a directory of `save_pretrained` is needed")
        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(str(place), local_files_only=True)
            model: Any = AutoModelForObjectDetection.from_pretrained(str(place), local_files_only=True)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise DetectorError(f"{place}: not an object-detection model with its image processor ({error})") from error
        if threads:
            torch.set_num_threads(threads)
        self._place, self._nms = place, nms
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.eval().to(self._device)
        self._names = [str(name) for _, name in sorted(model.config.id2label.items())]

    def describe(self) -> dict[str, Any]:
        """What the arrays of its records are."""
        features = f"last_hidden_state of the queries of {self._model.config.model_type}"
        return {"class_names": self._names, "features": features}

    def __call__(self, images: Sequence[AnyPixels]) -> list[Detections | DetectionError]:
        """What is in each image, or why the image processor refuses it, as it does with very narrow ones.

        Only images of one size share a batch, so that padding changes nothing.
        """
        by_shape: dict[tuple[int, ...], list[int]] = collections.defaultdict(list)
        inputs = [self._prepared(image) for image in images]
        found: dict[int, Detections | DetectionError] = {}
        for number, values in enumerate(inputs):
            if isinstance(values, DetectionError):
                found[number] = values
            else:
                by_shape[tuple(values.shape)].append(number)
        for numbers in by_shape.values():
            results = self._run([inputs[number] for number in numbers])
            found.update(zip(numbers, results, strict=True))
        return [found[number] for number in range(len(images))]

    def _prepared(self, image: Pixels) -> Any:
        """The image as the model takes it, or a DetectionError."""
        options = {"input_data_format": "channels_last", "return_tensors": "pt"}
        try:
            return self._processor(images=image, **options)["pixel_values"]
        except (ValueError, ArithmeticError, RuntimeError) as error:
            height, width = image.shape[:2]
            return DetectionError(f"the image processor refuses {width} x {height} pixels ({error})")

    def _run(self, inputs: Sequence[Any]) -> list[Detections]:
        import torch

        with torch.inference_mode():
            results = self._model(pixel_values=torch.cat(list(inputs)).to(self._device))
        try:
            given, logits, states = results.pred_boxes, results.logits, results.last_hidden_state
        except AttributeError as error:
            raise DetectorError(f"{self._place}: not of the DETR family: {error}") from error
        queries = logits.shape[1]  # YOLOS gives the states of the patches before those of the queries
        arrays = [values.float().cpu().numpy() for values in (given, logits, states[:, -queries:])]
        return [self._read(*row) for row in zip(*arrays, strict=True)]

    def _read(self, given: np.ndarray, logits: np.ndarray, states: np.ndarray) -> Detections:
        columns, labels = logits.shape[1], len(self._names)
        if columns not in (labels, labels + 1):
            raise DetectorError(f"{self._place}: gives {columns} logits for {labels} labels; correct id2label")
        independent = columns == labels
        classes, scores, best = heads.distribution(
            heads.probabilities(logits, "sigmoid" if independent else "softmax"), None if independent else labels
        )
        found = boxes.corners(given, "cxcywh")
        kept = np.arange(len(found)) if self._nms is None else boxes.unsuppressed(found, scores, self._nms)
        return Detections(
            found[kept], UNIT, scores[kept], heads.names(best[kept], self._names), states[kept], classes[kept]
        )
