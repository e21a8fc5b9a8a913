"""The collective operations of a compiled program: kind, shapes, bytes, who takes part, and how often they run.

Read from the program's text, the same for CPU, GPU and TPU. A loop's body counts as often as the loop runs: XLA writes
the number beside a loop for CPU and GPU; for TPU it is the bound that the loop's condition compares its counter with.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re

from wenlan_jax.util.errors import WenlanError

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2}
_BYTES |= {"bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<shape>.+?) (?P<kind>" + "|".join(KINDS) + r")(?P<start>-start)?\((?P<rest>.*)$"
)
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLS = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')
_LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_BOUND = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_BELOW = re.compile(r"direction=LT\b")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}")
_AXIS = re.compile(r"'(\w+)'=(\d+)")
_PART = re.compile(r"'(\w+)'(?::\(\d+\)(\d+))?")
"""An axis of the groups, whole or a part of it: `'axis_0'`, or `'axis_0':(2)4` for the 4 after the first 2."""
_PAIRS = re.compile(r"source_target_pairs=\{\{")


class ProgramError(WenlanError, ValueError):
    """A program whose text is not understood; what was not counted would make a plan wrong."""


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a program.

    Attributes:
        kind: one of `KINDS`.
        shapes: of its results on one device, as (type, dimensions).
        group: devices that take part together.
        times: how often it runs in one call of the program.
    """

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    group: int
    times: int

    @property
    def result_bytes(self) -> float:
        """Bytes of the results on one device, of one run."""
        return sum(math.prod(dims) * _BYTES.get(kind, 4) for kind, dims in self.shapes)

    @property
    def sent_bytes(self) -> float:
        """Bytes that a device sends in one run by a ring algorithm."""
        share = (self.group - 1) / self.group
        moved = {
            "all-gather": share,
            "all-reduce": 2 * share,
            "reduce-scatter": self.group * share,  # the results are 1/group of what is reduced
            "all-to-all": share,
            "collective-permute": 1.0,
        }
        return moved[self.kind] * self.result_bytes


def collectives(program: str) -> list[Collective]:
    """Finds all collective operations that move data between devices.

    Args:
        program: the text of a compiled program.

    Returns:
        The operations.

    Raises:
        ProgramError: for a text that is not understood.
    """
    computations = _computations(program)
    times = _times(computations)
    found = []
    for name, lines in computations.items():
        for line in lines:
            match = _INSTRUCTION.match(line)
            if match is None or times[name] == 0 or (group := _group_size(match["rest"])) == 1:
                continue
            count = times[name]
            if count is None:
                raise ProgramError(f"a collective in a loop whose length cannot be read: {line.strip()[:300]}")
            found.append(Collective(match["kind"], _results(match), group, count))
    return found


def _computations(program: str) -> dict[str, list[str]]:
    """The lines of every computation by its name, the program's own first under an empty name."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in program.splitlines():
        start = _COMPUTATION.match(line)
        if start is not None:
            lines = found.setdefault("" if line.startswith("ENTRY") else start[1], [])
        elif line != "}":
            lines.append(line)
    return found


def _times(computations: dict[str, list[str]]) -> dict[str, int | None]:
    """How often each computation runs: once for each call, and as often as a loop for its body; None if unknown."""
    callers: dict[str, list[tuple[str, int | None]]] = {}
    for name, lines in computations.items():
        for line in lines:
            called = _CALLS.findall(line)
            for branches in _BRANCHES.findall(line):
                called += [branch.strip().lstrip("%") for branch in branches.split(",")]
            loop = _LOOP.search(line)
            for callee in called:
                count = _trips(line, computations[loop[1]]) if loop and callee == loop[2] else 1
                callers.setdefault(callee, []).append((name, count))

    @functools.cache
    def times(name: str) -> int | None:
        if name == "":
            return 1
        total = 0
        for caller, count in callers.get(name, ()):
            outer = times(caller)
            if outer is None or (count is None and outer > 0):
                return None
            total += (count or 0) * outer
        return total

    return {name: times(name) for name in computations}


def _trips(line: str, condition: list[str]) -> int | None:
    """How often the loop of `line` runs: as XLA says, or from 0 to the one number its condition compares with."""
    if known := _TRIPS.search(line):
        return int(known[1])
    bounds = [int(found[1]) for text in condition if (found := _BOUND.search(text))]
    counts_up = any(_BELOW.search(text) for text in condition)
    return bounds[0] if len(bounds) == 1 and counts_up else None


def _results(match: re.Match[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The shapes of what an operation gives; an asynchronous start names its operands first."""
    shapes = [(kind, tuple(int(d) for d in dims.split(",") if d)) for kind, dims in _SHAPE.findall(match["shape"])]
    if match["start"] and match["kind"] in ("all-gather", "collective-permute") and len(shapes) > 1:
        data = [shape for shape in shapes if shape[0] != "u32" or shape[1]]  # a permute adds two context scalars
        shapes = data[len(data) // 2 :]
    return tuple(shapes)


def _group_size(rest: str) -> int:
    """Devices in a group, in any of the notations of XLA. Raises ProgramError for another one."""
    if _PAIRS.search(rest):
        return 2
    if listed := _LISTED.search(rest):
        return len(listed[1].split(","))
    if iota := _IOTA.search(rest):
        return int(iota[1])
    if mesh := _MESH.search(rest):
        sizes = {name: int(size) for name, size in _AXIS.findall(mesh[1])}
        return math.prod(int(part) if part else sizes[name] for name, part in _PART.findall(mesh[2]))
    raise ProgramError(f"the groups of a collective cannot be read: {rest[:300]}")
