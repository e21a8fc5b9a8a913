"""Export in the layout of the official BriVL checkpoints, for the official code with strict loading."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from wenlan_jax.convert import model_card, weights
from wenlan_jax.convert.brivl import (
    MOMENTUM_TOWERS,
    OFFICIAL_BACKBONE,
    QUERY_TOWERS,
    is_unused_layer,
    with_batch_counters,
)
from wenlan_jax.convert.export_torch import tower_state
from wenlan_jax.convert.exported_model import ExportedModel, ExportError
from wenlan_jax.convert.exporting import Runner
from wenlan_jax.convert.rules import FlatTree
from wenlan_jax.convert.torch_file import StoredTensor
from wenlan_jax.core.state import MOMENTUM

FILE = "brivl.pth"
IMAGENET_CLASSES = 1000
UNUSED = """\
imgencoder*.backbone.classifier.* and textencoder*.backbone.bert.pooler.* are those of the file the run started from, or
zeros: the official modules have these layers, so strict loading needs them, and BriVL never computes with them.
"""


def write(model: ExportedModel, folder: Path) -> Runner:
    """Writes `brivl.pth`, nested under `learnable` as the released files are.

    Args:
        model: what is exported.
        folder: where it goes.

    Returns:
        What runs the file on a batch.
    """
    from wenlan_jax.convert import run_torch

    _check(model)
    write_file(model, folder / FILE)
    head = model_card.metadata(model, "pytorch", model_card.PIPELINE)
    (folder / "README.md").write_text(f"{head}torch.load('{FILE}')['learnable'], checkpoint {model.step}.\n\n{UNUSED}")

    def runner(batch: Any) -> Any:
        stored = weights.read(folder / FILE)
        towers = {
            key: value
            for key, value in stored.items()
            if key.split(".")[0] in QUERY_TOWERS and not is_unused_layer(key)
        }
        return run_torch.run(model.config, towers, batch)

    return runner


def _check(model: ExportedModel) -> None:
    """The official modules have no switch for these."""
    image, text = model.config.model.image, model.config.model.text.bert
    regions = image.regions
    faults = [
        fault
        for holds, fault in (
            (image.architecture == OFFICIAL_BACKBONE, f"model.image.architecture must be {OFFICIAL_BACKBONE!r}"),
            (not image.backbone.lite, "model.image.backbone.lite must be false"),
            (regions.project, "model.image.regions.project must be true"),
            (regions.whole_image, "model.image.regions.whole_image must be true"),
            (regions.coordinates == "official", "model.image.regions.coordinates must be 'official'"),
            (not text.attention_mask, "model.text.bert.attention_mask must be false"),
        )
        if not holds
    ]
    if faults:
        raise ExportError(
            "the official code would compute something else from these weights:\n  "
            + "\n  ".join(faults)
            + "\nTrain with these fields, or export with --format=torch, which has the switches"
        )


def write_file(model: ExportedModel, path: Path) -> None:
    """Writes all keys of the official modules, nested under `learnable`; a tower is written while the next is read."""
    state: dict[str, StoredTensor] = {}
    with weights.torch_file(path) as file, ThreadPoolExecutor(1, "writer") as background:

        def put(tower: FlatTree) -> None:
            state.update({key: file.put(array) for key, array in tower.items()})
            file.sync()

        written: Future[None] = background.submit(lambda: None)
        for tower in official_towers(model):
            written.result()  # so that no more than two towers are held
            written = background.submit(put, tower)
            del tower
        written.result()
        file.finish({"learnable": state})


def official_towers(model: ExportedModel) -> Iterator[FlatTree]:
    """Reads the official keys of each tower. Without key encoders the towers stand in for them.

    The towers come last: until then the programs that prove them have been compiled. Of them images come first, as they
    take longer to run.

    Args:
        model: what is exported.

    Yields:
        The keys and arrays of one tower.
    """
    for prefix, tower in {**MOMENTUM_TOWERS, **QUERY_TOWERS}.items():
        source = tower if model.momentum or tower in QUERY_TOWERS.values() else tower.removesuffix(MOMENTUM)
        state = with_batch_counters(tower_state(model, prefix, source))
        yield {**state, **_unused_layers(prefix, state, model)}


def _unused_layers(prefix: str, state: FlatTree, model: ExportedModel) -> FlatTree:
    """Those of one tower: as imported where the run started from an official file, else zeros."""
    shapes: dict[str, tuple[int, ...]]
    if prefix.startswith("img"):
        head = len(state[f"{prefix}.backbone.conv_head.weight"])
        shapes = {"classifier.weight": (IMAGENET_CLASSES, head), "classifier.bias": (IMAGENET_CLASSES,)}
    else:
        width = model.config.model.text.bert.width
        shapes = {"bert.pooler.dense.weight": (width, width), "bert.pooler.dense.bias": (width,)}
    layers: FlatTree = {}
    for name, shape in shapes.items():
        key = f"{prefix}.backbone.{name}"
        kept = model.unused_layers.get(key, model.unused_layers.get(key.replace("_mom.", ".")))
        layers[key] = np.zeros(shape, model.dtype) if kept is None else kept.astype(model.dtype)
    return layers
