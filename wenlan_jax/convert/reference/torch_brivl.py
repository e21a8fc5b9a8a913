"""BriVL's training model in PyTorch, with the parameter names of the official checkpoints.

It serves as the other side of parity tests and benchmarks, so it shares no formula with the JAX models:
regions go through `affine_grid` and `grid_sample`, the text backbone is `transformers.BertModel`, the
encoders are `nn.TransformerEncoder`. `BriVL.state_dict()` has the prefixes `imgencoder.`, `imgencoder_mom.`,
`textencoder.` and `textencoder_mom.`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the usual name
from transformers import BertConfig, BertModel

SAMPLES = 4
"""Sample points per side of a box."""


@dataclasses.dataclass(frozen=True)
class BriVLSizes:
    """Sizes and switches of the model.

    stem_width, stages, head_width: of the EfficientNet; a stage is (kernel, stride, expand, width, repeats).
    image_size: side of the images in pixels, the unit of the boxes.
    text: the BERT configuration. mask_text_backbone: False is the released code.
    encoder_layers, encoder_heads, encoder_mlp_width, dropout: of both token encoders.
    queue_size, momentum, temperature: of the contrastive part; queue_size must divide by the batch.
    frozen: regular expressions over parameter names; a match is not trained.
    freeze_batch_norm: keep BN layers without trained parameters in evaluation mode; False is the released code.
    """

    stem_width: int
    stages: tuple[tuple[int, int, int, int, int], ...]
    head_width: int
    image_size: int
    text: BertConfig
    mask_text_backbone: bool
    encoder_layers: int
    encoder_heads: int
    encoder_mlp_width: int
    dropout: float
    queue_size: int
    momentum: float
    temperature: float
    frozen: tuple[str, ...]
    freeze_batch_norm: bool


class Batch(NamedTuple):
    """Normalised images (B, 3, S, S); ids and mask (B, T); boxes (B, R, 4) in pixels and mask (B, R)."""

    images: Tensor
    ids: Tensor
    token_mask: Tensor
    boxes: Tensor
    box_mask: Tensor


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's "SAME": more at the end when the padding is odd."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolves feature maps (B, C, h, w)."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (max((-(-s // stride) - 1) * stride + kernel - s, 0) for s in input.shape[-2:])
        if height % 2 == 0 and width % 2 == 0:
            return F.conv2d(input, self.weight, self.bias, self.stride, (height // 2, width // 2), 1, self.groups)
        padding = (width // 2, width - width // 2, height // 2, height - height // 2)
        return F.conv2d(F.pad(input, padding), self.weight, self.bias, self.stride, 0, 1, self.groups)


def batch_norm(width: int) -> nn.BatchNorm2d:
    """BN with the epsilon of the TensorFlow weights."""
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.1)


class SqueezeExcite(nn.Module):
    """Gates channels by the mean of the map."""

    def __init__(self, width: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(width, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scales every channel of feature maps (B, C, h, w)."""
        gate = self.conv_expand(F.silu(self.conv_reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class SeparableBlock(nn.Module):
    """Depthwise convolution, squeeze and excite, pointwise convolution: the blocks of the first stage."""

    def __init__(self, kernel: int, stride: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(inputs, inputs, kernel, stride, groups=inputs, bias=False)
        self.bn1 = batch_norm(inputs)
        self.se = SqueezeExcite(inputs, inputs // 4)
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = batch_norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block to feature maps (B, C, h, w)."""
        y = self.se(F.silu(self.bn1(self.conv_dw(x)), inplace=True))
        y = self.bn2(self.conv_pw(y))
        return x + y if self.residual else y


class InvertedBlock(nn.Module):
    """Pointwise widening, depthwise convolution, squeeze and excite, pointwise narrowing."""

    def __init__(self, kernel: int, stride: int, expand: int, inputs: int, outputs: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.conv_pw = nn.Conv2d(inputs, wide, 1, bias=False)
        self.bn1 = batch_norm(wide)
        self.conv_dw = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self.bn2 = batch_norm(wide)
        self.se = SqueezeExcite(wide, inputs // 4)
        self.conv_pwl = nn.Conv2d(wide, outputs, 1, bias=False)
        self.bn3 = batch_norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block to feature maps (B, C, h, w)."""
        y = F.silu(self.bn1(self.conv_pw(x)), inplace=True)
        y = self.se(F.silu(self.bn2(self.conv_dw(y)), inplace=True))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.residual else y


class EfficientNet(nn.Module):
    """EfficientNet up to the last feature map; `classifier` exists for its place in the checkpoint only."""

    def __init__(self, sizes: BriVLSizes) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, sizes.stem_width, 3, 2, bias=False)
        self.bn1 = batch_norm(sizes.stem_width)
        self.blocks = nn.Sequential()
        inputs = sizes.stem_width
        for kernel, first_stride, expand, width, repeats in sizes.stages:
            stage = nn.Sequential()
            for index in range(repeats):
                stride = first_stride if index == 0 else 1
                if expand == 1:
                    stage.append(SeparableBlock(kernel, stride, inputs, width))
                else:
                    stage.append(InvertedBlock(kernel, stride, expand, inputs, width))
                inputs = width
            self.blocks.append(stage)
        self.conv_head = nn.Conv2d(inputs, sizes.head_width, 1, bias=False)
        self.bn2 = batch_norm(sizes.head_width)
        self.classifier = nn.Linear(sizes.head_width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Computes feature maps of images (B, 3, S, S)."""
        x = F.silu(self.bn1(self.conv_stem(x)), inplace=True)
        return F.silu(self.bn2(self.conv_head(self.blocks(x))), inplace=True)


class FeedForward(nn.Module):
    """The projection head: linear, ReLU, linear."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Projects vectors."""
        return self.fc2(F.relu(self.fc1(x)))


def token_encoder(width: int, sizes: BriVLSizes) -> nn.TransformerEncoder:
    """The token encoder of either tower: post-norm, ReLU, no final norm."""
    layer = nn.TransformerEncoderLayer(
        width, sizes.encoder_heads, sizes.encoder_mlp_width, sizes.dropout, batch_first=True
    )
    return nn.TransformerEncoder(layer, sizes.encoder_layers, enable_nested_tensor=False)


def pool(encoder: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
    """Encodes unit tokens and averages the valid ones."""
    encoded = encoder(F.normalize(tokens, dim=-1), src_key_padding_mask=~mask)
    weights = mask.unsqueeze(-1).to(encoded.dtype)
    return (encoded * weights).sum(1) / weights.sum(1)


class ImageEncoder(nn.Module):
    """The image tower in the official layout."""

    def __init__(self, sizes: BriVLSizes) -> None:
        super().__init__()
        width = sizes.head_width
        self.image_size = sizes.image_size
        self.backbone = EfficientNet(sizes)
        self.learnable = nn.ModuleDict(
            {
                "imgFC": FeedForward(width, width),
                "imgAtt": token_encoder(width, sizes),
                "max_pool": nn.Sequential(nn.Conv2d(width, width, 1), nn.AvgPool2d(SAMPLES, SAMPLES)),
            }
        )

    def region_tokens(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Tokens of every image's boxes, image by image as the official code makes them."""
        return torch.stack([self._tokens_of_one(*pair) for pair in zip(features, boxes, strict=True)])

    def _tokens_of_one(self, features: Tensor, boxes: Tensor) -> Tensor:
        """4x4 samples a box, 1x1 convolution, mean; grid for align_corners=True, read without, as released."""
        channels, height, width = features.shape
        x1, y1, x2, y2 = (boxes.detach() * (height / self.image_size)).unbind(1)
        zero = torch.zeros_like(x1)
        across = torch.stack(((x2 - x1) / (width - 1), zero, (x1 + x2 - width + 1) / (width - 1)), 1)
        down = torch.stack((zero, (y2 - y1) / (height - 1), (y1 + y2 - height + 1) / (height - 1)), 1)
        theta = torch.stack((across, down), 1)
        grid = F.affine_grid(theta, [len(theta), channels, SAMPLES, SAMPLES], align_corners=False)
        samples = F.grid_sample(features.expand(len(theta), -1, -1, -1), grid.to(features.dtype), align_corners=False)
        return self.learnable["max_pool"](samples).flatten(1)

    def forward(self, images: Tensor, boxes: Tensor, box_mask: Tensor) -> Tensor:
        """Embeds images as unit vectors; boxes and their mask say which regions are read."""
        tokens = self.region_tokens(self.backbone(images), boxes)
        return F.normalize(self.learnable["imgFC"](pool(self.learnable["imgAtt"], tokens, box_mask)), dim=-1)


class TextBackbone(nn.Module):
    """Holds BERT under the name `bert`, as the checkpoints do."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = BertModel(config)


class TextEncoder(nn.Module):
    """The text tower in the official layout."""

    def __init__(self, sizes: BriVLSizes) -> None:
        super().__init__()
        self.mask_backbone = sizes.mask_text_backbone
        self.backbone = TextBackbone(sizes.text)
        width = sizes.text.hidden_size
        self.learnable = nn.ModuleDict(
            {"textFC": FeedForward(width, sizes.head_width), "textAtt": token_encoder(width, sizes)}
        )

    def hidden_states(self, ids: Tensor, token_mask: Tensor) -> Tensor:
        """The last hidden states of BERT."""
        # All ones is what the released code, which passed no mask, amounts to.
        mask = token_mask if self.mask_backbone else torch.ones_like(token_mask)
        return self.backbone.bert(ids, attention_mask=mask.long()).last_hidden_state

    def forward(self, ids: Tensor, token_mask: Tensor) -> Tensor:
        """Embeds texts as unit vectors; the mask says which tokens are real."""
        tokens = self.hidden_states(ids, token_mask)
        return F.normalize(self.learnable["textFC"](pool(self.learnable["textAtt"], tokens, token_mask)), dim=-1)


class BriVL(nn.Module):
    """Query towers and key encoders, queues and loss; a call does all of a step but the gradient step."""

    def __init__(self, sizes: BriVLSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.imgencoder, self.imgencoder_mom = ImageEncoder(sizes), ImageEncoder(sizes)
        self.textencoder, self.textencoder_mom = TextEncoder(sizes), TextEncoder(sizes)
        self.pointer = 0
        for name in ("image_queue", "text_queue"):
            queue = F.normalize(torch.randn(sizes.queue_size, sizes.head_width), dim=1)
            self.register_buffer(name, queue, persistent=False)
        self.synchronize()
        self._set_trainable()

    @torch.no_grad()
    def synchronize(self) -> None:
        """Makes the key encoders equal to the query towers, as at the start of training."""
        self.imgencoder_mom.load_state_dict(self.imgencoder.state_dict())
        self.textencoder_mom.load_state_dict(self.textencoder.state_dict())

    def _set_trainable(self) -> None:
        for name, parameter in self.named_parameters():
            tower = name.split(".")[0]
            frozen = tower.endswith("_mom") or any(re.search(pattern, name) for pattern in self.sizes.frozen)
            parameter.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> BriVL:
        """Training mode; with `freeze_batch_norm`, untrained BN layers and their copies stay in eval."""
        super().train(mode)
        if mode and self.sizes.freeze_batch_norm:
            for layer, copy in zip(self.imgencoder.modules(), self.imgencoder_mom.modules(), strict=True):
                if isinstance(layer, nn.BatchNorm2d) and not layer.weight.requires_grad:
                    layer.eval()
                    copy.eval()
        return self

    def towers(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Pairs of query and key encoder."""
        yield self.imgencoder, self.imgencoder_mom
        yield self.textencoder, self.textencoder_mom

    @torch.no_grad()
    def update_momentum_towers(self) -> None:
        """key <- m key + (1 - m) query, over parameters; BN statistics are the key tower's own."""
        for query, key in self.towers():
            torch._foreach_lerp_(list(key.parameters()), list(query.parameters()), 1.0 - self.sizes.momentum)

    @torch.no_grad()
    def push(self, image_keys: Tensor, text_keys: Tensor) -> None:
        """Replaces the oldest entries of both queues."""
        end = self.pointer + len(image_keys)
        if end > self.sizes.queue_size:
            raise ValueError(f"queue_size {self.sizes.queue_size} must be a multiple of the batch, {len(image_keys)}.")
        self.image_queue[self.pointer : end] = image_keys
        self.text_queue[self.pointer : end] = text_keys
        self.pointer = end % self.sizes.queue_size

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Unit image and text embeddings of the query towers."""
        image = self.imgencoder(batch.images, batch.boxes, batch.box_mask)
        return image, self.textencoder(batch.ids, batch.token_mask)

    @torch.no_grad()
    def keys(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Unit image and text embeddings of the key encoders."""
        image = self.imgencoder_mom(batch.images, batch.boxes, batch.box_mask)
        return image, self.textencoder_mom(batch.ids, batch.token_mask)

    def contrast(self, queries: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Cross entropy of each query's own key against the queue, averaged over the batch."""
        own = (queries * positives).sum(1, keepdim=True)
        logits = torch.cat((own, queries @ negatives.T), 1) / self.sizes.temperature
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))

    def forward(self, batch: Batch) -> Tensor:
        """The loss of one batch; moves the key encoders before the keys and the queues after the loss."""
        image, text = self.embed(batch)
        self.update_momentum_towers()
        image_keys, text_keys = self.keys(batch)
        loss = self.contrast(image, text_keys, self.text_queue.clone())
        loss = loss + self.contrast(text, image_keys, self.image_queue.clone())
        self.push(image_keys, text_keys)
        return loss

    def training_step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
        """One optimisation step on one batch; returns the loss before it."""
        optimizer.zero_grad(set_to_none=True)
        loss = self(batch)
        loss.backward()
        optimizer.step()
        return loss.item()
