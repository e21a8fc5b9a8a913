"""What loads pairs in most PyTorch code: a `DataLoader` over files, Pillow, and the transforms of the released BriVL.

Written out after torchvision's definitions, which is not needed here. Imports no jax, and PyTorch only when called.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8

if TYPE_CHECKING:
    from PIL import Image

    from wenlan_jax.data.text import Tokenizer

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)
STRENGTH, HUE = 0.4, 0.1
"""Of the jitter: factors are drawn from 1 +- STRENGTH, the turn of the hue from +- HUE circles."""


class Files:
    """A map-style dataset: image `index` as a tensor with channels first, and its caption.

    Args:
        folder: JPEGs and captions.txt.
        size: side of the square, in pixels.
        augment: False does the work of our loader and no more, whose jitter and normalisation are the accelerator's;
            True is the usual training transform: jitter, grey, float32, normalised.
    """

    def __init__(self, folder: Path, size: int, augment: bool) -> None:
        self.folder, self.size, self.augment = folder, size, augment
        self.captions = (folder / "captions.txt").read_text(encoding="utf-8").split("\n")

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        import torch
        from PIL import Image

        with Image.open(self.folder / f"{index:06}.jpg") as opened:
            image = opened.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        if self.augment:
            random = np.random.default_rng()
            pixels: Any = normalise(np.asarray(grey(jitter(image, random), random)))
        else:
            pixels = np.array(image)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), self.captions[index]


def jitter(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Jitters brightness, contrast, saturation and hue in a random order, on 4 of 5 images."""
    from PIL import ImageEnhance

    if random.random() >= 0.8:
        return image
    for change in random.permutation(4):
        if change == 3:
            image = turn_hue(image, random.uniform(-HUE, HUE))
            continue
        enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[change]
        image = enhance(image).enhance(random.uniform(1 - STRENGTH, 1 + STRENGTH))
    return image


def turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """Turns the hue by a part of the circle."""
    from PIL import Image

    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(round(turn * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def grey(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Makes one of 5 images grey."""
    return image.convert("L").convert("RGB") if random.random() < 0.2 else image


def normalise(pixels: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    """Normalises pixels by ImageNet's means and deviations."""
    scaled = pixels.astype(np.float32)
    scaled /= 255
    scaled -= MEAN
    scaled /= STD
    return scaled


class Endless:
    """A sampler: every epoch all indices in another order, without an end."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng(0)
        while True:
            yield from random.permutation(self.length).tolist()


def collate(pairs: list[tuple[Any, str]], tokenizer: Tokenizer, length: int) -> tuple[Any, Any]:
    """Makes a batch of images and of token ids."""
    import torch

    ids, _ = tokenizer.encode([text for _, text in pairs], length)
    return torch.stack([image for image, _ in pairs]), torch.from_numpy(ids)


def batches(
    dataset: Files, tokenizer: Tokenizer, length: int, batch_size: int, workers: int, prefetch: int
) -> Iterator[Any]:
    """Starts batches without an end.

    Args:
        dataset: the images.
        tokenizer: for the captions.
        length: tokens of a caption.
        batch_size: pairs of a batch.
        workers: data processes.
        prefetch: batches that the workers together keep ready, about.

    Returns:
        The iterator of a `DataLoader`.
    """
    import torch

    torch.set_num_threads(1)
    loader: Any = torch.utils.data.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=Endless(len(dataset)),
        num_workers=workers,
        prefetch_factor=-(-prefetch // workers),
        collate_fn=functools.partial(collate, tokenizer=tokenizer, length=length),
        multiprocessing_context="spawn",
    )
    return iter(loader)
