"""The model cards of exports: what the model is, where it comes from, how to use it."""

from __future__ import annotations

import json
from typing import Any

from wenlan_jax import __version__
from wenlan_jax.convert import example
from wenlan_jax.convert.exported_model import ExportedModel
from wenlan_jax.tasks import experiment, registry

_CARD = """\
# WenLan (BriVL) towers, checkpoint {step}

Two towers that embed images and texts as unit vectors of {embedding} dimensions; their product is the similarity.
Exported by wenlan_jax {version}; `parity.json` says how far these files are from the JAX towers.

## Use

`pip install -r {requirements}`, then, as in `{example_file}`,

```python
{example}```

`wenlan_torch.py` needs PyTorch, and Pillow to read files; `wenlan_text.py` reads `{tokenizer}` with {library}.

- images: RGB, {side} x {side}, resized without cropping (bilinear; sides that shrink are averaged if `antialias`),
  scaled to [0, 1], then (x - {mean}) / {std}. `model.read` takes a file as the training did
  (`averaging`: {averaging}); `model.preprocess` takes an image that is open already, and averages over areas. The
  EXIF orientation is ignored, as `wenlan pack` does unless told otherwise
- texts: at most {length} pieces, [CLS] and [SEP] included

"""

_TRAINING = """\
## Training

- data: `{source}`, split `{split}`, texts of kinds {kinds}, languages {languages}
- task {task}, {step} of {steps} steps of {batch} pairs, seed {seed}; configuration {fingerprint}, whole in
  `training_config.json`

## Results

{results}
"""

PIPELINE = "zero-shot-image-classification"
"""Hugging Face's name of what two towers do."""


def write(model: ExportedModel) -> str:
    """Writes the model card of the PyTorch export, in Markdown."""
    config = model.config
    use = _CARD.format(
        step=model.step,
        embedding=config.model.embedding,
        version=__version__,
        requirements=example.REQUIREMENTS,
        example_file=example.FILE,
        example=example.source(model, "torch"),
        tokenizer=model.words.file_name,
        library=example.libraries(model, "torch")[-1].partition(">")[0],
        side=config.data.image_size,
        mean=config.augment.mean,
        std=config.augment.std,
        averaging=config.data.averaging,
        length=config.data.text_length,
    )
    return metadata(model, "pytorch", PIPELINE) + use + training(model)


def training(model: ExportedModel) -> str:
    """Writes the end of every card: data, recipe and results."""
    config = model.config
    return _TRAINING.format(
        step=model.step,
        source=config.data.source,
        split=config.data.train_split,
        kinds=", ".join(config.data.kinds) or "all",
        languages=", ".join(config.data.languages) or "all",
        task=config.task,
        steps=config.train.steps,
        batch=config.train.batch_size,
        seed=config.seed,
        fingerprint=experiment.fingerprint(config),
        results=results_table(model.result),
    )


def metadata(model: ExportedModel, library: str, pipeline: str) -> str:
    """Writes the head of a card that Hugging Face reads, in YAML: licence, languages, task, library and tags.

    The licence is what the user said; only who owns data and weights knows it.

    Args:
        model: what is exported.
        library: Hugging Face's name of the library.
        pipeline: Hugging Face's name of the task.

    Returns:
        YAML between its marks.
    """
    fields: dict[str, Any] = {
        "license": model.license or "unknown",
        "language": languages(model.config),
        "pipeline_tag": pipeline,
        "library_name": library,
        "tags": ["image-text-retrieval", *registry.of(model.config).tags, "wenlan"],
    }
    # JSON is YAML; what is empty would be a claim.
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items() if value]
    return "\n".join(["---", *lines, "---", ""])


def languages(config: experiment.Config) -> list[str]:
    """Lists the languages that the configuration names for training, else for evaluation.

    Args:
        config: the configuration.

    Returns:
        Their codes; none where it takes all of the data's.
    """
    of_parts = [language for part in config.data.mixture for language in part.languages]
    return list(dict.fromkeys(of_parts or config.data.languages or config.eval.languages))


def results_table(result: dict[str, float]) -> str:
    """Writes the figures of `result.json` over all languages, in Markdown."""
    rows = [f"| {name} | {value:.4g} |" for name, value in sorted(result.items()) if name.count("/") == 3]
    if not rows:
        return "The run has no result.json: it was not evaluated."
    return "| measure | value |\n|---|---|\n" + "\n".join(rows)
