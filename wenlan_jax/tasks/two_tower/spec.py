"""What the tasks `brivl` and `clip` register."""

from __future__ import annotations

import dataclasses

from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.spec import EvaluationSpec, TaskSpec
from wenlan_jax.util.late_import import late

TWO_TOWERS = "two towers"
"""The kind of model: images and captions are encoded apart."""


def _micro_batch_unit(config: experiment.Config) -> int:
    """Groups of batch normalisation are not divided."""
    norm = config.model.image.batch_norm
    return norm.group_size if norm.mode == "group" else 1


BRIVL = TaskSpec(
    name="brivl",
    meaning="two towers with momentum towers and banks",
    model=TWO_TOWERS,
    sizes="model.*",
    vocabulary="model.text.bert.vocab_size",
    towers=("image", "text"),
    create=late("wenlan_jax.tasks.two_tower.brivl:BriVL"),
    batches=late("wenlan_jax.tasks.shared_data:batches"),
    batch_spec=late("wenlan_jax.tasks.two_tower.batch:batch_spec"),
    evaluations=(EvaluationSpec(late("wenlan_jax.tasks.two_tower.evaluation:Retrieval")),),
    clashes=late("wenlan_jax.tasks.two_tower.config:clashes"),
    micro_batch_unit=_micro_batch_unit,
    remat=(
        {"image backbone": ("model.image.backbone.remat",), "image encoder": ("model.image.encoder.remat",)},
        {"text tower": ("model.text.bert.remat", "model.text.encoder.remat")},
    ),
    tags=("brivl",),
)

CLIP = dataclasses.replace(
    BRIVL,
    name="clip",
    meaning="two towers with in-batch negatives alone",
    create=late("wenlan_jax.tasks.two_tower.clip:Clip"),
    clashes=late("wenlan_jax.tasks.two_tower.config:clip_clashes"),
)
