"""What devices send each other in a step: the operations of the compiled program, on every kind of mesh."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import pytest

from wenlan_jax.core import trees
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.plan.collectives import Collective, collectives
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import setup as runs

Make = Callable[..., experiment.Config]
BATCH, WIDTH, SLOTS = 32, 48, 7
MESHES: dict[str, dict[str, Any]] = {
    "data": {"mesh__data": 8},
    "fsdp": {"mesh__data": 1, "mesh__fsdp": 8},
    "both": {"mesh__data": 2, "mesh__fsdp": 4},
    "tensor": {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2},
}


@pytest.fixture(scope="module")
def compiled() -> dict[str, tuple[Run, list[Collective]]]:
    return {}


@pytest.fixture(params=MESHES)
def program(
    request: pytest.FixtureRequest, tiny: Make, make_batch: Any, compiled: dict[str, tuple[Run, list[Collective]]]
) -> tuple[str, Run, list[Collective]]:
    """The step of a mesh, compiled once, with convolutions as on accelerators, and sizes that no two things share."""
    name = request.param
    if name not in compiled:
        config = tiny(
            **MESHES[name],
            train__batch_size=BATCH,
            contrast__bank_size=BATCH * SLOTS - 5,
            model__embedding=WIDTH,
            model__image__backbone__depthwise="conv",
        )
        current = runs.set_up(config)
        batch = meshes.to_devices(current.mesh, make_batch(config))
        compiled[name] = (current, collectives(runs.compile_step(current, batch).as_text()))
    return name, *compiled[name]


def gathered(found: list[Collective]) -> list[tuple[int, ...]]:
    return [dims for operation in found if operation.kind == "all-gather" for _, dims in operation.shapes]


def test_a_bank_never_travels(program: tuple[str, Run, list[Collective]]) -> None:
    """Neither whole nor in part: nothing that is sent has a bank's slots."""
    _, current, found = program
    assert current.shapes.banks["image"].keys.shape == (SLOTS, BATCH, WIDTH)
    for operation in found:
        for _, dims in operation.shapes:
            assert SLOTS not in dims, operation
            assert math.prod(dims) < SLOTS * BATCH * WIDTH, operation


def test_queries_travel_once_a_direction_and_so_do_their_gradients(
    program: tuple[str, Run, list[Collective]],
) -> None:
    _, current, found = program
    assert gathered(found).count((BATCH, WIDTH)) == 2
    local = BATCH // math.prod(current.mesh.shape[axis] for axis in meshes.BATCH_AXES)
    back = [operation.shapes for operation in found if operation.kind == "reduce-scatter"]
    assert sum(len([dims for _, dims in shapes if dims == (local, WIDTH)]) for shapes in back) == 2


@pytest.mark.parametrize("program", ["data"], indirect=True)
def test_without_fsdp_no_parameter_is_gathered(program: tuple[str, Run, list[Collective]]) -> None:
    _, _, found = program
    assert (BATCH, WIDTH) in gathered(found)
    assert set(gathered(found)) <= {(BATCH, WIDTH), (BATCH,)}
    assert not [operation for operation in found if operation.kind in ("all-to-all", "collective-permute")]


@pytest.mark.parametrize("program", ["fsdp", "both"], indirect=True)
def test_fsdp_gathers_every_weight(program: tuple[str, Run, list[Collective]]) -> None:
    _, current, found = program
    assert not [dims for dims in gathered(found) if dims[:1] == (BATCH,) and dims not in ((BATCH, WIDTH), (BATCH,))]
    split = [name for name, at in trees.flatten(current.shardings.params).items() if not at.is_fully_replicated]
    assert split and len(gathered(found)) > len(split)  # every split parameter, in the query and in the key towers


def test_activations_never_travel(program: tuple[str, Run, list[Collective]]) -> None:
    """An activation of the whole batch starts with its size; weights of the tiny model do not."""
    _, current, found = program
    assert all(BATCH not in leaf.shape[:1] for leaf in jax.tree.leaves(current.shapes.params))
    assert found
    for operation in found:
        for _, dims in operation.shapes:
            assert len(dims) < 3 or dims[0] != BATCH, operation
