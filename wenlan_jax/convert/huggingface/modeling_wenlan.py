"""The WenLan (BriVL) towers as a model of transformers; the mathematics is in `wenlan_torch.py`."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_wenlan import WenLanConfig
from .wenlan_torch import ImageTower, TextTower  # type: ignore[import-not-found]


@dataclasses.dataclass
class WenLanOutput(ModelOutput):
    """Embeddings are rows of length 1; the similarities are their products, cosines from -1 to 1.

    similarity_per_image: (images, texts). similarity_per_text: its transpose.
    image_embeds, text_embeds: (items, embedding).
    """

    similarity_per_image: Tensor | None = None
    similarity_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None


class WenLanModel(PreTrainedModel):
    """Both towers. Parameters carry the names of the official BriVL checkpoints."""

    config_class = WenLanConfig
    base_model_prefix = "wenlan"
    main_input_name = "pixel_values"

    def __init__(self, config: WenLanConfig) -> None:
        super().__init__(config)
        self.imgencoder, self.textencoder = ImageTower(config.architecture), TextTower(config.architecture)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own initialisation, for weights that a checkpoint lacks."""
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()

    def get_image_features(
        self, pixel_values: Tensor, boxes: Tensor | None = None, box_mask: Tensor | None = None
    ) -> Tensor:
        """Embeddings of pictures, (batch, embedding), rows of length 1.

        pixel_values: (batch, 3, side, side) from the processor. boxes: (batch, regions, 4), x1, y1, x2, y2 as
        fractions of the picture's sides, and box_mask: (batch, regions), for models whose regions are boxes.
        """
        return self.imgencoder(pixel_values.to(self.dtype), boxes, box_mask)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeddings of texts, (batch, embedding), rows of length 1; without a mask nothing is padding.

        With `config.text["bert"]["attention_mask"]` false, padding takes part in the text backbone: pad to
        `config.text["length"]`, as the processor does, to get what the model was trained with.
        """
        return self.textencoder(input_ids, torch.ones_like(input_ids) if attention_mask is None else attention_mask)

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        boxes: Tensor | None = None,
        box_mask: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> WenLanOutput | tuple[Tensor, ...]:
        """Similarity of every picture with every text; see the methods for the inputs."""
        image = self.get_image_features(pixel_values, boxes, box_mask)
        text = self.get_text_features(input_ids, attention_mask)
        similarity = image @ text.T
        output = WenLanOutput(similarity, similarity.T, image, text)
        return output.to_tuple() if return_dict is False else output


# Transformers 4.50 does not do this itself, and `save_pretrained` would then leave this file out.
WenLanModel.register_for_auto_class("AutoModel")
