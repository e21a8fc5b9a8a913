"""The fields of two towers and of their contrast; `SOURCES` in `config/sections.py` explains the tags."""

from __future__ import annotations

import dataclasses
from typing import Literal

from wenlan_jax.config.settings import field, section


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig:
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
    lite: bool = field(
        False,
        "the lite variant: ReLU6, no squeeze and excitation, stem, head and the numbers of blocks of the first and the "
        "last stage not scaled; lite0 has both multipliers 1.0 [W]",
    )
    depthwise: Literal["auto", "conv", "shift"] = field(
        "auto",
        "how depthwise convolutions are computed, with equal results; auto: shift on CPU, conv elsewhere",
        free=True,
    )
    remat: bool = field(False, "recompute each block in the backward pass to save memory", free=True)
    scan: bool = field(False, "compile the equal blocks of a stage once and loop over their stacked parameters")


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """A Vision Transformer as a feature extractor: the sizes of ViT-B/16 (Dosovitskiy et al. 2021, table 1)."""

    patch: int = field(16, "side of a patch, pixels; 14 in DINOv2; data.image_size is a multiple of it [W]", low=1)
    width: int = field(768, "of tokens and map; 768 in base, 1024 in large models [W]", low=1)
    layers: int = field(12, "Transformer layers; 12 in base, 24 in large models [W]", low=1)
    heads: int = field(12, "attention heads of a layer; they divide width [W]", low=1)
    feed_forward: int = field(3072, "width of the hidden layer of the feed-forward network [W]", low=1)
    registers: int = field(0, "register tokens, 4 in the later models of DINOv2 [W]", low=0)
    positions: int = field(
        14, "side of the position table, patches; it is interpolated to the image's; 37 in DINOv2 [W]", low=1, high=4096
    )
    interpolation: Literal["antialiased", "plain", "offset"] = field(
        "antialiased",
        "how the position table is: as timm and transformers' DINOv2 with registers do it; plain, as transformers' ViT "
        "and DINOv2; offset, as DINOv2's own code does without registers [W]",
    )
    qkv_bias: bool = field(True, "query, key and value have a bias, as in all published models [W]")
    layer_scale: float = field(
        0.0, "where the factors of LayerScale start, 1e-5 in DINOv2; 0: without them, as ViT [W]", low=0
    )
    eps: float = field(1e-6, "added to the variance by its LayerNorms; 1e-12 in transformers' ViT [W]", low=1e-20)
    scan_segments: tuple[int, ...] = field(
        (), "compile one layer per segment and loop; lengths sum to layers, frozen and trained layers apart", low=1
    )
    remat: bool = field(False, "recompute each layer in the backward pass to save memory", free=True)


@dataclasses.dataclass(frozen=True)
class ResnetConfig:
    """ResNet with bottlenecks as a feature extractor: the sizes of ResNet-50 (He et al. 2016, table 1)."""

    blocks: tuple[int, ...] = field(
        (3, 4, 6, 3), "bottlenecks of each stage; (3, 4, 23, 3) makes a ResNet-101 [W]", low=1, high=512
    )
    width: int = field(64, "channels of the first convolution; the map has 32 times as many with 4 stages [W]", low=1)
    remat: bool = field(False, "recompute each block in the backward pass to save memory", free=True)
    scan: bool = field(False, "compile the equal blocks of a stage once and loop over their stacked parameters")


@dataclasses.dataclass(frozen=True)
class BatchNormConfig:
    """Statistics of batch normalisation, declared so that they never depend on the number of devices.

    A Vision Transformer has none and reads no field of this.
    """

    mode: Literal["group", "batch", "frozen"] = field(
        "group",
        "statistics over each group of consecutive examples, over the whole batch, or the stored ones",
    )
    group_size: int = field(16, "examples in a group; the papers' per-GPU batch is 16 [X]", low=1)
    momentum: float = field(0.1, "weight of the new statistics in the running ones (PyTorch's sense)", low=0, high=1)
    eps: float = field(
        1e-3, "added to the variance; that of the tf_ variants of EfficientNet [C]; 1e-5 in ResNets", low=1e-20
    )
    official_frozen_drift: bool = field(
        False,
        "frozen layers normalise by, and store, batch statistics all the same, as the released code does [C]",
    )


@dataclasses.dataclass(frozen=True)
class RegionsConfig:
    """Which parts of an image become tokens."""

    kind: Literal["grid", "boxes"] = field("grid", "fixed grid (2.0) or detector boxes (1.0) [S]")
    grid: tuple[int, ...] = field((6,), "sides of the grids; (1, 5) is multi-scale; 6x6 in 2.0 [C]", low=1, high=64)
    boxes: int = field(36, "detector boxes used, the first ones [C]", low=1)
    whole_image: bool = field(True, "the whole image is one more region, the last [C]")
    samples: int = field(4, "bilinear samples along each side of a region [C]", low=1)
    project: bool = field(True, "a linear layer after pooling; the video descendant has none [C]")
    coordinates: Literal["corrected", "official"] = field(
        "corrected",
        "official: grid built for align_corners=True and sampled with False, as released weights need [C]",
    )


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
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
class ImageTowerConfig:
    """The backbone, region pooling, Transformer block, projection."""

    architecture: Literal["efficientnet", "vit", "resnet"] = field(
        "efficientnet",
        "of the backbone; its sizes are in model.image.backbone, .vit or .resnet, and nothing reads the other two [C]",
    )
    backbone: EfficientNetConfig = section(EfficientNetConfig)
    vit: VitConfig = section(VitConfig)
    resnet: ResnetConfig = section(ResnetConfig)
    batch_norm: BatchNormConfig = section(BatchNormConfig)
    regions: RegionsConfig = section(RegionsConfig)
    encoder: EncoderConfig = section(EncoderConfig)


@dataclasses.dataclass(frozen=True)
class BertConfig:
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
class TextTowerConfig:
    """BERT, Transformer block, projection."""

    bert: BertConfig = section(BertConfig)
    encoder: EncoderConfig = section(EncoderConfig)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The two towers."""

    embedding: int = field(2048, "width D of the common space [C]", low=1)
    image: ImageTowerConfig = section(ImageTowerConfig)
    text: TextTowerConfig = section(TextTowerConfig)
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
class ContrastConfig:
    """The contrastive loss, the key encoders and the banks of negatives."""

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
