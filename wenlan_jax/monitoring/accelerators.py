"""What the data sheets say about accelerators: peak speed, memory, bandwidths. Each figure is per JAX device.

A TPU device is one chip (v4 and v5p in the usual "megacore" mode), a GPU device one GPU.
"""

from __future__ import annotations

import dataclasses

GIB = 2**30
GBIT = 1e9 / 8


@dataclasses.dataclass(frozen=True)
class Device:
    """One kind of accelerator.

    Attributes:
        name: as topologies name it (`v5e`, `h100`).
        kinds: values of `jax.Device.device_kind` that mean it.
        platform: `tpu` or `gpu`.
        flops: peak of dense bf16 products with float32 sums, FLOP/s.
        memory: bytes of its memory.
        bandwidth: of its memory, bytes/s.
        links: to its neighbours (TPU interconnect, NVLink), bytes/s in one direction, all links of the device together.
        network: between slices or machines, bytes/s in one direction, this device's share of its machine's.
        source: where the figures come from.
        largest: devices of the largest slice; 0 where there are no slices.
    """

    name: str
    kinds: tuple[str, ...]
    platform: str
    flops: float
    memory: float
    bandwidth: float
    links: float
    network: float
    source: str
    largest: int = 0


_TPU_DOCS = "docs.cloud.google.com/tpu/docs/"
_NVIDIA = "NVIDIA data sheet, SXM; network of a DGX: "

DEVICES = (
    Device(
        "v4", ("TPU v4",), "tpu", 275e12, 32 * GIB, 1.228e12, 2400 * GBIT, 50 * GBIT,
        _TPU_DOCS + "v4; its network is not given there, v5p's is taken", 4096,
    ),
    Device(
        "v5e", ("TPU v5 lite", "TPU v5e"), "tpu", 197e12, 16 * GIB, 819e9, 1600 * GBIT, 25 * GBIT,
        _TPU_DOCS + "v5e", 256,
    ),
    Device(
        "v5p", ("TPU v5", "TPU v5p"), "tpu", 459e12, 95 * GIB, 2.765e12, 4800 * GBIT, 50 * GBIT,
        _TPU_DOCS + "v5p", 6144,
    ),
    Device(
        "v6e", ("TPU v6 lite", "TPU v6e"), "tpu", 918e12, 32 * GIB, 1.6e12, 3200 * GBIT, 100 * GBIT,
        _TPU_DOCS + "v6e", 256,
    ),
    Device(
        "a100-40", ("NVIDIA A100-SXM4-40GB",), "gpu", 312e12, 40e9, 1.555e12, 300e9, 200 * GBIT,
        _NVIDIA + "8 x 200 Gbit/s",
    ),
    Device(
        "a100", ("NVIDIA A100-SXM4-80GB",), "gpu", 312e12, 80e9, 2.039e12, 300e9, 200 * GBIT,
        _NVIDIA + "8 x 200 Gbit/s",
    ),
    Device(
        "h100", ("NVIDIA H100 80GB HBM3",), "gpu", 989e12, 80e9, 3.35e12, 450e9, 400 * GBIT,
        _NVIDIA + "8 x 400 Gbit/s",
    ),
    Device(
        "rtx4090", ("NVIDIA GeForce RTX 4090",), "gpu", 165e12, 24e9, 1.008e12, 32e9, 10 * GBIT,
        "public lists of graphics cards; links are PCIe 4.0 x16, the network 10 Gbit/s",
    ),
    Device("h200", ("NVIDIA H200",), "gpu", 989e12, 141e9, 4.8e12, 450e9, 400 * GBIT, _NVIDIA + "8 x 400 Gbit/s"),
)  # fmt: skip
"""The known accelerators. v5p: 4,800 Gbit/s are 600 GB/s in one direction over six links."""


def find(device_kind: str) -> Device | None:
    """Finds the data sheet of what `jax.Device.device_kind` names; None for an unknown kind."""
    return next((device for device in DEVICES if device_kind in device.kinds), None)


def named(name: str) -> Device | None:
    """Finds the data sheet of a device by our name for it; None for an unknown one."""
    return next((device for device in DEVICES if device.name == name), None)
