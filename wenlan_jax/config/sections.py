"""Sections of a configuration that all tasks share: every field with its default, unit or choices, and its source.

Tags such as [C] at the end of a field's text say where its value comes from; `SOURCES` explains them.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from wenlan_jax.config.settings import field, section
from wenlan_jax.util import languages

SOURCES = {
    "C": "the official code of BriVL (BAAI-WuDao/BriVL, neilfei/brivl-nmi) or its released weights",
    "S": "the published descriptions of WenLan: the announcement of 2021 and the journal paper of 2022 (ZTE)",
    "X": "another publication that quotes the papers",
    "R": "recalled from the papers and not verified: no citation",
    "U": "the code of UNITER (ChenRocks/UNITER)",
    "UC2": "the code of UC2 (zmykevin/UC2)",
    "W": "a choice of wenlan_jax",
}
"""What the tags in the texts of fields mean. What follows a colon, as in [W: as JAX], says more."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Axes of the device mesh; their product is the number of devices, one of them may be -1 (the rest)."""

    preset: str = field(
        "",
        "sizes by name instead of the fields below; `wenlan plan --presets` lists them",
        free=True,
    )
    replica: int = field(
        1, "splits the batch over TPU slices or machines, each with the whole state", low=-1, free=True
    )
    data: int = field(-1, "splits the batch and the banks", low=-1, free=True)
    fsdp: int = field(1, "splits the batch, the banks and the parameters", low=-1, free=True)
    tensor: int = field(1, "splits the layers of the Transformers, each with all of the batch", low=-1, free=True)
    smallest_split: int = field(
        2**16,
        "numbers in the smallest leaf that fsdp and tensor split: a message costs more than it saves",
        low=0,
        free=True,
    )


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Text to ids."""

    path: str = field(
        "",
        "vocab.txt (BERT word pieces) or *.model (SentencePiece); empty: a SentencePiece model is trained on the "
        "training texts at the first start and kept in the work directory",
    )
    algorithm: Literal["unigram", "bpe"] = field(
        "unigram",
        "how a vocabulary is trained when path is empty; bpe keeps frequent words whole on a small corpus",
    )
    split_han: bool = field(
        False,
        "train with every Han character a piece of its own, as BERT's Chinese vocabularies do, when path is empty",
    )
    train_size: int = field(
        2048, "pieces of the vocabulary that is trained when path is empty; fewer where the texts fill fewer", low=300
    )
    character_coverage: float = field(
        0.9995, "share of characters with a piece of their own when path is empty; the rest is spelled in bytes",
        low=0.9, high=1,
    )  # fmt: skip
    train_texts: int = field(2_000_000, "texts the vocabulary is trained on at most", low=1)
    lower_case: bool = field(True, "lower-case word pieces, as bert-base-chinese does [C]")


@dataclasses.dataclass(frozen=True)
class MixturePartConfig:
    """One source of a mixture; what is not written takes the default. Kinds of text differ from source to source."""

    source: str = field("", "as data.source")
    split: str = field("train", "split to train on")
    weight: float = field(0.0, "share of the pairs, relative to the other parts; 0 in all: their numbers of records",
                           low=0)  # fmt: skip
    kinds: tuple[str, ...] = field(
        (), "as data.kinds; the released code reads ('sur_text',) of web search, the text around the image [C]"
    )
    kind_choice: Literal["any", "first", "weighted"] = field("any", "as data.kind_choice")
    kind_weights: tuple[float, ...] = field((), "as data.kind_weights")
    languages: tuple[str, ...] = field((), "as data.languages", each=languages.typed)
    objectives: tuple[str, ...] = field(
        (),
        "of pretrain.objectives, those of task 'mlmm' on this part; empty: all. Weakly correlated data: ('itm',) [S]",
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where pairs come from and how they are drawn."""

    source: str = field(
        "",
        "what to train and evaluate on: a name such as wenlan_scenes/s64 or one of `wenlan data list`, or a directory "
        "made by `wenlan pack`",
    )
    dir: str = field("~/tensorflow_datasets", "where TFDS data sets are built and looked for", free=True)
    train_split: str = field("train", "split to train on")
    mixture: tuple[MixturePartConfig, ...] = field(
        (),
        "sources to train on in fixed shares instead of data.source, which then is for evaluation only; written in a "
        "configuration file as dicts of the fields below, e.g. ({'source': 'web', 'weight': 0.7, 'kinds': "
        "('sur_text',)}, {'source': 'news', 'weight': 0.3, 'kinds': ('title',)})",
    )
    kinds: tuple[str, ...] = field((), "kinds of text to train on, e.g. ('descriptive',); empty: all")
    kind_choice: Literal["any", "first", "weighted"] = field(
        "any",
        "of a record with texts of several kinds: any of them alike, those of the first of data.kinds that it has, or "
        "of a kind drawn by data.kind_weights among those it has; the released code reads one kind alone [C]",
    )
    kind_weights: tuple[float, ...] = field((), "one for each of data.kinds, where kind_choice is 'weighted'")
    languages: tuple[str, ...] = field((), "languages to train on, e.g. ('zh', 'en'); empty: all", each=languages.typed)
    language_alpha: float = field(
        1.0,
        "of a record with texts in several languages: one is drawn in proportion to the number of its texts to this "
        "power; 1: texts alike, 0: languages alike [W]",
        low=0,
        high=1,
    )
    image_size: int = field(456, "side S of the square input image, pixels [C]", low=8)
    antialias: bool = field(True, "average when shrinking; the released code does not [C]")
    averaging: Literal["fast", "exact"] = field(
        "fast",
        "how antialias averages: fast decodes large JPEGs at 1/2, 1/4 or 1/8 and averages samples, within about one "
        "level of 255 of exact area means on average, in half the time or less [W]",
    )
    enlarge: Literal["host", "accelerator"] = field(
        "host",
        "where smaller images grow to image_size: where they are decoded, or on the accelerator; bilinear, equal "
        "but for rounding; most of what a processor spends on such an image besides decoding it is this [W]",
    )
    text_length: int = field(80, "word pieces a text is cut or padded to, with [CLS] and [SEP] [C]", low=3)
    workers: int = field(0, "data processes; 0: threads of this process", low=0, free=True)
    prefetch: int = field(4, "batches that are made ahead of the step", low=1, free=True)
    remembered: int = field(
        0,
        "records of each source that a data process keeps in memory once it has read them, some 15 KB each besides the "
        "file of its image; for data that fit",
        low=0,
        free=True,
    )
    bad_records: Literal["replace", "raise"] = field(
        "replace",
        "an undecodable image or a record without a fitting text: take the next record and count it, or stop",
    )


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """What happens to a training image on the accelerator; no crop and no flip, so that boxes stay valid [C]."""

    brightness: float = field(0.4, "factor drawn from 1 +- this [C]", low=0, high=1)
    contrast: float = field(0.4, "factor drawn from 1 +- this [C]", low=0, high=1)
    saturation: float = field(0.4, "factor drawn from 1 +- this [C]", low=0, high=1)
    hue: float = field(0.1, "turn drawn from +- this, in circles [C]", low=0, high=0.5)
    jitter_probability: float = field(0.8, "share of images jittered [C]", low=0, high=1)
    grayscale_probability: float = field(0.2, "share of images made grey [C]", low=0, high=1)
    mean: tuple[float, ...] = field((0.485, 0.456, 0.406), "channel means, ImageNet [C]")
    std: tuple[float, ...] = field((0.229, 0.224, 0.225), "channel deviations, ImageNet [C]")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser and schedule."""

    name: Literal["adam", "adamw", "muon", "sgd"] = field(
        "adam",
        "[S] says Adam; muon makes the momentum of every linear layer's matrix orthogonal (Jordan et al. 2024) and "
        "leaves tables, vectors and convolutions to Adam with Nesterov's momentum, as Optax has it [W]",
    )
    learning_rate: float = field(1e-4, "the highest, reached at the end of the warm-up [R]", low=0)
    schedule: Literal["constant", "cosine", "linear"] = field("constant", "after the warm-up; never released")
    warmup_steps: int = field(0, "in which the learning rate rises linearly from 0 to the highest", low=0)
    warmup_fraction: float = field(
        0.0, "of train.steps, in place of warmup_steps, as where train.epochs gives the length; 0: warmup_steps counts",
        low=0, high=0.9,
    )  # fmt: skip
    final_fraction: float = field(0.0, "of the peak, where cosine and linear end", low=0, high=1)
    b1: float = field(
        0.9, "decay of the first moment of adam, adamw and muon's Adam (Kingma and Ba 2015)", low=0, high=0.999999
    )
    b2: float = field(
        0.999, "decay of the second moment of adam, adamw and muon's Adam (Kingma and Ba 2015)", low=0, high=0.999999
    )
    eps: float = field(
        1e-8, "added to the root of the second moment of adam, adamw and muon's Adam, PyTorch's default", low=1e-20
    )
    sgd_momentum: float = field(0.0, "of sgd's velocity; 0: plain gradient descent", low=0, high=1)
    muon_momentum: float = field(0.95, "of muon's matrices, Nesterov's", low=0, high=0.999)
    weight_decay: float = field(
        1e-5, "adam and sgd add it to the gradient, adamw and muon to the step; not on biases and norms [R]", low=0
    )
    clip_norm: float = field(0.0, "gradients are scaled to at most this global norm; 0: off", low=0)
    faster: tuple[str, ...] = field(
        (), "patterns of parameter paths that learn faster_times as fast, such as a fresh head; none in BriVL"
    )
    faster_times: float = field(
        10.0, "learning rate of the parameters of faster, in learning_rate; 10 for UNITER's head of answers [U]", low=0
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The length and the size of a run."""

    steps: int = field(100_000, "optimiser steps of the whole run", low=1)
    epochs: float = field(
        0.0, "passes over the training records; from their number a start works out train.steps. 0: steps counts", low=0
    )
    batch_size: int = field(2688, "pairs of one optimiser step, over all devices [R]", low=1)
    accumulation: int = field(1, "micro-batches a step is computed in, with the same result", low=1)
    non_finite: Literal["stop", "skip"] = field(
        "stop", "a loss or gradient that is not finite stops the run, or the step is skipped and counted", free=True,
    )  # fmt: skip
    log_every: int = field(20, "steps between log lines", low=1, free=True)


@dataclasses.dataclass(frozen=True)
class GradedConfig:
    """How graded judgements of retrieval are counted (`wenlan rerank --judgements`); the papers give k alone."""

    k: int = field(30, "results of a query that count [S]", low=1)
    gain: Literal["exp", "linear"] = field("exp", "of a grade g: 2**g - 1, or g; not stated [W]")
    ideal: Literal["pool", "judged-list"] = field(
        "pool",
        "the list with NDCG 1: the best of all that was judged for the query, or of what the system shows; by the "
        "latter a system that finds only poor results is perfect [W]",
    )
    relevant_from: int = field(3, "lowest grade of a relevant result, for MAP; not stated [W]", low=1)
    empty: Literal["zero", "skip"] = field("zero", "a query without anything relevant counts 0, or not [W]")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What is measured on held-out data."""

    splits: tuple[str, ...] = field(("validation",), "splits evaluated while training", free=True)
    final_splits: tuple[str, ...] = field(("test",), "splits evaluated at the end and by `wenlan eval`", free=True)
    every: int = field(0, "steps between evaluations while training; 0: only at the end", low=0, free=True)
    every_epochs: float = field(
        0.0, "passes over the training records between evaluations, in place of eval.every; 0: eval.every counts",
        low=0, free=True,
    )  # fmt: skip
    batch_size: int = field(256, "images or texts embedded at once", low=1, free=True)
    kinds: tuple[str, ...] = field(
        (), "kinds of text that are queries; empty: all. Equal texts of one language are one query", free=True
    )
    languages: tuple[str, ...] = field((), "languages of the queries; empty: all", free=True, each=languages.typed)
    one_text_per_image: bool = field(
        False, "one text a record, languages taking turns, instead of all its texts", free=True
    )
    ks: tuple[int, ...] = field((1, 5, 10), "recall is told for these numbers of results", low=1, free=True)
    batches: int = field(
        0, "batches of each objective that the single tower's pretraining is evaluated on; 0: all", low=0, free=True
    )
    zero_shot: bool = field(
        False,
        "the single tower's pretraining ranks images and texts, too, by the logit of a match, as UNITER does without "
        "fine-tuning [U]",
        free=True,
    )
    rank_images: int = field(
        0, "images of a split that the single tower ranks, with all their texts; it sees every pair. 0: all", low=0,
        free=True,
    )  # fmt: skip
    folds: int = field(
        1,
        "equal runs of consecutive images, each searched alone, whose mean recall is told beside that of the whole; "
        "5 of MSCOCO's 5,000 make the papers' 1K test; 1: the whole only",
        low=1,
        free=True,
    )
    gallery: int = field(21, "queries shown in the gallery image page; 0: no page", low=0, free=True)
    graded: GradedConfig = section(GradedConfig, free=True)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What is kept."""

    every: int = field(1000, "steps between checkpoints; the last step is always kept", low=1, free=True)
    keep: int = field(3, "newest checkpoints that are kept; older ones are removed", low=1, free=True)
    accept_changes: bool = field(False, "resume although the configuration differs from the saved one", free=True)


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """How the processes of a job find each other; launch/ sets the environment variables, a cluster its own."""

    coordinator: str = field(
        "",
        "host:port of process 0; empty: $WENLAN_COORDINATOR, else as jax.distributed detects it (SLURM, Open MPI, "
        "Kubernetes, TPU), else this process is alone [W]",
    )
    processes: int = field(0, "in the job; 0: $WENLAN_PROCESSES, else as detected [W]", low=0)
    process: int = field(-1, "number of this one from 0; -1: $WENLAN_PROCESS, else as detected [W]", low=-1)
    timeout: int = field(300, "seconds to wait for all processes at the start [W: as jax.distributed]", low=1)
    heartbeat: int = field(
        100, "seconds without a sign of life after which a process counts as dead and the job ends [W: as JAX]", low=1
    )


@dataclasses.dataclass(frozen=True)
class CompilationConfig:
    """Compiled programs kept for the next start."""

    cache: str = field(
        "auto",
        "directory of the persistent cache, on a cluster one that all machines share; auto: ~/.cache/wenlan_jax on "
        "accelerators, none on a CPU; off: none. $JAX_COMPILATION_CACHE_DIR goes before it [W]",
    )
    cache_above: float = field(1.0, "programs that took fewer seconds to compile are not kept [W: as JAX]", low=0)


@dataclasses.dataclass(frozen=True)
class TelemetryConfig:
    """What a run tells about itself besides metrics.jsonl and ledger.jsonl, and when it counts as hung."""

    tensorboard: Literal["auto", "on", "off"] = field(
        "auto",
        "event files in the work directory; auto: where tensorboardX is installed",
    )
    wandb: Literal["off", "online", "offline"] = field(
        "off", "a run of Weights & Biases; offline: into the work directory"
    )
    wandb_project: str = field("wenlan", "project of Weights & Biases")
    profile: str = field(
        "",
        "FIRST:COUNT traces these steps, numbered from 1, into the work directory's profile/ for xprof; empty: none",
    )
    hang_seconds: float = field(
        1800.0,
        "without a finished step after which the process prints its stacks and ends with status 75; 0: never [W]",
        low=0,
    )
    hang_seconds_between: float = field(
        21600.0,
        "the same within the start, compilation, one round of evaluation or a checkpoint; 0: never [W]",
        low=0,
    )
