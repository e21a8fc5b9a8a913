"""The tiny BriVL in the official layout, with the official code's own numbers: see its README for each array."""

from __future__ import annotations

import io
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent / "fixtures" / "brivl_official"


def facts() -> dict[str, Any]:
    """Sizes, constants, the trainable leaves and the norms of their first gradients."""
    return json.loads((FOLDER / "config.json").read_text())


def arrays(name: str) -> dict[str, np.ndarray]:
    """The arrays of `weights`, `inference` or `training` as they are stored."""
    with np.load(io.BytesIO(lzma.decompress((FOLDER / f"{name}.npz.xz").read_bytes()))) as file:
        return dict(file)
