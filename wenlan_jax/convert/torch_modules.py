"""BriVL's image and text towers in PyTorch. This file is complete: it needs torch 2.1 or newer, and Pillow for files.

    import wenlan_torch  # this file, which an export of wenlan_jax holds under that name

    model = wenlan_torch.load("folder")                    # reads config.json and model.safetensors
    image = model.read("photo.jpg")                      # or model.preprocess(an image that is open already)
    images = model.encode_image(image)                   # (batch, embedding), rows of length 1
    texts = model.encode_text(ids, mask)                   # word piece ids, and which of them are no padding
    similarity = images @ texts.T                          # cosines

`load` returns the model in evaluation mode, on the CPU, in the type of its file; `.to("cuda")`, `.half()` and
`.train()` work as on any module; `model.imgencoder` and `model.textencoder` are the towers. A model whose regions are
boxes (`architecture["image"]["regions"]["grid"]` is empty) also takes `boxes` and `box_mask` with each batch.

Every size comes from one dictionary, `Architecture`, which is the content of config.json. Parameters carry the names
of the official BriVL checkpoints (`imgencoder.*`, `textencoder.*`; the text backbone those of Hugging Face's BertModel;
a Vision Transformer those of timm, a ResNet those of torchvision), so a state dict of that layout loads with
strict=True, less the parts that no embedding depends on: the key encoders, `backbone.classifier.*` and
`bert.pooler.*`. No control flow depends on the data, so `torch.compile` and `torch.export` take the towers as they are.

Shapes: B batch, R regions, T word pieces, C channels, H heads, W width, h and w places of a feature map.
"""

from __future__ import annotations

import functools
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the usual name

SQUEEZE_RATIO = 0.25
"""Width of EfficientNet's squeeze-and-excitation bottleneck over that of the block's input."""

HIDDEN = -1e4
"""Added to the attention logits of padding: a weight of exactly 0, and within the range of every float type."""

WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)


class RegionsArchitecture(TypedDict):
    """Which parts of an image become tokens."""

    grid: list[int]  # cells per side of one or more fixed grids; empty: boxes are given with each batch
    boxes: int  # boxes per image the model was trained with; 0 with a grid
    whole_image: bool  # the whole image is one more region, the last
    samples: int  # bilinear samples along each side of a region
    project: bool  # a linear layer after pooling
    coordinates: Literal["official", "corrected"]  # official: as the released BriVL weights need


class EncoderArchitecture(TypedDict):
    """The Transformer block over tokens."""

    layers: int
    heads: int
    feed_forward: int
    dropout: float


class EfficientNetSizes(TypedDict):
    """EfficientNet."""

    architecture: Literal["efficientnet"]
    stem: int  # channels after the first convolution
    stages: list[list[int]]  # (kernel, stride, expansion, channels, blocks) of each stage
    lite: bool  # ReLU6 in place of swish, and no squeeze and excitation
    norm_eps: float
    norm_momentum: float


class VisionTransformerSizes(TypedDict):
    """A Vision Transformer, DINOv2's among them."""

    architecture: Literal["vit"]
    patch: int  # side, pixels
    width: int
    layers: int
    heads: int
    feed_forward: int
    registers: int  # tokens beside the class token
    positions: int  # side of the position table, patches
    interpolation: Literal["antialiased", "plain", "offset"]  # of the table to the image's number of patches
    qkv_bias: bool
    layer_scale: bool
    norm_eps: float


class ResNetSizes(TypedDict):
    """A ResNet with bottlenecks."""

    architecture: Literal["resnet"]
    width: int  # channels after the first convolution
    expansion: int  # output channels of a bottleneck over those of its 3x3 convolution
    blocks: list[int]  # of each stage
    norm_eps: float
    norm_momentum: float


class ImageArchitecture(TypedDict):
    """The backbone, regions and Transformer block; and how images are prepared."""

    size: int  # side of the square input, pixels
    antialias: bool  # average when shrinking
    averaging: Literal["fast", "exact"]  # how, of files: by samples of a JPEG decoded at a fraction, or over areas
    mean: list[float]  # of each channel, pixels in [0, 1]
    std: list[float]
    backbone: EfficientNetSizes | VisionTransformerSizes | ResNetSizes
    features: int  # channels of the feature map
    regions: RegionsArchitecture
    encoder: EncoderArchitecture


class BertArchitecture(TypedDict):
    """BERT or RoBERTa."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    positions: int  # rows of the position table
    first_position: int  # the row of the first token
    types: int
    norm_eps: float
    dropout: float
    attention_mask: bool  # False: padding is attended to, as in the released code, so pad to `TextArchitecture.length`


class TextArchitecture(TypedDict):
    """BERT and the Transformer block."""

    length: int  # word pieces the model was trained with, [CLS] and [SEP] included
    bert: BertArchitecture
    encoder: EncoderArchitecture


class Architecture(TypedDict):
    """Everything the towers are built from."""

    embedding: int  # width of the common space
    image: ImageArchitecture
    text: TextArchitecture


# Image backbone ------------------------------------------------------------------------------------------------------


class StridedConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "SAME" padding: the odd place of an uneven padding is at the end."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolves feature maps (B, C, h, w)."""
        padding: list[int] = []
        for size, kernel, stride in zip(input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1]):  # noqa: B905
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(input, padding))


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias; the result has ceil(size / stride) places per side."""
    if stride == 1:
        return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return StridedConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate in (0, 1) that depends on the map's mean."""

    def __init__(self, width: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(width, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scales every channel of feature maps (B, C, h, w)."""
        hidden = F.silu(self.conv_reduce(x.mean((2, 3), keepdim=True)))
        return x * self.conv_expand(hidden).sigmoid()


def activate(lite: bool, x: Tensor) -> Tensor:
    """Applies swish, or ReLU6 in the lite variant."""
    return F.relu6(x) if lite else F.silu(x)


class MBConv(nn.Module):
    """Inverted bottleneck: widen, depthwise convolution, squeeze and excite, narrow, add the input if it fits.

    Without expansion there is nothing to widen, and `conv_pw` is the narrowing convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        expand: int,
        norm: Callable[[int], nn.Module],
        lite: bool,
    ) -> None:
        super().__init__()
        wide = inputs * expand
        self.lite = lite
        self.widens, self.residual = expand > 1, stride == 1 and inputs == outputs
        self.conv_dw = convolution(wide, wide, kernel, stride, groups=wide)
        self.bn1, self.bn2 = norm(wide), norm(wide if self.widens else outputs)
        self.se = nn.Identity() if lite else SqueezeExcite(wide, int(inputs * SQUEEZE_RATIO))
        if self.widens:
            self.conv_pw = convolution(inputs, wide, 1)
            self.conv_pwl, self.bn3 = convolution(wide, outputs, 1), norm(outputs)
        else:
            self.conv_pw = convolution(wide, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block to feature maps (B, C, h, w)."""
        if self.widens:
            y = activate(self.lite, self.bn1(self.conv_pw(x)))
            y = activate(self.lite, self.bn2(self.conv_dw(y)))
            y = self.bn3(self.conv_pwl(self.se(y)))
        else:
            y = activate(self.lite, self.bn1(self.conv_dw(x)))
            y = self.bn2(self.conv_pw(self.se(y)))
        return x + y if self.residual else y


class EfficientNet(nn.Module):
    """Maps normalised images (B, 3, S, S) to features (B, C, h, w), after the head's normalisation and swish."""

    def __init__(self, sizes: EfficientNetSizes, features: int) -> None:
        super().__init__()
        norm = functools.partial(nn.BatchNorm2d, eps=sizes["norm_eps"], momentum=sizes["norm_momentum"])
        width, lite = sizes["stem"], sizes["lite"]
        self.lite = lite
        self.conv_stem, self.bn1 = convolution(3, width, 3, stride=2), norm(width)
        self.blocks = nn.Sequential()
        for kernel, stride, expand, outputs, repeats in sizes["stages"]:
            blocks = [MBConv(width, outputs, kernel, stride, expand, norm, lite)]
            blocks += [MBConv(outputs, outputs, kernel, 1, expand, norm, lite) for _ in range(repeats - 1)]
            self.blocks.append(nn.Sequential(*blocks))
            width = outputs
        self.conv_head, self.bn2 = convolution(width, features, 1), norm(features)

    def forward(self, images: Tensor) -> Tensor:
        """Computes feature maps of normalised images (B, 3, S, S)."""
        x = self.blocks(activate(self.lite, self.bn1(self.conv_stem(images))))
        return activate(self.lite, self.bn2(self.conv_head(x)))


class Bottleneck(nn.Module):
    """Narrow, convolve by 3x3, widen, add the input, which the first block of a stage projects."""

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, project: bool, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False), norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), norm(outputs)
        self.downsample: nn.Module = nn.Identity()
        if project:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block to feature maps (B, C, h, w)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + self.downsample(x))


class ResNet(nn.Module):
    """Maps normalised images (B, 3, S, S) to features (B, C, h, w), with torchvision's names."""

    def __init__(self, sizes: ResNetSizes, features: int) -> None:
        super().__init__()
        norm = functools.partial(nn.BatchNorm2d, eps=sizes["norm_eps"], momentum=sizes["norm_momentum"])
        inputs = sizes["width"]
        self.conv1, self.bn1 = nn.Conv2d(3, inputs, 7, 2, padding=3, bias=False), norm(inputs)
        self.stages = [f"layer{number}" for number in range(1, len(sizes["blocks"]) + 1)]
        for stage, (name, count) in enumerate(zip(self.stages, sizes["blocks"])):  # noqa: B905, lists of one length
            width = sizes["width"] * 2**stage
            outputs, stride = width * sizes["expansion"], 2 if stage else 1
            first = Bottleneck(inputs, width, outputs, stride, True, norm)
            rest = [Bottleneck(outputs, width, outputs, 1, False, norm) for _ in range(count - 1)]
            self.add_module(name, nn.Sequential(first, *rest))
            inputs = outputs

    def forward(self, images: Tensor) -> Tensor:
        """Computes feature maps of normalised images (B, 3, S, S)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, padding=1)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return x


class LayerScale(nn.Module):
    """One factor a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scales tokens (B, T, W)."""
        return x * self.gamma


class PatchLayer(nn.Module):
    """A pre-norm layer with exact GELU."""

    def __init__(self, sizes: VisionTransformerSizes) -> None:
        super().__init__()
        width, wide, self.heads = sizes["width"], sizes["feed_forward"], sizes["heads"]
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=sizes["norm_eps"]) for _ in range(2))
        joint = nn.Linear(width, 3 * width, bias=sizes["qkv_bias"])
        self.attn = nn.ModuleDict({"qkv": joint, "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, wide), "fc2": nn.Linear(wide, width)})
        self.ls1, self.ls2 = (LayerScale(width) if sizes["layer_scale"] else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer to tokens (B, T, W)."""
        query, key, value = self.attn["qkv"](self.norm1(x)).chunk(3, -1)
        x = x + self.ls1(self.attn["proj"](attend(query, key, value, self.heads, None, 0.0)))
        return x + self.ls2(self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))))


class VisionTransformer(nn.Module):
    """Maps normalised images (B, 3, S, S) to its patch tokens (B, C, h, w), with timm's names.

    The position table has rows for patches alone; those of class token and registers are added to the tokens.
    """

    def __init__(self, sizes: VisionTransformerSizes, features: int) -> None:
        super().__init__()
        self.sizes, width = sizes, sizes["width"]
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, sizes["patch"], sizes["patch"])})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if sizes["registers"]:
            self.reg_token = nn.Parameter(torch.zeros(1, sizes["registers"], width))
        self.pos_embed = nn.Parameter(torch.zeros(1, sizes["positions"] ** 2, width))
        self.blocks = nn.ModuleList(PatchLayer(sizes) for _ in range(sizes["layers"]))
        self.norm = nn.LayerNorm(width, eps=sizes["norm_eps"])

    def positions(self, height: int, width: int) -> Tensor:
        """The position table (1, h * w, W), interpolated to another number of patches."""
        side, how = self.sizes["positions"], self.sizes["interpolation"]
        if (height, width) == (side, side):
            return self.pos_embed
        table = self.pos_embed.unflatten(1, (side, side)).movedim(-1, 1).float()
        size: dict[str, Any] = {"size": (height, width)}
        if how == "offset":  # DINOv2's own code
            size = {"scale_factor": ((height + 0.1) / side, (width + 0.1) / side)}
        resized = F.interpolate(table, mode="bicubic", antialias=how == "antialiased", **size)
        return resized.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Computes feature maps of normalised images (B, 3, S, S)."""
        patches = self.patch_embed["proj"](images)
        height, width = patches.shape[-2:]
        prefix = torch.cat((self.cls_token, self.reg_token), 1) if self.sizes["registers"] else self.cls_token
        x = patches.flatten(2).transpose(1, 2) + self.positions(height, width)
        x = torch.cat((prefix.expand(x.shape[0], -1, -1), x), 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, prefix.shape[1] :]).transpose(1, 2).unflatten(-1, (height, width))


BACKBONES = {"efficientnet": EfficientNet, "vit": VisionTransformer, "resnet": ResNet}


def image_backbone(sizes: ImageArchitecture) -> nn.Module:
    """The image backbone of an architecture."""
    module: nn.Module = BACKBONES[sizes["backbone"]["architecture"]](sizes["backbone"], sizes["features"])
    return module


# Regions -------------------------------------------------------------------------------------------------------------


def grid_boxes(sizes: list[int], whole_image: bool) -> list[tuple[float, ...]]:
    """The cells of regular grids as (x1, y1, x2, y2) in [0, 1], x outside and y inside, then the whole image."""
    boxes: list[tuple[float, ...]]
    boxes = [(i / n, j / n, (i + 1) / n, (j + 1) / n) for n in sizes for i in range(n) for j in range(n)]
    return [*boxes, WHOLE_IMAGE] if whole_image else boxes


def axis_weights(low: Tensor, high: Tensor, size: int, regions: RegionsArchitecture) -> Tensor:
    """Weight of each of the `size` places of an axis in the mean over a box's bilinear samples; (*boxes, size).

    The samples are the centres of equal bins of the box. `official` coordinates are those of the released code,
    which builds its sampling grid for align_corners=True and reads it with False: samples leave the map near its
    far edges. Outside the map counts as zero.
    """
    samples = regions["samples"]
    u = (2.0 * torch.arange(samples, device=low.device) + 1.0) / samples - 1.0
    start, end = (low * size)[..., None], (high * size)[..., None]
    if regions["coordinates"] == "official":
        theta = ((end - start) * u + start + end - (size - 1)) / (size - 1)
        positions = ((theta + 1.0) * size - 1.0) / 2.0
    else:
        positions = start + (end - start) * (u + 1.0) / 2.0 - 0.5
    distance = (positions[..., None] - torch.arange(size, device=low.device)).abs()
    return (1.0 - distance).clamp(min=0.0).mean(-2)


def pool_regions(features: Tensor, boxes: Tensor, regions: RegionsArchitecture) -> Tensor:
    """Means of features (B, C, h, w) over boxes (R, 4) or (B, R, 4) of [0, 1]; tokens (B, R, C).

    Bilinear weights are separable, so the samples of a box together are one product of weights by row and column.
    """
    height, width = features.shape[-2:]
    if regions["coordinates"] == "official" and min(height, width) < 2:
        raise ValueError(f"official coordinates need a map of at least 2x2 places, not {height}x{width}: larger images")
    x1, y1, x2, y2 = boxes.float().unbind(-1)
    rows, columns = axis_weights(y1, y2, height, regions), axis_weights(x1, x2, width, regions)
    weights = (rows[..., :, None] * columns[..., None, :]).flatten(-2)
    return weights.to(features.dtype) @ features.flatten(2).transpose(1, 2)


# Transformer ---------------------------------------------------------------------------------------------------------


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None, dropout: float) -> Tensor:
    """Multi-head attention of projections (B, T, W); `mask` (B, T) is true where a token may be attended to."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    bias = None if mask is None else (~mask).to(query.dtype)[:, None, None, :] * HIDDEN
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Self-attention with the parameters of `torch.nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        nn.init.xavier_uniform_(self.in_proj_weight)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Lets tokens attend to those whose mask is true; None for all."""
        query, key, value = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        return self.out_proj(attend(query, key, value, self.heads, mask, self.dropout if self.training else 0.0))


class EncoderLayer(nn.Module):
    """A post-norm layer with ReLU, as `torch.nn.TransformerEncoderLayer`; a text without tokens stays finite."""

    def __init__(self, width: int, sizes: EncoderArchitecture) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, sizes["heads"], sizes["dropout"])
        self.linear1 = nn.Linear(width, sizes["feed_forward"])
        self.linear2 = nn.Linear(sizes["feed_forward"], width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(sizes["dropout"])

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Applies the layer to tokens (B, R, W); the mask is true for valid ones."""
        x = self.norm1(x + self.dropout(self.self_attn(x, mask)))
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(hidden)))


class TokenEncoder(nn.Module):
    """BriVL's self-attention over the tokens of one modality; they have no positions."""

    def __init__(self, width: int, sizes: EncoderArchitecture) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, sizes) for _ in range(sizes["layers"]))

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Encodes tokens (B, R, W); the mask is true for valid ones."""
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return tokens


# Text backbone -------------------------------------------------------------------------------------------------------


class BertLayer(nn.Module):
    """A post-norm layer with exact GELU."""

    def __init__(self, sizes: BertArchitecture) -> None:
        super().__init__()
        width, wide = sizes["width"], sizes["feed_forward"]
        self.heads, self.dropout = sizes["heads"], sizes["dropout"]
        projections = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict({"self": nn.ModuleDict(projections), "output": self._output(width, sizes)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, wide)})
        self.output = self._output(wide, sizes)

    @staticmethod
    def _output(inputs: int, sizes: BertArchitecture) -> nn.ModuleDict:
        norm = nn.LayerNorm(sizes["width"], eps=sizes["norm_eps"])
        return nn.ModuleDict({"dense": nn.Linear(inputs, sizes["width"]), "LayerNorm": norm})

    def _add(self, x: Tensor, output: Any, y: Tensor) -> Tensor:
        return output["LayerNorm"](x + F.dropout(output["dense"](y), self.dropout, self.training))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Applies the layer to tokens (B, T, W); the mask is true for those that may be attended to."""
        query, key, value = (self.attention["self"][name](x) for name in ("query", "key", "value"))
        mixed = attend(query, key, value, self.heads, mask, self.dropout if self.training else 0.0)
        x = self._add(x, self.attention["output"], mixed)
        return self._add(x, self.output, F.gelu(self.intermediate["dense"](x)))


def embedding(rows: int, width: int) -> nn.Embedding:
    """A table of the deviation that BERT starts from, .02.

    Uniform: on the meta device, drawing from a normal distribution imports torch's compiler and, with it, NumPy.
    """
    limit, table = 0.02 * math.sqrt(3.0), torch.empty(rows, width)
    nn.init.uniform_(table, -limit, limit)  # returns None under transformers' lazy initialisation
    return nn.Embedding.from_pretrained(table, freeze=False)


class BertModel(nn.Module):
    """BERT up to the last hidden state, without the pooler; every token has type 0."""

    def __init__(self, sizes: BertArchitecture) -> None:
        super().__init__()
        self.sizes = sizes
        rows = {"word": sizes["vocab_size"], "position": sizes["positions"], "token_type": sizes["types"]}
        self.embeddings = nn.ModuleDict(
            {f"{kind}_embeddings": embedding(count, sizes["width"]) for kind, count in rows.items()}
        )
        self.embeddings["LayerNorm"] = nn.LayerNorm(sizes["width"], eps=sizes["norm_eps"])
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(BertLayer(sizes) for _ in range(sizes["layers"]))})

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Computes hidden states (B, T, W) of word pieces; None as the mask lets padding take part."""
        first, end = self.sizes["first_position"], self.sizes["first_position"] + ids.shape[1]
        if end > self.sizes["positions"]:
            raise ValueError(f"texts of {ids.shape[1]} word pieces do not fit {self.sizes['positions']} positions")
        positions = self.embeddings["position_embeddings"].weight[first:end]
        kind = self.embeddings["token_type_embeddings"].weight[0]
        x = self.embeddings["LayerNorm"](self.embeddings["word_embeddings"](ids) + positions + kind)
        x = F.dropout(x, self.sizes["dropout"], self.training)
        for layer in self.encoder["layer"]:
            x = layer(x, mask)
        return x


# Towers --------------------------------------------------------------------------------------------------------------


class Projection(nn.Module):
    """Linear, ReLU, linear."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inputs, outputs), nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Projects vectors to the embedding."""
        return self.fc2(F.relu(self.fc1(x)))


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the tokens whose mask is true; zero for a row that has none."""
    if mask is None:
        return tokens.mean(1)
    weights = mask.to(tokens.dtype)[..., None]
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def embed(tokens: Tensor, mask: Tensor | None, encoder: nn.Module, projection: nn.Module) -> Tensor:
    """What both towers do with the tokens of their backbone: (B, T, W) to rows of length 1."""
    tokens = encoder(F.normalize(tokens, dim=-1), mask)
    return F.normalize(projection(masked_mean(tokens, mask)), dim=-1)


class ImageTower(nn.Module):
    """Images to embeddings."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.sizes = sizes = architecture["image"]
        width, regions = sizes["features"], sizes["regions"]
        self.grid = grid_boxes(regions["grid"], regions["whole_image"]) if regions["grid"] else None
        self.backbone = image_backbone(sizes)
        self.learnable = nn.ModuleDict(
            {
                "imgAtt": TokenEncoder(width, sizes["encoder"]),
                "imgFC": Projection(width, architecture["embedding"]),
            }
        )
        if regions["project"]:
            # The official name: there, averaging the samples comes after the convolution, which is the same.
            self.learnable["max_pool"] = nn.Sequential(nn.Conv2d(width, width, 1))

    def region_tokens(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Tokens (B, R, C) of boxes (R, 4) or (B, R, 4), before normalisation."""
        tokens = pool_regions(self.backbone(images), boxes, self.sizes["regions"])
        if "max_pool" in self.learnable:
            tokens = self.learnable["max_pool"](tokens.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
        return tokens

    def forward(self, images: Tensor, boxes: Tensor | None = None, box_mask: Tensor | None = None) -> Tensor:
        """Embeddings (B, D), rows of length 1.

        images: (B, 3, S, S), normalised. boxes: (B, R, 4), x1, y1, x2, y2 as fractions of the image's
        sides; box_mask: (B, R), true or 1 for the valid ones. Both or neither, as the architecture has it.
        """
        boxes, mask = self._regions(images, boxes, box_mask)
        tokens = self.region_tokens(images, boxes)
        return embed(tokens, mask, self.learnable["imgAtt"], self.learnable["imgFC"])

    def _regions(self, images: Tensor, boxes: Tensor | None, box_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.grid is not None:
            if boxes is not None or box_mask is not None:
                raise ValueError("this model's regions are a fixed grid: call it without boxes and box_mask")
            return torch.tensor(self.grid, device=images.device), None
        if boxes is None or box_mask is None:
            raise ValueError("this model's regions are boxes: call it with boxes and box_mask")
        if not self.sizes["regions"]["whole_image"]:
            return boxes, box_mask.bool()
        whole = torch.tensor(WHOLE_IMAGE, dtype=boxes.dtype, device=boxes.device).expand(boxes.shape[0], 1, 4)
        return torch.cat((boxes, whole), 1), F.pad(box_mask.bool(), (0, 1), value=True)


class TextTower(nn.Module):
    """Texts to embeddings."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.sizes = sizes = architecture["text"]
        width = sizes["bert"]["width"]
        self.backbone = nn.ModuleDict({"bert": BertModel(sizes["bert"])})
        self.learnable = nn.ModuleDict(
            {
                "textAtt": TokenEncoder(width, sizes["encoder"]),
                "textFC": Projection(width, architecture["embedding"]),
            }
        )

    def hidden_states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The last hidden states of the backbone, (B, T, W)."""
        return self.backbone["bert"](ids, mask.bool() if self.sizes["bert"]["attention_mask"] else None)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embeddings (B, D), rows of length 1.

        ids: (B, T) word pieces with [CLS] and [SEP]. mask: (B, T), true or 1 for those that are no padding.
        """
        tokens = self.hidden_states(ids, mask)
        return embed(tokens, mask.bool(), self.learnable["textAtt"], self.learnable["textFC"])


class WenLan(nn.Module):
    """Both towers; see `ImageTower` and `TextTower` for the inputs of each."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.imgencoder, self.textencoder = ImageTower(architecture), TextTower(architecture)

    def read(self, file: Any) -> Tensor:
        """An image file (its path, or a binary file) as a normalised batch of one image (1, 3, S, S); needs Pillow.

        Decoded and resized as the training code does, up to rounding: see `read_square`.
        """
        sizes = self.architecture["image"]
        return self.normalise(read_square(file, sizes["size"], sizes["antialias"], sizes["averaging"])[None])

    def preprocess(self, image: Any) -> Tensor:
        """A PIL image, or uint8 RGB pixels (H, W, 3), as a normalised batch of one image (1, 3, S, S).

        Means over areas where the image shrinks, see `resize`; `read` also follows the training's `averaging`.
        """
        sizes = self.architecture["image"]
        return self.normalise(resize(pixels_of(image), sizes["size"], sizes["antialias"])[None])

    def normalise(self, pixels: Tensor) -> Tensor:
        """RGB of 0 to 255 (..., S, S, 3) as normalised images (..., 3, S, S), float32."""
        sizes = self.architecture["image"]
        mean, std = (torch.tensor(sizes[name], device=pixels.device) for name in ("mean", "std"))
        return ((pixels.float() / 255.0 - mean) / std).movedim(-1, -3)

    def encode_image(self, images: Tensor, boxes: Tensor | None = None, box_mask: Tensor | None = None) -> Tensor:
        """Embeddings (B, D) of normalised images; see `ImageTower.forward`."""
        return self.imgencoder(images, boxes, box_mask)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embeddings (B, D) of texts; see `TextTower.forward`."""
        return self.textencoder(ids, mask)

    def forward(
        self, images: Tensor, ids: Tensor, mask: Tensor, boxes: Tensor | None = None, box_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Image and text embeddings, both (B, D) with rows of length 1."""
        return self.encode_image(images, boxes, box_mask), self.encode_text(ids, mask)


# Images ------------------------------------------------------------------------------------------------------------


def resize(pixels: Tensor, size: int, antialias: bool) -> Tensor:
    """RGB of 0 to 255 (H, W, 3) as a square (size, size, 3); the aspect ratio is not kept, so boxes stay valid.

    With `antialias` every side that shrinks is averaged over the area of each new pixel; all else is bilinear.
    The training code's pixels, but for one level of 255 here and there where a side is bilinear: the two round apart.
    """
    planes = pixels.permute(2, 0, 1).float()
    if antialias:
        height, width = (_coverage(side, min(side, size), planes) for side in planes.shape[1:])
        planes = (height @ planes @ width.T).round()
    if planes.shape[1:] != (size, size):
        planes = F.interpolate(planes[None], (size, size), mode="bilinear", align_corners=False)[0].round()
    return planes.permute(1, 2, 0)


def read_square(file: Any, size: int, antialias: bool, averaging: str) -> Tensor:
    """RGB of 0 to 255 (size, size, 3) of an image file, decoded and resized as the training code does.

    With `fast` averaging a JPEG that is at least 2, 4 or 8 times as large is decoded at that fraction, and sides that
    shrink are means of bilinear samples at most `SPACING` pixels apart. `exact` is `resize` of the whole image.
    """
    from PIL import Image

    with Image.open(file) as image:
        if not (antialias and averaging == "fast"):
            return resize(pixels_of(image), size, antialias)
        if image.mode == "CMYK":
            image = stored_rgb(image)
        whole_width, whole_height = image.size
        if image.format in JPEG_FORMATS and min(image.size) >= 2 * size:
            image.draft(None, (size, size))
        factor = 2 ** round(math.log2(whole_width / image.width))  # sides of a fraction are rounded up
        return average(pixels_of(image), whole_height / factor, whole_width / factor, size)


SPACING = 1.5
"""Stored pixels between the samples of a fast average at most."""


def average(pixels: Tensor, height: float, width: float, size: int) -> Tensor:
    """Square means (size, size, 3) of bilinear samples over the height by width that `pixels` (H, W, 3) cover."""
    rows, columns = (max(1, math.ceil(side / size / SPACING)) for side in (height, width))
    if rows == columns == 1 and pixels.shape[:2] == (height, width):
        return resize(pixels, size, False)
    planes = pixels.permute(2, 0, 1).float()
    down = _samples(planes.shape[1], height / (rows * size), rows * size, planes)
    across = _samples(planes.shape[2], width / (columns * size), columns * size, planes)
    samples = (down @ planes @ across.T).round()
    return samples.unflatten(2, (size, columns)).unflatten(1, (size, rows)).mean((2, 4)).round().permute(1, 2, 0)


def _samples(inputs: int, spacing: float, outputs: int, like: Tensor) -> Tensor:
    """Share of each old place in bilinear samples so far apart, (outputs, inputs); the first is half of it inside."""
    at = (((torch.arange(outputs, dtype=torch.float64) + 0.5) * spacing) - 0.5).clamp(0, inputs - 1)
    distance = (at[:, None] - torch.arange(inputs, dtype=torch.float64)).abs()
    return (1.0 - distance).clamp(min=0.0).to(like)


JPEG_FORMATS = ("JPEG", "MPO")

EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
"""PIL's modes that convert to RGB in one way."""

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
"""PIL's modes of grey images with 16 bits."""


def pixels_of(image: Any) -> Tensor:
    """Reads the pixels of a PIL image of 8 or 16 bits a channel; its EXIF orientation is ignored.

    Transparent images are laid on white; 16 bits become 8; CMYK is what `stored_rgb` makes of it.

    Args:
        image: an image that is open already, or its pixels.

    Returns:
        The pixels (H, W, 3).

    Raises:
        ValueError: for modes without a range, such as I and F.
    """
    if isinstance(image, Tensor):
        return image
    # Before version 11 Pillow opened PNG files of 16 bits as I.
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and getattr(image, "format", None) == "PNG"):
        return _eight_bits(image)
    if image.mode not in EIGHT_BITS:
        raise ValueError(
            f"an image of mode {image.mode!r} cannot be taken as it is: its values have no known range or meaning; "
            "convert it to 'RGB' or, from 0 to 255, to 'L'"
        )
    if image.mode == "CMYK":
        image = stored_rgb(image)
    # OpenCV, which the training reads with, does not know a transparent level of grey.
    clear = image.mode.upper() in ("RGBA", "LA", "PA") or (image.mode in ("P", "RGB") and "transparency" in image.info)
    mode = "RGBA" if clear else "RGB"
    flat = torch.frombuffer(bytearray(image.convert(mode).tobytes()), dtype=torch.uint8)
    pixels = flat.view(image.height, image.width, len(mode)).int()
    if not clear:
        return pixels
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    return (colour * alpha + 255 * (255 - alpha) + 127) // 255


def stored_rgb(image: Any) -> Any:
    """A CMYK image of PIL as the training data has it: in RGB and, of a JPEG, once more a JPEG, of quality 95."""
    from PIL import Image

    rgb = image.convert("RGB")
    if getattr(image, "format", None) not in JPEG_FORMATS:
        return rgb
    stored = io.BytesIO()
    rgb.save(stored, "JPEG", quality=95, subsampling="4:2:0")
    return Image.open(stored)


def _eight_bits(image: Any) -> Tensor:
    """A grey PIL image of 16 bits in three equal channels of 8."""
    wide = torch.frombuffer(bytearray(image.convert("I").tobytes()), dtype=torch.int32)
    grey = (wide.view(image.height, image.width, 1) + 128) // 257
    return grey.expand(-1, -1, 3)


def _coverage(inputs: int, outputs: int, like: Tensor) -> Tensor:
    """Share of each old place in each new one, (outputs, inputs)."""
    scale = inputs / outputs
    start = torch.arange(outputs, dtype=torch.float64)[:, None] * scale
    place = torch.arange(inputs, dtype=torch.float64)
    overlap = torch.minimum(start + scale, place + 1) - torch.maximum(start, place)
    return (overlap.clamp(min=0.0) / scale).to(like)


# Files ---------------------------------------------------------------------------------------------------------------

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of the safetensors format."""


def load(folder: str | Path) -> WenLan:
    """The model of an exported folder (config.json and model.safetensors), in evaluation mode."""
    architecture = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):  # shapes only: the weights are those of the file
        model = WenLan(architecture)
    model.load_state_dict(read_safetensors(Path(folder) / "model.safetensors"), strict=True, assign=True)
    return model.eval()


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: 8 bytes of header length, a JSON header, the data."""
    with open(path, "rb") as file:
        length, size = int.from_bytes(file.read(8), "little"), Path(path).stat().st_size
        if not 0 < length <= size - 8:
            raise ValueError(f"{path}: not a whole safetensors file")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors, place = {}, 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            if begin != place or not begin <= end <= size - 8 - length:
                raise ValueError(f"{path}: {name} does not follow the tensor before it, or ends outside the file")
            place = end
            file.seek(8 + length + begin)
            data = bytearray(end - begin)
            if file.readinto(data) != len(data):
                raise ValueError(f"{path}: cut short in {name}")
            # An empty buffer has no type that torch would take.
            flat = torch.frombuffer(data, dtype=TYPES[entry["dtype"]]) if data else torch.empty(0)
            tensors[name] = flat.to(TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors
