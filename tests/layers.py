"""Which module imports which, and the layers they must keep: `python tests/layers.py` prints the graph of rooms.

A room is a folder of the package. Modules that do not lie in their room yet are listed in `ROOMS`. Imports inside
functions count, those for type checking alone do not.
"""

from __future__ import annotations

import ast
import collections
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "wenlan_jax"

LAYERS = (
    ("util",),
    ("config",),
    ("models", "data", "evaluation"),
    ("core",),
    ("parallel",),
    ("losses",),
    ("prepare", "synthetic"),
    ("tasks",),
    ("checkpoints", "monitoring"),
    ("training",),
    ("api", "applications", "convert", "sweep"),
    ("report", "bench", "plan"),
    ("commands", "cli"),
)
"""From the lowest to the highest: a module imports from its own layer or lower ones."""

ROOMS = {
    "util": "arguments errors interrupts notes host_memory html_page data.places data.pulse data.units data.orphans "
    "data.languages",
    "config": "schema settings",
    "models": "augment",
    "data": "data.builders.prepare",
    "evaluation": "eval sweep.statistics",
    "core": "bank momentum optim rngs state step trees eval.several eval.evaluation tasks.base",
    "parallel": "console compilation distributed mesh partition roll_call stopping waiting",
    "prepare": "data.builders data.clean data.formats data.regions data.command data.contact_sheet data.findings "
    "data.ingest data.inspect data.pack data.pack_command data.packing data.parts data.pictures data.readers "
    "data.roots data.templates",
    "synthetic": "data.scenes",
    "tasks": "config config_single schema_single data.single eval.baselines eval.cross eval.evaluate eval.evaluations "
    "eval.gallery_queries eval.single run_answers single_data training_data",
    "checkpoints": "checkpoint checksums faults",
    "monitoring": "curves in_flight ledger metrics plan.devices profiling progress start_note telemetry watchdog",
    "training": "flops programs recovery restore run run_data run_tokenizer train warm_start",
    "applications": "eval.attention_command eval.attention_job eval.attention_picture eval.cascade eval.cascade_speed "
    "eval.embed eval.graded eval.rerank_command eval.rerank_job eval.rerank_page eval.trained",
    "convert": "reference",
    "report": "run_report",
    "api": "api_inputs",
    "commands": "eval.command",
}
"""Modules and folders that are to move into a room, by dotted name; the longest that fits counts."""

NO_JAX = ("util", "data", "prepare", "evaluation")
"""Rooms whose modules import no jax: data workers and tools on raw data run without it."""

Graph = Mapping[str, frozenset[str]]


def modules() -> dict[str, Path]:
    """The files of the package by dotted name within it; "" is the package itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def room(module: str) -> str:
    """The room of a module by its dotted name within the package; "" for the package itself."""
    parts = module.split(".")
    named = {name: room for room, names in ROOMS.items() for name in names.split()}
    for length in range(len(parts), 0, -1):
        if (found := named.get(".".join(parts[:length]))) is not None:
            return found
    return parts[0]


def layer(module: str) -> int:
    """The number of a module's layer. Raises KeyError for a room that has none."""
    return {name: number for number, names in enumerate(LAYERS) for name in names}[room(module)]


def _statements(nodes: Iterable[ast.AST]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements among nodes and below them, but those for type checking."""
    for node in nodes:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _statements(node.orelse)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        else:
            yield from _statements(ast.iter_child_nodes(node))


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, of modules or of things in them."""
    found: set[str] = set()
    for node in _statements([ast.parse(path.read_text(encoding="utf-8"))]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@functools.cache
def graph() -> Graph:
    """By module, those of the package that it imports."""
    known = modules()

    def module_of(name: str) -> str | None:
        inside = name.removeprefix(f"{PACKAGE.name}.")
        if inside == name:
            return None
        return next((one for one in (inside, inside.rpartition(".")[0]) if one in known), None)

    return {
        name: frozenset(filter(None, map(module_of, imports(path)))) - {name} for name, path in known.items() if name
    }


def upwards(found: Graph) -> list[tuple[str, str]]:
    """Imports of a module by one of a lower layer."""
    return sorted((one, other) for one, others in found.items() for other in others if layer(other) > layer(one))


def circles(found: Graph) -> list[list[str]]:
    """Groups of modules that import each other in a circle."""
    reached = {name: _reached(found, name) for name in found}
    groups = {frozenset(other for other in reached[name] if name in reached[other]) for name in found}
    return sorted(sorted(group) for group in groups if group)


def _reached(found: Graph, start: str) -> frozenset[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        fresh = found.get(waiting.pop(), frozenset()) - seen
        seen |= fresh
        waiting += fresh
    return frozenset(seen)


def of_rooms(found: Graph) -> Graph:
    """The same graph by room."""
    arrows: dict[str, set[str]] = collections.defaultdict(set)
    for one, others in found.items():
        arrows[room(one)] |= {room(other) for other in others} - {room(one)}
    return {name: frozenset(others) for name, others in arrows.items()}


def main() -> None:
    """Prints the rooms from the highest layer to the lowest, and what is wrong between them."""
    found = graph()
    rooms = of_rooms(found)
    sizes = collections.Counter(map(room, found))
    for number, names in reversed(list(enumerate(LAYERS))):
        for name in names:
            if name in rooms:
                print(f"{number:2}  {name:<13}{sizes[name]:3} modules  imports {', '.join(sorted(rooms[name])) or '-'}")
    elsewhere = sum(module.split(".")[0] != room(module) for module in found)
    print(
        f"{len(rooms)} rooms, {sum(map(len, rooms.values()))} arrows; {len(upwards(found))} imports upwards, "
        f"{len(circles(found))} circles; {elsewhere} of {len(found)} modules do not lie in their room"
    )
    for one, other in upwards(found):
        print(f"upwards: {one} ({room(one)}) imports {other} ({room(other)})")
    for group in circles(found):
        print(f"circle: {', '.join(group)}")


if __name__ == "__main__":
    main()
