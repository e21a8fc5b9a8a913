"""The single tower (UNITER, UC2, MLMM): one Transformer over the word pieces of a text and the regions of an image.

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
    """The last hidden states, in the dtype of the computation.

    Attributes:
        text: of the word pieces.
        regions: of the regions.
        pooled: of the first word piece, after the pooler.
    """

    text: Float[Array, "batch tokens width"]
    regions: Float[Array, "batch regions width"]
    pooled: Float[Array, "batch width"]


def locations(boxes: Float[Array, "*batch 4"]) -> Float[Array, "*batch 7"]:
    """Describes where regions are by seven numbers (UNITER's code).

    Args:
        boxes: (x1, y1, x2, y2) in units of the image's sides.

    Returns:
        (x1, y1, x2, y2, w, h, w * h), float32.
    """
    boxes = boxes.astype(jnp.float32)
    sides = boxes[..., 2:] - boxes[..., :2]
    return jnp.concatenate([boxes, sides, sides[..., :1] * sides[..., 1:]], axis=-1)


def at_places(
    text: Float[Array, "batch tokens width"], places: Int[Array, "batch places"]
) -> Float[Array, "batch places width"]:
    """Picks the hidden states at some places of each text, so that the word head costs only what the masked words need.

    Args:
        text: hidden states of the word pieces.
        places: indices of word pieces.

    Returns:
        The hidden states at those places.
    """
    return jnp.take_along_axis(text, places[..., None], axis=1)


def rank_from_itm(params: Mapping[str, Any]) -> dict[str, Any]:
    """Gives a tower a rank head that scores a pair by its logit of "these belong together".

    This is the start of UNITER's fine-tuning for retrieval, and its zero-shot ranking.

    Args:
        params: the parameters of a tower.

    Returns:
        The parameters with the new rank head, in place of one that is there.
    """
    return {**params, "rank_head": {name: leaf[..., MATCH : MATCH + 1] for name, leaf in params["itm_head"].items()}}


def attention(
    tower: SingleTower, params: PyTree, *inputs: Array
) -> Float[Array, "layers batch heads sequence sequence"]:
    """Computes the attention weights of every layer, without dropout.

    Args:
        tower: the model.
        params: its parameters.
        *inputs: what `SingleTower.encode` takes.

    Returns:
        The weights, float32. Rows are queries, columns keys, both in the order [text | regions]; a row of a real token
        sums to 1.
    """
    _, collected = tower.apply({"params": params}, *inputs, train=False, method="encode", mutable=[INTERMEDIATES])
    return attention_weights(cast(Mapping[str, Any], collected[INTERMEDIATES]))


class TiedLinear(nn.Module):
    """A linear layer whose kernel another layer may use transposed.

    Attributes:
        inputs: number of inputs.
        features: number of outputs.
        dtype: of the computation; parameters stay float32.
    """

    inputs: int
    features: int
    dtype: DTypeLike

    def setup(self) -> None:
        """Makes kernel (inputs, features) and bias (features)."""
        self.kernel = self.param("kernel", bert_kernel, (self.inputs, self.features), jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch features"]:
        bias = along_last(self.bias.astype(self.dtype), x.ndim)
        return x.astype(self.dtype) @ self.kernel.astype(self.dtype) + bias


class RegionEmbeddings(nn.Module):
    """Normalised sum of a region's feature, its location and a row of the type table.

    Feature and location are normalised first, each by itself. A masked region has the learned `mask_vector` for a
    feature: zeros plus that vector, in the space of features (UNITER's row 1 of `mask_embedding`).

    Attributes:
        feature_width: numbers of a region's feature.
        width: of the embeddings.
        eps: of the LayerNorms.
        dtype: of the computation; parameters stay float32.
    """

    feature_width: int
    width: int
    eps: float
    dtype: DTypeLike

    def setup(self) -> None:
        """Makes the linear layers, the LayerNorms and the vector of masked regions."""
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
        """Embeds regions.

        Args:
            features: the detector's features, of any float type.
            boxes: (x1, y1, x2, y2) in units of the image's sides.
            masked: regions whose features stay hidden; None for none.
            kind: the type embedding of regions.

        Returns:
            The embeddings, in `dtype`.

        Raises:
            ValueError: for features of another width than `feature_width`.
        """
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
    """Linear layer, exact GELU, LayerNorm: what UNITER's heads with more than one layer begin with.

    Attributes:
        width: of the result.
        eps: of the LayerNorm.
        dtype: of the computation.
    """

    width: int
    eps: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch width"]:
        return rows(layer_norm(self.eps, self.dtype, "norm")(exact_gelu(linear(self.width, self.dtype, "dense")(x))))


class TiedHead(nn.Module):
    """A head whose last layer is a table of the model: `transform`, the product with the table, and a bias of its own.

    The table is given with each call. Logits are float32.

    Attributes:
        outputs: rows of the table.
        width: columns of the table.
        eps: of the LayerNorm.
        dtype: of the product's factors.
    """

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
    """A head of two layers: `transform` to `width`, then the linear layer `out`. Logits are float32.

    Attributes:
        outputs: number of logits.
        width: of the hidden layer.
        eps: of the LayerNorm.
        dtype: of the hidden layer.
    """

    outputs: int
    width: int
    eps: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        hidden = Transformed(self.width, self.eps, self.dtype, name="transform")(x)
        return linear(self.outputs, jnp.float32, "out")(hidden)


def linear(features: int, dtype: DTypeLike, name: str | None = None) -> nn.Dense:
    """Makes a linear layer with BERT's initial values.

    Args:
        features: number of outputs.
        dtype: of the computation.
        name: of the layer in the parameter tree; None inside a `setup`, where the attribute names it.

    Returns:
        The layer.
    """
    return nn.Dense(features, dtype=dtype, kernel_init=bert_kernel, name=name)


class SingleTower(nn.Module):
    """Encodes texts and images together; call its methods with `apply(variables, ..., method=...)`.

    Attributes:
        vocab_size: rows of the word table: 250002 for UC2, 28996 for UNITER.
        width: of the hidden states, 768 for UC2 and UNITER's base model.
        depth: number of layers, 12 for UC2 and UNITER's base model.
        heads: attention heads, 12 for UC2 and UNITER's base model.
        mlp_width: hidden width of the feed-forward networks, 3072 for UC2 and UNITER's base model.
        max_positions: rows of the position table: 514 for UC2, 512 for UNITER. Regions have no positions.
        position_offset: row of the first word piece in the position table: 2 for UC2, 0 for UNITER.
        feature_width: numbers of a region's feature, 2048 for a detector's.
        classes: of a region, background first; 0 for no class head.
        answers: outputs of the VQA head; 0 for no such head.
        rank: whether there is a rank head.
        text_eps: of the LayerNorms of the text embeddings, the word head and the VQA head.
        eps: of all other LayerNorms.
        dropout: after embeddings and sublayers, and on the attention weights.
        dtype: of the computation; parameters, attention weights before the product and all logits are float32.
        scan_segments: see `LayerStack`.
        remat: see `LayerStack`.

    Example:
        >>> variables = {"params": params}
        >>> inputs = (token_ids, token_mask, features, boxes, region_mask)
        >>> hidden = tower.apply(variables, *inputs, train=False, method="encode")
        >>> logits = tower.apply(variables, hidden.pooled, method="itm_logits")
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
        """Makes embeddings, pooler and the heads that the fields ask for."""
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
        """Computes the hidden states of texts and regions. There may be no regions at all.

        Args:
            token_ids: word pieces, left-aligned.
            token_mask: which word pieces are real.
            features: features of the regions, of any float type.
            boxes: (x1, y1, x2, y2) in units of the image's sides, see `locations`.
            region_mask: which regions are real, left-aligned.
            region_masked: regions whose features the tower must not see (MRFR and MRC); None for none.
            train: turns on dropout (stream `dropout`).

        Returns:
            The last hidden states of both sides.

        Raises:
            ValueError: for a text beyond the position table, and for features of another width than `feature_width`.
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
        """Says whether text and image belong together: class `MATCH` of two."""
        return rows(self.itm_head(pooled))

    def word_logits(self, hidden: Float[Array, "batch places width"]) -> Float[Array, "batch places vocabulary"]:
        """Predicts the words at some places, see `at_places`; the word table is that of the embeddings."""
        return self.word_head(hidden, self.embeddings.word.embedding)

    def features_at(self, regions: Float[Array, "batch regions width"]) -> Float[Array, "batch regions feature"]:
        """Predicts the features of regions (MRFR), by the transposed linear layer of the region embeddings."""
        return self.feature_head(regions, self.regions.features.kernel)

    def class_logits(self, regions: Float[Array, "batch regions width"]) -> Float[Array, "batch regions classes"]:
        """Predicts the detector's classes of regions (MRC), background first.

        Args:
            regions: hidden states of regions.

        Returns:
            One logit a class.

        Raises:
            ValueError: if the tower has no class head.
        """
        self._require("class_logits", "classes", bool(self.classes))
        return rows(self.class_head(regions))

    def rank_score(self, pooled: Float[Array, "batch width"]) -> Float[Array, " batch"]:
        """Scores how well text and image fit.

        Args:
            pooled: the pooled hidden states.

        Returns:
            One logit a pair, to compare pairs by.

        Raises:
            ValueError: if the tower has no rank head.
        """
        self._require("rank_score", "rank", self.rank)
        return rows(self.rank_head(pooled)[:, 0])

    def answer_logits(self, pooled: Float[Array, "batch width"]) -> Float[Array, "batch answers"]:
        """Predicts the answers to a question about the image (VQA).

        Args:
            pooled: the pooled hidden states.

        Returns:
            One logit an answer; each answer is right or wrong by itself.

        Raises:
            ValueError: if the tower has no VQA head.
        """
        self._require("answer_logits", "answers", bool(self.answers))
        return rows(self.answer_head(pooled))

    def everything(self, *inputs: Array, train: bool) -> dict[str, Array]:
        """Runs every head that there is on every token or region; for `init`.

        Args:
            *inputs: what `encode` takes.
            train: turns on dropout.

        Returns:
            Logits and features by the method that computes them.
        """
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
