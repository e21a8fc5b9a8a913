"""Exports for transformers in the installed version and in others: models, one side alone, pipelines.

setup.py admits transformers from 4.50 on. The environment variable WENLAN_OTHER_PYTHONS names interpreters, separated
as in PATH, that have other versions of it beside torch and Pillow; each is then tried as the installed one is:

    python -m venv --system-site-packages older && older/bin/pip install 'transformers==4.50.*'
    WENLAN_OTHER_PYTHONS=older/bin/python python -m pytest tests/convert/test_other_transformers.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")

from vocabularies import tokenizer  # noqa: E402

from wenlan_jax.convert import export_huggingface, exporting, torch_modules
from wenlan_jax.convert.architecture import architecture_of  # noqa: E402
from wenlan_jax.core import rngs
from wenlan_jax.tasks import experiment  # noqa: E402
from wenlan_jax.tasks.two_tower.towers import Towers  # noqa: E402

PROGRAM = Path(__file__).with_name("use_export.py")
OTHERS = [path for path in os.environ.get("WENLAN_OTHER_PYTHONS", "").split(os.pathsep) if path]
SCALE = 12.5
KINDS = ("lower", pytest.param("other_ids", marks=pytest.mark.slow), "xlm_roberta")


@pytest.fixture(params=KINDS)
def exported(
    request: Any, tiny: Callable[..., experiment.Config], tmp_path: Path
) -> tuple[exporting.ExportedModel, Path]:
    """An export with each kind of tokenizer; word pieces come with a text backbone that sees padding."""
    words = tokenizer(request.param, tmp_path)
    seen = request.param == "lower"
    config = tiny(model__text__bert__vocab_size=words.size, model__text__bert__attention_mask=not seen)
    tree = jax.tree.map(np.asarray, Towers(config).init(rngs.root(0)))
    towers = exporting.by_tower(tree["params"], tree["batch_stats"])
    model = exporting.ExportedModel(config, 7, towers.__getitem__, towers, False, words, {}, {}, "float32", scale=SCALE)
    exporting.export(model, "huggingface", export_huggingface.write, tmp_path / "wenlan", 1e-4)
    return model, tmp_path / "wenlan"


def used(python: str, folder: Path, scratch: Path) -> dict[str, Any]:
    """What an interpreter makes of the folder."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)).save(scratch / "p.png")
    environment = {**os.environ, "HF_MODULES_CACHE": str(scratch / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [python, str(PROGRAM), str(folder), str(scratch / "p.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("python", [sys.executable, *OTHERS])
def test_models_and_pipelines_work_from_the_folder(
    exported: tuple[exporting.ExportedModel, Path], tmp_path: Path, python: str
) -> None:
    model, folder = exported
    found = used(python, folder, tmp_path)
    image, text = np.array(found["image"]), np.array(found["text"])
    logits = np.array(found["logits"])
    assert found["same_class"]
    assert found["sides"] == [["image_embeds"], ["text_embeds"]]
    np.testing.assert_array_equal(found["ids"], model.words.encode(found["labels"], model.config.data.text_length)[0])
    np.testing.assert_allclose(found["features"][0], image, atol=1e-6)
    np.testing.assert_allclose(found["features"][1], text, atol=1e-6)
    np.testing.assert_allclose(logits, SCALE * image @ text.T, atol=1e-4)
    np.testing.assert_allclose(np.transpose(found["transposed"]), logits, atol=1e-6)
    np.testing.assert_allclose(found["embedded"], image, atol=1e-5)
    softmax = np.exp(logits[0] - logits.max()) / np.exp(logits[0] - logits.max()).sum()
    # The pipeline pads to the longest text, and so says whether padding is seen as in training.
    np.testing.assert_allclose([found["scores"][label] for label in found["labels"]], softmax, atol=1e-5)


def test_modules_are_made_where_initialisers_return_nothing(
    tiny: Callable[..., experiment.Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under transformers 4, which puts functions that do nothing in their place while it loads."""
    for name in [name for name in dir(torch.nn.init) if name.endswith("_") and not name.startswith("_")]:
        monkeypatch.setattr(torch.nn.init, name, lambda *args, **kwargs: None)
    with torch.device("meta"):
        module = torch_modules.WenLan(architecture_of(tiny()))
    assert {str(value.device) for value in module.state_dict().values()} == {"meta"}
    assert module.textencoder.backbone["bert"].embeddings["word_embeddings"].weight.requires_grad
