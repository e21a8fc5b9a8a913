"""The text files of an export: what the model is, where it comes from, how to use it."""

from __future__ import annotations

from wenlan_jax import __version__
from wenlan_jax import config as configs
from wenlan_jax.convert.exporting import Model

_CARD = """\
# WenLan (BriVL) towers, checkpoint {step}

Two towers that embed pictures and texts as unit vectors of {embedding} dimensions; their product is the similarity.
Exported by wenlan_jax {version}; `parity.json` says how far these files are from the JAX towers.

## Use

```python
{example}```

`wenlan_torch.py` needs PyTorch alone. {tokenizer_note}

- pictures: RGB, {side} x {side}, resized without cropping (bilinear; sides that shrink are averaged if `antialias`),
  scaled to [0, 1], then (x - {mean}) / {std}
- texts: at most {length} pieces, [CLS] and [SEP] included

## Training

- data: `{source}`, split `{split}`, texts of kinds {kinds}, languages {languages}
- task {task}, {step} of {steps} steps of {batch} pairs, seed {seed}; configuration {fingerprint}, whole in
  `training_config.json`

## Results

{results}
"""

_SENTENCEPIECE = """\
import sentencepiece
pieces = sentencepiece.SentencePieceProcessor(model_file="{file}").encode("{text}")
tokens = [2, *pieces[:{room}], 3]  # [CLS] pieces [SEP]
"""

_WORDPIECE = """\
from transformers import BertTokenizerFast
tokenizer = BertTokenizerFast("{file}")  # lower-cases; see training_config.json, tokenizer.lower_case
tokens = tokenizer("{text}", truncation=True, max_length={length})["input_ids"]
"""

_EXAMPLE = """\
import torch
import wenlan_torch
from PIL import Image
{tokenizing}
ids = torch.tensor([tokens + [0] * ({length} - len(tokens))])  # padded as in training
model = wenlan_torch.load(".").eval()
with torch.no_grad():
    image = model.encode_image(model.preprocess(Image.open("picture.jpg")))
    text = model.encode_text(ids, ids != 0)
print("similarity", (image @ text.T).item())
"""


def example(model: Model) -> str:
    """A script that compares one picture with one text."""
    template = _SENTENCEPIECE if model.words.file_name.endswith(".model") else _WORDPIECE
    length = model.config.data.text_length
    text = "一只猫" if "zh" in model.config.data.languages or not model.config.data.languages else "a cat"
    tokenizing = template.format(file=model.words.file_name, text=text, room=length - 2, length=length)
    return _EXAMPLE.format(tokenizing=tokenizing.rstrip(), length=length)


def write(model: Model, tokenizer_file: str) -> str:
    """The model card, in Markdown."""
    config = model.config
    wordpiece = not tokenizer_file.endswith(".model")
    return _CARD.format(
        step=model.step,
        embedding=config.model.embedding,
        version=__version__,
        example=example(model),
        tokenizer_note=f"`{tokenizer_file}` is read with {'transformers' if wordpiece else 'sentencepiece'}.",
        side=config.data.image_size,
        mean=config.augment.mean,
        std=config.augment.std,
        length=config.data.text_length,
        source=config.data.source,
        split=config.data.train_split,
        kinds=", ".join(config.data.kinds) or "all",
        languages=", ".join(config.data.languages) or "all",
        task=config.task,
        steps=config.train.steps,
        batch=config.train.batch_size,
        seed=config.seed,
        fingerprint=configs.fingerprint(config),
        results=results_table(model.result),
    )


def results_table(result: dict[str, float]) -> str:
    """The figures of `result.json` over all languages, in Markdown."""
    rows = [f"| {name} | {value:.4g} |" for name, value in sorted(result.items()) if name.count("/") == 3]
    if not rows:
        return "The run has no result.json: it was not evaluated."
    return "| measure | value |\n|---|---|\n" + "\n".join(rows)
