"""The Hugging Face BERT layouts: hidden states equal those of transformers, keys go there and back unchanged."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)

from wenlan_jax.convert.bert import bert_table, detect, position_offset
from wenlan_jax.convert.rules import ConversionError, Imported, to_flax, to_torch, unflatten
from wenlan_jax.models.bert import BertEncoder

TOKENS = 9
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 14,
}
ROBERTA = {**SIZES, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}
MODELS = {
    "bert": (BertModel, BertConfig(**SIZES)),
    "bert_pretraining": (BertForPreTraining, BertConfig(**SIZES)),
    "roberta": (RobertaModel, RobertaConfig(**ROBERTA)),
    "roberta_masked": (RobertaForMaskedLM, RobertaConfig(**ROBERTA)),
    "xlm_roberta": (XLMRobertaModel, XLMRobertaConfig(**ROBERTA)),
    "xlm_roberta_masked": (XLMRobertaForMaskedLM, XLMRobertaConfig(**ROBERTA)),
}
PREFIXES = {"bert_pretraining": "bert.", "roberta_masked": "roberta.", "xlm_roberta_masked": "roberta."}


def make(name: str) -> PreTrainedModel:
    """The model with every leaf random: fresh ones have zero biases and unit scales."""
    kind, config = MODELS[name]
    model = kind(config).eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for key, value in model.named_parameters():
            noise = torch.tensor(rng.normal(size=value.shape).astype(np.float32))
            value.copy_(1.0 + 0.2 * noise if key.endswith("LayerNorm.weight") else 0.2 * noise)
    return model


def arrays(model: PreTrainedModel) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in model.state_dict().items()}


def encoder(config: BertConfig, **changes: Any) -> BertEncoder:
    options = {
        "vocab_size": config.vocab_size,
        "width": config.hidden_size,
        "depth": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "mlp_width": config.intermediate_size,
        "max_positions": config.max_position_embeddings,
        "type_vocab_size": config.type_vocab_size,
        "position_offset": position_offset(config.to_dict()),
        "eps": config.layer_norm_eps,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "dtype": jnp.float32,
        "scan_segments": (),
        "remat": False,
    }
    return BertEncoder(**{**options, **changes})


def imported(state: dict[str, np.ndarray], net: BertEncoder) -> Imported:
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32), None, False))
    template = {"text": {"params": {"backbone": shapes["params"]}}}
    return to_flax(state, bert_table(detect(state)), template)


def backbone(result: Imported) -> dict[str, Any]:
    return unflatten(result.leaves)["text"]["params"]["backbone"]


def texts(padded: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ids without padding ids inside the text, and which are real."""
    rng = np.random.default_rng(1)
    lengths = np.array([TOKENS, 4, 1]) if padded else np.full(3, TOKENS)
    mask = np.arange(TOKENS) < lengths[:, None]
    return np.where(mask, rng.integers(5, SIZES["vocab_size"], mask.shape), 1), mask


@pytest.mark.parametrize("scan", [(), (2, 1)])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["bert", "roberta", "xlm_roberta"])
def test_hidden_states_equal_those_of_transformers(name: str, padded: bool, scan: tuple[int, ...]):
    model = make(name)
    net = encoder(model.config, scan_segments=scan)
    ids, mask = texts(padded)
    with torch.no_grad():
        theirs = model(torch.tensor(ids), attention_mask=torch.tensor(mask).long()).last_hidden_state.numpy()
    variables = {"params": backbone(imported(arrays(model), net))}
    ours = jax.jit(lambda v, i, m: net.apply(v, i, m, False))(variables, ids, mask)
    np.testing.assert_allclose(np.asarray(ours)[mask], theirs[mask], atol=2e-5)


@pytest.mark.parametrize("offset", [0, 1])
def test_another_position_offset_gives_other_states(offset: int):
    model = make("xlm_roberta")
    net = encoder(model.config, position_offset=offset)
    ids, _ = texts(padded=False)
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).last_hidden_state.numpy()
    ours = jax.jit(lambda v, i: net.apply(v, i, None, False))({"params": backbone(imported(arrays(model), net))}, ids)
    assert np.abs(ours - theirs).max() > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_round_trip_is_bit_exact_and_ignores_only_heads(name: str):
    model = make(name)
    state, prefix = arrays(model), PREFIXES.get(name, "")
    assert detect(state) == prefix
    result = imported(state, encoder(model.config))
    back = to_torch(result.leaves, bert_table(prefix))
    assert set(back) | set(result.ignored) == set(state) and not set(back) & set(result.ignored)
    assert all(key.startswith(("cls.", "lm_head.", "pooler.", "bert.pooler.")) for key in result.ignored)
    for key, value in back.items():
        assert value.dtype == state[key].dtype
        np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_an_export_without_prefix_loads_into_a_plain_model():
    model = make("bert_pretraining")
    back = to_torch(imported(arrays(model), encoder(model.config)).leaves, bert_table(""))
    plain = BertModel(model.config, add_pooling_layer=False).eval()
    plain.load_state_dict({key: torch.tensor(value) for key, value in back.items()}, strict=True)
    ids = torch.tensor(texts(padded=False)[0])
    with torch.no_grad():
        torch.testing.assert_close(plain(ids)[0], model.bert(ids)[0], rtol=0, atol=0)


def test_old_files_with_gamma_beta_and_positions():
    state = arrays(make("bert"))
    net = encoder(MODELS["bert"][1])
    old = {key.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for key, v in state.items()}
    old["embeddings.position_ids"] = np.arange(SIZES["max_position_embeddings"])[None]
    assert sum("gamma" in key for key in old) == 7
    result = imported(old, net)
    assert result.ignored["embeddings.position_ids"].startswith("constants")
    for path, leaf in imported(state, net).leaves.items():
        np.testing.assert_array_equal(leaf, result.leaves[path])
    assert not any("gamma" in key for key in to_torch(result.leaves, bert_table("")))


def test_position_offset_counts_from_the_padding_id():
    assert position_offset({"model_type": "bert", "pad_token_id": 0}) == 0
    assert position_offset({"vocab_size": 21128}) == 0
    assert position_offset({"model_type": "roberta"}) == RobertaConfig().pad_token_id + 1
    assert position_offset({"model_type": "xlm-roberta", "pad_token_id": 1}) == 2
    assert position_offset({"model_type": "roberta", "pad_token_id": 5}) == 6


def test_other_models_and_leaves_are_named():
    with pytest.raises(ConversionError, match=r"no key ends in embeddings\.word_embeddings\.weight"):
        detect(["transformer.wte.weight", "more_embeddings.word_embeddings.weight"])
    several = [f"textencoder{kind}.backbone.bert.embeddings.word_embeddings.weight" for kind in ("", "_mom")]
    with pytest.raises(ConversionError, match="several text encoders"):
        detect(several)
    state, net = arrays(make("bert")), encoder(MODELS["bert"][1])
    state["encoder.layer.0.attention.adapter.weight"] = np.zeros(3)
    del state["encoder.layer.2.output.dense.bias"]
    state["embeddings.word_embeddings.weight"] = np.zeros((39, 16), np.float32)
    with pytest.raises(ConversionError) as error:
        imported(state, net)
    for part in (
        "encoder.layer.0.attention.adapter.weight (3,) is covered by no rule",
        "text/params/backbone/layers_2/linear2/bias (16,) has no PyTorch key",
        "text/params/backbone/embeddings/word/embedding has shape (40, 16)",
    ):
        assert part in str(error.value)
