"""The layouts of UNITER, UC2 and XLM-R: every leaf there and back unchanged, tied copies, heads that are not there."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from single_towers import LAYOUTS, UC2, UNITER, arrays, inputs, table, template, torch_inputs, torch_model, tower
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel

from wenlan_jax.convert.reference.torch_single import Uniter, UniterSizes
from wenlan_jax.convert.rules import ConversionError, FlatTree, flatten
from wenlan_jax.convert.single_tower import uc2_table, uniter_table, xlm_roberta_table

WORDS = {"uniter": "cls.predictions.decoder.weight", "uc2": "cls.decoder.weight"}


@pytest.fixture(params=LAYOUTS)
def sizes(request: pytest.FixtureRequest) -> UniterSizes:
    return LAYOUTS[request.param]


def xlm_roberta() -> XLMRobertaForMaskedLM:
    sizes = {
        "vocab_size": UC2.vocab_size,
        "hidden_size": UC2.width,
        "num_hidden_layers": UC2.layers,
        "num_attention_heads": UC2.heads,
        "intermediate_size": UC2.feed_forward,
        "max_position_embeddings": UC2.positions,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    }
    model, rng = XLMRobertaForMaskedLM(XLMRobertaConfig(**sizes)), np.random.default_rng(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.tensor(rng.normal(size=parameter.shape)))
    return model


def assert_same(found: FlatTree, expected: FlatTree) -> None:
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and found[key].flags.c_contiguous
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_a_checkpoint_goes_there_and_back_with_its_copies(sizes: UniterSizes):
    state, rules = arrays(torch_model(sizes)), table(sizes)
    found = rules.of_torch(state, template(tower(sizes)))
    assert set(found.ignored) == set(rules.copies) and len(rules.copies) == (3 if sizes.uc2 else 2)
    assert set(found.leaves) == set(flatten(template(tower(sizes))))
    assert_same(rules.to_torch(found.leaves), state)


@pytest.mark.parametrize("segments", [(3,), (1, 2)])
def test_parameters_go_there_and_back(sizes: UniterSizes, segments: tuple[int, ...]):
    shapes, rng = flatten(template(tower(sizes, scan_segments=segments))), np.random.default_rng(0)
    tree = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    back = table(sizes).of_torch(table(sizes).to_torch(tree), shapes)
    assert set(back.leaves) == set(tree)
    for path, leaf in tree.items():
        np.testing.assert_array_equal(back.leaves[path], leaf, err_msg=path)


def test_an_export_loads_strictly_and_says_the_same(sizes: UniterSizes):
    model, other = torch_model(sizes), Uniter(sizes).eval()
    leaves = table(sizes).of_torch(arrays(model), template(tower(sizes))).leaves
    other.load_state_dict({key: torch.tensor(value) for key, value in table(sizes).to_torch(leaves).items()})
    batch = torch_inputs(inputs(sizes))
    with torch.no_grad():
        for mine, theirs in zip(model.encode(batch), other.encode(batch), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_tied_copy_that_differs_is_an_error_that_names_both(sizes: UniterSizes, which: int):
    state, rules = arrays(torch_model(sizes)), table(sizes)
    copy, key = list(rules.copies.items())[which]
    state[copy] = state[copy].copy()
    state[copy].flat[-1] += 1e-6
    with pytest.raises(ConversionError, match=f"{copy} differs from {key}, to which it is tied"):
        rules.of_torch(state, template(tower(sizes)))
    del state[copy]
    rules.of_torch(state, template(tower(sizes)))


def test_seen_regions_have_a_row_of_zeros(sizes: UniterSizes):
    state, rules = arrays(torch_model(sizes)), table(sizes)
    (key,) = (key for key in state if key.endswith("mask_embedding.weight"))
    state[key][0] = 7.0  # never used: UNITER zeroes the row first
    found = rules.of_torch(state, template(tower(sizes))).leaves
    np.testing.assert_array_equal(found["single/params/regions/mask_vector"], state[key][1])
    back = rules.to_torch(found)[key]
    np.testing.assert_array_equal(back, np.stack([np.zeros(UNITER.features, np.float32), state[key][1]]))


def test_early_checkpoints_say_bert_gamma_and_beta():
    sizes = dataclasses.replace(UNITER, prefix="bert")
    state, rules = arrays(torch_model(sizes)), uniter_table("bert.")
    norms = {name for name, layer in Uniter(sizes).named_modules() if isinstance(layer, torch.nn.LayerNorm)}
    names = {"weight": "gamma", "bias": "beta"}
    old = {}
    for key, value in state.items():
        layer, _, leaf = key.rpartition(".")
        old[f"{layer}.{names[leaf]}" if layer in norms else key] = value
    old["bert.embeddings.position_ids"] = np.arange(sizes.positions)[None]
    assert sum(key.endswith("gamma") for key in old) == len(norms) == 4 + 2 * sizes.layers + 4
    found = rules.of_torch(old, template(tower(sizes)))
    assert found.ignored["bert.embeddings.position_ids"].startswith("constant")
    assert_same(rules.to_torch(found.leaves), state)


@pytest.mark.parametrize(
    "gone", [("rank_output", "vqa_output"), ("cls", "feat_regress", "region_classifier", "itm_output")]
)
def test_heads_that_a_file_lacks_keep_their_first_values(sizes: UniterSizes, gone: tuple[str, ...]):
    state = {key: value for key, value in arrays(torch_model(sizes)).items() if not key.startswith(gone)}
    shapes, rules = template(tower(sizes)), table(sizes)
    ours = {
        "rank_output": "rank_head",
        "vqa_output": "answer_head",
        "cls": "word_head",
        "feat_regress": "feature_head",
        "region_classifier": "class_head",
        "itm_output": "itm_head",
    }
    absent = {ours[name] for name in gone}
    found = rules.of_torch(state, shapes)
    assert set(rules.missing(state, shapes)) == absent
    assert {path.split("/")[2] for path in set(flatten(shapes)) - set(found.leaves)} == absent
    assert_same(rules.to_torch(found.leaves), state)


def test_a_head_that_is_half_there_and_a_missing_layer_are_errors():
    state = arrays(torch_model(UNITER))
    del state["rank_output.bias"], state["vqa_output.2.weight"], state["uniter.encoder.layer.1.output.dense.bias"]
    state["uniter.extra.weight"] = np.zeros(3)
    with pytest.raises(ConversionError) as error:
        uniter_table("uniter.").of_torch(state, template(tower(UNITER)))
    for part in (
        "single/params/rank_head/bias (1,) has no PyTorch key rank_output.bias",
        "single/params/answer_head/transform/norm/scale (32,) has no PyTorch key vqa_output.2.weight",
        "single/params/layers_1/linear2/bias (16,) has no PyTorch key uniter.encoder.layer.1.output.dense.bias",
        "uniter.extra.weight (3,) is covered by no rule",
    ):
        assert part in str(error.value)


def test_heads_that_the_model_lacks_are_left_out_with_a_reason(sizes: UniterSizes):
    net = tower(sizes, classes=0, answers=0, rank=False)
    found = table(sizes).of_torch(arrays(torch_model(sizes)), template(net))
    assert set(found.leaves) == set(flatten(template(net)))
    assert found.ignored["rank_output.weight"] == "the rank head, which the configured model does not have"
    assert found.ignored["vqa_output.3.bias"].startswith("the answer head")
    assert found.ignored["region_classifier.net.0.weight"].startswith("the class head")


def test_answers_of_another_number_are_named():
    state = arrays(torch_model(dataclasses.replace(UNITER, answers=8)))
    with pytest.raises(
        ConversionError, match=r"answer_head/out/bias has shape \(7,\), but vqa_output\.3\.bias gives \(8,\)"
    ):
        uniter_table("uniter.").of_torch(state, template(tower(UNITER)))


def test_the_other_head_of_uc2_is_ignored_with_a_reason():
    state = arrays(torch_model(UC2)) | {"vis_cls.decoder.weight": np.zeros((4, 16)), "vis_cls.bias": np.zeros(4)}
    found = uc2_table().of_torch(state, template(tower(UC2)))
    assert "MRTM" in found.ignored["vis_cls.decoder.weight"] and "vis_cls.bias" in found.ignored


def test_xlm_roberta_gives_words_layers_and_head_and_comes_back():
    state, rules, shapes = arrays(xlm_roberta()), xlm_roberta_table(uc2_compat=False), template(tower(UC2))
    found = rules.of_torch({**state, "roberta.pooler.dense.bias": np.zeros(16)}, shapes)
    assert set(found.ignored) == {"lm_head.decoder.weight", "lm_head.decoder.bias", "roberta.pooler.dense.bias"}
    types = found.leaves["single/params/embeddings/type/embedding"]
    np.testing.assert_array_equal(types, np.repeat(state["roberta.embeddings.token_type_embeddings.weight"], 2, axis=0))
    np.testing.assert_array_equal(
        found.leaves["single/params/word_head/transform/dense/kernel"], state["lm_head.dense.weight"].T
    )
    fresh = {"regions", "pooler", *(f"{name}_head" for name in ("feature", "class", "itm", "rank", "answer"))}
    assert {path.split("/")[2] for path in set(flatten(shapes)) - set(found.leaves)} == fresh
    assert set(rules.missing(state, shapes)) == fresh
    assert_same(rules.to_torch(found.leaves), state)


def test_as_uc2_takes_it_xlm_roberta_gives_neither_head_nor_types():
    state, shapes = arrays(xlm_roberta()), template(tower(UC2))
    found = xlm_roberta_table(uc2_compat=True).of_torch(state, shapes)
    plain = xlm_roberta_table(uc2_compat=False).of_torch(state, shapes)
    lost = set(plain.leaves) - set(found.leaves)
    assert {path.removeprefix("single/params/").split("/")[0] for path in lost} == {"embeddings", "word_head"}
    assert {path for path in lost if "embeddings" in path} == {"single/params/embeddings/type/embedding"}
    assert "fresh" in found.ignored["lm_head.bias"]
    assert "fresh" in found.ignored["roberta.embeddings.token_type_embeddings.weight"]
    for path, leaf in found.leaves.items():
        np.testing.assert_array_equal(leaf, plain.leaves[path])


def test_xlm_roberta_with_an_untied_head_is_refused():
    state = arrays(xlm_roberta())
    state["lm_head.decoder.weight"] = state["lm_head.decoder.weight"] + 1
    with pytest.raises(ConversionError, match=r"lm_head\.decoder\.weight differs from roberta\.embeddings"):
        xlm_roberta_table(uc2_compat=False).of_torch(state, template(tower(UC2)))


def test_what_was_read_of_xlm_roberta_fits_a_model_without_head():
    """The leaves in the layout of Hugging Face, so that others can load what was trained here."""
    model = xlm_roberta()
    leaves = xlm_roberta_table(uc2_compat=False).of_torch(arrays(model), template(tower(UC2))).leaves
    words = {path: leaf for path, leaf in leaves.items() if "word_head" not in path}
    state = xlm_roberta_table(uc2_compat=False).to_torch(words)
    assert not any(key.startswith("lm_head") for key in state)
    bare = XLMRobertaModel(model.config, add_pooling_layer=False)
    bare.load_state_dict({key.removeprefix("roberta."): torch.tensor(value) for key, value in state.items()})


def test_uniter_base_has_as_many_parameters_as_its_code():
    """112,938,887 with the heads of pretraining, counted in the released code [M]; one row of 2048 is always zero."""
    base: dict[str, Any] = {
        "vocab_size": 28996,
        "width": 768,
        "layers": 12,
        "heads": 12,
        "feed_forward": 3072,
        "positions": 512,
        "features": 2048,
        "classes": 1601,
    }
    net = tower(dataclasses.replace(UNITER, **base), answers=0, rank=False)
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(template(net)))
    assert count + 2048 == 112_938_887
