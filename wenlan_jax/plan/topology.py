"""Devices that are not here: their description in a few characters, and stand-ins to compile for.

`v5e:16x8` is one TPU slice of 128 chips, `v5p:4x4x4*2` two slices of 64, `h100:8` a machine of 8 GPUs, `a100:14x8`
fourteen such machines. TPUs are compiled for by their own compiler, which comes with the package libtpu and needs no
TPU; GPUs, and TPUs without libtpu, by XLA's CPU compiler for as many simulated devices.

jax is imported late: what it is to simulate must be said before.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
import sys
from typing import TYPE_CHECKING

from wenlan_jax.monitoring import accelerators
from wenlan_jax.util.errors import WenlanError

if TYPE_CHECKING:
    import jax

_TEXT = re.compile(r"(?P<name>[\w-]+):(?P<shape>\d+(x\d+)*)(\*(?P<slices>\d+))?")
_TPU_DIMENSIONS = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}
_CHIPS_OF_A_HOST = ((2, 2, 1), (1, 1, 1))
"""As libtpu calls the machines of a slice: four chips each, or a single chip."""


_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""What libtpu would look for around it, and complain that it does not find; the topology decides. As no process holds
a TPU, several may run at once."""


class TopologyError(WenlanError, ValueError):
    """A topology that is not understood, that does not exist, or that this process cannot compile for."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """TPU slices or GPU machines; within one, devices have fast links.

    Attributes:
        device: the data sheet of a device.
        shape: of a slice or machine, in devices.
        islands: the number of slices or machines.
    """

    device: accelerators.Device
    shape: tuple[int, ...]
    islands: int

    @property
    def island(self) -> int:
        """Devices of a slice or machine."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Devices in all."""
        return self.islands * self.island

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        if self.device.platform == "tpu":
            return f"{self.device.name}:{shape}" + (f"*{self.islands}" if self.islands > 1 else "")
        return f"{self.device.name}:" + (f"{self.islands}x{shape}" if self.islands > 1 else shape)


def parse(text: str) -> Topology:
    """Reads the description of a topology.

    Args:
        text: such as `v5e:16x8`, `v5p:4x4x4*2` or `h100:16x8`.

    Returns:
        The topology.

    Raises:
        TopologyError: for a text that is not understood, or devices that do not exist.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise TopologyError(f"--topology={text}: not understood; write for example v5e:16x8, v5p:4x4x4*2 or h100:16x8")
    device = accelerators.named(match["name"])
    if device is None:
        known = ", ".join(one.name for one in accelerators.DEVICES)
        raise TopologyError(f"--topology={text}: no data sheet of {match['name']!r}; known are {known}")
    shape, slices = tuple(map(int, match["shape"].split("x"))), int(match["slices"] or 1)
    if 0 in shape or slices == 0:
        raise TopologyError(f"--topology={text}: a size is 0")
    if device.platform == "tpu":
        _check_slice(text, device, shape)
        return Topology(device, shape, slices)
    if match["slices"] or len(shape) > 2:
        raise TopologyError(f"--topology={text}: GPUs are MACHINESxGPUS, for example {device.name}:16x8")
    return Topology(device, shape[-1:], shape[0] if len(shape) == 2 else 1)


def _check_slice(text: str, device: accelerators.Device, shape: tuple[int, ...]) -> None:
    """Raises TopologyError for a slice that is not sold; libtpu itself compiles for any."""
    wanted = _TPU_DIMENSIONS[device.name]
    if len(shape) != wanted:
        example = "x".join(["4"] * wanted)
        raise TopologyError(f"--topology={text}: its slices have {wanted} dimensions, for example {example}")
    if math.prod(shape) > device.largest:
        raise TopologyError(f"--topology={text}: the largest slice of {device.name} has {device.largest} devices")


def has_tpu_compiler() -> bool:
    """Says whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def is_simulated(topology: Topology) -> bool:
    """Says whether the plan must come from a program for CPUs."""
    return topology.device.platform != "tpu" or not has_tpu_compiler()


def prepare(largest: int) -> None:
    """Sets what jax reads when it starts; in a process with jax it does nothing.

    Args:
        largest: how many CPUs are simulated.
    """
    if "jax" in sys.modules:
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    # The machine code is never run: it need not be fast.
    flags = f"--xla_force_host_platform_device_count={largest} --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def devices_of(topology: Topology) -> list[jax.Device]:
    """Returns devices to compile for.

    Args:
        topology: the topology.

    Returns:
        TPUs that are not here, or simulated CPUs.

    Raises:
        TopologyError: for a slice that libtpu does not know, or for too few CPUs.
    """
    import jax

    if not is_simulated(topology):
        return _tpus(topology)
    cpus = jax.devices("cpu")
    if len(cpus) < topology.size:
        raise TopologyError(
            f"--topology={topology}: {len(cpus)} simulated devices are at hand; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={topology.size} before jax starts"
        )
    return cpus[: topology.size]


def _tpus(topology: Topology) -> list[jax.Device]:
    import jax
    from jax.experimental import topologies

    os.environ.update(_NO_TPU_HERE)
    # Slices of less than a machine, as v5e:1x1, have their own kind of machine.
    bounds = next(
        b for b in _CHIPS_OF_A_HOST if all(size % of == 0 for size, of in zip(topology.shape, b, strict=False))
    )
    options = {"num_slices": topology.islands, "chips_per_host_bounds": bounds}
    if topology.device.name == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as on a TPU machine
    try:
        found = topologies.get_topology_desc(str(topology).partition("*")[0], "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise TopologyError(f"--topology={topology}: libtpu refuses it: {error}") from error
    return list(found.devices)
