"""Export for transformers: a folder for AutoModel and AutoProcessor, and the text backbone as a plain BertModel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from wenlan_jax import config as configs
from wenlan_jax import schema
from wenlan_jax.convert import model_card, parity, torch_modules, weights
from wenlan_jax.convert.architecture import architecture_of
from wenlan_jax.convert.bert import bert_description
from wenlan_jax.convert.export_torch import ARCHITECTURE, MODULES, WEIGHTS, query_state
from wenlan_jax.convert.exporting import ExportError, Model, Runner
from wenlan_jax.convert.rules import FlatTree
from wenlan_jax.data.text import CLS, MASK, PAD, SEP, UNKNOWN, WordPiece

CODE = Path(__file__).parent / "huggingface"
BACKBONE = "text_backbone"
_BACKBONE_KEYS = "textencoder.backbone.bert."

_CARD = """\
---
library_name: transformers
tags: [image-text-retrieval, brivl, wenlan]
---
# WenLan (BriVL) with transformers

```python
{imports}from PIL import Image
from transformers import AutoModel, AutoProcessor

folder = "wenlan"  # this one; older versions of transformers want a name without dots
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(images=Image.open("picture.jpg"), text=["一只猫", "a dog"])
{boxes}print(model(**inputs).similarity_per_image)
```

`trust_remote_code` lets transformers run the Python files of this folder. `get_image_features` and `get_text_features`
give unit embeddings. The text backbone alone is
`BertModel.from_pretrained(folder + "/{backbone}", add_pooling_layer=False)`{mask}

"""

_BOXES = """\
inputs["boxes"] = torch.tensor([[[0.1, 0.2, 0.6, 0.9]]])  # of each picture; x1, y1, x2, y2 as fractions of its sides
inputs["box_mask"] = torch.ones(1, 1, dtype=torch.bool)  # False for boxes that fill up a row
"""

_UNMASKED = """;
it was trained on texts padded to {length} pieces without an attention mask, so call it that way."""


def write(model: Model, folder: Path) -> Runner:
    """Writes a folder for `from_pretrained` with `trust_remote_code=True`; runs it in a process of its own."""
    state = query_state(model)
    _write_model(model, state, folder)
    _write_backbone(model, state, folder / BACKBONE)
    vocabulary = _write_processor(model, folder)
    (folder / "training_config.json").write_text(configs.to_json(model.config) + "\n")
    (folder / "README.md").write_text(_card(model) + model_card.write(model, vocabulary.name))
    return lambda batch: run_folder(folder, batch)


def _write_model(model: Model, state: FlatTree, folder: Path) -> None:
    shutil.copyfile(torch_modules.__file__, folder / MODULES)
    weights.write_safetensors(state, folder / WEIGHTS, {"format": "pt"})
    config = {
        **architecture_of(model.config),
        "architectures": ["WenLanModel"],
        "auto_map": {
            "AutoConfig": _code("configuration_wenlan", "WenLanConfig", folder),
            "AutoModel": _code("modeling_wenlan", "WenLanModel", folder),
        },
        "model_type": "wenlan",
        "torch_dtype": model.dtype,
    }
    _write_json(config, folder / ARCHITECTURE)


def _write_backbone(model: Model, state: FlatTree, folder: Path) -> None:
    folder.mkdir()
    backbone = {key.removeprefix(_BACKBONE_KEYS): state[key] for key in state if key.startswith(_BACKBONE_KEYS)}
    weights.write_safetensors(backbone, folder / WEIGHTS, {"format": "pt"})
    _write_json(_bert_config(model.config.model.text.bert, model), folder / ARCHITECTURE)


def _bert_config(bert: schema.Bert, model: Model) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        **bert_description(bert),
        "hidden_act": "gelu",
        "pad_token_id": model.words.pad_id,
        "torch_dtype": model.dtype,
    }


def _write_processor(model: Model, folder: Path) -> Path:
    """Writes image processor, tokenizer and the processor that holds both; returns the vocabulary's path."""
    config, side = model.config, model.config.data.image_size
    processor = {"AutoProcessor": _code("processing_wenlan", "WenLanProcessor", folder)}
    pictures = {
        "auto_map": {**processor, "AutoImageProcessor": _code("processing_wenlan", "WenLanImageProcessor", folder)},
        "image_processor_type": "WenLanImageProcessor",
        "processor_class": "WenLanProcessor",
        "size": {"height": side, "width": side},
        "antialias": config.data.antialias,
        "image_mean": config.augment.mean,
        "image_std": config.augment.std,
    }
    _write_json(pictures, folder / "preprocessor_config.json")
    _write_json({"auto_map": processor, "processor_class": "WenLanProcessor"}, folder / "processor_config.json")
    vocabulary = model.words.save(folder)
    if isinstance(model.words, WordPiece):
        own = _word_pieces(model.words, config.tokenizer.lower_case, folder)
    else:
        own = _sentence_pieces(folder)
    # A text never yields a special token, as in training.
    shared = {
        "model_max_length": config.data.text_length,
        "split_special_tokens": True,
        "processor_class": "WenLanProcessor",
    }
    _write_json({**own, **shared}, folder / "tokenizer_config.json")
    return vocabulary


def _word_pieces(tokenizer: WordPiece, lower_case: bool, folder: Path) -> dict[str, Any]:
    """Writes the whole pipeline as `tokenizer.json`, which leaves no version of transformers a choice."""
    from tokenizers import BertWordPieceTokenizer

    pipeline = BertWordPieceTokenizer(tokenizer._vocab, lowercase=lower_case, strip_accents=None)
    pipeline.save(str(folder / "tokenizer.json"))
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "do_lower_case": lower_case,
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "cls_token": CLS,
        "sep_token": SEP,
        **({} if tokenizer.mask_id is None else {"mask_token": MASK}),
    }


def _sentence_pieces(folder: Path) -> dict[str, Any]:
    return {
        "auto_map": {"AutoTokenizer": [_code("tokenization_wenlan", "WenLanTokenizer", folder), None]},
        "tokenizer_class": "WenLanTokenizer",
    }


def _code(module: str, name: str, folder: Path) -> str:
    """Copies a file of code into the export; returns how an `auto_map` refers to a class in it."""
    shutil.copyfile(CODE / f"{module}.py", folder / f"{module}.py")
    return f"{module}.{name}"


def _write_json(content: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _card(model: Model) -> str:
    boxes = model.config.model.image.regions.kind == "boxes"
    masked = model.config.model.text.bert.attention_mask
    return _CARD.format(
        imports="import torch\n" if boxes else "",
        boxes=_BOXES if boxes else "",
        backbone=BACKBONE,
        mask="." if masked else _UNMASKED.format(length=model.config.data.text_length),
    )


def run_folder(folder: Path, batch: parity.FixedBatch) -> parity.Embeddings:
    """Embeds the batch through the Auto classes, and checks the text backbone as a BertModel.

    In a process of its own, with a cache of modules of its own: transformers copies the code it trusts into a cache
    that outlives the process, under the name of the folder. Raises ExportError if the folder cannot be used, or the
    hidden states of the backbone differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        # Older versions make a Python package of the folder's name, which must not have dots.
        (place / "export").symlink_to(folder.resolve(), target_is_directory=True)
        np.savez(place / "batch.npz", **{name: value for name, value in batch._asdict().items() if value is not None})
        files = [str(place / name) for name in ("export", "batch.npz", "result.npz")]
        command = [sys.executable, "-P", str(CODE / "run.py"), *files]
        offline = {"HF_MODULES_CACHE": str(place / "modules"), "HF_HUB_OFFLINE": "1"}
        finished = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, check=False)
        if finished.returncode:
            raise ExportError(f"transformers cannot use the exported folder:\n{finished.stderr.strip()}")
        with np.load(place / "result.npz") as result:
            image, text, difference = result["image"], result["text"], float(result["backbone_difference"])
    if not difference <= parity.TOLERANCES["float32"]:  # written so that NaN fails
        raise ExportError(f"{BACKBONE} as a BertModel differs from the text tower's backbone by {difference:.2e}")
    return parity.Embeddings(image, text)
