"""Uses an exported folder as users of transformers do: `python use_export.py FOLDER IMAGE` prints what it gives.

A program of its own, so that it can run with other versions of transformers than the tests; it needs nothing of ours.
"""

from __future__ import annotations

import json
import sys

import torch
import transformers
from PIL import Image
from transformers import AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor, pipeline

LABELS = ["一只猫", "a red dog", "zelený strom"]


def main(folder: str, file: str) -> None:
    """Prints the figures as JSON, the last line."""
    classify = pipeline("zero-shot-image-classification", model=folder, trust_remote_code=True)
    scores = classify(file, candidate_labels=LABELS, hypothesis_template="{}")
    embed = pipeline("image-feature-extraction", model=folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    same = AutoModelForZeroShotImageClassification.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    with Image.open(file) as opened:
        images = processor(images=opened)
    texts = processor(text=LABELS)
    with torch.no_grad():
        both, image, text = model(**images, **texts), model(**images), model(**texts)
        features = model.get_image_features(**images), model.get_text_features(**texts)
    found = {
        "version": transformers.__version__,
        "same_class": type(same).__name__ == type(model).__name__,
        "scores": {entry["label"]: entry["score"] for entry in scores},
        "labels": LABELS,
        "logits": both.logits_per_image.tolist(),
        "transposed": both.logits_per_text.tolist(),
        "embedded": embed(file),
        "image": image.image_embeds.tolist(),
        "text": text.text_embeds.tolist(),
        "features": [value.tolist() for value in features],
        "sides": [sorted(image), sorted(text)],
        "ids": texts["input_ids"].tolist(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:3])
