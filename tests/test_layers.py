"""Lower layers import nothing above them, no modules import each other in a circle, and tools on data need no jax.

What is not so yet is listed; an entry that is mended must go.
"""

from __future__ import annotations

import ast
from pathlib import Path

import layers
import pytest

UPWARDS = {
    ("data.sources", "data.builders.registry"),
    ("data.sources", "data.scenes.builder"),
    ("schema", "schema_single"),
}
CIRCLES = [["data.clean.language", "data.clean.texts"]]
WITH_JAX: set[str] = set()
WITH_ORBAX: set[str] = set()


def test_no_layer_imports_a_higher_one() -> None:
    assert set(layers.upwards(layers.graph())) == UPWARDS


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert layers.circles(layers.graph()) == CIRCLES


def test_every_module_has_a_layer() -> None:
    assert all(layers.layer(module) >= 0 for module in layers.graph())
    rooms = {layers.room(module) for module in layers.graph()}
    assert set(layers.ROOMS) <= rooms <= {name for names in layers.LAYERS for name in names}
    listed = [name for names in layers.ROOMS.values() for name in names.split()]
    known = layers.modules()
    assert not [name for name in listed if name not in known]


def _libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in layers.imports(path)}


def test_rooms_of_data_need_no_jax() -> None:
    found = {module for module, path in layers.modules().items() if module and {"jax", "flax"} & _libraries(path)}
    assert {module for module in found if layers.room(module) in layers.NO_JAX} == WITH_JAX


def test_orbax_is_known_to_the_checkpoints_alone() -> None:
    found = {module for module, path in layers.modules().items() if module and "orbax" in _libraries(path)}
    assert {module for module in found if layers.room(module) != "checkpoints"} == WITH_ORBAX


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import os.path, wenlan_jax.bank", {"os.path", "wenlan_jax.bank"}),
        ("def f():\n    from wenlan_jax import run", {"wenlan_jax.run"}),
        ("if TYPE_CHECKING:\n    import torch\nelse:\n    import numpy", {"numpy"}),
        ("try:\n    import lmdb\nexcept ImportError:\n    import msgpack", {"lmdb", "msgpack"}),
    ],
)
def test_imports_are_read_wherever_they_stand(text: str, expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(text)
    assert layers.imports(tmp_path / "one.py") == expected
    assert ast.parse(text)


def test_upward_imports_and_circles_are_found() -> None:
    made = {"bank": frozenset({"train", "step"}), "train": frozenset({"bank"}), "step": frozenset()}
    assert layers.upwards(made) == [("bank", "train")]
    assert layers.circles(made) == [["bank", "train"]]
