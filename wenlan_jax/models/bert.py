"""BERT and RoBERTa (Devlin et al. 2019; Chinese RoBERTa-wwm-ext), up to the last hidden state; no pooler."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from wenlan_jax.models.arrays import Array
from wenlan_jax.models.initializers import bert_kernel
from wenlan_jax.models.placement import rows, whole
from wenlan_jax.models.transformer import LayerStack, TransformerLayer, apply_layers, layer_norm

exact_gelu = functools.partial(nn.gelu, approximate=False)
"""BERT's activation. The default of `nn.gelu` is an approximation, off by up to 5e-4."""


class BertEncoder(nn.Module):
    """BERT and RoBERTa from token ids to the last hidden states.

    Attributes:
        vocab_size: rows of the word table, 21128 for chinese-roberta-wwm-ext.
        width: of the hidden states, 768 for chinese-roberta-wwm-ext.
        depth: number of layers, 12 for chinese-roberta-wwm-ext.
        heads: attention heads, 12 for chinese-roberta-wwm-ext.
        mlp_width: hidden width of the feed-forward networks, 3072 for chinese-roberta-wwm-ext.
        max_positions: rows of the position table.
        type_vocab_size: rows of the token type table.
        position_offset: row of the first token in the position table, 0 for BERT, pad id + 1 for XLM-R.
        eps: of every LayerNorm, 1e-12 for BERT.
        dropout: after the embeddings and each sublayer.
        attention_dropout: on the attention weights.
        dtype: of the computation; parameters stay float32.
        scan_segments: see `LayerStack`.
        remat: see `LayerStack`.
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    max_positions: int
    type_vocab_size: int
    position_offset: int
    eps: float
    dropout: float
    attention_dropout: float
    dtype: DTypeLike
    scan_segments: tuple[int, ...]
    remat: bool

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch tokens"],
        attention_mask: Bool[Array, "batch tokens"] | None,
        train: bool,
        token_types: Int[Array, "batch tokens"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Encodes texts.

        Args:
            token_ids: word pieces, padded.
            attention_mask: which tokens may be attended to; None lets padding take part (BriVL's code).
            train: turns on dropout (stream `dropout`).
            token_types: rows of the token type table; None for type 0.

        Returns:
            The last hidden states, in `dtype`.

        Raises:
            ValueError: if a text is longer than the position table.
        """
        embeddings = BertEmbeddings(
            vocab_size=self.vocab_size,
            width=self.width,
            max_positions=self.max_positions,
            type_vocab_size=self.type_vocab_size,
            position_offset=self.position_offset,
            eps=self.eps,
            dtype=self.dtype,
            name="embeddings",
        )
        x = nn.Dropout(self.dropout)(embeddings(token_ids, token_types), deterministic=not train)
        stack = LayerStack(self.depth, self.scan_segments, self.remat)
        return apply_layers(self._layer, x, attention_mask, stack, train)

    def _layer(self, name: str) -> TransformerLayer:
        return bert_layer(
            name, self.heads, self.mlp_width, self.eps, self.dropout, self.attention_dropout, dtype=self.dtype
        )


def bert_layer(
    name: str,
    heads: int,
    mlp_width: int,
    eps: float,
    dropout: float,
    attention_dropout: float,
    dtype: DTypeLike,
) -> TransformerLayer:
    """Makes a layer of BERT: exact GELU, BERT's initial values, no dropout inside the feed-forward network.

    Args:
        name: of the layer in the parameter tree.
        heads: attention heads.
        mlp_width: hidden width of the feed-forward network.
        eps: of both LayerNorms.
        dropout: after attention and after the feed-forward network.
        attention_dropout: on the attention weights.
        dtype: of the computation.

    Returns:
        The layer; call it inside a compact method.
    """
    return TransformerLayer(
        heads=heads,
        mlp_width=mlp_width,
        activation=exact_gelu,
        eps=eps,
        dropout=dropout,
        attention_dropout=attention_dropout,
        mlp_dropout=0.0,
        dtype=dtype,
        attention_init=bert_kernel,
        kernel_init=bert_kernel,
        bias_init=lambda fan_in: nn.initializers.zeros_init(),
        name=name,
    )


class EmbeddingTable(nn.Embed):
    """A table whose rows are looked up on the devices that need them."""

    def __call__(self, inputs: Int[Array, "*places"]) -> Float[Array, "*places width"]:
        return jnp.take(whole(self.embedding.astype(self.dtype)), inputs, axis=0)


def token_places(token_mask: Bool[Array, "batch tokens"], offset: int) -> Int[Array, "batch tokens"]:
    """Finds the rows of RoBERTa's position table: real tokens count from `offset`, padding has the row before it.

    Args:
        token_mask: true for real tokens.
        offset: the row of the first token: RoBERTa's padding id + 1.

    Returns:
        The row of each token.

    Example:
        With offset 2, the ids [0, 5, 6, 2, 1, 1], of which 1 is padding, have the rows [2, 3, 4, 5, 1, 1].
    """
    real = token_mask.astype(jnp.int32)
    return jnp.cumsum(real, axis=1) * real + (offset - 1)


class BertEmbeddings(nn.Module):
    """Normalised sum of word, position and token type embeddings; `word`, `position` and `type` are its tables.

    Attributes:
        vocab_size: rows of the word table.
        width: of the embeddings.
        max_positions: rows of the position table.
        type_vocab_size: rows of the token type table.
        position_offset: row of the first token in the position table.
        eps: of the LayerNorm.
        dtype: of the computation; parameters stay float32.
    """

    vocab_size: int
    width: int
    max_positions: int
    type_vocab_size: int
    position_offset: int
    eps: float
    dtype: DTypeLike

    def setup(self) -> None:
        """Makes the tables and the LayerNorm."""
        self.word = self._table(self.vocab_size)
        self.position = self._table(self.max_positions)
        self.type = self._table(self.type_vocab_size)
        self.norm = layer_norm(self.eps, self.dtype, None)

    def __call__(
        self,
        token_ids: Int[Array, "batch tokens"],
        token_types: Int[Array, "batch tokens"] | None,
        token_mask: Bool[Array, "batch tokens"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Embeds tokens.

        Args:
            token_ids: word pieces, padded.
            token_types: rows of the token type table; None for type 0.
            token_mask: which tokens are real. With an offset, padding takes the row before it (see `token_places`).
                Without a mask every token takes the row after that of the one before.

        Returns:
            The embeddings, in `dtype`.

        Raises:
            ValueError: if the tokens do not fit the position table.
        """
        length = token_ids.shape[1]
        if self.position_offset + length > self.max_positions:
            raise ValueError(
                f"BertEncoder: texts of {length} tokens from position {self.position_offset} do not fit"
                f" max_positions {self.max_positions}; shorten the texts."
            )
        if token_mask is None or not self.position_offset:
            places = self.position_offset + jnp.arange(length)[None]
        else:
            places = token_places(token_mask, self.position_offset)
        types = jnp.zeros((1, 1), jnp.int32) if token_types is None else token_types
        x = self.word(token_ids) + self.position(places) + self.type(types)
        return rows(self.norm(x))

    def _table(self, size: int) -> EmbeddingTable:
        return EmbeddingTable(size, self.width, dtype=self.dtype, embedding_init=bert_kernel)
