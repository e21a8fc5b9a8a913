"""The contract of an ONNX detector: `model.json` beside `model.onnx` says what the graph takes and gives.

    {
      "input": {"name": "pixel_values", "height": 600, "width": 800, "resize": "letterbox",
                "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
      "outputs": {"boxes": "boxes", "classes": "probabilities", "features": "pooled"},
      "box_format": "xyxy", "box_unit": "pixels",
      "class_names": ["person", "dog"], "background": 0
    }

The input is float32 `(batch, 3, height, width)`: 8-bit channels over 255, less the mean, over the deviation.
Outputs of a batch are `boxes (batch, boxes, 4)`, `scores (batch, boxes)`, `classes (batch, boxes, classes)`, `labels
(batch, boxes)` and `features (batch, boxes, width)`; boxes and one of scores and classes are needed. A graph that finds
fewer boxes in one image than in another fills up with boxes of score 0.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from wenlan_jax.prepare.regions import boxes
from wenlan_jax.prepare.regions.heads import ACTIVATIONS
from wenlan_jax.util.errors import WenlanError

T = TypeVar("T")

RESIZES = ("stretch", "letterbox")
CHANNELS = ("rgb", "bgr")
UNITS = ("pixels", "fractions")


class DetectorError(WenlanError, ValueError):
    """A detector that cannot be used; the message names its file and what is wrong."""


@dataclasses.dataclass(frozen=True)
class Input:
    """How an image becomes the input of a graph.

    Attributes:
        name: of the input.
        height: in pixels.
        width: in pixels.
        resize: `stretch` fills height x width; `letterbox` keeps the shape, from the upper left corner, the rest is 0.
        mean: of each channel, in [0, 1], in the order of `channels`.
        std: likewise, the deviation.
        channels: `rgb` or `bgr`.
    """

    name: str
    height: int
    width: int
    resize: str = "stretch"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channels: str = "rgb"


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The names of the outputs; None for what the graph does not give.

    Attributes:
        boxes: (batch, boxes, 4).
        scores: (batch, boxes).
        classes: (batch, boxes, classes).
        labels: (batch, boxes).
        features: (batch, boxes, width).
    """

    boxes: str
    scores: str | None = None
    classes: str | None = None
    labels: str | None = None
    features: str | None = None

    def named(self) -> dict[str, str]:
        """Returns what is given, by role."""
        return {role: name for role, name in vars(self).items() if name is not None}


@dataclasses.dataclass(frozen=True)
class Contract:
    """What an ONNX detector takes and gives.

    Attributes:
        input: how an image becomes its input.
        outputs: the names of its outputs.
        class_names: without the background.
        box_format: how boxes are written, see `boxes.FORMATS`.
        box_unit: `pixels` of the input, or `fractions` of its sides.
        background: the column of `classes` for it; None where there is none.
        activation: still to be applied to `classes`.
        threshold: the least score of a box, None for that of the command.
        nms: the overlap above which a worse box goes, None where the graph has suppressed already.
    """

    input: Input
    outputs: Outputs
    class_names: tuple[str, ...] = ()
    box_format: str = "xyxy"
    box_unit: str = "pixels"
    background: int | None = None
    activation: str = "none"
    threshold: float | None = None
    nms: float | None = None


def read(model: Path) -> Contract:
    """Reads the contract of an ONNX file.

    Args:
        model: the file; the contract is beside it.

    Returns:
        The contract.

    Raises:
        DetectorError: for a missing or wrong one.
    """
    path = model.with_suffix(".json")
    try:
        raw = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DetectorError(
            f"{path}: cannot be read ({error.strerror}); it must say what {model.name} takes and gives, "
            "see `wenlan regions --help`"
        ) from error
    except ValueError as error:
        raise DetectorError(f"{path}: not JSON ({error})") from error
    try:
        contract = _made(Contract, raw, "")
        _check(contract)
    except _Wrong as wrong:
        raise DetectorError(f"{path}: {wrong}") from wrong
    return contract


class _Wrong(Exception):  # noqa: N818 - becomes a DetectorError with the file's name
    pass


def _made(kind: type[T], raw: Any, where: str) -> T:
    """The dataclass `kind` of the object `raw`, every field of which must be known and of the right type."""
    if not isinstance(raw, Mapping):
        raise _Wrong(f"{where or 'it'} must be an object")
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := [name for name in raw if name not in known]:
        raise _Wrong(f"{where}{unknown[0]} is unknown; fields are {', '.join(known)}")
    needed = [name for name, field in known.items() if field.default is dataclasses.MISSING]
    if missing := [name for name in needed if name not in raw]:
        raise _Wrong(f"{where}{missing[0]} is missing")
    return kind(**{name: _value(str(known[name].type), value, where + name) for name, value in raw.items()})


def _value(kind: str, value: Any, where: str) -> Any:
    if kind in ("Input", "Outputs"):
        return _made({"Input": Input, "Outputs": Outputs}[kind], value, f"{where}.")
    if value is None and kind.endswith("| None"):
        return None
    kind = kind.removesuffix(" | None")
    if kind.startswith("tuple["):
        inner = kind[len("tuple[") :].split(",")[0]
        if isinstance(value, list):
            return tuple(_value(inner, one, where) for one in value)
    elif kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value).__name__ == kind:
        return value
    raise _Wrong(f"{where} is {value!r}, not of type {kind}")


def _check(contract: Contract) -> None:
    entry, outputs = contract.input, contract.outputs
    choices = (
        ("input.resize", entry.resize, RESIZES),
        ("input.channels", entry.channels, CHANNELS),
        ("box_format", contract.box_format, boxes.FORMATS),
        ("box_unit", contract.box_unit, UNITS),
        ("activation", contract.activation, ACTIVATIONS),
    )
    for name, value, known in choices:
        if value not in known:
            raise _Wrong(f"{name} is {value!r}, not one of {', '.join(known)}")
    if min(entry.height, entry.width) < 1:
        raise _Wrong(f"input.height and input.width are {entry.height} and {entry.width}; they must be positive")
    if len(entry.mean) != 3 or len(entry.std) != 3 or min(entry.std) <= 0:
        raise _Wrong("input.mean and input.std must be three numbers each, those of std positive")
    if outputs.scores is None and outputs.classes is None:
        raise _Wrong("outputs must name scores, classes or both")
    if (outputs.classes or outputs.labels) and not contract.class_names:
        raise _Wrong("class_names must say what the classes are")
    if contract.background is not None and not 0 <= contract.background <= len(contract.class_names):
        raise _Wrong(f"background is column {contract.background} of {len(contract.class_names) + 1}")
    for name, number in (("threshold", contract.threshold), ("nms", contract.nms)):
        if number is not None and not 0 <= number <= 1:
            raise _Wrong(f"{name} is {number:g}; it must be between 0 and 1")
