"""Topologies in a few characters, and the devices that stand in for them."""

from __future__ import annotations

import jax
import pytest

from wenlan_jax.monitoring import accelerators
from wenlan_jax.plan import topology


@pytest.mark.parametrize(
    ("text", "shape", "islands", "size"),
    [
        ("v5e:16x8", (16, 8), 1, 128),
        ("v5p:4x4x4", (4, 4, 4), 1, 64),
        ("v5e:16x16*2", (16, 16), 2, 512),
        ("a100:8", (8,), 1, 8),
        ("h100:16x8", (8,), 16, 128),
    ],
)
def test_a_topology_is_read_and_written(text: str, shape: tuple[int, ...], islands: int, size: int) -> None:
    found = topology.parse(text)
    assert (found.shape, found.islands, found.size) == (shape, islands, size)
    assert str(found) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5e", "not understood"),
        ("v5e:16*8*2", "not understood"),
        ("v9:2x2", "known are v4, v5e, v5p"),
        ("v5e:4x4x4", "2 dimensions"),
        ("v5p:4x4", "3 dimensions"),
        ("v5e:16x32", "largest slice of v5e has 256"),
        ("v5e:0x4", "a size is 0"),
        ("h100:8*2", "MACHINESxGPUS"),
    ],
)
def test_what_is_not_a_topology_is_explained(text: str, message: str) -> None:
    with pytest.raises(topology.TopologyError, match=message):
        topology.parse(text)


def test_data_sheets_are_found_by_kind_and_by_name() -> None:
    found = accelerators.find("TPU v5 lite")
    assert found is not None and found == accelerators.named("v5e")
    assert accelerators.find("NVIDIA GeForce 256") is None
    kinds = [kind for device in accelerators.DEVICES for kind in device.kinds]
    assert len(kinds) == len(set(kinds))


def test_gpus_are_simulated_by_as_many_cpus() -> None:
    found = topology.devices_of(topology.parse("a100:4"))
    assert [device.platform for device in found] == ["cpu"] * 4
    assert topology.is_simulated(topology.parse("a100:4"))
    too_many = jax.device_count("cpu") + 1
    with pytest.raises(topology.TopologyError, match=f"device_count={too_many}"):
        topology.devices_of(topology.parse(f"a100:{too_many}"))


def test_tpus_are_simulated_only_without_their_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "has_tpu_compiler", lambda: False)
    assert topology.is_simulated(topology.parse("v5e:2x4"))
    assert topology.devices_of(topology.parse("v5e:2x2"))[0].platform == "cpu"
