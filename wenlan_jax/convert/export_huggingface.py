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

from wenlan_jax.convert import example, model_card, parity, torch_modules, weights
from wenlan_jax.convert.architecture import architecture_of, image_settings
from wenlan_jax.convert.bert import bert_description
from wenlan_jax.convert.export_torch import ARCHITECTURE, MODULES, WEIGHTS, query_state
from wenlan_jax.convert.exported_model import ExportedModel, ExportError
from wenlan_jax.convert.exporting import Runner
from wenlan_jax.convert.rules import FlatTree
from wenlan_jax.data.text import CLS, MASK, PAD, SEP, UNKNOWN, Tokenizer, WordPiece
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower import schema as two_towers

CODE = Path(__file__).parent / "huggingface"
BACKBONE = "text_backbone"
_BACKBONE_KEYS = "textencoder.backbone.bert."

_CARD = """\
# WenLan (BriVL) with transformers

`pip install -r {requirements}`, then, as in `{example_file}`,

```python
{example}```

`trust_remote_code` lets transformers run the Python files of this folder. `get_image_features` and `get_text_features`
give unit embeddings, and the model called with images, texts or both has them as `image_embeds` and `text_embeds`;
`similarity_per_image` are their products, `logits_per_image` these times {scale:.4g}, as in training. `processor` takes
paths of files, which it reads as the training did, or open images, which it averages over areas.

```python
from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model="wenlan", trust_remote_code=True)  # "wenlan": this folder
classify("image.jpg", candidate_labels={labels}, hypothesis_template="{{}}")
embed = pipeline("image-feature-extraction", model="wenlan", trust_remote_code=True)
```

Pipelines open files themselves, and turn them by EXIF.{boxes} The text backbone alone is
`BertModel.from_pretrained(folder + "/{backbone}", add_pooling_layer=False)`{mask}

"""

_BOXES = " They know no boxes, and this model's regions are boxes: call the model with `boxes` and `box_mask`."

_UNMASKED = """;
it was trained on texts padded to {length} pieces without an attention mask, so call it that way."""

WORDS_CLASS, PIECES_CLASS = "PreTrainedTokenizerFast", "WenLanTokenizer"

PIECES = "tokenizer.model"
"""The name under which `tokenization_wenlan.py` looks for a SentencePiece model."""


def write(model: ExportedModel, folder: Path) -> Runner:
    """Writes a folder for `from_pretrained` with `trust_remote_code=True`.

    Args:
        model: what is exported.
        folder: where it goes.

    Returns:
        What runs the folder on a batch, in a process of its own.
    """
    state = query_state(model)
    _write_model(model, state, folder)
    _write_backbone(model, state, folder / BACKBONE)
    _write_processor(model, folder)
    (folder / "training_config.json").write_text(experiment.to_json(model.config) + "\n")
    (folder / "README.md").write_text(_card(model), encoding="utf-8")
    example.write(model, "huggingface", folder)
    return lambda batch: run_folder(folder, batch)


def _write_model(model: ExportedModel, state: FlatTree, folder: Path) -> None:
    shutil.copyfile(torch_modules.__file__, folder / MODULES)
    weights.write_safetensors(state, folder / WEIGHTS, {"format": "pt"})
    config = {
        **architecture_of(model.config),
        "architectures": ["WenLanModel"],
        "auto_map": {
            "AutoConfig": _code("configuration_wenlan", "WenLanConfig", folder),
            "AutoModel": _code("modeling_wenlan", "WenLanModel", folder),
            "AutoModelForZeroShotImageClassification": "modeling_wenlan.WenLanModel",
        },
        "logit_scale": model.scale,
        "model_type": "wenlan",
        "pad_token_id": model.words.pad_id,
        "sep_token_id": model.words.description()["sep"],
        # Older pipelines load a tokenizer only where the model's own configuration names one.
        "tokenizer_class": WORDS_CLASS if isinstance(model.words, WordPiece) else PIECES_CLASS,
        "torch_dtype": model.dtype,
    }
    _write_json(config, folder / ARCHITECTURE)


def _write_backbone(model: ExportedModel, state: FlatTree, folder: Path) -> None:
    folder.mkdir()
    backbone = {key.removeprefix(_BACKBONE_KEYS): state[key] for key in state if key.startswith(_BACKBONE_KEYS)}
    weights.write_safetensors(backbone, folder / WEIGHTS, {"format": "pt"})
    _write_json(_bert_config(model.config.model.text.bert, model), folder / ARCHITECTURE)


def _bert_config(bert: two_towers.BertConfig, model: ExportedModel) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        **bert_description(bert),
        "hidden_act": "gelu",
        "pad_token_id": model.words.pad_id,
        "torch_dtype": model.dtype,
    }


def _write_processor(model: ExportedModel, folder: Path) -> None:
    """Writes image processor, tokenizer and the processor that holds both."""
    config = model.config
    processor = {"AutoProcessor": _code("processing_wenlan", "WenLanProcessor", folder)}
    images = {
        "auto_map": {**processor, "AutoImageProcessor": _code("processing_wenlan", "WenLanImageProcessor", folder)},
        "image_processor_type": "WenLanImageProcessor",
        "processor_class": "WenLanProcessor",
        **image_settings(config),
    }
    _write_json(images, folder / "preprocessor_config.json")
    _write_json({"auto_map": processor, "processor_class": "WenLanProcessor"}, folder / "processor_config.json")
    vocabulary = model.words.save(folder)
    if isinstance(model.words, WordPiece):
        own = _word_pieces(model.words, config.tokenizer.lower_case, folder)
    else:
        own = _sentence_pieces(model.words, vocabulary)
    # A text never yields a special token, as in training.
    shared = {
        "model_max_length": config.data.text_length,
        "split_special_tokens": True,
        "processor_class": "WenLanProcessor",
    }
    _write_json({**own, **shared}, folder / "tokenizer_config.json")


def _word_pieces(tokenizer: WordPiece, lower_case: bool, folder: Path) -> dict[str, Any]:
    """Writes the whole pipeline as `tokenizer.json`, which leaves no version of transformers a choice."""
    from tokenizers import BertWordPieceTokenizer

    pipeline = BertWordPieceTokenizer(tokenizer._vocab, lowercase=lower_case, strip_accents=None)
    pipeline.save(str(folder / "tokenizer.json"))
    return {
        "tokenizer_class": WORDS_CLASS,
        "do_lower_case": lower_case,
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "cls_token": CLS,
        "sep_token": SEP,
        **({} if tokenizer.mask_id is None else {"mask_token": MASK}),
    }


def _sentence_pieces(tokenizer: Tokenizer, vocabulary: Path) -> dict[str, Any]:
    folder = vocabulary.parent
    vocabulary.rename(folder / PIECES)
    return {
        "auto_map": {"AutoTokenizer": [_code("tokenization_wenlan", PIECES_CLASS, folder), None]},
        "tokenizer_class": PIECES_CLASS,
        "fairseq_ids": bool(tokenizer.description()["shift"]),
    }


def _code(module: str, name: str, folder: Path) -> str:
    """Copies a file of code into the export; returns how an `auto_map` refers to a class in it."""
    shutil.copyfile(CODE / f"{module}.py", folder / f"{module}.py")
    return f"{module}.{name}"


def _write_json(content: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _card(model: ExportedModel) -> str:
    boxes = model.config.model.image.regions.kind == "boxes"
    masked = model.config.model.text.bert.attention_mask
    use = _CARD.format(
        requirements=example.REQUIREMENTS,
        example_file=example.FILE,
        example=example.source(model, "huggingface"),
        scale=model.scale,
        labels='["一只猫", "a dog"]',
        boxes=_BOXES if boxes else "",
        backbone=BACKBONE,
        mask="." if masked else _UNMASKED.format(length=model.config.data.text_length),
    )
    return model_card.metadata(model, "transformers", model_card.PIPELINE) + use + model_card.training(model)


def run_folder(folder: Path, batch: parity.FixedBatch) -> parity.Embeddings:
    """Embeds a batch through the Auto classes, and checks the text backbone as a BertModel.

    In a process of its own, with a cache of modules of its own: transformers copies the code it trusts into a cache
    that outlives the process, under the name of the folder.

    Args:
        folder: the export.
        batch: the fixed batch.

    Returns:
        The embeddings.

    Raises:
        ExportError: if the folder cannot be used, or the hidden states of the backbone differ.
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
