"""The schema of a configuration: every field with its default, unit or choices, and where the value comes from.

Provenance tags in the field texts: [C] the official code, [S] the two source documents, [X] another publication
quoting the papers, [R] recalled and not verified, [W] a choice of wenlan_jax.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

T = TypeVar("T")


def _field(
    default: T,
    doc: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    free: bool = False,
) -> T:
    """A schema field. `free` marks fields that may change on resume, as they do not change the result."""
    metadata = {"doc": doc, "choices": choices, "low": low, "high": high, "free": free}
    return dataclasses.field(default=default, metadata=metadata)


def _section(kind: type[T], *, free: bool = False) -> T:
    """A nested section; `free` marks every field in it."""
    return dataclasses.field(default_factory=kind, metadata={"free": free})


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Axes of the device mesh; their product is the number of devices, one of them may be -1 (the rest)."""

    preset: str = _field(
        "",
        "sizes by name instead of the fields below; `wenlan plan --presets` lists them",
        free=True,
    )
    replica: int = _field(
        1, "splits the batch over TPU slices or machines, each with the whole state", low=-1, free=True
    )
    data: int = _field(-1, "splits the batch and the banks", low=-1, free=True)
    fsdp: int = _field(1, "splits the batch, the banks and the parameters", low=-1, free=True)
    tensor: int = _field(1, "splits the layers of the Transformers, each with all of the batch", low=-1, free=True)
    smallest_split: int = _field(
        2**16,
        "numbers in the smallest leaf that fsdp and tensor split: a message costs more than it saves",
        low=0,
        free=True,
    )


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to ids."""

    path: str = _field(
        "",
        "vocab.txt (BERT word pieces) or *.model (SentencePiece); empty: a SentencePiece model is trained on the "
        "training texts at the first start and kept in the work directory",
    )
    algorithm: str = _field(
        "unigram",
        "how a vocabulary is trained when path is empty; bpe keeps frequent words whole on a small corpus",
        choices=("unigram", "bpe"),
    )
    split_han: bool = _field(
        False,
        "train with every Han character a piece of its own, as BERT's Chinese vocabularies do, when path is empty",
    )
    train_size: int = _field(2048, "pieces of the vocabulary that is trained when path is empty", low=300)
    character_coverage: float = _field(
        0.9995, "share of characters with a piece of their own when path is empty; the rest is spelled in bytes",
        low=0.9, high=1,
    )  # fmt: skip
    train_texts: int = _field(2_000_000, "texts the vocabulary is trained on at most", low=1)
    lower_case: bool = _field(True, "lower-case word pieces, as bert-base-chinese does [C]")


@dataclasses.dataclass(frozen=True)
class Data:
    """Where pairs come from and how they are drawn."""

    source: str = _field(
        "wenlan_scenes/s64", "TFDS name (wenlan_scenes/s64, .../s128) or a directory made by `wenlan pack`"
    )
    dir: str = _field("~/tensorflow_datasets", "where TFDS data sets are built and looked for", free=True)
    train_split: str = _field("train", "split to train on")
    kinds: tuple[str, ...] = _field((), "kinds of text to train on, e.g. ('descriptive',); empty: all")
    languages: tuple[str, ...] = _field((), "languages to train on, e.g. ('zh', 'en'); empty: all")
    image_size: int = _field(456, "side S of the square input picture, pixels [C]", low=8)
    antialias: bool = _field(True, "average when shrinking; the released code does not [C]")
    text_length: int = _field(80, "word pieces a text is cut or padded to, with [CLS] and [SEP] [C]", low=3)
    workers: int = _field(0, "data processes; 0: threads of this process", low=0, free=True)
    prefetch: int = _field(4, "batches made ahead", low=1, free=True)
    bad_records: str = _field(
        "replace",
        "an undecodable image or a record without a fitting text: take the next record and count it, or stop",
        choices=("replace", "raise"),
    )


@dataclasses.dataclass(frozen=True)
class Augment:
    """What happens to a training picture on the accelerator; no crop and no flip, so that boxes stay valid [C]."""

    brightness: float = _field(0.4, "factor drawn from 1 +- this [C]", low=0, high=1)
    contrast: float = _field(0.4, "factor drawn from 1 +- this [C]", low=0, high=1)
    saturation: float = _field(0.4, "factor drawn from 1 +- this [C]", low=0, high=1)
    hue: float = _field(0.1, "turn drawn from +- this, in circles [C]", low=0, high=0.5)
    jitter_probability: float = _field(0.8, "share of pictures jittered [C]", low=0, high=1)
    grayscale_probability: float = _field(0.2, "share of pictures made grey [C]", low=0, high=1)
    mean: tuple[float, ...] = _field((0.485, 0.456, 0.406), "channel means, ImageNet [C]")
    std: tuple[float, ...] = _field((0.229, 0.224, 0.225), "channel deviations, ImageNet [C]")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """EfficientNet as a feature extractor; B5 is width 1.6 and depth 2.2."""

    stages: tuple[tuple[int, ...], ...] = _field(
        (), "(kernel, stride, expansion, width, repeats) of each stage before scaling; empty: those of B0"
    )
    stem: int = _field(32, "channels of the first convolution before scaling [C]", low=1)
    head: int = _field(1280, "channels of the map before scaling [C]", low=1)
    width_multiplier: float = _field(1.6, "scales all channels [C: B5]", low=0.05)
    depth_multiplier: float = _field(2.2, "scales all repeats [C: B5]", low=0.1)
    depthwise: str = _field(
        "auto",
        "how depthwise convolutions are computed, with equal results; auto: shift on CPU, conv elsewhere",
        choices=("auto", "conv", "shift"),
        free=True,
    )
    remat: bool = _field(False, "recompute each block in the backward pass to save memory", free=True)
    scan: bool = _field(False, "compile the equal blocks of a stage once and loop over their stacked parameters")


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """Statistics of batch normalisation, declared so that they never depend on the number of devices."""

    mode: str = _field(
        "group",
        "statistics over each group of consecutive examples, over the whole batch, or the stored ones",
        choices=("group", "batch", "frozen"),
    )
    group_size: int = _field(16, "examples in a group; the papers' per-GPU batch is 16 [X]", low=1)
    momentum: float = _field(0.1, "weight of the new statistics in the running ones (PyTorch's sense)", low=0, high=1)
    eps: float = _field(1e-3, "tf_ variants of EfficientNet [C]", low=0)
    official_frozen_drift: bool = _field(
        False,
        "frozen layers normalise by, and store, batch statistics all the same, as the released code does [C]",
    )


@dataclasses.dataclass(frozen=True)
class Regions:
    """Which parts of a picture become tokens."""

    kind: str = _field("grid", "fixed grid (2.0) or detector boxes (1.0) [S]", choices=("grid", "boxes"))
    grid: tuple[int, ...] = _field((6,), "sides of the grids; (1, 5) is multi-scale; 6x6 in 2.0 [C]")
    boxes: int = _field(36, "detector boxes used, the first ones [C]", low=1)
    whole_image: bool = _field(True, "the whole picture is one more region, the last [C]")
    samples: int = _field(4, "bilinear samples along each side of a region [C]", low=1)
    project: bool = _field(True, "a linear layer after pooling; the video descendant has none [C]")
    coordinates: str = _field(
        "corrected",
        "official: grid built for align_corners=True and sampled with False, as released weights need [C]",
        choices=("corrected", "official"),
    )


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The Transformer block over tokens."""

    layers: int = _field(4, "[C]", low=0)
    heads: int = _field(4, "[C]", low=1)
    feed_forward: int = _field(2048, "[C]", low=1)
    dropout: float = _field(0.1, "[C]", low=0, high=0.99)
    remat: bool = _field(False, "recompute each layer in the backward pass to save memory", free=True)
    scan: bool = _field(False, "compile one layer and loop over stacked parameters")


@dataclasses.dataclass(frozen=True)
class ImageTower:
    """EfficientNet, region pooling, Transformer block, projection."""

    backbone: Backbone = _section(Backbone)
    batch_norm: BatchNorm = _section(BatchNorm)
    regions: Regions = _section(Regions)
    encoder: Encoder = _section(Encoder)


@dataclasses.dataclass(frozen=True)
class Bert:
    """BERT or RoBERTa; the sizes of the base model."""

    vocab_size: int = _field(21128, "rows of the word table [C]; 0: as many as the tokenizer has pieces", low=0)
    width: int = _field(768, "[C]", low=1)
    layers: int = _field(12, "[C]", low=1)
    heads: int = _field(12, "[C]", low=1)
    feed_forward: int = _field(3072, "[C]", low=1)
    positions: int = _field(512, "rows of the position table [C]", low=3)
    types: int = _field(2, "rows of the segment table [C]", low=1)
    dropout: float = _field(0.1, "of hidden states and attention [C]", low=0, high=0.99)
    eps: float = _field(1e-12, "of its LayerNorms [C]", low=0)
    attention_mask: bool = _field(
        True,
        "padding is not attended to; the released code passes no mask, so its embeddings depend on padding [C]",
    )
    scan_segments: tuple[int, ...] = _field(
        (), "compile one layer per segment and loop; lengths sum to layers, frozen and trained layers apart"
    )
    remat: bool = _field(False, "recompute each layer in the backward pass to save memory", free=True)


@dataclasses.dataclass(frozen=True)
class TextTower:
    """BERT, Transformer block, projection."""

    bert: Bert = _section(Bert)
    encoder: Encoder = _section(Encoder)


@dataclasses.dataclass(frozen=True)
class Model:
    """The two towers."""

    embedding: int = _field(2048, "width D of the common space [C]", low=1)
    image: ImageTower = _section(ImageTower)
    text: TextTower = _section(TextTower)
    freeze: tuple[str, ...] = _field(
        (
            r"image/backbone/(conv_stem|bn1|blocks_[012]_[\d_]+|conv_head|bn2)/",
            r"text/backbone/(embeddings|layers_[0-7])/",
        ),
        "patterns of parameter paths that are not trained [C]",
    )
    dtype: str = _field("bfloat16", "of the computation; the state is float32 [W]", choices=("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The contrastive loss, the momentum towers and the banks of negatives."""

    temperature: float = _field(0.07, "divides the similarities, at the start if learnable [C]", low=1e-4)
    learnable_temperature: bool = _field(False, "trained as the logarithm of its inverse; fixed in BriVL [C]")
    momentum: float = _field(0.99, "m of k <- m k + (1-m) q [C]", low=0, high=1)
    bank_size: int = _field(9600, "K, entries of each bank [C]; the task 'clip' has none", low=1)
    bank_start: str = _field(
        "empty",
        "unfilled entries are masked, or random unit vectors stand in them as in the released code [C]",
        choices=("empty", "random"),
    )
    bank_from_step: int = _field(
        0,
        "the banks are filled from the start and count as negatives from this step on: before towers that start from "
        "nothing have learnt, old keys differ from new ones by drift alone, which is all that is then learnt [W]",
        low=0,
    )
    in_batch_negatives: bool = _field(False, "the other keys of the batch are negatives too; [X] reads 2.0 so")
    mask_false_negatives: bool = _field(True, "negatives of the query's own image are left out and counted [W]")
    multi_label_top_k: int = _field(
        0,
        "bank entries among the top k of both key-key similarities are positives too; 0: off, as released [C]",
        low=0,
    )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Optimiser and schedule."""

    name: str = _field("adam", "[S] says Adam", choices=("adam", "adamw", "sgd"))
    learning_rate: float = _field(1e-4, "peak [R]", low=0)
    schedule: str = _field("constant", "after the warm-up; never released", choices=("constant", "cosine", "linear"))
    warmup_steps: int = _field(0, "linear from 0 to the peak", low=0)
    final_fraction: float = _field(0.0, "of the peak, where cosine and linear end", low=0, high=1)
    b1: float = _field(0.9, "Adam's", low=0, high=1)
    b2: float = _field(0.999, "Adam's", low=0, high=1)
    eps: float = _field(1e-8, "Adam's", low=0)
    sgd_momentum: float = _field(0.0, "of sgd", low=0, high=1)
    weight_decay: float = _field(
        1e-5, "adam and sgd add it to the gradient, adamw to the step; not on biases and norms [R]", low=0
    )
    clip_norm: float = _field(0.0, "gradients are scaled to at most this global norm; 0: off", low=0)


@dataclasses.dataclass(frozen=True)
class Train:
    """The length and the size of a run."""

    steps: int = _field(100_000, "optimiser steps", low=1)
    batch_size: int = _field(2688, "pairs of one optimiser step, over all devices [R]", low=1)
    accumulation: int = _field(1, "micro-batches a step is computed in, with the same result", low=1)
    non_finite: str = _field(
        "stop", "a loss or gradient that is not finite stops the run, or the step is skipped and counted",
        choices=("stop", "skip"), free=True,
    )  # fmt: skip
    log_every: int = _field(20, "steps between log lines", low=1, free=True)


@dataclasses.dataclass(frozen=True)
class Eval:
    """Retrieval on held-out pairs."""

    splits: tuple[str, ...] = _field(("validation",), "splits evaluated while training", free=True)
    final_splits: tuple[str, ...] = _field(("test",), "splits evaluated at the end and by `wenlan eval`", free=True)
    every: int = _field(0, "steps between evaluations while training; 0: only at the end", low=0, free=True)
    batch_size: int = _field(256, "images or texts embedded at once", low=1, free=True)
    kinds: tuple[str, ...] = _field((), "kinds of text that are queries; empty: all", free=True)
    languages: tuple[str, ...] = _field((), "languages of the queries; empty: all", free=True)
    one_text_per_image: bool = _field(
        False, "one text a record, languages taking turns, instead of all its texts", free=True
    )
    ks: tuple[int, ...] = _field((1, 5, 10), "recall at these", free=True)
    gallery: int = _field(21, "queries shown in the gallery picture page; 0: no page", low=0, free=True)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What is kept."""

    every: int = _field(1000, "steps between checkpoints; the last step is always kept", low=1, free=True)
    keep: int = _field(3, "newest checkpoints kept", low=1, free=True)
    accept_changes: bool = _field(False, "resume although the configuration differs from the saved one", free=True)


@dataclasses.dataclass(frozen=True)
class Distributed:
    """How the processes of a job find each other; launch/ sets the environment variables, a cluster its own."""

    coordinator: str = _field(
        "",
        "host:port of process 0; empty: $WENLAN_COORDINATOR, else as jax.distributed detects it (SLURM, Open MPI, "
        "Kubernetes, TPU), else this process is alone [W]",
    )
    processes: int = _field(0, "in the job; 0: $WENLAN_PROCESSES, else as detected [W]", low=0)
    process: int = _field(-1, "number of this one from 0; -1: $WENLAN_PROCESS, else as detected [W]", low=-1)
    timeout: int = _field(300, "seconds to wait for all processes at the start [W: as jax.distributed]", low=1)
    heartbeat: int = _field(
        100, "seconds without a sign of life after which a process counts as dead and the job ends [W: as JAX]", low=1
    )


@dataclasses.dataclass(frozen=True)
class Compilation:
    """Compiled programs kept for the next start."""

    cache: str = _field(
        "auto",
        "directory of the persistent cache, on a cluster one that all machines share; auto: ~/.cache/wenlan_jax on "
        "accelerators, none on a CPU; off: none. $JAX_COMPILATION_CACHE_DIR goes before it [W]",
    )
    cache_above: float = _field(1.0, "programs that took fewer seconds to compile are not kept [W: as JAX]", low=0)


@dataclasses.dataclass(frozen=True)
class Telemetry:
    """What a run tells about itself besides metrics.jsonl and ledger.jsonl, and when it counts as hung."""

    tensorboard: str = _field(
        "auto",
        "event files in the work directory; auto: where tensorboardX is installed",
        choices=("auto", "on", "off"),
    )
    wandb: str = _field(
        "off", "a run of Weights & Biases; offline: into the work directory", choices=("off", "online", "offline")
    )
    wandb_project: str = _field("wenlan", "project of Weights & Biases")
    profile: str = _field(
        "",
        "FIRST:COUNT traces these steps, numbered from 1, into the work directory's profile/ for xprof; empty: none",
    )
    hang_seconds: float = _field(
        1800.0,
        "without a finished step after which the process prints its stacks and ends with status 75; 0: never [W]",
        low=0,
    )
    hang_seconds_between: float = _field(
        21600.0,
        "the same within the start, compilation, one round of evaluation or a checkpoint; 0: never [W]",
        low=0,
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    task: str = _field("brivl", "momentum towers and banks, or in-batch negatives alone", choices=("brivl", "clip"))
    seed: int = _field(0, "of initialisation, data order, caption choice, dropout and jitter", low=0)
    init_from: str = _field(
        "",
        "start from these weights: a directory made by `wenlan import`, or the work directory of another run; empty: "
        "from nothing. A run that resumes does not read it again",
    )
    mesh: Mesh = _section(Mesh, free=True)
    data: Data = _section(Data)
    tokenizer: Tokenizer = _section(Tokenizer)
    augment: Augment = _section(Augment)
    model: Model = _section(Model)
    contrast: Contrast = _section(Contrast)
    optimizer: Optimizer = _section(Optimizer)
    train: Train = _section(Train)
    eval: Eval = _section(Eval, free=True)
    checkpoint: Checkpoint = _section(Checkpoint, free=True)
    distributed: Distributed = _section(Distributed, free=True)
    compilation: Compilation = _section(Compilation, free=True)
    telemetry: Telemetry = _section(Telemetry, free=True)
