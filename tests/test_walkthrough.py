"""The Python of the pages runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from repository import ROOT
from saved_models import TWO_TOWERS, save

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def run(page: str, names: dict[str, object]) -> dict[str, object]:
    """Runs the blocks of Python of a page one after the other, and returns the names that they leave."""
    blocks = BLOCK.findall((ROOT / page).read_text("utf-8"))
    assert blocks
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page}, block {number + 1}", "exec"), names)
    return names


@pytest.mark.slow
def test_the_walkthrough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    left = run("configs/WALKTHROUGH.md", {})
    assert np.asarray(left["best"]).shape == (len(left["captions"]),)  # type: ignore[arg-type]
    assert left["width"] == 128
    assert int(left["state"].step) == 1 and int(left["state"].banks["text"].fill) == 8  # type: ignore[attr-defined]
    assert np.isfinite(float(left["metrics"]["loss"]))  # type: ignore[index]


@pytest.mark.parametrize("page", ["README.md", ".github/README.zh.md"])
def test_the_lines_of_the_readme(
    page: str, tmp_path_factory: pytest.TempPathFactory, tiny: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a trained model in the place that they name."""
    root = tmp_path_factory.getbasetemp() / "readme"
    save(tiny(**TWO_TOWERS, data__dir=str(root / "data")), root / "runs" / "quickstart")  # type: ignore[operator]
    monkeypatch.chdir(root)
    for name in ("cat.jpg", "dog.png"):
        cv2.imwrite(name, np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    left = run(page, {})
    assert np.asarray(left["scores"]).shape == (2, 2) and np.asarray(left["images"]).shape[0] == 2
