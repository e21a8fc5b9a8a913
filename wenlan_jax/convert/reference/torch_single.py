"""UNITER and UC2 in PyTorch, with the parameter names of their checkpoints.

The other side of parity tests and benchmarks of the single tower. It shares no formula with the JAX model: sequences
are packed without gaps between text and regions and unpacked again, as UNITER's code does it, the mask is added to the
attention scores, masked regions take a row of a two-row table, and heads are `nn.Sequential`. `Uniter.state_dict()`
has the keys `<prefix>.`, `cls.`, `feat_regress.`, `region_classifier.`, `itm_output.`, `rank_output.`, `vqa_output.`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the usual name

Prefix = Literal["uniter", "bert", "roberta"]

LOCATION, BACKGROUND = 7, 0
HIDDEN = -10000.0
"""Added to the scores of padding."""


@dataclasses.dataclass(frozen=True)
class UniterSizes:
    """Sizes and switches of the model; `prefix` "roberta" is UC2, with its names and positions from padding + 1.

    features, classes, answers: widths of region features, of the class head and of the VQA head.
    text_eps: of the text embeddings, the head for words and the VQA head; eps: of all other LayerNorms.
    """

    prefix: Prefix
    vocab_size: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    positions: int
    padding: int
    features: int
    classes: int
    answers: int
    text_eps: float
    eps: float
    dropout: float

    @property
    def uc2(self) -> bool:
        """Whether names and positions are UC2's."""
        return self.prefix == "roberta"


class Inputs(NamedTuple):
    """Ids and mask (B, T); features (B, R, F), boxes (B, R, 4) in the unit square, mask and masked (B, R), bool."""

    ids: Tensor
    token_mask: Tensor
    features: Tensor
    boxes: Tensor
    region_mask: Tensor
    masked: Tensor


class TextEmbeddings(nn.Module):
    """Words, positions and type 0."""

    def __init__(self, sizes: UniterSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.word_embeddings = nn.Embedding(sizes.vocab_size, sizes.width)
        self.position_embeddings = nn.Embedding(sizes.positions, sizes.width)
        self.add_module(self._type_name, nn.Embedding(2, sizes.width))
        self.LayerNorm = nn.LayerNorm(sizes.width, eps=sizes.text_eps)
        self.dropout = nn.Dropout(sizes.dropout)

    @property
    def _type_name(self) -> str:
        return "new_token_type_embeddings" if self.sizes.uc2 else "token_type_embeddings"

    @property
    def types(self) -> nn.Module:
        """The type table under its layout's name."""
        return self.get_submodule(self._type_name)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeds token ids (B, T)."""
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        if self.sizes.uc2:
            places = torch.where(ids == self.sizes.padding, self.sizes.padding, places + self.sizes.padding + 1)
        x = self.word_embeddings(ids) + self.position_embeddings(places) + self.types(torch.zeros_like(ids))
        return self.dropout(self.LayerNorm(x))


class ImageEmbeddings(nn.Module):
    """Features, locations and the type embedding that is given."""

    def __init__(self, sizes: UniterSizes) -> None:
        super().__init__()
        width, eps = sizes.width, sizes.eps
        self.img_linear = nn.Linear(sizes.features, width)
        self.img_layer_norm = nn.LayerNorm(width, eps=eps)
        self.pos_linear = nn.Linear(LOCATION, width)
        self.pos_layer_norm = nn.LayerNorm(width, eps=eps)
        self.mask_embedding = nn.Embedding(2, sizes.features, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, features: Tensor, boxes: Tensor, masked: Tensor, kind: Tensor) -> Tensor:
        """Embeds regions; `masked` are those whose features stay hidden, `kind` is their type embedding."""
        left, top, right, bottom = boxes.unbind(-1)
        wide, high = right - left, bottom - top
        location = torch.stack((left, top, right, bottom, wide, high, wide * high), -1)
        shown = features.masked_fill(masked.unsqueeze(-1), 0.0) + self.mask_embedding(masked.long())
        x = self.img_layer_norm(self.img_linear(shown)) + self.pos_layer_norm(self.pos_linear(location)) + kind
        return self.dropout(self.LayerNorm(x))


class SelfAttention(nn.Module):
    """Queries, keys, values and the weighted sum."""

    def __init__(self, sizes: UniterSizes) -> None:
        super().__init__()
        self.heads, self.rate = sizes.heads, sizes.dropout
        self.query, self.key, self.value = (nn.Linear(sizes.width, sizes.width) for _ in range(3))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Lets tokens attend to each other; `bias` is added to the logits."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        rate = self.rate if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=rate)
        return mixed.transpose(1, 2).flatten(2)


class Residual(nn.Module):
    """Linear, dropout, sum with what came before, LayerNorm."""

    def __init__(self, inputs: int, sizes: UniterSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, sizes.width)
        self.LayerNorm = nn.LayerNorm(sizes.width, eps=sizes.eps)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Applies the linear layer, adds what came before, and normalises."""
        return self.LayerNorm(self.dropout(self.dense(x)) + before)


class Layer(nn.Module):
    """A Transformer layer under BERT's names."""

    def __init__(self, sizes: UniterSizes) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(sizes), "output": Residual(sizes.width, sizes)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(sizes.width, sizes.feed_forward)})
        self.output = Residual(sizes.feed_forward, sizes)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Applies the layer to tokens; `bias` is added to the attention logits."""
        x = self.attention["output"](self.attention["self"](x, bias), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Encoder(nn.Module):
    """Text and regions to their hidden states."""

    def __init__(self, sizes: UniterSizes) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(sizes)
        self.img_embeddings = ImageEmbeddings(sizes)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(sizes.width, sizes.width)})

    def forward(self, batch: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states of the text (B, T, W) and of the regions (B, R, W), zero in padding, and the pooled ones."""
        kind = self.embeddings.types.weight[1]
        regions = self.img_embeddings(batch.features, batch.boxes, batch.masked, kind)
        x = torch.cat((self.embeddings(batch.ids), regions), 1)
        real = torch.cat((batch.token_mask, batch.region_mask), 1)
        # Real ones first, in their order: text directly followed by regions.
        order = torch.argsort(~real, dim=1, stable=True).unsqueeze(-1).expand_as(x)
        longest = int(real.sum(1).max())
        x = x.gather(1, order)[:, :longest]
        lengths = real.sum(1, keepdim=True)
        bias = torch.where(torch.arange(longest, device=x.device) < lengths, 0.0, HIDDEN)[:, None, None].to(x.dtype)
        for layer in self.encoder["layer"]:
            x = layer(x, bias)
        padded = F.pad(x, (0, 0, 0, real.shape[1] - longest))
        spread = torch.zeros_like(padded).scatter(1, order, padded) * real.unsqueeze(-1)
        text, image = spread.split((batch.ids.shape[1], batch.features.shape[1]), 1)
        return text, image, torch.tanh(self.pooler["dense"](x[:, 0]))


class Transform(nn.Module):
    """The part of UNITER's head for words before the decoder."""

    def __init__(self, sizes: UniterSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(sizes.width, sizes.width)
        self.LayerNorm = nn.LayerNorm(sizes.width, eps=sizes.text_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms hidden states."""
        return self.LayerNorm(F.gelu(self.dense(x)))


class Predictions(nn.Module):
    """UNITER's head for words, `cls.predictions`."""

    def __init__(self, sizes: UniterSizes, words: nn.Embedding) -> None:
        super().__init__()
        self.transform = Transform(sizes)
        self.decoder = nn.Linear(sizes.width, sizes.vocab_size, bias=False)
        self.decoder.weight = words.weight
        self.bias = nn.Parameter(torch.zeros(sizes.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits of the vocabulary."""
        return self.decoder(self.transform(x)) + self.bias


class RobertaPredictions(nn.Module):
    """UC2's head for words, `cls`; its decoder has the bias under a second name."""

    def __init__(self, sizes: UniterSizes, words: nn.Embedding) -> None:
        super().__init__()
        self.dense = nn.Linear(sizes.width, sizes.width)
        self.layer_norm = nn.LayerNorm(sizes.width, eps=sizes.text_eps)
        self.decoder = nn.Linear(sizes.width, sizes.vocab_size)
        self.decoder.weight = words.weight
        self.bias = self.decoder.bias

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits of the vocabulary."""
        return self.decoder(self.layer_norm(F.gelu(self.dense(x))))


def mlp(inputs: int, width: int, eps: float) -> list[nn.Module]:
    """The layers that UNITER's heads begin with."""
    return [nn.Linear(inputs, width), nn.GELU(), nn.LayerNorm(width, eps=eps)]


class FeatureRegression(nn.Module):
    """The head for features, through the transpose of `img_linear`."""

    def __init__(self, sizes: UniterSizes, image: nn.Linear) -> None:
        super().__init__()
        self.net = nn.Sequential(*mlp(sizes.width, sizes.width, sizes.eps))
        self.weight = image.weight
        self.bias = nn.Parameter(torch.zeros(sizes.features))

    def forward(self, x: Tensor) -> Tensor:
        """Predicts the features of regions."""
        return F.linear(self.net(x), self.weight.t(), self.bias)


class RegionClassifier(nn.Module):
    """The head for the detector's classes."""

    def __init__(self, sizes: UniterSizes) -> None:
        super().__init__()
        layers = mlp(sizes.width, sizes.width, sizes.eps)
        self.net = nn.Sequential(*layers, nn.Linear(sizes.width, sizes.classes))

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits of the detector's classes."""
        return self.net(x)


class Uniter(nn.Module):
    """The encoder under its prefix, all heads, and the four losses of pretraining, each a mean over its batch."""

    def __init__(self, sizes: UniterSizes) -> None:
        super().__init__()
        self.sizes = sizes
        encoder = Encoder(sizes)
        self.add_module(sizes.prefix, encoder)
        head, words = (RobertaPredictions if sizes.uc2 else Predictions), encoder.embeddings.word_embeddings
        self.cls = head(sizes, words) if sizes.uc2 else nn.ModuleDict({"predictions": head(sizes, words)})
        self.feat_regress = FeatureRegression(sizes, encoder.img_embeddings.img_linear)
        self.region_classifier = RegionClassifier(sizes)
        self.itm_output = nn.Linear(sizes.width, 2)
        self.rank_output = nn.Linear(sizes.width, 1)
        answers = mlp(sizes.width, 2 * sizes.width, sizes.text_eps)
        self.vqa_output = nn.Sequential(*answers, nn.Linear(2 * sizes.width, sizes.answers))
        self.apply(_start)

    def encode(self, batch: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """See `Encoder`."""
        return self.get_submodule(self.sizes.prefix)(batch)

    def words(self, x: Tensor) -> Tensor:
        """The head for words."""
        return self.cls(x) if self.sizes.uc2 else self.cls["predictions"](x)

    def itm_loss(self, batch: Inputs, match: Tensor) -> Tensor:
        """Cross entropy of `match` (B), 1 for pairs that belong together."""
        return F.cross_entropy(self.itm_output(self.encode(batch)[2]), match)

    def mlm_loss(self, batch: Inputs, labels: Tensor) -> Tensor:
        """Cross entropy of the original ids where `labels` (B, T) are not -1."""
        text = self.encode(batch)[0]
        return F.cross_entropy(self.words(text[labels != -1]), labels[labels != -1])

    def mrfr_loss(self, batch: Inputs) -> Tensor:
        """Mean squared error of the masked features."""
        regions = self.encode(batch)[1]
        return F.mse_loss(self.feat_regress(regions[batch.masked]), batch.features[batch.masked])

    def mrc_loss(self, batch: Inputs, classes: Tensor, kind: Literal["kl", "hard"]) -> Tensor:
        """KL to the distributions `classes` (B, R, C), averaged over elements; or cross entropy of the best object."""
        logits = self.region_classifier(self.encode(batch)[1][batch.masked])
        target = classes[batch.masked]
        if kind == "hard":
            return F.cross_entropy(logits, target[:, BACKGROUND + 1 :].max(-1).indices + BACKGROUND + 1)
        return F.kl_div(F.log_softmax(logits, -1), target, reduction="none").mean()


def _start(module: nn.Module) -> None:
    """BERT's initial values."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
