"""BriVL's two towers: an image and a text each become one unit vector of the same space.

Both go backbone -> tokens -> L2 per token -> transformer encoder -> masked mean -> two-layer projection -> L2
(configs/PAPERS.md). A key encoder is the same module applied to another parameter tree.
"""

from __future__ import annotations

from typing import NamedTuple

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from wenlan_jax.models.arrays import Array
from wenlan_jax.models.backbone import Backbone
from wenlan_jax.models.bert import BertEncoder
from wenlan_jax.models.initializers import torch_dense
from wenlan_jax.models.layers import l2_normalize, masked_mean
from wenlan_jax.models.placement import inner, rows
from wenlan_jax.models.regions import RegionPooling
from wenlan_jax.models.transformer import TransformerEncoder


class TowerOutput(NamedTuple):
    """The results of a tower. jit removes what the caller does not use.

    Attributes:
        embedding: unit vectors, float32.
        tokens: the encoder's results.
        mask: which tokens are valid.
        inputs: the backbone's tokens before normalisation (region tokens, or hidden states of the text backbone).
        features: the feature map of the image backbone; None for texts.
    """

    embedding: Float[Array, "batch embedding"]
    tokens: Float[Array, "batch tokens width"]
    mask: Bool[Array, "batch tokens"]
    inputs: Float[Array, "batch tokens width"]
    features: Float[Array, "batch height width channels"] | None


class Projection(nn.Module):
    """Two linear layers `fc1` and `fc2` to `width`, with ReLU between them.

    Attributes:
        width: of the hidden layer and of the result.
        dtype: of the computation.
    """

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch width"]:
        hidden = inner(nn.relu(torch_dense(self.width, x.shape[-1], self.dtype, "fc1")(x)))
        return rows(torch_dense(self.width, self.width, self.dtype, "fc2")(hidden))


def _embed(
    inputs: Array, mask: Array, encoder: TransformerEncoder, projection: Projection, train: bool
) -> tuple[Float[Array, "batch embedding"], Float[Array, "batch tokens width"]]:
    """The part both towers share: from tokens to the unit embedding and the encoded tokens."""
    tokens = encoder(l2_normalize(rows(inputs)), mask, train)
    return l2_normalize(projection(rows(masked_mean(tokens, mask)))), tokens


class ImageTower(nn.Module):
    """Embeds images as unit vectors. The parts are given; the parameter tree has their field names.

    Attributes:
        backbone: maps images to feature maps.
        regions: pools a map into region tokens.
        encoder: self-attention over the tokens.
        projection: to the embedding, which has its width.
    """

    backbone: Backbone
    regions: RegionPooling
    encoder: TransformerEncoder
    projection: Projection

    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        boxes: Float[Array, "batch boxes 4"] | None = None,
        box_mask: Bool[Array, "batch boxes"] | None = None,
        *,
        train: bool,
    ) -> TowerOutput:
        """Embeds images.

        Args:
            images: normalised RGB.
            boxes: normalised (x1, y1, x2, y2); None with a fixed grid (`RegionPooling.grid`).
            box_mask: true for the valid boxes; None with a fixed grid.
            train: turns on batch statistics and dropout (stream `dropout`).

        Returns:
            The embeddings, and what led to them.
        """
        features = self.backbone(images, train)
        inputs, mask = self.regions(features, boxes, box_mask)
        embedding, tokens = _embed(inputs, mask, self.encoder, self.projection, train)
        return TowerOutput(embedding, tokens, mask, inputs, features)


class TextTower(nn.Module):
    """Embeds texts as unit vectors. The parts are given; the parameter tree has their field names.

    Attributes:
        backbone: maps word pieces to hidden states.
        encoder: self-attention over the tokens.
        projection: to the embedding, which has its width.
        mask_backbone: hide padding from the backbone, so that a text's embedding does not depend on how far it is
            padded. False is the released code, which gave the backbone no mask (configs/PAPERS.md).
    """

    backbone: BertEncoder
    encoder: TransformerEncoder
    projection: Projection
    mask_backbone: bool

    def __call__(
        self, token_ids: Int[Array, "batch tokens"], token_mask: Bool[Array, "batch tokens"], *, train: bool
    ) -> TowerOutput:
        """Embeds texts.

        Args:
            token_ids: word pieces, padded.
            token_mask: true for the word pieces of the text, [CLS] and [SEP] included.
            train: turns on dropout (stream `dropout`).

        Returns:
            The embeddings, and what led to them.
        """
        inputs = self.backbone(token_ids, token_mask if self.mask_backbone else None, train)
        embedding, tokens = _embed(inputs, token_mask, self.encoder, self.projection, train)
        return TowerOutput(embedding, tokens, token_mask, inputs, None)
