"""The single tower (UNITER, UC2, MLMM): one Transformer over the word pieces of a text and the regions of a picture.

Chen et al. 2020 (UNITER), Zhou et al. 2021 (UC2). The sequence is [text | regions], each side padded to its own
length; a key mask over both makes it equal to their compact sequences. Heads take what `encode` gave them, so that a
step pays for those that its objective asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, PyTree

from wenlan_jax.models.arrays import Array, along_last
from wenlan_jax.models.bert import BertEmbeddings, bert_layer, exact_gelu
from wenlan_jax.models.initializers import bert_kernel
from wenlan_jax.models.placement import inner, rows
from wenlan_jax.models.transformer import (
    INTERMEDIATES,
    LayerStack,
    TransformerLayer,
    apply_layers,
    attention_weights,
    layer_norm,
)

LOCATION = 7
"""Numbers that say where a region is, see `locations`."""

IMAGE_TYPE = 1
"""Row of the type table for regions; words have row 0."""

TYPES = 2

MATCH = 1
"""The class of pairs that belong together in the ITM head."""


class Hidden(NamedTuple):
    """The last hidden states, in the dtype of the computation. `pooled`: of the first word piece, after the pooler."""

    text: Float[Array, "batch tokens width"]
    regions: Float[Array, "batch regions width"]
    pooled: Float[Array, "batch width"]


def locations(boxes: Float[Array, "*batch 4"]) -> Float[Array, "*batch 7"]:
    """(x1, y1, x2, y2, w, h, w * h) of boxes (x1, y1, x2, y2) in units of the picture's sides, float32."""
    boxes = boxes.astype(jnp.float32)
    sides = boxes[..., 2:] - boxes[..., :2]
    return jnp.concatenate([boxes, sides, sides[..., :1] * sides[..., 1:]], axis=-1)


def at_places(
    text: Float[Array, "batch tokens width"], places: Int[Array, "batch places"]
) -> Float[Array, "batch places width"]:
    """The hidden states at some places of each text: the head for words then costs what the masked ones need."""
    return jnp.take_along_axis(text, places[..., None], axis=1)


def rank_from_itm(params: Mapping[str, Any]) -> dict[str, Any]:
    """The tower's parameters with a rank head that scores a pair by its logit of "these belong together".

    The start of UNITER's fine-tuning for retrieval, and its zero-shot ranking. A rank head that is there is replaced.
    """
    return {**params, "rank_head": {name: leaf[..., MATCH : MATCH + 1] for name, leaf in params["itm_head"].items()}}


def attention(
    tower: SingleTower, params: PyTree, *inputs: Array
) -> Float[Array, "layers batch heads sequence sequence"]:
    """The attention weights of every layer on what `encode` takes, float32, without dropout.

    Rows are queries, columns keys, both in the order [text | regions]; a row of a real token sums to 1.
    """
    _, collected = tower.apply({"params": params}, *inputs, train=False, method="encode", mutable=[INTERMEDIATES])
    return attention_weights(cast(Mapping[str, Any], collected[INTERMEDIATES]))


class TiedLinear(nn.Module):
    """A linear layer from `inputs` to `features` whose kernel can also be had, for a head that turns it round."""

    inputs: int
    features: int
    dtype: DTypeLike

    def setup(self) -> None:
        self.kernel = self.param("kernel", bert_kernel, (self.inputs, self.features), jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch features"]:
        bias = along_last(self.bias.astype(self.dtype), x.ndim)
        return x.astype(self.dtype) @ self.kernel.astype(self.dtype) + bias


class RegionEmbeddings(nn.Module):
    """Normalised sum of a region's feature, its location and a row of the type table.

    Feature and location are normalised first, each by itself. A masked region has the learned `mask_vector` for a
    feature: zeros plus that vector, in the space of features (UNITER's row 1 of `mask_embedding`).
    """

    feature_width: int
    width: int
    eps: float
    dtype: DTypeLike

    def setup(self) -> None:
        self.features = TiedLinear(self.feature_width, self.width, self.dtype)
        self.boxes = TiedLinear(LOCATION, self.width, self.dtype)
        self.features_norm, self.boxes_norm, self.norm = (layer_norm(self.eps, self.dtype, None) for _ in range(3))
        self.mask_vector = self.param("mask_vector", bert_kernel, (self.feature_width,), jnp.float32)

    def __call__(
        self,
        features: Float[Array, "batch regions feature"],
        boxes: Float[Array, "batch regions 4"],
        masked: Bool[Array, "batch regions"] | None,
        kind: Float[Array, "1 1 width"],
    ) -> Float[Array, "batch regions width"]:
        """`masked`: regions whose features stay hidden. `kind`: the type embedding of regions."""
        if features.shape[-1] != self.feature_width:
            raise ValueError(
                f"SingleTower: region features have {features.shape[-1]} numbers, and the tower takes"
                f" {self.feature_width}; set the width of regions to that of the data."
            )
        features = features.astype(self.dtype)
        if masked is not None:
            features = jnp.where(masked[..., None], along_last(self.mask_vector.astype(self.dtype), 3), features)
        seen = self.features_norm(self.features(features))
        return rows(self.norm(seen + self.boxes_norm(self.boxes(locations(boxes))) + kind))


class Transformed(nn.Module):
    """Linear, exact GELU, LayerNorm: what UNITER's heads with more than one layer begin with."""

    width: int
    eps: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch width"]:
        return rows(layer_norm(self.eps, self.dtype, "norm")(exact_gelu(linear(self.width, self.dtype, "dense")(x))))


class TiedHead(nn.Module):
    """`transform`, then the product with a table of the model (outputs, width) and a bias of its own; float32."""

    outputs: int
    width: int
    eps: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch width"], table: Float[Array, "outputs width"]
    ) -> Float[Array, "*batch outputs"]:
        hidden = Transformed(self.width, self.eps, self.dtype, name="transform")(x)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.outputs,), jnp.float32)
        product = jnp.einsum("...w,ow->...o", hidden, table.astype(self.dtype), preferred_element_type=jnp.float32)
        return inner(product + along_last(bias, product.ndim))


class Head(nn.Module):
    """`transform` to `width`, then the linear layer `out`; float32."""

    outputs: int
    width: int
    eps: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        hidden = Transformed(self.width, self.eps, self.dtype, name="transform")(x)
        return linear(self.outputs, jnp.float32, "out")(hidden)


def linear(features: int, dtype: DTypeLike, name: str | None = None) -> nn.Dense:
    """A linear layer with BERT's initial values."""
    return nn.Dense(features, dtype=dtype, kernel_init=bert_kernel, name=name)


class SingleTower(nn.Module):
    """Texts and pictures together, through one encoder; call its methods with `apply(variables, ..., method=...)`.

    vocab_size, width, depth, heads, mlp_width: the sizes; 250002, 768, 12, 12, 3072 for UC2, 28996 words for UNITER.
    max_positions, position_offset: rows of the position table, and that of the first word piece; 514 and 2 for UC2,
        512 and 0 for UNITER. Regions have no positions.
    feature_width: numbers of a region's feature, 2048 for a detector's.
    classes: of a region, background first; 0: no class head. answers: columns of the VQA head; 0: no such head.
    rank: whether there is a rank head.
    text_eps: of the LayerNorms of the text embeddings, the word head and the VQA head. eps: of all others.
    dropout: after embeddings and sublayers, and on the attention weights.
    dtype: of the computation; parameters, attention weights before the product and all logits are float32.
    scan_segments, remat: see `LayerStack`.

    Raises ValueError for a text beyond the position table, features of another width, and a head that is not there.
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    max_positions: int
    position_offset: int
    feature_width: int
    classes: int
    answers: int
    rank: bool
    text_eps: float
    eps: float
    dropout: float
    dtype: DTypeLike
    scan_segments: tuple[int, ...]
    remat: bool

    def setup(self) -> None:
        self.embeddings = BertEmbeddings(
            vocab_size=self.vocab_size,
            width=self.width,
            max_positions=self.max_positions,
            type_vocab_size=TYPES,
            position_offset=self.position_offset,
            eps=self.text_eps,
            dtype=self.dtype,
        )
        self.regions = RegionEmbeddings(self.feature_width, self.width, self.eps, self.dtype)
        self.pooler = linear(self.width, self.dtype)
        self.itm_head = linear(2, jnp.float32)
        self.word_head = TiedHead(self.vocab_size, self.width, self.text_eps, self.dtype)
        self.feature_head = TiedHead(self.feature_width, self.width, self.eps, self.dtype)
        if self.classes:
            self.class_head = Head(self.classes, self.width, self.eps, self.dtype)
        if self.rank:
            self.rank_head = linear(1, jnp.float32)
        if self.answers:
            self.answer_head = Head(self.answers, 2 * self.width, self.text_eps, self.dtype)

    @nn.compact
    def encode(
        self,
        token_ids: Int[Array, "batch tokens"],
        token_mask: Bool[Array, "batch tokens"],
        features: Float[Array, "batch regions feature"],
        boxes: Float[Array, "batch regions 4"],
        region_mask: Bool[Array, "batch regions"],
        region_masked: Bool[Array, "batch regions"] | None = None,
        *,
        train: bool,
    ) -> Hidden:
        """Hidden states of both sides. `train` turns on dropout (stream `dropout`); there may be no regions at all.

        token_mask, region_mask: what is real, both left-aligned. boxes: see `locations`. features: of any float type.
        region_masked: regions whose features the tower must not see, MRFR and MRC.
        """
        kind = self.embeddings.type(jnp.full((1, 1), IMAGE_TYPE))
        text = self._drop(self.embeddings(token_ids, None, token_mask), train)
        regions = self._drop(self.regions(features, boxes, region_masked, kind), train)
        x = rows(jnp.concatenate([text, regions], axis=1))
        mask = jnp.concatenate([token_mask, region_mask], axis=1)
        x = apply_layers(self._layer, x, mask, LayerStack(self.depth, self.scan_segments, self.remat), train)
        length = token_ids.shape[1]
        return Hidden(x[:, :length], x[:, length:], rows(jnp.tanh(self.pooler(x[:, 0]))))

    def itm_logits(self, pooled: Float[Array, "batch width"]) -> Float[Array, "batch 2"]:
        """Whether text and picture belong together: class MATCH."""
        return rows(self.itm_head(pooled))

    def word_logits(self, hidden: Float[Array, "batch places width"]) -> Float[Array, "batch places vocabulary"]:
        """The words at some places, see `at_places`; the word table is tied to that of the embeddings."""
        return self.word_head(hidden, self.embeddings.word.embedding)

    def features_at(self, regions: Float[Array, "batch regions width"]) -> Float[Array, "batch regions feature"]:
        """The features of regions (MRFR), through the linear layer of the region embeddings turned round."""
        return self.feature_head(regions, self.regions.features.kernel)

    def class_logits(self, regions: Float[Array, "batch regions width"]) -> Float[Array, "batch regions classes"]:
        """The detector's classes of regions (MRC), background first."""
        self._require("class_logits", "classes", bool(self.classes))
        return rows(self.class_head(regions))

    def rank_score(self, pooled: Float[Array, "batch width"]) -> Float[Array, " batch"]:
        """How well text and picture fit: a logit to compare pairs by."""
        self._require("rank_score", "rank", self.rank)
        return rows(self.rank_head(pooled)[:, 0])

    def answer_logits(self, pooled: Float[Array, "batch width"]) -> Float[Array, "batch answers"]:
        """The answers to a question about the picture (VQA), each for itself."""
        self._require("answer_logits", "answers", bool(self.answers))
        return rows(self.answer_head(pooled))

    def everything(self, *inputs: Array, train: bool) -> dict[str, Array]:
        """What every head that there is says of every token or region, by its method; for `init`."""
        hidden = self.encode(*inputs, train=train)
        said = {
            "itm_logits": self.itm_logits(hidden.pooled),
            "word_logits": self.word_logits(hidden.text),
            "features_at": self.features_at(hidden.regions),
        }
        if self.classes:
            said["class_logits"] = self.class_logits(hidden.regions)
        if self.rank:
            said["rank_score"] = self.rank_score(hidden.pooled)
        if self.answers:
            said["answer_logits"] = self.answer_logits(hidden.pooled)
        return said

    def _drop(self, x: Array, train: bool) -> Array:
        return nn.Dropout(self.dropout)(x, deterministic=not train)

    def _layer(self, name: str) -> TransformerLayer:
        return bert_layer(name, self.heads, self.mlp_width, self.eps, self.dropout, self.dropout, self.dtype)

    def _require(self, method: str, field: str, there: bool) -> None:
        if not there:
            raise ValueError(f"SingleTower: {method} needs a head that was not built; give the tower `{field}`.")
