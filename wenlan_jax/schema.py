"""The schema of a configuration: every field with its default, unit or choices, and where the value comes from.

Tags such as [C] at the end of a field's text say where its value comes from; `SOURCES` explains them.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from wenlan_jax.data import languages
from wenlan_jax.late import late
from wenlan_jax.schema_single import Pretrain, Rank, SingleTower, Vqa
from wenlan_jax.settings import field, section

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
class Mesh:
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
class Tokenizer:
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
class Part:
    """One source of a mixture; what is not written takes the default. Kinds of text differ from source to source."""

    source: str = field("", "as data.source")
    split: str = field("train", "split to train on")
    weight: float = field(0.0, "share of the pairs, relative to the other parts; 0 in all: their numbers of records",
                           low=0)  # fmt: skip
    kinds: tuple[str, ...] = field(
        (), "as data.kinds; the released code reads ('sur_text',) of web search, the text around the picture [C]"
    )
    kind_choice: Literal["any", "first", "weighted"] = field("any", "as data.kind_choice")
    kind_weights: tuple[float, ...] = field((), "as data.kind_weights")
    languages: tuple[str, ...] = field((), "as data.languages", each=languages.typed)
    objectives: tuple[str, ...] = field(
        (),
        "of pretrain.objectives, those of task 'mlmm' on this part; empty: all. Weakly correlated data: ('itm',) [S]",
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """Where pairs come from and how they are drawn."""

    source: str = field(
        "",
        "what to train and evaluate on: a name such as wenlan_scenes/s64 or one of `wenlan data list`, or a directory "
        "made by `wenlan pack`",
    )
    dir: str = field("~/tensorflow_datasets", "where TFDS data sets are built and looked for", free=True)
    train_split: str = field("train", "split to train on")
    mixture: tuple[Part, ...] = field(
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
    image_size: int = field(456, "side S of the square input picture, pixels [C]", low=8)
    antialias: bool = field(True, "average when shrinking; the released code does not [C]")
    averaging: Literal["fast", "exact"] = field(
        "fast",
        "how antialias averages: fast decodes large JPEGs at 1/2, 1/4 or 1/8 and averages samples, within about one "
        "level of 255 of exact area means on average, in half the time or less [W]",
    )
    enlarge: Literal["host", "accelerator"] = field(
        "host",
        "where smaller pictures grow to image_size: where they are decoded, or on the accelerator; bilinear, equal "
        "but for rounding; most of what a processor spends on such a picture besides decoding it is this [W]",
    )
    text_length: int = field(80, "word pieces a text is cut or padded to, with [CLS] and [SEP] [C]", low=3)
    workers: int = field(0, "data processes; 0: threads of this process", low=0, free=True)
    prefetch: int = field(4, "batches that are made ahead of the step", low=1, free=True)
    remembered: int = field(
        0,
        "records of each source that a data process keeps in memory once it has read them, some 15 KB each besides the "
        "file of its picture; for data that fit",
        low=0,
        free=True,
    )
    bad_records: Literal["replace", "raise"] = field(
        "replace",
        "an undecodable image or a record without a fitting text: take the next record and count it, or stop",
    )


@dataclasses.dataclass(frozen=True)
class Augment:
    """What happens to a training picture on the accelerator; no crop and no flip, so that boxes stay valid [C]."""

    brightness: float = field(0.4, "factor drawn from 1 +- this [C]", low=0, high=1)
    contrast: float = field(0.4, "factor drawn from 1 +- this [C]", low=0, high=1)
    saturation: float = field(0.4, "factor drawn from 1 +- this [C]", low=0, high=1)
    hue: float = field(0.1, "turn drawn from +- this, in circles [C]", low=0, high=0.5)
    jitter_probability: float = field(0.8, "share of pictures jittered [C]", low=0, high=1)
    grayscale_probability: float = field(0.2, "share of pictures made grey [C]", low=0, high=1)
    mean: tuple[float, ...] = field((0.485, 0.456, 0.406), "channel means, ImageNet [C]")
    std: tuple[float, ...] = field((0.229, 0.224, 0.225), "channel deviations, ImageNet [C]")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """EfficientNet as a feature extractor; B5 is width 1.6 and depth 2.2."""

    stages: tuple[tuple[int, ...], ...] = field(
        (),
        "(kernel, stride, expansion, width, repeats) of each stage before scaling; empty: those of B0",
        low=1,
        high=2**16,
    )
    stem: int = field(32, "channels of the first convolution before scaling [C]", low=1)
    head: int = field(1280, "channels of the map before scaling [C]", low=1)
    width_multiplier: float = field(1.6, "scales all channels; 1.6 makes a B5, 2.0 a B7 [C]", low=0.05, high=16)
    depth_multiplier: float = field(2.2, "scales all repeats; 2.2 makes a B5, 3.1 a B7 [C]", low=0.1, high=16)
    depthwise: Literal["auto", "conv", "shift"] = field(
        "auto",
        "how depthwise convolutions are computed, with equal results; auto: shift on CPU, conv elsewhere",
        free=True,
    )
    remat: bool = field(False, "recompute each block in the backward pass to save memory", free=True)
    scan: bool = field(False, "compile the equal blocks of a stage once and loop over their stacked parameters")


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """Statistics of batch normalisation, declared so that they never depend on the number of devices."""

    mode: Literal["group", "batch", "frozen"] = field(
        "group",
        "statistics over each group of consecutive examples, over the whole batch, or the stored ones",
    )
    group_size: int = field(16, "examples in a group; the papers' per-GPU batch is 16 [X]", low=1)
    momentum: float = field(0.1, "weight of the new statistics in the running ones (PyTorch's sense)", low=0, high=1)
    eps: float = field(1e-3, "added to the variance; that of the tf_ variants of EfficientNet [C]", low=1e-20)
    official_frozen_drift: bool = field(
        False,
        "frozen layers normalise by, and store, batch statistics all the same, as the released code does [C]",
    )


@dataclasses.dataclass(frozen=True)
class Regions:
    """Which parts of a picture become tokens."""

    kind: Literal["grid", "boxes"] = field("grid", "fixed grid (2.0) or detector boxes (1.0) [S]")
    grid: tuple[int, ...] = field((6,), "sides of the grids; (1, 5) is multi-scale; 6x6 in 2.0 [C]", low=1, high=64)
    boxes: int = field(36, "detector boxes used, the first ones [C]", low=1)
    whole_image: bool = field(True, "the whole picture is one more region, the last [C]")
    samples: int = field(4, "bilinear samples along each side of a region [C]", low=1)
    project: bool = field(True, "a linear layer after pooling; the video descendant has none [C]")
    coordinates: Literal["corrected", "official"] = field(
        "corrected",
        "official: grid built for align_corners=True and sampled with False, as released weights need [C]",
    )


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The Transformer block over tokens."""

    layers: int = field(4, "Transformer layers; 0: tokens are averaged as they come [C]", low=0)
    heads: int = field(4, "attention heads of a layer; they divide the width of its tokens [C]", low=1)
    feed_forward: int = field(2048, "width of the hidden layer of the feed-forward network [C]", low=1)
    dropout: float = field(
        0.1, "share of hidden states and attention weights that training drops [C]", low=0, high=0.99
    )
    remat: bool = field(False, "recompute each layer in the backward pass to save memory", free=True)
    scan: bool = field(False, "compile one layer and loop over stacked parameters")


@dataclasses.dataclass(frozen=True)
class ImageTower:
    """EfficientNet, region pooling, Transformer block, projection."""

    backbone: Backbone = section(Backbone)
    batch_norm: BatchNorm = section(BatchNorm)
    regions: Regions = section(Regions)
    encoder: Encoder = section(Encoder)


@dataclasses.dataclass(frozen=True)
class Bert:
    """BERT or RoBERTa; the sizes of the base model."""

    vocab_size: int = field(21128, "rows of the word table [C]; 0: as many as the tokenizer has pieces", low=0)
    width: int = field(768, "of hidden states; 768 in base, 1024 in large models [C]", low=1)
    layers: int = field(12, "Transformer layers; 12 in base, 24 in large models [C]", low=1)
    heads: int = field(12, "attention heads of a layer; they divide width [C]", low=1)
    feed_forward: int = field(3072, "width of the hidden layer of the feed-forward network [C]", low=1)
    positions: int = field(512, "rows of the position table [C]", low=3)
    types: int = field(2, "rows of the segment table [C]", low=1)
    dropout: float = field(
        0.1, "share of hidden states and attention weights that training drops [C]", low=0, high=0.99
    )
    eps: float = field(1e-12, "added to the variance by its LayerNorms [C]", low=1e-20)
    attention_mask: bool = field(
        True,
        "padding is not attended to; the released code passes no mask, so its embeddings depend on padding [C]",
    )
    scan_segments: tuple[int, ...] = field(
        (), "compile one layer per segment and loop; lengths sum to layers, frozen and trained layers apart", low=1
    )
    remat: bool = field(False, "recompute each layer in the backward pass to save memory", free=True)


@dataclasses.dataclass(frozen=True)
class TextTower:
    """BERT, Transformer block, projection."""

    bert: Bert = section(Bert)
    encoder: Encoder = section(Encoder)


@dataclasses.dataclass(frozen=True)
class Model:
    """The two towers."""

    embedding: int = field(2048, "width D of the common space [C]", low=1)
    image: ImageTower = section(ImageTower)
    text: TextTower = section(TextTower)
    freeze: tuple[str, ...] = field(
        (
            r"image/backbone/(conv_stem|bn1|blocks_[012]_[\d_]+|conv_head|bn2)/",
            r"text/backbone/(embeddings|layers_[0-7])/",
        ),
        "patterns of parameter paths that are not trained [C]",
    )
    random_frozen: bool = field(
        False,
        "allow frozen parameters that no import gives: they stay as they are drawn, which is for measuring speed [W]",
        free=True,
    )
    dtype: Literal["float32", "bfloat16"] = field("bfloat16", "of the computation; the state is float32 [W]")


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The contrastive loss, the momentum towers and the banks of negatives."""

    temperature: float = field(0.07, "divides the similarities, at the start if learnable [C]", low=1e-4)
    learnable_temperature: bool = field(False, "trained as the logarithm of its inverse; fixed in BriVL [C]")
    momentum: float = field(0.99, "m of k <- m k + (1-m) q [C]", low=0, high=1)
    bank_size: int = field(9600, "K, entries of each bank [C]; the task 'clip' has none", low=1)
    bank_start: Literal["empty", "random"] = field(
        "empty",
        "unfilled entries are masked, or random unit vectors stand in them as in the released code [C]",
    )
    bank_from_step: int = field(
        0,
        "the banks are filled from the start and count as negatives from this step on: before towers that start from "
        "nothing have learnt, old keys differ from new ones by drift alone, which is all that is then learnt [W]",
        low=0,
    )
    in_batch_negatives: bool = field(False, "the other keys of the batch are negatives too; [X] reads 2.0 so")
    mask_false_negatives: bool = field(True, "negatives of the query's own image are left out and counted [W]")
    multi_label_top_k: int = field(
        0,
        "bank entries among the top k of both key-key similarities are positives too; 0: off, as released [C]",
        low=0,
    )


@dataclasses.dataclass(frozen=True)
class Optimizer:
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
class Train:
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
class Graded:
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
class Eval:
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
        "the single tower's pretraining ranks pictures and texts, too, by the logit of a match, as UNITER does without "
        "fine-tuning [U]",
        free=True,
    )
    rank_images: int = field(
        0, "pictures of a split that the single tower ranks, with all their texts; it sees every pair. 0: all", low=0,
        free=True,
    )  # fmt: skip
    folds: int = field(
        1,
        "equal runs of consecutive pictures, each searched alone, whose mean recall is told beside that of the whole; "
        "5 of MSCOCO's 5,000 make the papers' 1K test; 1: the whole only",
        low=1,
        free=True,
    )
    gallery: int = field(21, "queries shown in the gallery picture page; 0: no page", low=0, free=True)
    graded: Graded = section(Graded, free=True)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What is kept."""

    every: int = field(1000, "steps between checkpoints; the last step is always kept", low=1, free=True)
    keep: int = field(3, "newest checkpoints that are kept; older ones are removed", low=1, free=True)
    accept_changes: bool = field(False, "resume although the configuration differs from the saved one", free=True)


@dataclasses.dataclass(frozen=True)
class Distributed:
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
class Compilation:
    """Compiled programs kept for the next start."""

    cache: str = field(
        "auto",
        "directory of the persistent cache, on a cluster one that all machines share; auto: ~/.cache/wenlan_jax on "
        "accelerators, none on a CPU; off: none. $JAX_COMPILATION_CACHE_DIR goes before it [W]",
    )
    cache_above: float = field(1.0, "programs that took fewer seconds to compile are not kept [W: as JAX]", low=0)


@dataclasses.dataclass(frozen=True)
class Telemetry:
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


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    task: str = field(
        "brivl",
        "what is trained: brivl and clip are two towers, with momentum towers and banks or with in-batch negatives "
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
    mesh: Mesh = section(Mesh, free=True)
    data: Data = section(Data)
    tokenizer: Tokenizer = section(Tokenizer)
    augment: Augment = section(Augment)
    model: Model = section(Model)
    contrast: Contrast = section(Contrast)
    single: SingleTower = section(SingleTower)
    pretrain: Pretrain = section(Pretrain)
    rank: Rank = section(Rank)
    vqa: Vqa = section(Vqa)
    optimizer: Optimizer = section(Optimizer)
    train: Train = section(Train)
    eval: Eval = section(Eval, free=True)
    checkpoint: Checkpoint = section(Checkpoint, free=True)
    distributed: Distributed = section(Distributed, free=True)
    compilation: Compilation = section(Compilation, free=True)
    telemetry: Telemetry = section(Telemetry, free=True)
