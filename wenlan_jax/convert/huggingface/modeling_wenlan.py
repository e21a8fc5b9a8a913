"""The WenLan (BriVL) towers as a model of transformers; the mathematics is in `wenlan_torch.py`."""

from __future__ import annotations

import dataclasses

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the usual name
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_wenlan import WenLanConfig
from .wenlan_torch import ImageTower, TextTower  # type: ignore[import-not-found]


@dataclasses.dataclass
class WenLanOutput(ModelOutput):
    """Embeddings are rows of length 1; the similarities are their products, cosines from -1 to 1.

    image_embeds, text_embeds: (items, embedding), of the side or sides that were given.
    logits_per_image: (images, texts), similarities times `config.logit_scale`, for a softmax. logits_per_text: its
    transpose. similarity_per_image, similarity_per_text: the similarities themselves.
    """

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    similarity_per_image: Tensor | None = None
    similarity_per_text: Tensor | None = None


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
        """Embeddings of images, (batch, embedding), rows of length 1.

        pixel_values: (batch, 3, side, side) from the processor. boxes: (batch, regions, 4), x1, y1, x2, y2 as
        fractions of the image's sides, and box_mask: (batch, regions), for models whose regions are boxes.
        """
        return self.imgencoder(pixel_values.to(self.dtype), boxes, box_mask)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeddings of texts, (batch, embedding), rows of length 1; without a mask nothing is padding.

        Longer texts are cut to `config.text["length"]`, as in training, which pipelines leave to the model. With
        `config.text["bert"]["attention_mask"]` false, padding takes part in the text backbone, so shorter ones are
        padded to it.
        """
        length = self.config.text["length"]
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if input_ids.shape[1] > length:
            goes_on, mask = mask[:, length].bool(), mask[:, :length]
            last = input_ids[:, length - 1].masked_fill(goes_on, self.config.sep_token_id)
            input_ids = torch.cat([input_ids[:, : length - 1], last[:, None]], 1)
        missing = length - input_ids.shape[1]
        if missing > 0 and not self.config.text["bert"]["attention_mask"]:
            input_ids = F.pad(input_ids, (0, missing), value=self.config.pad_token_id)
            mask = F.pad(mask, (0, missing))
        return self.textencoder(input_ids, mask)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        boxes: Tensor | None = None,
        box_mask: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> WenLanOutput | tuple[Tensor, ...]:
        """Embeddings of images, texts or both, and the similarity of every image with every text.

        See the methods for the inputs.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("give pixel_values, input_ids or both")
        output = WenLanOutput()
        if pixel_values is not None:
            output["image_embeds"] = self.get_image_features(pixel_values, boxes, box_mask)
        if input_ids is not None:
            output["text_embeds"] = self.get_text_features(input_ids, attention_mask)
        if pixel_values is not None and input_ids is not None:
            similarity = output["image_embeds"] @ output["text_embeds"].T
            logits = similarity * self.config.logit_scale
            output["logits_per_image"], output["logits_per_text"] = logits, logits.T
            output["similarity_per_image"], output["similarity_per_text"] = similarity, similarity.T
        return output.to_tuple() if return_dict is False else output


# Transformers 4.50 does not do this itself, and `save_pretrained` would then leave this file out.
WenLanModel.register_for_auto_class("AutoModel")

if int(transformers.__version__.split(".")[0]) < 5:
    # Older pipelines ask whether there is an image processor for a configuration, not for a folder.
    from .processing_wenlan import WenLanImageProcessor

    transformers.AutoImageProcessor.register(
        WenLanConfig, slow_image_processor_class=WenLanImageProcessor, exist_ok=True
    )
