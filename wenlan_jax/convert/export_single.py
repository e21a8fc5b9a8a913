"""Export of the single tower in the layouts of UNITER and of UC2, for their code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from wenlan_jax import __version__
from wenlan_jax.convert import bert, model_card, single_layout, weights
from wenlan_jax.convert.exported_model import ExportedModel, ExportError
from wenlan_jax.convert.exporting import Runner
from wenlan_jax.convert.rules import FlatTree
from wenlan_jax.convert.single_layout import SingleTowerLayout
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.single_tower.batch import trained
from wenlan_jax.tasks.single_tower.spec import ANSWERS, TOWER

WEIGHTS = "pytorch_model.bin"

_CARD = """\
# Single tower in the layout of {code}, checkpoint {step}

One Transformer over the word pieces of a text and the regions of an image, of task {task}. Exported by wenlan_jax
{version}; `parity.json` says how far `{weights}` is from the JAX tower, head by head, run by an independent PyTorch
model of this layout.

## Files

- `{weights}`: the state dict, tied tables written twice as the code expects; parts: {parts}
- `{config}`: sizes; `training_config.json`: the whole configuration, {fingerprint}
- `{tokenizer}`: the vocabulary
{answers}
## Inputs

- texts: at most {length} pieces, the first and the last of them special; positions start at {offset}
- regions: {features} numbers each ({source}), and (x1, y1, x2, y2, w, h, w * h) in units of the image's sides
{notes}
## Results

{results}
"""

_SOURCES = {
    "stored": "of the detector whose regions the training data has",
    "pixels": "the region's pixels, scaled as in training",
    "map": "pooled on the feature map of BriVL's image backbone, which is not in this folder",
}


def write_uniter(model: ExportedModel, folder: Path) -> Runner:
    """Writes a folder in UNITER's layout.

    Args:
        model: what is exported.
        folder: where it goes.

    Returns:
        What runs the file on a batch.
    """
    return _write(model, folder, single_layout.LAYOUTS["uniter"])


def write_uc2(model: ExportedModel, folder: Path) -> Runner:
    """Writes a folder in UC2's layout.

    Args:
        model: what is exported.
        folder: where it goes.

    Returns:
        What runs the file on a batch.
    """
    return _write(model, folder, single_layout.LAYOUTS["uc2"])


def _write(model: ExportedModel, folder: Path, layout: SingleTowerLayout) -> Runner:
    _check(model, layout)
    state = state_of(model, layout)
    weights.write_torch(state, folder / WEIGHTS)
    description = single_layout.description(model.config, layout)
    (folder / bert.DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
    (folder / "training_config.json").write_text(experiment.to_json(model.config) + "\n")
    tokenizer = model.words.save(folder)
    answers = _copy_answers(model, folder)
    (folder / "README.md").write_text(_card(model, layout, tokenizer.name, sorted(state), answers))

    def runner(batch: Any) -> Any:
        from wenlan_jax.convert import run_torch_single

        sizes = single_layout.torch_sizes(model.config, layout)
        return run_torch_single.run(sizes, weights.read(folder / WEIGHTS), batch)

    return runner


def state_of(model: ExportedModel, layout: SingleTowerLayout) -> FlatTree:
    """Reads the tower's keys with their tied copies, in the dtype of the export."""
    state = layout.table().to_torch({TOWER: model.tower(TOWER)})
    return {key: value.astype(model.dtype, copy=False) for key, value in state.items()}


def _check(model: ExportedModel, layout: SingleTowerLayout) -> None:
    """Raises ExportError for a tower whose positions the code of the layout would look up elsewhere."""
    offset = model.config.single.position_offset
    if offset != layout.position_offset:
        layouts = single_layout.LAYOUTS.values()
        fitting = next((f"use --format={other.name}" for other in layouts if other.position_offset == offset), "")
        raise ExportError(
            f"single.position_offset is {offset}, and the code of {layout.name} takes row {layout.position_offset} for "
            f"the first token; {fitting or 'no layout is for such positions'}"
        )


def _copy_answers(model: ExportedModel, folder: Path) -> bool:
    """The list of answers of a run that was trained on questions, whose order is that of the head's columns."""
    if "vqa" not in trained(model.config) or not model.config.vqa.answers_file:
        return False
    shutil.copyfile(Path(model.config.vqa.answers_file).expanduser(), folder / ANSWERS)
    return True


def _card(model: ExportedModel, layout: SingleTowerLayout, tokenizer: str, keys: list[str], answers: bool) -> str:
    config, single = model.config, model.config.single
    pipeline = "visual-question-answering" if "vqa" in trained(config) else ""
    return model_card.metadata(model, "pytorch", pipeline) + _CARD.format(
        code=layout.code,
        step=model.step,
        task=config.task,
        version=__version__,
        weights=WEIGHTS,
        parts=", ".join(dict.fromkeys(f"`{key.split('.')[0]}.`" for key in keys)),
        config=bert.DESCRIPTION,
        fingerprint=experiment.fingerprint(config),
        tokenizer=tokenizer,
        answers=f"- `{ANSWERS}`: the answers, in the order of the columns of `vqa_output`\n" if answers else "",
        length=config.data.text_length,
        offset=single.position_offset,
        features=single.regions.width,
        source=_SOURCES[single.regions.features],
        notes=_notes(model, layout),
        results=model_card.results_table(model.result),
    )


def _notes(model: ExportedModel, layout: SingleTowerLayout) -> str:
    """What the code of the layout has as constants and this tower has otherwise."""
    single = model.config.single
    return "".join(
        f"- {what} have eps {ours:g} here, and {theirs:g} in {layout.code}: set it there\n"
        for what, ours, theirs in (
            ("the LayerNorms of words, of their head and of answers", single.text_eps, layout.text_eps),
            ("the other LayerNorms", single.eps, layout.eps),
        )
        if ours != theirs
    )
