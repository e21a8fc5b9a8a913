"""BERT, RoBERTa and XLM-R as saved by transformers: imported by their own sizes, exported, with the states they had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import torch

from wenlan_jax import cli
from wenlan_jax.convert import export_torch, exporting, torch_modules
from wenlan_jax.data import vocab
from wenlan_jax.data.text import SentencePiece
from wenlan_jax.tasks import experiment
from wenlan_jax.training import init_from
from wenlan_jax.training import setup as runs

SIZES = {"vocab_size": 600, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 24, "max_position_embeddings": 20}
ROBERTA = {"type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}
FAMILIES = {"Bert": {}, "Roberta": ROBERTA, "XLMRoberta": ROBERTA}
CONFIG = '''
import dataclasses

from ml_collections import config_dict

from wenlan_jax import config

TEXT = """{text}"""


def get_config():
    return config_dict.ConfigDict(dataclasses.asdict(config.from_json(TEXT)))
'''


def saved(family: str, folder: Path) -> torch.nn.Module:
    """A model with every leaf random, in a folder as its publishers have it."""
    config = getattr(transformers, f"{family}Config")(**SIZES, **FAMILIES[family])
    model = getattr(transformers, f"{family}Model")(config).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in model.named_parameters():
            noise = 0.2 * torch.randn(value.shape, generator=random)
            value.copy_(noise + float(key.endswith("LayerNorm.weight")))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_imported_by_its_own_sizes_and_exported_with_its_states(
    family: str, tiny: Callable[..., experiment.Config], tmp_path: Path
) -> None:
    theirs = saved(family, tmp_path / "model")
    base, written, out = tmp_path / "base.py", tmp_path / "written.py", tmp_path / "imported"
    base.write_text(CONFIG.format(text=experiment.to_json(tiny())))
    common = ["import", "--format=bert", f"--from={tmp_path / 'model'}"]
    assert cli.main([*common, f"--config={base}", f"--write-config={written}"]) == 0
    assert cli.main([*common, f"--config={written}", f"--out={out}"]) == 0
    config = experiment.load(written, [f"--config.init_from={out}"])
    assert config.model.text.bert.positions == (20 if family == "Bert" else 18)
    state = init_from.load(runs.set_up(config, jax.devices()[:1]), "")

    vocab.train_sentencepiece(["红色的圆形", "a red circle"] * 20, tmp_path / "words.model", 275, 1.0, 1000)
    towers = exporting.by_tower(*jax.tree.map(np.asarray, (state.params, state.batch_stats)))
    words = SentencePiece(tmp_path / "words.model")
    model = exporting.ExportedModel(config, 0, towers.__getitem__, towers, False, words, {}, {}, "float32")
    exporting.export(model, "torch", export_torch.write, tmp_path / "exported", 1e-4)

    mask = torch.arange(9) < torch.tensor([[9], [4], [1]])
    ids = torch.where(mask, torch.randint(5, 600, mask.shape, generator=torch.Generator().manual_seed(1)), 1)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask.long()).last_hidden_state[mask]
        found = torch_modules.load(tmp_path / "exported").textencoder.hidden_states(ids, mask)[mask]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
