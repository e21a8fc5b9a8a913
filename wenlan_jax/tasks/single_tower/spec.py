"""What the tasks `mlmm`, `rank` and `vqa` register."""

from __future__ import annotations

import dataclasses

from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.spec import EvaluationSpec, RematGroups, TaskSpec
from wenlan_jax.util.late_import import late

SINGLE_TOWER = "a single tower"
"""The kind of model: an image and a text are seen together."""

TOWER = "single"
"""The tower's name in the train state."""

ANSWERS = "answers.json"
"""In the work directory: the answers in the order of the columns of the head."""

_RANKING = late("wenlan_jax.tasks.single_tower.evaluations.ranking:Ranking")


def _importable(config: experiment.Config) -> tuple[str, ...]:
    """Regions may be pooled on the map of BriVL's image backbone, which is imported, too."""
    return (TOWER, "image") if config.single.regions.features == "map" else (TOWER,)


def _zero_shot(config: experiment.Config) -> bool:
    return config.eval.zero_shot


def _remat(config: experiment.Config) -> RematGroups:
    return ({"single tower": ("single.remat",)},)


MLMM = TaskSpec(
    name="mlmm",
    meaning="the single tower's pretraining",
    model=SINGLE_TOWER,
    sizes="single.*",
    vocabulary="single.vocab_size",
    towers=(TOWER,),
    create=late("wenlan_jax.tasks.single_tower.task:SingleTowerTask"),
    batches=late("wenlan_jax.tasks.single_tower.data:batches"),
    batch_spec=late("wenlan_jax.tasks.single_tower.batch:batch_spec"),
    evaluations=(
        EvaluationSpec(late("wenlan_jax.tasks.single_tower.evaluations.pretraining:Pretraining")),
        EvaluationSpec(_RANKING, when=_zero_shot),
    ),
    clashes=late("wenlan_jax.tasks.single_tower.config:pretraining_clashes"),
    remat=_remat,
    # Heads of other tasks, and BriVL's image tower but its backbone, on whose map regions are pooled.
    may_lack=r"params/single/\w+_head/|(params|batch_stats)/image/(?!backbone/)",
    importable=_importable,
    tags=("uniter",),
)

RANK = dataclasses.replace(
    MLMM,
    name="rank",
    meaning="the single tower fine-tuned for retrieval",
    evaluations=(EvaluationSpec(_RANKING),),
    clashes=late("wenlan_jax.tasks.single_tower.config:clashes"),
)

VQA = dataclasses.replace(
    MLMM,
    name="vqa",
    meaning="the single tower fine-tuned for questions",
    batches=late("wenlan_jax.tasks.single_tower.data:training_questions"),
    evaluations=(EvaluationSpec(late("wenlan_jax.tasks.single_tower.evaluations.answering:Answering")),),
    clashes=late("wenlan_jax.tasks.single_tower.config:clashes"),
    settle=late("wenlan_jax.tasks.single_tower.answers:settle"),
    read_settled=late("wenlan_jax.tasks.single_tower.answers:read_settled"),
    settled_fields=("vqa.answers_file", "vqa.fingerprint"),
    settled_files=(ANSWERS,),
    reads_captions=False,
)
