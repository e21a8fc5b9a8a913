"""Lower layers import nothing above them, no modules import each other in a circle, and tools on data need no jax."""

from __future__ import annotations

import ast
from pathlib import Path

import layers
import pytest


def test_no_layer_imports_a_higher_one() -> None:
    assert set(layers.upwards(layers.graph())) == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert layers.circles(layers.graph()) == []


def test_every_module_has_a_layer() -> None:
    assert all(layers.layer(module) >= 0 for module in layers.graph())
    folders = {layers.folder(module) for module in layers.graph()}
    assert folders == {name for names in layers.LAYERS for name in names}


def _libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in layers.imports(path)}


def test_folders_of_data_need_no_jax() -> None:
    found = {module for module, path in layers.modules().items() if module and {"jax", "flax"} & _libraries(path)}
    assert {module for module in found if layers.folder(module) in layers.NO_JAX} == set()


def test_orbax_is_known_to_the_checkpoints_alone() -> None:
    found = {module for module, path in layers.modules().items() if module and "orbax" in _libraries(path)}
    assert {module for module in found if layers.folder(module) != "checkpoints"} == set()


def _errors() -> dict[str, tuple[str, ...]]:
    """The public errors of the package with their bases."""
    found = {}
    for path in layers.modules().values():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and not node.name.startswith("_"):
                found[node.name] = tuple(ast.unparse(base) for base in node.bases)
    return found


def test_every_error_is_one_of_ours() -> None:
    """So that a command explains it, in place of a traceback."""
    found = _errors()
    assert len(found) > 50
    for name, bases in found.items():
        assert name == "WenlanError" or {"WenlanError", *found} & set(bases), name


EFFECTS = {
    "cli",  # a data worker of the command is spared jax
    "util.interrupts",  # Ctrl-C while the rest is imported
    "prepare.formats.files",  # a stand-in for what cannot be decoded
    "convert.huggingface.modeling_wenlan",  # files for a folder of their own, which transformers imports
    "convert.run_example",
}
"""Modules that may do something when they are imported."""


def test_importing_changes_nothing_elsewhere() -> None:
    """At the level of a module there are definitions alone; derivatives are registered for functions of its own."""
    found = set()
    for module, path in layers.modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            assigned = isinstance(node, ast.Assign) and any(
                isinstance(part, ast.Attribute | ast.Subscript) for target in node.targets for part in ast.walk(target)
            )
            done = isinstance(node, ast.For | ast.While | ast.With) or assigned or (called and not _is_derivative(node))
            if done or (isinstance(node, ast.If) and not _is_usual(node)):
                found.add(module)
    assert found == EFFECTS


def _is_derivative(node: ast.stmt) -> bool:
    return ".defvjp(" in ast.unparse(node)


def _is_usual(node: ast.If) -> bool:
    return any(name in ast.unparse(node.test) for name in ("TYPE_CHECKING", "__name__"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import os.path, wenlan_jax.core.bank", {"os.path", "wenlan_jax.core.bank"}),
        ("def f():\n    from wenlan_jax import api", {"wenlan_jax.api"}),
        ("if TYPE_CHECKING:\n    import torch\nelse:\n    import numpy", {"numpy"}),
        ("try:\n    import lmdb\nexcept ImportError:\n    import msgpack", {"lmdb", "msgpack"}),
    ],
)
def test_imports_are_read_wherever_they_stand(text: str, expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(text)
    assert layers.imports(tmp_path / "one.py") == expected
    assert ast.parse(text)


def test_upward_imports_and_circles_are_found() -> None:
    made = {"core": frozenset({"training", "models"}), "training": frozenset({"core"}), "models": frozenset()}
    assert layers.upwards(made) == [("core", "training")]
    assert layers.circles(made) == [["core", "training"]]
