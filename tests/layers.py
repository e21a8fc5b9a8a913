"""Which module imports which, and the layers they must keep: `python tests/layers.py` prints the graph of folders.

A node is a folder of the package, or a module that lies beside the folders. Imports inside functions count, those for
type checking alone do not.
"""

from __future__ import annotations

import ast
import collections
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from repository import ROOT

PACKAGE = ROOT / "wenlan_jax"

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


def folder(module: str) -> str:
    """The folder of a module by its dotted name within the package; "" for the package itself."""
    return module.split(".")[0]


def layer(module: str) -> int:
    """The number of a module's layer. Raises KeyError for a folder that has none."""
    return {name: number for number, names in enumerate(LAYERS) for name in names}[folder(module)]


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


def of_folders(found: Graph) -> Graph:
    """The same graph by folder."""
    arrows: dict[str, set[str]] = collections.defaultdict(set)
    for one, others in found.items():
        arrows[folder(one)] |= {folder(other) for other in others} - {folder(one)}
    return {name: frozenset(others) for name, others in arrows.items()}


def main() -> None:
    """Prints the folders from the highest layer to the lowest, and what is wrong between them."""
    found = graph()
    folders = of_folders(found)
    sizes = collections.Counter(map(folder, found))
    for number, names in reversed(list(enumerate(LAYERS))):
        for name in names:
            if name in folders:
                imported = ", ".join(sorted(folders[name])) or "-"
                print(f"{number:2}  {name:<13}{sizes[name]:3} modules  imports {imported}")
    print(
        f"{len(folders)} folders, {sum(map(len, folders.values()))} arrows; {len(upwards(found))} imports upwards, "
        f"{len(circles(found))} circles; {len(found)} modules"
    )
    for one, other in upwards(found):
        print(f"upwards: {one} ({folder(one)}) imports {other} ({folder(other)})")
    for group in circles(found):
        print(f"circle: {', '.join(group)}")


if __name__ == "__main__":
    main()
