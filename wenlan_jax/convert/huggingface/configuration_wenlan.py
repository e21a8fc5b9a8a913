"""Configuration of the WenLan (BriVL) towers for transformers."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class WenLanConfig(PretrainedConfig):
    """Everything the towers are built from: the fields of `wenlan_torch.Architecture`.

    embedding: width of the common space. image, text: sizes and switches of each tower, as described there.
    logit_scale: what similarities are multiplied by before a softmax, one over the temperature of the training.
    """

    model_type = "wenlan"

    # transformers makes an empty configuration when it looks for what differs from the defaults.
    def __init__(
        self,
        embedding: int = 0,
        image: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
        logit_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.embedding, self.image, self.text = embedding, image or {}, text or {}
        self.logit_scale = logit_scale

    @property
    def architecture(self) -> dict[str, Any]:
        """The dictionary that the towers take."""
        return {"embedding": self.embedding, "image": self.image, "text": self.text}
