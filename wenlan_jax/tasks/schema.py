"""The configuration of an experiment: the sections that all tasks share, and those of each task."""

from __future__ import annotations

import dataclasses

from wenlan_jax.config import sections
from wenlan_jax.config.settings import field, section
from wenlan_jax.tasks.single_tower.schema import PretrainConfig, RankConfig, SingleTowerConfig, VqaConfig
from wenlan_jax.tasks.two_tower.schema import ContrastConfig, ModelConfig
from wenlan_jax.util.late_import import late


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of one experiment, typed and frozen.

    Every field says its meaning, default and source itself; `wenlan fields` prints them.
    """

    task: str = field(
        "brivl",
        "what is trained: brivl and clip are two towers, with key encoders and banks or with in-batch negatives "
        "alone; mlmm is the single tower's pretraining, rank and vqa are its fine-tuning for retrieval and questions",
        among=late("wenlan_jax.tasks.registry:names"),
    )
    seed: int = field(
        0,
        "of initialisation, data order, caption choice, dropout and jitter; 32 bits tell them apart",
        low=0,
        high=2**32 - 1,
    )
    init_from: str = field(
        "",
        "start from these weights: a directory made by `wenlan import`, or the work directory of another run; empty: "
        "from nothing. A run that resumes does not read it again",
    )
    mesh: sections.MeshConfig = section(sections.MeshConfig, free=True)
    data: sections.DataConfig = section(sections.DataConfig)
    tokenizer: sections.TokenizerConfig = section(sections.TokenizerConfig)
    augment: sections.AugmentConfig = section(sections.AugmentConfig)
    model: ModelConfig = section(ModelConfig)
    contrast: ContrastConfig = section(ContrastConfig)
    single: SingleTowerConfig = section(SingleTowerConfig)
    pretrain: PretrainConfig = section(PretrainConfig)
    rank: RankConfig = section(RankConfig)
    vqa: VqaConfig = section(VqaConfig)
    optimizer: sections.OptimizerConfig = section(sections.OptimizerConfig)
    train: sections.TrainConfig = section(sections.TrainConfig)
    eval: sections.EvalConfig = section(sections.EvalConfig, free=True)
    checkpoint: sections.CheckpointConfig = section(sections.CheckpointConfig, free=True)
    distributed: sections.DistributedConfig = section(sections.DistributedConfig, free=True)
    compilation: sections.CompilationConfig = section(sections.CompilationConfig, free=True)
    telemetry: sections.TelemetryConfig = section(sections.TelemetryConfig, free=True)
