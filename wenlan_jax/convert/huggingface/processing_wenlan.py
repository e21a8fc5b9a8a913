"""Images and texts as the WenLan (BriVL) towers of this folder want them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import BatchFeature, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from .wenlan_torch import pixels_of, read_square, resize  # type: ignore[import-not-found]


class WenLanImageProcessor(BaseImageProcessor):
    """Resizes to a square without keeping the aspect ratio, scales to [0, 1] and normalises.

    size: {"height", "width"}, equal. antialias: average when shrinking. image_mean, image_std: of each channel, red
    first. averaging: how, of files, `fast` or `exact`; open images are averaged over areas. See
    `wenlan_torch.read_square` and `wenlan_torch.resize`.
    """

    model_input_names = ["pixel_values"]

    # transformers makes an empty processor when it looks for what differs from the defaults.
    def __init__(
        self,
        size: dict[str, int] | None = None,
        antialias: bool = True,
        image_mean: Sequence[float] = (),
        image_std: Sequence[float] = (),
        averaging: str = "exact",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.antialias, self.averaging = size or {}, antialias, averaging
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:
        """See `preprocess`."""
        return self.preprocess(images, **kwargs)

    def preprocess(self, images: Any, return_tensors: str = "pt", **kwargs: Any) -> BatchFeature:
        """`pixel_values` of one image or a list of them, float32 (images, 3, side, side).

        images: paths of files, which are read as the training did; or PIL images of 8 or 16 bits, uint8 arrays
        (height, width, 3), red first, or (height, width) grey ones, or uint8 tensors (3, height, width).
        """
        listed = list(images) if _is_many(images) else [images]
        pixels = torch.stack([self._pixels(image) for image in listed])
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)

    def _pixels(self, image: Any) -> torch.Tensor:
        side = self.size["height"]
        if isinstance(image, (str, Path)):
            square = read_square(image, side, self.antialias, self.averaging)
        else:
            square = resize(_rgb(image), side, self.antialias)
        mean, std = torch.tensor(self.image_mean), torch.tensor(self.image_std)
        return ((square / 255.0 - mean) / std).permute(2, 0, 1).contiguous()


def _rgb(image: Any) -> torch.Tensor:
    """Pixels (height, width, 3) of an image, an array or a tensor."""
    if isinstance(image, Image.Image):
        return pixels_of(image)
    kind = str(getattr(image, "dtype", "uint8")).removeprefix("torch.")
    if kind != "uint8":
        raise ValueError(f"images must be uint8 from 0 to 255, not {kind}")
    if isinstance(image, torch.Tensor):
        return image.permute(1, 2, 0)
    return pixels_of(Image.fromarray(image))


def _is_many(images: Any) -> bool:
    """A list or tuple, or an array or tensor with a leading axis of images."""
    return isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4


class WenLanProcessor(ProcessorMixin):
    """Image processor and tokenizer in one."""

    if int(transformers.__version__.split(".")[0]) < 5:  # newer versions read them off __init__, and warn
        attributes = ["image_processor", "tokenizer"]
        image_processor_class = "AutoImageProcessor"
        tokenizer_class = "AutoTokenizer"

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        super().__init__(image_processor, tokenizer)

    def __call__(self, images: Any = None, text: Any = None, return_tensors: str = "pt", **kwargs: Any) -> BatchFeature:
        """`pixel_values` of images, `input_ids` and `attention_mask` of texts, or all three.

        Texts are cut and padded to the length of the model's training, which matters to models whose text backbone
        sees padding; `kwargs` go to the tokenizer.
        """
        if images is None and text is None:
            raise ValueError("give images, text or both")
        data: dict[str, Any] = {}
        if images is not None:
            data |= self.image_processor(images, return_tensors=return_tensors)
        if text is not None:
            options = {"padding": "max_length", "truncation": True, **kwargs}
            data |= self.tokenizer(text, return_tensors=return_tensors, **options)
        return BatchFeature(data)
