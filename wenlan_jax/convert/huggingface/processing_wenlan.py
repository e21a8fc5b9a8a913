"""Pictures and texts as the WenLan (BriVL) towers of this folder want them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import BatchFeature, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from .wenlan_torch import resize  # type: ignore[import-not-found]


class WenLanImageProcessor(BaseImageProcessor):
    """Resizes to a square without keeping the aspect ratio, scales to [0, 1] and normalises.

    size: {"height", "width"}, equal. antialias: average over the area when shrinking. image_mean, image_std: of each
    channel, red first. Pixels are those of the training code up to one level of 255, see `wenlan_torch.resize`.
    """

    model_input_names = ["pixel_values"]

    # transformers makes an empty processor when it looks for what differs from the defaults.
    def __init__(
        self,
        size: dict[str, int] | None = None,
        antialias: bool = True,
        image_mean: Sequence[float] = (),
        image_std: Sequence[float] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.antialias = size or {}, antialias
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:
        """See `preprocess`."""
        return self.preprocess(images, **kwargs)

    def preprocess(self, images: Any, return_tensors: str = "pt", **kwargs: Any) -> BatchFeature:
        """`pixel_values` of one picture or a list of them, float32 (pictures, 3, side, side).

        images: PIL pictures of any mode, uint8 arrays (height, width, 3), red first, or (height, width) grey ones,
        or uint8 tensors (3, height, width).
        """
        listed = list(images) if _is_many(images) else [images]
        pixels = torch.stack([self._pixels(picture) for picture in listed])
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)

    def _pixels(self, picture: Any) -> torch.Tensor:
        square = resize(_rgb(picture), self.size["height"], self.antialias)
        mean, std = torch.tensor(self.image_mean), torch.tensor(self.image_std)
        return ((square / 255.0 - mean) / std).permute(2, 0, 1).contiguous()


def _rgb(picture: Any) -> torch.Tensor:
    """Pixels (height, width, 3); transparent pictures are laid on white, the EXIF orientation is ignored."""
    kind = str(getattr(picture, "dtype", "uint8")).removeprefix("torch.")
    if kind != "uint8":
        raise ValueError(f"pictures must be uint8 from 0 to 255, not {kind}")
    if isinstance(picture, torch.Tensor):
        return picture.permute(1, 2, 0)
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    white = Image.new("RGBA", picture.size, "white")
    return torch.from_numpy(np.array(Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")))


def _is_many(images: Any) -> bool:
    """A list or tuple, or an array or tensor with a leading axis of pictures."""
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
        """`pixel_values` of pictures, `input_ids` and `attention_mask` of texts, or all three.

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
