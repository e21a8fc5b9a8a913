"""Export for PyTorch users who have nothing of ours: safetensors, one Python file, tokenizer, card and example."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from wenlan_jax.convert import example, model_card, text_modules, torch_modules, weights
from wenlan_jax.convert.architecture import architecture_of
from wenlan_jax.convert.brivl import QUERY_TOWERS, brivl_table, with_batch_counters
from wenlan_jax.convert.exported_model import ExportedModel
from wenlan_jax.convert.exporting import Runner
from wenlan_jax.convert.rules import FlatTree, torch_views
from wenlan_jax.tasks import experiment

MODULES, WEIGHTS, ARCHITECTURE = "wenlan_torch.py", "model.safetensors", "config.json"
TEXTS = "wenlan_text.py"


def write(model: ExportedModel, folder: Path) -> Runner:
    """Writes a folder that `wenlan_torch.load(folder)` turns into a PyTorch module.

    Args:
        model: what is exported.
        folder: where it goes.

    Returns:
        What runs the folder on a batch that way.
    """
    shutil.copyfile(torch_modules.__file__, folder / MODULES)
    weights.write_safetensors(query_state(model), folder / WEIGHTS, {"format": "pt"})
    architecture = architecture_of(model.config)
    (folder / ARCHITECTURE).write_text(json.dumps(architecture, indent=1) + "\n")
    (folder / "training_config.json").write_text(experiment.to_json(model.config) + "\n")
    write_tokenizer(model, folder)
    (folder / "README.md").write_text(model_card.write(model), encoding="utf-8")
    example.write(model, "torch", folder)
    return lambda batch: run_folder(folder, batch)


def write_tokenizer(model: ExportedModel, folder: Path) -> None:
    """Writes the tokenizer's file, and the code and settings that read texts with it."""
    model.words.save(folder)
    shutil.copyfile(text_modules.__file__, folder / TEXTS)
    settings = {**model.words.description(), "length": model.config.data.text_length}
    (folder / text_modules.SETTINGS).write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", "utf-8")


def query_state(model: ExportedModel) -> FlatTree:
    """Reads the towers under the official keys, in the dtype of the export; batch counters included."""
    state: FlatTree = {}
    for prefix, tower in QUERY_TOWERS.items():
        state |= tower_state(model, prefix, tower)
    return with_batch_counters(state)


def tower_state(model: ExportedModel, prefix: str, tower: str) -> FlatTree:
    """Reads the keys of one tower under an official prefix, in the dtype of the export; without batch counters.

    Args:
        model: what is exported.
        prefix: the official prefix.
        tower: the Flax name.

    Returns:
        Arrays by key; views of what was read where the layout allows: each is made contiguous when it is written.
    """
    backbone = model.config.model.image.architecture
    state = torch_views({tower: model.tower(tower)}, brivl_table({prefix: tower}, backbone))
    return {key: value.astype(model.dtype, copy=False) for key, value in state.items()}


def run_folder(folder: Path, batch: Any) -> Any:
    """Loads the exported file as a module of its own, as its users do, and embeds the batch."""
    import importlib.util

    from wenlan_jax.convert import run_torch

    spec = importlib.util.spec_from_file_location("wenlan_torch", folder / MODULES)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return run_torch.embed(module.load(folder).float().eval(), batch)
