"""Rules for checkpoints of the single tower: UNITER, UC2, and what they start from, BERT and XLM-R.

The Flax side is `single/params/...`. These layouts store tied weights twice; a `TiedTable` writes the copies on export
and, on import, takes one of the two and refuses a file whose copies differ. A file that was fine-tuned has lost heads
or gained others: heads are taken as a whole or not at all.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from wenlan_jax.convert.bert import bert_rules
from wenlan_jax.convert.layer_rules import layer_norm, linear
from wenlan_jax.convert.rules import (
    AxisLayout,
    ConversionError,
    FlatTree,
    HasShape,
    Ignore,
    Imported,
    WeightRule,
    WeightTable,
    flatten,
    to_flax,
    to_torch,
)
from wenlan_jax.models.single_tower import TYPES

SCOPE = "single/params/"
UC2_PREFIX = "roberta."

FRESH = ("regions", "pooler")
"""Parts that a model of texts alone does not give; BERT's pooler is taken where there is one."""

HEADS = ("word_head", "feature_head", "class_head", "itm_head", "rank_head", "answer_head")
"""Parts of the tower that a file may lack."""

MASK_ROW = AxisLayout(lambda a: [a[1]], lambda leaves: np.stack([np.zeros_like(leaves[0]), leaves[0]]))
"""Two rows for "seen" and "masked" <-> the vector of masked regions. UNITER zeroes the row of seen ones at every use,
so whatever a file has there means nothing."""


def _alike(rows: np.ndarray) -> list[np.ndarray]:
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows instead of XLM-R's single one")
    return [np.repeat(rows, TYPES, axis=0)]


ONE_TYPE = AxisLayout(_alike, lambda leaves: leaves[0][:1])
"""XLM-R's single type row <-> a row for words and one for regions, which start alike."""


@dataclasses.dataclass(frozen=True)
class TiedTable:
    """A rule table, and what it says nothing about: repeated leaves, and parts that may be missing.

    Attributes:
        table: the rules.
        copies: from the key of a tied copy to the key that it repeats; the table ignores the former.
        optional: parts of the tower, `SCOPE` before them, that a file need not have; it gives all leaves or none.
    """

    table: WeightTable
    copies: Mapping[str, str]
    optional: tuple[str, ...]

    def faults(self, state: Mapping[str, np.ndarray]) -> list[str]:
        """Lists the tied copies that differ from what they should repeat."""
        return [
            f"PyTorch key {copy} differs from {key}, to which it is tied; the file is damaged, or its model was trained"
            " without the tie and cannot be expressed"
            for copy, key in self.copies.items()
            if copy in state and key in state and not np.array_equal(state[copy], state[key])
        ]

    def missing(self, state: Iterable[str], template: Mapping[str, Any]) -> tuple[str, ...]:
        """Lists the optional parts of the template of which the file has nothing: they keep their first values."""
        given = self._parts(state)
        wanted = {_part(path) for path in flatten(template)}
        return tuple(part for part in self.optional if part in wanted and part not in given)

    def of_torch(
        self,
        state: Mapping[str, np.ndarray],
        template: Mapping[str, Any],
        done: Callable[[np.ndarray], None] = lambda array: None,
    ) -> Imported:
        """Converts a file to the leaves of `template`, see `rules.to_flax`; its other heads are among the ignored.

        Args:
            state: arrays by key.
            template: the leaves that are wanted.
            done: see `rules.to_flax`.

        Returns:
            The leaves that the file gives.

        Raises:
            ConversionError: as `rules.to_flax` does, and for tied copies that differ.
        """
        faults = self.faults(state)
        if faults:
            raise ConversionError("cannot convert the PyTorch weights to Flax:\n  " + "\n  ".join(faults))
        absent = self.missing(state, template)
        wanted: dict[str, HasShape] = {p: leaf for p, leaf in flatten(template).items() if _part(p) not in absent}
        unbuilt = self._parts(state) & set(self.optional) - {_part(path) for path in wanted}
        left = {
            key: f"the {part.replace('_', ' ')}, which the configured model does not have"
            for key in state
            if (part := self._part_of(key)) in unbuilt
        }
        found = to_flax({key: array for key, array in state.items() if key not in left}, self.table, wanted, done)
        return Imported(found.leaves, {**found.ignored, **left})

    def to_torch(self, tree: Mapping[str, Any]) -> FlatTree:
        """Converts a tree to a state dict, with the tied copies.

        Args:
            tree: the leaves.

        Returns:
            Arrays by key.

        Raises:
            ConversionError: for a leaf without a rule.
        """
        state = to_torch(tree, self.table)
        return {**state, **{copy: state[key] for copy, key in self.copies.items() if self._belongs(copy, key, state)}}

    def _belongs(self, copy: str, key: str, state: FlatTree) -> bool:
        """Whether the module of a copy is in the state at all: a head that is not there ties nothing."""
        start = copy.split(".")[0] + "."
        return key in state and any(other.startswith(start) for other in state)

    def _parts(self, keys: Iterable[str]) -> set[str]:
        return {self._part_of(key) for key in keys} - {""}

    def _part_of(self, key: str) -> str:
        match = self.table.of_torch(key)
        return _part(match[0].flax[0]) if match else ""


def uniter_table(prefix: str) -> TiedTable:
    """Makes the rules of a UNITER checkpoint whose encoder is under `prefix`: "uniter.", or "bert." in early ones."""
    rules = [
        *_encoder(prefix, "token_type"),
        *_uniter_head(),
        *_heads(),
    ]
    copies = {"cls.predictions.decoder.weight": _words(prefix), "feat_regress.weight": _image_linear(prefix)}
    return _tied(rules, copies, HEADS, _constants(prefix))


def uc2_table() -> TiedTable:
    """Makes the rules of a UC2 checkpoint."""
    rules = [*_encoder(UC2_PREFIX, "new_token_type"), *_roberta_head("cls"), *_heads()]
    copies = {**_roberta_copies("cls", UC2_PREFIX), "feat_regress.weight": _image_linear(UC2_PREFIX)}
    unused = (
        *_constants(UC2_PREFIX),
        Ignore(r"vis_cls\..*", "UC2's head for masked regions as words (MRTM), no objective of ours"),
        Ignore(r"roberta\.embeddings\.token_type_embeddings\.weight", "XLM-R's type row, which UC2 does not use"),
    )
    return _tied(rules, copies, HEADS, unused)


def xlm_roberta_table(uc2_compat: bool, prefix: str = UC2_PREFIX) -> TiedTable:
    """Makes the rules of XLM-R with its head for words, as Hugging Face stores it, for the text side of a fresh tower.

    Args:
        uc2_compat: leave the head and both type rows as they start. That is what UC2's code comes to, which gave them
            other names; without it both are taken over, the type row for words and regions alike.
        prefix: of the encoder's keys; empty for a bare model, which has no head.

    Returns:
        The rules.
    """
    types, head = f"{prefix}embeddings.token_type_embeddings.weight", "lm_head"
    rules = [rule for rule in bert_rules(prefix, SCOPE) if rule.torch != types]
    start = re.escape(prefix)
    unused = [*_constants(prefix), Ignore(rf"{start}pooler\..*", "XLM-R's pooler, which was never trained")]
    if uc2_compat:
        unused += [
            Ignore(rf"{head}\..*", "UC2's head for words starts fresh"),
            Ignore(re.escape(types), "UC2's type rows start fresh"),
        ]
        return _tied(rules, {}, (*HEADS, *FRESH, "embeddings/type"), unused)
    rules += [WeightRule(types, (SCOPE + "embeddings/type/embedding",), ONE_TYPE), *_roberta_head(head)]
    return _tied(rules, _roberta_copies(head, prefix), (*HEADS, *FRESH), unused)


def bert_table(prefix: str) -> TiedTable:
    """Makes the rules of BERT as Hugging Face stores it, for UNITER's text side, pooler and word head.

    Args:
        prefix: of the encoder's keys, "bert." or empty for a bare model, which has no head.

    Returns:
        The rules.
    """
    rules = [*bert_rules(prefix, SCOPE), *linear(prefix + "pooler.dense", SCOPE + "pooler"), *_uniter_head()]
    copies = {"cls.predictions.decoder.weight": _words(prefix), "cls.predictions.decoder.bias": "cls.predictions.bias"}
    next_sentence = Ignore(r"cls\.seq_relationship\..*", "BERT's head for the next sentence")
    return _tied(rules, copies, (*HEADS, *FRESH), (*_constants(prefix), next_sentence))


def _tied(
    rules: list[WeightRule], copies: Mapping[str, str], optional: tuple[str, ...], ignored: Iterable[Ignore]
) -> TiedTable:
    twice = tuple(Ignore(re.escape(copy), f"the same as {key}") for copy, key in copies.items())
    return TiedTable(WeightTable((*rules, *_old_norms(rules)), (*twice, *ignored)), copies, optional)


def _encoder(prefix: str, types: str) -> list[WeightRule]:
    """Embeddings of both sides, layers and pooler; `types` is the layout's name of the type table."""
    image, regions = prefix + "img_embeddings.", SCOPE + "regions/"
    plain = f"{prefix}embeddings.token_type_embeddings.weight"
    rules = [
        dataclasses.replace(rule, torch=plain.replace("token_type", types)) if rule.torch == plain else rule
        for rule in bert_rules(prefix, SCOPE)
    ]
    rules += linear(image + "img_linear", regions + "features")
    rules += linear(image + "pos_linear", regions + "boxes")
    rules += layer_norm(image + "img_layer_norm", regions + "features_norm")
    rules += layer_norm(image + "pos_layer_norm", regions + "boxes_norm")
    rules += layer_norm(image + "LayerNorm", regions + "norm")
    rules.append(WeightRule(image + "mask_embedding.weight", (regions + "mask_vector",), MASK_ROW))
    return rules + linear(prefix + "pooler.dense", SCOPE + "pooler")


def _heads() -> list[WeightRule]:
    """All heads but that for words, which alone differs between the layouts."""
    rules = [WeightRule("feat_regress.bias", (SCOPE + "feature_head/bias",))]
    for theirs, ours in (("feat_regress.net", "feature_head"), ("region_classifier.net", "class_head")):
        rules += _transform(f"{theirs}.0", f"{theirs}.2", ours)
    rules += linear("region_classifier.net.3", SCOPE + "class_head/out")
    rules += _transform("vqa_output.0", "vqa_output.2", "answer_head")
    rules += linear("vqa_output.3", SCOPE + "answer_head/out")
    for name in ("itm", "rank"):
        rules += linear(f"{name}_output", f"{SCOPE}{name}_head")
    return rules


def _uniter_head() -> list[WeightRule]:
    head = "cls.predictions."
    return _word_head(head + "transform.dense", head + "transform.LayerNorm", head + "bias")


def _roberta_head(name: str) -> list[WeightRule]:
    return _word_head(f"{name}.dense", f"{name}.layer_norm", f"{name}.bias")


def _roberta_copies(name: str, prefix: str) -> dict[str, str]:
    return {f"{name}.decoder.weight": _words(prefix), f"{name}.decoder.bias": f"{name}.bias"}


def _word_head(dense: str, norm: str, bias: str) -> list[WeightRule]:
    return [*_transform(dense, norm, "word_head"), WeightRule(bias, (SCOPE + "word_head/bias",))]


def _transform(dense: str, norm: str, head: str) -> list[WeightRule]:
    scope = f"{SCOPE}{head}/transform/"
    return [*linear(dense, scope + "dense"), *layer_norm(norm, scope + "norm")]


def _old_norms(rules: Iterable[WeightRule]) -> list[WeightRule]:
    """The norms once more with `gamma` and `beta`; export takes the first rule for a leaf, so never these."""
    norms = {rule.torch.removesuffix(".weight") for rule in rules if rule.flax[0].endswith("/scale")}
    old = {f"{norm}.weight": f"{norm}.gamma" for norm in norms} | {f"{norm}.bias": f"{norm}.beta" for norm in norms}
    return [dataclasses.replace(rule, torch=old[rule.torch]) for rule in rules if rule.torch in old]


def _constants(prefix: str) -> tuple[Ignore, ...]:
    constants = rf"{re.escape(prefix)}embeddings\.(position_ids|token_type_ids)"
    return (Ignore(constants, "constants stored by older files"),)


def _words(prefix: str) -> str:
    return f"{prefix}embeddings.word_embeddings.weight"


def _image_linear(prefix: str) -> str:
    return f"{prefix}img_embeddings.img_linear.weight"


def _part(path: str) -> str:
    """The part of the tower that a Flax path is in; of the embeddings, one table of them."""
    first, second, *_ = path.removeprefix(SCOPE).split("/")
    return f"{first}/{second}" if first == "embeddings" else first
