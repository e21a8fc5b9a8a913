"""The example that an export carries, from image files and raw texts to similarities, and what it needs installed.

Every example has the same two functions, `inputs` and `embed`, which `example_proof.py` runs before the export appears.
"""

from __future__ import annotations

from pathlib import Path

from wenlan_jax.convert.exported_model import ExportedModel

FILE = "example.py"
REQUIREMENTS = "requirements.txt"

_TORCH = """\
import sys

import torch
import wenlan_text
import wenlan_torch

model = wenlan_torch.load(".").float()  # this folder; in float32 whatever its file holds
words = wenlan_text.load(".")


def inputs(images, texts):
    ids, mask = words.encode(texts)
    pixels = torch.cat([model.read(image) for image in images])
    return {{"pixel_values": pixels, "input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}}


def embed(pixel_values, input_ids, attention_mask{parameters}):
    with torch.no_grad():
        return model.encode_image(pixel_values{arguments}), model.encode_text(input_ids, attention_mask)


if __name__ == "__main__":
    image, text = sys.argv[1:] or ("image.jpg", "{text}")  # python example.py IMAGE TEXT
    images, texts = embed(**inputs([image], [text]){boxes})
    print("similarity", (images @ texts.T).item())
"""

_HUGGINGFACE = """\
import sys
from pathlib import Path

import torch
from transformers import AutoModel, AutoProcessor

folder = Path(__file__).absolute().parent  # this one; transformers before 4.57 wants a name without dots
model = AutoModel.from_pretrained(folder, trust_remote_code=True).float().eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)


def inputs(images, texts):
    return dict(processor(images=list(images), text=list(texts)))


def embed(pixel_values, input_ids, attention_mask{parameters}):
    with torch.no_grad():
        images = model.get_image_features(pixel_values{arguments})
        return images, model.get_text_features(input_ids, attention_mask)


if __name__ == "__main__":
    image, text = sys.argv[1:] or ("image.jpg", "{text}")  # python example.py IMAGE TEXT
    images, texts = embed(**inputs([image], [text]){boxes})
    print("similarity", (images @ texts.T).item())
"""

_ONNX = """\
import sys

import numpy as np
import onnxruntime
import wenlan_images
import wenlan_text

images, words = wenlan_images.load("."), wenlan_text.load(".")
image_tower = onnxruntime.InferenceSession("image_tower.onnx")
text_tower = onnxruntime.InferenceSession("text_tower.onnx")


def inputs(files, texts):
    ids, mask = (np.array(rows, np.int64) for rows in words.encode(texts))
    return {{"pixel_values": images.read(files), "input_ids": ids, "attention_mask": mask}}


def embed(pixel_values, input_ids, attention_mask{parameters}):
    images = image_tower.run(None, {{"pixel_values": pixel_values{feeds}}})[0]
    return images, text_tower.run(None, {{"input_ids": input_ids, "attention_mask": attention_mask}})[0]


if __name__ == "__main__":
    image, text = sys.argv[1:] or ("image.jpg", "{text}")  # python example.py IMAGE TEXT
    images, texts = embed(**inputs([image], [text]){boxes})
    print("similarity", (images @ texts.T).item())
"""

_TEMPLATES = {"torch": _TORCH, "huggingface": _HUGGINGFACE, "onnx": _ONNX}

# x1, y1, x2, y2 of each image's boxes as fractions of its sides, those of a detector; box_mask: which are no filling.
_BOXES = {
    "torch": ", boxes=torch.tensor([[[0.1, 0.2, 0.6, 0.9]]]), box_mask=torch.ones(1, 1)",
    "onnx": ", boxes=np.array([[[0.1, 0.2, 0.6, 0.9]]], np.float32), box_mask=np.ones((1, 1), np.int64)",
}

_LIBRARIES = {
    "torch": ("torch>=2.1", "pillow>=10"),
    "huggingface": ("torch>=2.1", "transformers>=4.50,<6", "pillow>=10"),
    "onnx": ("onnxruntime>=1.17", "opencv-python-headless>=4.11", "numpy"),
}


def source(model: ExportedModel, form: str) -> str:
    """Writes the example of a format.

    Args:
        model: what is exported.
        form: `torch`, `huggingface` or `onnx`.

    Returns:
        Python code.
    """
    languages = model.config.data.languages
    boxes = model.config.model.image.regions.kind == "boxes"
    return _TEMPLATES[form].format(
        text="一只猫" if "zh" in languages or not languages else "a cat",
        parameters=", boxes, box_mask" if boxes else "",
        arguments=", boxes, box_mask" if boxes else "",
        feeds=', "boxes": boxes, "box_mask": box_mask' if boxes else "",
        boxes=_BOXES["onnx" if form == "onnx" else "torch"] if boxes else "",
    )


def libraries(model: ExportedModel, form: str) -> list[str]:
    """Lists what the example and the files that it imports need of PyPI.

    Args:
        model: what is exported.
        form: `torch`, `huggingface` or `onnx`.

    Returns:
        Requirements as pip reads them.
    """
    words = {"wordpiece": "tokenizers>=0.21", "sentencepiece": "sentencepiece>=0.2"}
    return [*_LIBRARIES[form], words[model.words.description()["kind"]]]


def write(model: ExportedModel, form: str, folder: Path) -> None:
    """Writes the example and its requirements into a folder."""
    (folder / FILE).write_text(source(model, form), encoding="utf-8")
    (folder / REQUIREMENTS).write_text("".join(f"{name}\n" for name in libraries(model, form)))
