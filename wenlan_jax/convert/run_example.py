"""Runs the example of an exported folder, as its users do: `python run_example.py FOLDER SCRATCH`.

SCRATCH has `job.json` with files and texts and `batch.npz` with the example's inputs; `result.npz` is written there.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.modules["wenlan_jax"] = None  # type: ignore[assignment]  # an export needs nothing of ours


def main(folder: Path, scratch: Path) -> None:
    """Writes what `inputs` and `embed` of the example give."""
    job = json.loads((scratch / "job.json").read_text(encoding="utf-8"))
    with np.load(scratch / "batch.npz") as file:
        batch: dict[str, Any] = dict(file)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    example = runpy.run_path(str(folder / "example.py"), run_name="example")
    inputs = example["inputs"](job["files"], job["texts"])
    image, text = example["embed"](**{name: _like(value, inputs) for name, value in batch.items()})
    arrays: dict[str, Any] = {**inputs, "image": image, "text": text}
    stored: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez(scratch / "result.npz", **stored)


def _like(array: np.ndarray, inputs: dict[str, Any]) -> Any:
    """The array, as a tensor where the example has tensors."""
    if isinstance(inputs["pixel_values"], np.ndarray):
        return array
    import torch

    return torch.from_numpy(array)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
