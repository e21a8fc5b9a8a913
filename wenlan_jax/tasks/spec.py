"""What a task registers: everything that the package knows of it.

A task is one folder with a `TaskSpec`, and one line in `registry.py` (or an entry point of another package). Training,
resuming, evaluation, plans, benchmarks, imports and exports read the spec and name no task. Its parts are `late`
references, so that reading a configuration imports no model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from wenlan_jax.core.evaluation import Evaluation
    from wenlan_jax.core.task import Task
    from wenlan_jax.data.loader import TrainMaker
    from wenlan_jax.data.text import Tokenizer
    from wenlan_jax.tasks.batch import BatchSpec
    from wenlan_jax.tasks.run import Run
    from wenlan_jax.tasks.schema import Config


def no_faults(config: Config) -> list[str]:
    """Returns no faults, for a task whose fields cannot clash."""
    return []


def unchanged(config: Config, workdir: Path) -> Config:
    """Returns the configuration as it is, for a task that settles nothing by the data."""
    return config


def always(config: Config) -> bool:
    """Returns True, for an evaluation that every configuration asks for."""
    return True


RematGroups = tuple[Mapping[str, tuple[str, ...]], ...]
"""Groups of parts that may be recomputed in the backward pass: for every part its name and the fields that turn it
on."""


def no_remat(config: Config) -> RematGroups:
    """Returns no groups, for a task of which nothing may be recomputed."""
    return ()


def one_pair(config: Config) -> int:
    """Returns 1, for a task whose pairs are independent of each other in a micro-batch."""
    return 1


@dataclasses.dataclass(frozen=True)
class EvaluationSpec:
    """One protocol by which a task is measured.

    Attributes:
        make: the evaluation of a run, with its tokenizer.
        when: whether a configuration asks for it.
    """

    make: Callable[[Run, Tokenizer], Evaluation]
    when: Callable[[Config], bool] = always


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """A task. What has no default must be given.

    Attributes:
        name: the value of the field `task`.
        meaning: of the task, in a few words, for `wenlan fields`.
        model: the kind of model, in the words of a message, such as `two towers`. Tasks of one kind share checkpoints,
            export formats and the commands that need such a model.
        sizes: the fields that set the model's sizes, such as `model.*`.
        vocabulary: the field with the number of rows of the word table; 0 there fits the tokenizer.
        towers: the names under which the parameters of the model's towers stand in the train state.
        create: the task itself, for a configuration and a mesh.
        batches: the maker of training batches: of the positions `share` in every one.
        batch_spec: the fields of the training batch that needs most memory.
        evaluations: the protocols that measure it, in their order.
        clashes: faults of fields of the configuration that concern only this task, one message each.
        settle: the configuration with what depends on the data, such as a list of answers, settled and kept in the
            work directory; called by all processes before a training.
        read_settled: the same from what a training left in its work directory.
        settled_fields: those that `settle` sets.
        settled_files: what `settle` keeps in the work directory.
        micro_batch_unit: the smallest number of pairs that a micro-batch consists of.
        remat: the parts of a configuration that may be recomputed in the backward pass; a plan tries every choice of
            groups.
        transformers: whether the model has Transformer layers, whose sharding rules must then find their leaves.
        may_lack: a pattern of leaves that a checkpoint may lack when a run starts from it, and that may stay random.
        reads_captions: whether `eval.languages` and `eval.kinds` choose among the captions of the data.
        importable: towers whose weights can be imported; by default `towers`.
        tags: of its exports, for the model card.
    """

    name: str
    meaning: str
    model: str
    sizes: str
    vocabulary: str
    towers: tuple[str, ...]
    create: Callable[[Config, Mesh], Task]
    batches: Callable[[Config, Tokenizer, tuple[int, ...]], TrainMaker]
    batch_spec: Callable[[Config], BatchSpec]
    evaluations: tuple[EvaluationSpec, ...]
    clashes: Callable[[Config], list[str]] = no_faults
    settle: Callable[[Config, Path], Config] = unchanged
    read_settled: Callable[[Config, Path], Config] = unchanged
    settled_fields: tuple[str, ...] = ()
    settled_files: tuple[str, ...] = ()
    micro_batch_unit: Callable[[Config], int] = one_pair
    remat: Callable[[Config], RematGroups] = no_remat
    transformers: bool = True
    may_lack: str = ""
    reads_captions: bool = True
    importable: Callable[[Config], tuple[str, ...]] | None = None
    tags: tuple[str, ...] = ()

    def importable_towers(self, config: Config) -> tuple[str, ...]:
        """Lists the towers of a configuration whose weights can be imported."""
        return self.towers if self.importable is None else self.importable(config)
