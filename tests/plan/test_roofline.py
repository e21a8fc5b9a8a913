"""Times and bytes of the roofline have closed forms."""

from __future__ import annotations

import pytest

from wenlan_jax.monitoring.accelerators import Device
from wenlan_jax.plan import planner, roofline
from wenlan_jax.plan.collectives import Collective

DEVICE = Device("x", ("X",), "tpu", 100.0, 1000.0, 10.0, 5.0, 2.0, "invented")


def test_each_kind_of_work_takes_its_share_of_its_peak() -> None:
    work = roofline.DeviceWork(flops=400.0, memory=20.0, links=10.0, network=4.0)
    found = roofline.roofline(work, DEVICE, roofline.Shares(compute=0.5, memory=0.25, links=0.2))
    assert found == roofline.Roofline(compute=8.0, memory=8.0, links=10.0, network=10.0)
    ideal = roofline.roofline(work, DEVICE, roofline.IDEAL)
    assert ideal == roofline.Roofline(compute=4.0, memory=2.0, links=2.0, network=2.0)
    assert (ideal.bound, ideal.sequence, ideal.limit) == (4.0, 8.0, "compute")


def test_hours_are_of_whole_steps() -> None:
    assert roofline.hours(1001, 100, 3600.0) == 11


@pytest.mark.parametrize(
    ("island", "sizes", "far"),
    [
        (8, (16, 1, 8, 1), {16, 128}),  # 16 machines of 8
        (8, (8, 1, 8, 1), {8, 64}),  # groups of 8 may be within a machine, too: taken as over them
        (64, (1, 1, 64, 1), set()),
        (64, (1, 1, 16, 4), set()),
        (32, (2, 1, 8, 4), {2, 8, 16, 64}),
        (8, (1, 32, 1, 1), {32}),  # one axis over four machines
    ],
)
def test_groups_over_several_islands_are_known_by_their_size(
    island: int, sizes: tuple[int, ...], far: set[int]
) -> None:
    assert roofline.far_groups(island, sizes) == far


def test_bytes_go_over_links_or_over_the_network() -> None:
    within = Collective("all-gather", (("f32", (8,)),), 8, 3)  # 32 bytes, 28 sent, three times
    across = Collective("all-reduce", (("f32", (4,)),), 16, 2)  # 16 bytes, 30 sent, twice
    assert roofline.sent([within, across], 8, (16, 1, 8, 1)) == (84.0, 60.0)
    assert roofline.sent([within], 4, (1, 1, 8, 1)) == (0.0, 84.0)
    part = Collective("all-gather", (("f32", (8,)),), 4, 1)  # the compiler may split an axis
    assert roofline.sent([part], 8, (1, 1, 8, 1)) == (24.0, 0.0)


def test_collectives_are_summed_by_kind_and_group() -> None:
    small = Collective("all-gather", (("f32", (8,)),), 8, 3)
    large = Collective("all-gather", (("bf16", (80,)),), 8, 1)
    other = Collective("all-gather", (("f32", (8,)),), 2, 1)
    assert planner.summary([small, other, large]) == (
        planner.Traffic("all-gather", 8, 4, 256.0, 224.0),
        planner.Traffic("all-gather", 2, 1, 32.0, 16.0),
    )
