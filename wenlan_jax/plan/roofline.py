"""How long a step may take: its work over the speeds of the data sheet, as pure functions of the counts.

Two figures. The bound: arithmetic, memory traffic and collectives each at the data sheet's peak and all at once, the
longest of them; no run can be faster. The estimate: each at the share of its peak in `Shares`, products overlapping
memory traffic, collectives after them and one by one. It is arithmetic about a machine that nobody has timed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from wenlan_jax.monitoring.accelerators import Device
from wenlan_jax.plan.collectives import Collective


@dataclasses.dataclass(frozen=True)
class Shares:
    """Achieved shares of the data sheet's peaks. None is measured on the devices in question.

    Attributes:
        compute: of bf16 products. [W] Large Transformers report .21 to .46 as model FLOPs utilisation (Chowdhery et al.
            2022, PaLM, table 3); depthwise convolutions lie far below, but there memory traffic is the longer time.
        memory: of the memory's bandwidth. [W]
        links: of the interconnect's bandwidth. [W]
    """

    compute: float = 0.4
    memory: float = 0.8
    links: float = 0.8


@dataclasses.dataclass(frozen=True)
class DeviceWork:
    """What one device does in a step.

    Attributes:
        flops: floating-point operations.
        memory: bytes of its memory, read and written.
        links: bytes sent over fast links.
        network: bytes sent over the network between slices or machines.
    """

    flops: float
    memory: float
    links: float
    network: float


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step by what takes them, at a given share of the peaks.

    Attributes:
        compute: of arithmetic.
        memory: of memory traffic.
        links: of fast links.
        network: of the network between slices or machines.
    """

    compute: float
    memory: float
    links: float
    network: float

    @property
    def bound(self) -> float:
        """Seconds if everything overlaps."""
        return max(self.compute, self.memory, self.links, self.network)

    @property
    def sequence(self) -> float:
        """Seconds if products overlap memory traffic, and collectives overlap nothing."""
        return max(self.compute, self.memory) + self.links + self.network

    @property
    def limit(self) -> str:
        """What takes longest."""
        times = dataclasses.asdict(self)
        return max(times, key=lambda name: times[name])


IDEAL = Shares(1.0, 1.0, 1.0)


def roofline(work: DeviceWork, device: Device, shares: Shares) -> Roofline:
    """Computes the seconds of each kind of work.

    Args:
        work: of one device.
        device: its data sheet.
        shares: of the device's peaks.

    Returns:
        The seconds.
    """
    return Roofline(
        compute=work.flops / (device.flops * shares.compute),
        memory=work.memory / (device.bandwidth * shares.memory),
        links=work.links / (device.links * shares.links),
        network=work.network / (device.network * shares.links),
    )


def hours(pairs: float, batch_size: int, seconds: float) -> float:
    """Computes the hours of a training; data, evaluation and checkpoints are not in it.

    Args:
        pairs: of the training.
        batch_size: pairs a step.
        seconds: a step.

    Returns:
        The hours.
    """
    return math.ceil(pairs / batch_size) * seconds / 3600


def sent(collectives: Sequence[Collective], island: int, sizes: Sequence[int]) -> tuple[float, float]:
    """Counts the bytes that a device sends in a step.

    Args:
        collectives: of the program.
        island: devices of a slice or machine.
        sizes: of the mesh's axes, the outermost first.

    Returns:
        Bytes over fast links, and over the network between islands.
    """
    groups = far_groups(island, sizes)
    near = far = 0.0
    for one in collectives:
        # A ring over devices of several islands is as slow as its slowest link.
        if one.group in groups or one.group > island:
            far += one.times * one.sent_bytes
        else:
            near += one.times * one.sent_bytes
    return near, far


def far_groups(island: int, sizes: Sequence[int]) -> frozenset[int]:
    """Finds the sizes of the groups that may lie over several islands: over outer axes, alone or with inner ones.

    Inner axes are those that fill at most one island together. A size that groups of inner axes may have as well
    counts as one of these, the slower.

    Args:
        island: devices of a slice or machine.
        sizes: of the mesh's axes, the outermost first.

    Returns:
        Numbers of devices.
    """
    inner: list[int] = []
    outer = list(sizes)
    while outer and math.prod(inner) * outer[-1] <= island:
        inner.insert(0, outer.pop())
    return frozenset(a * b for a in _products(outer) - {1} for b in _products(inner))


def _products(sizes: Sequence[int]) -> frozenset[int]:
    found = {1}
    for size in sizes:
        found |= {size * product for product in found}
    return frozenset(found)
