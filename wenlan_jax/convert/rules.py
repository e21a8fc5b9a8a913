"""Ordered rules between a flat PyTorch state dict and a flat Flax tree, one table for both directions.

A rule pairs a template of PyTorch keys with one or more templates of Flax paths, and a layout that says how
the arrays differ. Templates hold named numbers: `blocks.{s}.{i}.conv_pw.weight` <->
`blocks_{s}_{i}/conv_pw/kernel`. The first rule that matches a key is the one that applies. Whatever no rule
covers is an error that names it; keys may be ignored only by an explicit rule, and the result lists them.
Scanned layers and blocks (`layers_0_19`, `blocks_3_1_6`, `stage_3_1_5`, with a leading layer axis) are handled by the
engine: rules only ever see `layers_0`, `blocks_3_1`, ...

Everything is NumPy: reading or writing a framework's files is the caller's part.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np

from wenlan_jax.convert import array_copies
from wenlan_jax.util.errors import WenlanError, counted

FlatTree = dict[str, np.ndarray]
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_STACK = r"(?:layers|(?:blocks|stage)_\d+)_"
_SCANNED = re.compile(rf"(?P<before>(?:^|.*/){_STACK})(?P<first>\d+)_(?P<last>\d+)(?P<after>/.*)")


class ConversionError(WenlanError, ValueError):
    """Weights that the rules cannot convert; the message names every leaf concerned."""


@runtime_checkable
class HasShape(Protocol):
    """What a template's leaf must have: an array or an abstract one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the leaf."""
        ...


@dataclasses.dataclass(frozen=True)
class AxisLayout:
    """How one PyTorch array becomes Flax leaves and back.

    Attributes:
        to_flax: makes the leaves.
        to_torch: makes the array; it gets what `to_flax` returns.
    """

    to_flax: Callable[[np.ndarray], Sequence[np.ndarray]]
    to_torch: Callable[[Sequence[np.ndarray]], np.ndarray]


def _transposed(forward: tuple[int, ...]) -> AxisLayout:
    backward = tuple(int(axis) for axis in np.argsort(forward))
    return AxisLayout(lambda a: [a.transpose(forward)], lambda leaves: leaves[0].transpose(backward))


def split_rows(parts: int) -> AxisLayout:
    """Splits a joint weight or bias of `parts` projections into one Flax leaf each (weights transposed)."""
    return AxisLayout(
        lambda a: [part.T for part in np.split(a, parts)],
        lambda leaves: array_copies.stacked([leaf.T for leaf in leaves]).reshape(-1, *leaves[0].T.shape[1:]),
    )


IDENTITY = AxisLayout(lambda a: [a], lambda leaves: leaves[0])
LINEAR = _transposed((1, 0))
"""(outputs, inputs) <-> (inputs, outputs)."""
CONVOLUTION = _transposed((2, 3, 1, 0))
"""(outputs, inputs, kh, kw) <-> (kh, kw, inputs, outputs), depthwise ones included."""
POINTWISE = AxisLayout(lambda a: [a[:, :, 0, 0].T], lambda leaves: leaves[0].T[:, :, None, None])
"""(outputs, inputs, 1, 1) <-> (inputs, outputs): a 1x1 convolution as a matrix product."""


@dataclasses.dataclass(frozen=True)
class WeightRule:
    """Pairs PyTorch keys with Flax leaves.

    Attributes:
        torch: the template of the keys.
        flax: the templates of the leaves.
        layout: how the arrays differ.
    """

    torch: str
    flax: tuple[str, ...]
    layout: AxisLayout = IDENTITY


@dataclasses.dataclass(frozen=True)
class Ignore:
    """PyTorch keys without a place in the Flax tree.

    Attributes:
        pattern: a regular expression for the whole key.
        reason: why they are left out.
    """

    pattern: str
    reason: str


@dataclasses.dataclass(frozen=True)
class WeightTable:
    """Ordered rules and what may be ignored.

    Attributes:
        rules: the first that matches applies.
        ignored: keys that may be left out.
    """

    rules: tuple[WeightRule, ...]
    ignored: tuple[Ignore, ...]

    def of_torch(self, key: str) -> tuple[WeightRule, dict[str, str]] | None:
        """Finds the first rule for a PyTorch key, and the numbers its template took from it."""
        found = ((rule, _pattern(rule.torch).fullmatch(key)) for rule in self.rules)
        return next(((rule, match.groupdict()) for rule, match in found if match), None)

    def of_flax(self, path: str) -> tuple[WeightRule, dict[str, str]] | None:
        """Finds the first rule for a Flax leaf, and the numbers its template took from it."""
        found = ((rule, _pattern(form).fullmatch(path)) for rule in self.rules for form in rule.flax)
        return next(((rule, match.groupdict()) for rule, match in found if match), None)

    def key_for(self, path: str) -> str:
        """Finds the PyTorch key that a Flax leaf would come from; empty if no rule covers the leaf."""
        match = self.of_flax(path)
        return match[0].torch.format(**match[1]) if match else ""

    def reason_to_ignore(self, key: str) -> str | None:
        """Says why a PyTorch key may be left out; None if it may not."""
        return next((rule.reason for rule in self.ignored if re.fullmatch(rule.pattern, key)), None)


@dataclasses.dataclass(frozen=True)
class Imported:
    """What a conversion gives.

    Attributes:
        leaves: Flax leaves by path (`image/params/backbone/...`).
        ignored: the PyTorch keys left out, with the reason.
    """

    leaves: FlatTree
    ignored: dict[str, str]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Makes one dictionary of nested ones, with paths joined by slashes."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat.update(flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value})
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Makes nested dictionaries again of what `flatten` gave."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def to_flax(
    state: Mapping[str, np.ndarray],
    table: WeightTable,
    template: Mapping[str, Any],
    done: Callable[[np.ndarray], None] = lambda array: None,
) -> Imported:
    """Converts a PyTorch state dict to Flax leaves.

    Arrays keep their type, and those whose axes stay as they are are not copied.

    Args:
        state: arrays by key.
        table: the rules.
        template: the leaves that are wanted, a nested or flat tree; only shapes are read.
        done: is told, by several threads, of each array that was and is not needed any more.

    Returns:
        The leaves of `template`.

    Raises:
        ConversionError: if a PyTorch key has neither a rule nor an `Ignore`, a leaf of the template gets no value, or a
            shape differs; it lists all faults.
    """
    expected = flatten(template)
    wanted = _unrolled_shapes(expected)
    leaves: FlatTree = {}
    sources: dict[str, str] = {}
    ignored: dict[str, str] = {}
    faults: list[str] = []
    for key, array in state.items():
        match, reason = table.of_torch(key), table.reason_to_ignore(key)
        if match is not None:
            rule, names = match
            targets = [path.format(**names) for path in rule.flax]
            faults += _store(leaves, sources, key, array, targets, rule.layout)
        elif reason is not None:
            ignored[key] = reason
        else:
            faults.append(f"PyTorch key {key} {array.shape} is covered by no rule")
    faults += _compare(leaves, sources, wanted, table)
    _raise(faults, "cannot convert the PyTorch weights to Flax")
    return Imported(_restack(leaves, expected, done), ignored)


def to_torch(tree: Mapping[str, Any], table: WeightTable) -> FlatTree:
    """Converts a nested or flat Flax tree to a PyTorch state dict of contiguous arrays; otherwise as `torch_views`."""
    return {key: array_copies.contiguous(array) for key, array in torch_views(tree, table).items()}


def torch_views(tree: Mapping[str, Any], table: WeightTable) -> FlatTree:
    """Converts a nested or flat Flax tree to a PyTorch state dict, as views of its leaves where the layout allows.

    Ignored keys are not invented.

    Args:
        tree: the leaves.
        table: the rules.

    Returns:
        Arrays by key.

    Raises:
        ConversionError: if no rule covers a leaf or a rule finds only some of its leaves.
    """
    leaves = _unstack(flatten(tree))
    state: FlatTree = {}
    faults: list[str] = []
    for path in sorted(leaves):
        match = table.of_flax(path)
        if match is None:
            faults.append(f"Flax leaf {path} {leaves[path].shape} is covered by no rule")
            continue
        rule, names = match
        parts = [template.format(**names) for template in rule.flax]
        missing = [part for part in parts if part not in leaves]
        key = rule.torch.format(**names)
        if missing:
            faults.append(f"PyTorch key {key} also needs the Flax leaves {', '.join(missing)}")
        elif key not in state:
            state[key] = rule.layout.to_torch([leaves[part] for part in parts])
    _raise(faults, "cannot convert the Flax weights to PyTorch")
    return state


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = _PLACEHOLDER.split(template)
    literal = [re.escape(part) if index % 2 == 0 else rf"(?P<{part}>\d+)" for index, part in enumerate(parts)]
    return re.compile("".join(literal))


def _store(
    leaves: FlatTree, sources: dict[str, str], key: str, array: np.ndarray, targets: list[str], layout: AxisLayout
) -> list[str]:
    """Puts the parts of one PyTorch array under `targets`; returns the faults found."""
    try:
        parts = layout.to_flax(np.asarray(array))
    except (ValueError, IndexError) as error:
        return [f"PyTorch key {key} {array.shape} does not have the axes of {targets[0]}: {error}"]
    faults = [f"Flax leaf {path} is given by both {sources[path]} and {key}" for path in targets if path in leaves]
    leaves.update(zip(targets, parts, strict=True))
    sources.update(dict.fromkeys(targets, key))
    return faults


def _compare(
    leaves: FlatTree, sources: dict[str, str], wanted: Mapping[str, tuple[int, ...]], table: WeightTable
) -> list[str]:
    absent = {path: shape for path, shape in wanted.items() if path not in leaves}
    faults = [
        f"Flax leaf {path} {shape} has no PyTorch key {table.key_for(path)}".rstrip() for path, shape in absent.items()
    ]
    for path, leaf in leaves.items():
        if path not in wanted:
            faults.append(f"PyTorch key {sources[path]} gives {path}, which the Flax model does not have")
        elif leaf.shape != wanted[path]:
            faults.append(f"Flax leaf {path} has shape {wanted[path]}, but {sources[path]} gives {leaf.shape}")
    return faults


def _raise(faults: list[str], what: str) -> None:
    if faults:
        raise ConversionError(f"{what}; {counted(len(faults))}:\n  " + "\n  ".join(sorted(faults)))


def _layers(path: str) -> list[str] | None:
    """The unrolled paths of a scanned leaf, in the order of its first axis; None for any other leaf."""
    match = _SCANNED.fullmatch(path)
    if match is None:
        return None
    numbers = range(int(match["first"]), int(match["last"]) + 1)
    return [f"{match['before']}{number}{match['after']}" for number in numbers]


def _unrolled_shapes(template: Mapping[str, HasShape]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for path, leaf in template.items():
        layers = _layers(path)
        shapes.update({path: tuple(leaf.shape)} if layers is None else dict.fromkeys(layers, tuple(leaf.shape[1:])))
    return shapes


def _unstack(leaves: Mapping[str, Any]) -> FlatTree:
    flat: FlatTree = {}
    for path, leaf in leaves.items():
        layers, array = _layers(path), np.asarray(leaf)
        flat.update({path: array} if layers is None else dict(zip(layers, array, strict=True)))
    return flat


def _restack(leaves: FlatTree, template: Iterable[str], done: Callable[[np.ndarray], None]) -> FlatTree:
    def restacked(path: str) -> np.ndarray:
        layers = _layers(path) or [path]
        parts = [leaves[layer] for layer in layers]
        leaf = array_copies.contiguous(parts[0]) if layers == [path] else array_copies.stacked(parts)
        if leaf is not parts[0]:
            for part in parts:
                done(part)
        return leaf

    paths = list(template)
    with ThreadPoolExecutor(array_copies.THREADS, "copying") as threads:
        return dict(zip(paths, threads.map(restacked, paths), strict=True))
