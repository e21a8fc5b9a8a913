"""What the tasks `brivl` and `clip` register."""

from __future__ import annotations

import dataclasses

from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.spec import EvaluationSpec, RematGroups, TaskSpec
from wenlan_jax.tasks.two_tower import backbones
from wenlan_jax.util.late_import import late

TWO_TOWERS = "two towers"
"""The kind of model: images and captions are encoded apart."""


def _remat(config: experiment.Config) -> RematGroups:
    backbone = f"{backbones.of(config.model).path}.remat"
    return (
        {"image backbone": (backbone,), "image encoder": ("model.image.encoder.remat",)},
        {"text tower": ("model.text.bert.remat", "model.text.encoder.remat")},
    )


BRIVL = TaskSpec(
    name="brivl",
    meaning="two towers with key encoders and banks",
    model=TWO_TOWERS,
    sizes="model.*",
    vocabulary="model.text.bert.vocab_size",
    towers=("image", "text"),
    create=late("wenlan_jax.tasks.two_tower.brivl:BriVL"),
    batches=late("wenlan_jax.tasks.shared_data:batches"),
    batch_spec=late("wenlan_jax.tasks.two_tower.batch:batch_spec"),
    evaluations=(EvaluationSpec(late("wenlan_jax.tasks.two_tower.evaluation:Retrieval")),),
    clashes=late("wenlan_jax.tasks.two_tower.config:clashes"),
    micro_batch_unit=backbones.micro_batch_unit,
    remat=_remat,
    tags=("brivl",),
)

CLIP = dataclasses.replace(
    BRIVL,
    name="clip",
    meaning="two towers with in-batch negatives alone",
    create=late("wenlan_jax.tasks.two_tower.clip:Clip"),
    clashes=late("wenlan_jax.tasks.two_tower.config:clip_clashes"),
)
