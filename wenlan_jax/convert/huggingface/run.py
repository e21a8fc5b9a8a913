"""Embeds a batch with an exported folder, as its users do: `python run.py FOLDER BATCH.npz EMBEDDINGS.npz`.

The batch has `image` (uint8, batch, side, side, 3), `token_ids`, `token_mask` and maybe `boxes` and `box_mask`; the
result has `image` and `text`, and `hidden` of the text backbone when it is loaded as a BertModel of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor, BertModel


def main(folder: Path, source: Path, target: Path) -> None:
    """Loads model and processor through the Auto classes and writes what they make of the batch."""
    with np.load(source) as file:
        batch = {name: torch.from_numpy(file[name]) for name in file.files}
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).float().eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    backbone = BertModel.from_pretrained(folder / "text_backbone", add_pooling_layer=False).float().eval()
    images = processor(images=list(batch["image"].numpy()))["pixel_values"]
    ids, mask = batch["token_ids"].long(), batch["token_mask"]
    with torch.no_grad():
        image = model.get_image_features(images, batch.get("boxes"), batch.get("box_mask"))
        text = model.get_text_features(ids, mask)
        attended = mask.long() if model.config.text["bert"]["attention_mask"] else torch.ones_like(ids)
        hidden = backbone(input_ids=ids, attention_mask=attended).last_hidden_state
        expected = model.textencoder.hidden_states(ids, mask)
    # Hidden states of padding are compared nowhere: masked attention leaves them free.
    difference = ((hidden - expected).abs() * mask[..., None]).max()
    np.savez(target, image=image.numpy(), text=text.numpy(), backbone_difference=difference.numpy())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
