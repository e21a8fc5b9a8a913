"""Runs an exported single tower in the PyTorch reference, on the batch that parity is measured with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wenlan_jax.convert import run_torch
from wenlan_jax.convert.proof_single import PairBatch, Said
from wenlan_jax.models.single_tower import MATCH

HEADS = {
    "itm_output": "itm_head",
    "cls": "word_head",
    "feat_regress": "feature_head",
    "region_classifier": "class_head",
    "rank_output": "rank_head",
    "vqa_output": "answer_head",
}
"""Our names of heads by the module that their keys begin with; a file need not have all."""


def run(sizes: Mapping[str, Any], state: Mapping[str, np.ndarray], batch: PairBatch) -> Said:
    """What each head in `state` says; `sizes` are the fields of `torch_single.UniterSizes`."""
    import torch

    from wenlan_jax.convert.reference.torch_single import Uniter, UniterSizes

    there = {key.split(".")[0] for key in state}
    absent = tuple(f"{module}." for module in HEADS if module not in there)
    model = run_torch.filled(lambda: Uniter(UniterSizes(**sizes)), state, absent)
    with torch.no_grad():
        said = _answers(model, batch, there)
        pooled = model.encode(_inputs(batch.crossed()))[2]
        pairs = model.rank_output(pooled)[:, 0] if "rank_output" in there else model.itm_output(pooled)[:, MATCH]
    items = len(batch.token_ids)
    return {name: value.numpy() for name, value in {**said, "pairs": pairs.reshape(items, items)}.items()}


def _answers(model: Any, batch: PairBatch, there: set[str]) -> dict[str, Any]:
    """What the modules that are there make of the pairs."""
    import torch

    text, regions, pooled = model.encode(_inputs(batch))
    places = torch.tensor(batch.places).unsqueeze(-1).expand(-1, -1, text.shape[-1])
    read = {"cls": text.gather(1, places), "feat_regress": regions, "region_classifier": regions}
    modules = {module: model.words if module == "cls" else model.get_submodule(module) for module in HEADS}
    found = {HEADS[name]: module(read.get(name, pooled)) for name, module in modules.items() if name in there}
    if "rank_head" in found:
        found["rank_head"] = found["rank_head"][:, 0]
    return {"pooled": pooled, **found}


def _inputs(batch: PairBatch) -> Any:
    import torch

    from wenlan_jax.convert.reference.torch_single import Inputs

    ids = torch.tensor(batch.token_ids.astype(np.int64))
    return Inputs(ids, *(torch.tensor(values) for values in batch[1:6]))
