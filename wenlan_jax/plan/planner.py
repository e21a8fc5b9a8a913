"""A plan: the training step of a configuration compiled for devices that are not here, and what it will need there."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax

from wenlan_jax.config import sections, settings
from wenlan_jax.core import step
from wenlan_jax.plan import accounting, roofline
from wenlan_jax.plan import topology as topologies
from wenlan_jax.plan.collectives import Collective, collectives
from wenlan_jax.plan.topology import Topology
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import model_flops as flops
from wenlan_jax.training import setup

GPU_SHARE = 0.9
"""Of a GPU's memory, what a program may take: the rest is for CUDA and NCCL ($XLA_PYTHON_CLIENT_MEM_FRACTION) [W]."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """All collectives of one kind among groups of one size.

    Attributes:
        kind: of the collectives.
        group: devices that take part together.
        times: how many run in a step.
        results: bytes of results on each device.
        sent: bytes that each device sends.
    """

    kind: str
    group: int
    times: int
    results: float
    sent: float


@dataclasses.dataclass(frozen=True)
class StepCosts:
    """What a program that fits does in a step.

    Attributes:
        compiler_flops: as XLA counts them for one device; the body of a loop counts once.
        compiler_bytes: likewise, bytes of memory.
        traffic: its collectives.
        work: what one device does.
        bound: seconds at the data sheet's peaks.
        estimate: seconds at the assumed shares of the peaks.
    """

    compiler_flops: float
    compiler_bytes: float
    traffic: tuple[Traffic, ...]
    work: roofline.DeviceWork
    bound: roofline.Roofline
    estimate: roofline.Roofline


@dataclasses.dataclass(frozen=True)
class DevicePlan:
    """One configuration on one topology.

    Attributes:
        topology: as it is written.
        devices: their number.
        mesh: sizes by axis.
        simulated: whether the program is one for CPUs.
        batch_size: pairs a step.
        accumulation: micro-batches a step.
        parameters: numbers of them, by what is counted.
        state: bytes of the state on a device, by part.
        memory: of a device; None if the compiler refused the program, as it does not fit.
        needed: bytes of a device.
        available: bytes of a device.
        model_flops: what the mathematics of a step needs, over all devices; NaN where this version of JAX cannot be
            counted.
        flops: the same with what is computed again.
        costs: None if the program does not fit or cannot be counted.
        compile_seconds: how long compilation took here.
        notes: what a reader must know.
    """

    topology: str
    devices: int
    mesh: dict[str, int]
    simulated: bool
    batch_size: int
    accumulation: int
    parameters: dict[str, int]
    state: dict[str, int]
    memory: accounting.Memory | None
    needed: float
    available: float
    model_flops: float
    flops: float
    costs: StepCosts | None
    compile_seconds: float
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the program fits."""
        return self.memory is not None and self.needed <= self.available


def set_up(config: experiment.Config, topology: Topology) -> Run:
    """Makes the run of a configuration on devices that are not here.

    Args:
        config: the configuration.
        topology: the devices.

    Returns:
        The run.

    Raises:
        ConfigError: if the configuration cannot be used.
        MeshError: if the devices cannot form its mesh.
    """
    experiment.require_vocabulary(config, "a plan")
    if topologies.is_simulated(topology):
        config = _as_on_accelerators(config)
    return setup.set_up(config, topologies.devices_of(topology))


def _as_on_accelerators(config: experiment.Config) -> experiment.Config:
    """The configuration with what a CPU would compute in another way set to what a GPU or TPU does."""
    if config.model.image.backbone.depthwise != "auto":
        return config
    return settings.replaced(config, {"model.image.backbone.depthwise": "conv"})


def make(config: experiment.Config, topology: Topology, shares: roofline.Shares) -> DevicePlan:
    """Compiles the step and counts. A program that does not fit is a plan, too; any other fault is raised.

    Args:
        config: the configuration.
        topology: the devices.
        shares: assumed shares of their peaks.

    Returns:
        The plan.
    """
    current = set_up(config, topology)
    batch = accounting.abstract_batch(current)
    began = time.perf_counter()
    compiled, too_large = _compile(current, batch)
    seconds = time.perf_counter() - began
    simulated = topologies.is_simulated(topology)
    memory = None if compiled is None else accounting.of_program(current, batch, compiled.memory_analysis())
    available = topology.device.memory * (GPU_SHARE if topology.device.platform == "gpu" else 1.0)
    needed, available = too_large or (memory.total if memory else 0.0, available)
    computed, reason = flops.counted(lambda: computed_flops(config))
    model_flops, _ = flops.counted(lambda: flops.of_step(config, batch))
    uncounted = [f"FLOPs could not be counted, and no time be estimated ({reason})"] if reason else []
    return DevicePlan(
        topology=str(topology),
        devices=topology.size,
        mesh=dict(current.mesh.shape),
        simulated=simulated,
        batch_size=config.train.batch_size,
        accumulation=config.train.accumulation,
        parameters=accounting.parameters(current),
        state=accounting.of_state(current),
        memory=memory,
        needed=needed,
        available=available,
        model_flops=model_flops,
        flops=computed,
        costs=None if compiled is None or uncounted else _costs(compiled, current, topology, shares, computed),
        compile_seconds=seconds,
        notes=(*notes(current, simulated), *uncounted),
    )


def _compile(current: Run, batch: dict[str, Any]) -> tuple[Any, tuple[float, float] | None]:
    """The compiled step, or None and (bytes needed, bytes there are)."""
    try:
        return setup.compile_step(current, batch), None
    except jax.errors.JaxRuntimeError as error:
        too_large = accounting.overflow(str(error))
        if too_large is None:
            raise
        return None, too_large


def computed_flops(config: experiment.Config) -> float:
    """Counts the FLOPs of products and convolutions in a step over all devices, recomputed ones included."""
    alone = dataclasses.replace(_as_on_accelerators(config), mesh=sections.MeshConfig())
    current = setup.set_up(alone, jax.devices("cpu")[:1])
    batch = accounting.abstract_batch(current)
    return flops.of(functools.partial(step.train_step, current.recipe), current.shapes, batch)


def _costs(compiled: Any, current: Run, topology: Topology, shares: roofline.Shares, computed: float) -> StepCosts:
    analysis = compiled.cost_analysis() or {}
    found = collectives(compiled.as_text())
    counted, moved = float(analysis.get("flops", 0.0)), float(analysis.get("bytes accessed", 0.0))
    own = computed / topology.size
    near, far = roofline.sent(found, topology.island, tuple(current.mesh.shape.values()))
    # Loops: what the compiler counts once is scaled as its FLOPs are.
    work = roofline.DeviceWork(own, moved * max(1.0, own / counted if counted else 1.0), near, far)
    return StepCosts(
        compiler_flops=counted,
        compiler_bytes=moved,
        traffic=summary(found),
        work=work,
        bound=roofline.roofline(work, topology.device, roofline.IDEAL),
        estimate=roofline.roofline(work, topology.device, shares),
    )


def summary(found: Sequence[Collective]) -> tuple[Traffic, ...]:
    """Sums up collectives by kind and group, those that send most first."""
    kinds: dict[tuple[str, int], list[Collective]] = {}
    for one in found:
        kinds.setdefault((one.kind, one.group), []).append(one)
    rows = [
        Traffic(
            kind,
            group,
            sum(one.times for one in members),
            sum(one.times * one.result_bytes for one in members),
            sum(one.times * one.sent_bytes for one in members),
        )
        for (kind, group), members in kinds.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.sent))


def notes(current: Run, simulated: bool) -> list[str]:
    """Lists what a reader of a plan must know about this configuration on this mesh."""
    found = []
    if simulated:
        found.append(
            "from a program for CPUs: its layouts and fusions differ from an accelerator's, and bfloat16 products are "
            "widened to float32, so temporaries and bytes moved are upper estimates"
        )
    config, unit = current.config, current.recipe.unit
    ways = current.mesh.size // current.mesh.shape["tensor"]
    rows = config.train.batch_size // config.train.accumulation // ways
    if rows % unit:
        found.append(
            f"groups of batch normalisation cross devices: {unit} examples a group, {rows} on a device, so "
            f"every layer exchanges statistics; a group_size that divides {rows} stays on one device (another recipe)"
        )
    return found
