"""Reading collective operations from the text of a program, in every notation of XLA."""

from __future__ import annotations

import pytest

from wenlan_jax.plan.collectives import Collective, ProgramError, collectives

PROGRAM = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (carry: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %gather = f32[8,4]{1,0} all-gather(%part), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %next = (s32[], f32[8,4]) tuple(%i, %gather)
}

%condition (carry: (s32[], f32[8,4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[2,4]) -> f32[8,4] {
  %loop = (s32[], f32[8,4]) while(%start), condition=%condition, body=%body, %LOOP%
  %start.1 = (bf16[2,4], bf16[8,4]) all-gather-start(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %done.1 = bf16[8,4] all-gather-done(%start.1)
  %sums = (f32[16]{0}, /*index=1*/f32[]) all-reduce(%a, %b), %GROUPS%, to_apply=%add
  %mine = f32[4]{0} reduce-scatter(%a), replica_groups=mesh['axis_0'=8] {'axis_0':(2)4}, to_apply=%add
  %alone = f32[9]{0} all-reduce(%a), replica_groups={{0},{1}}, to_apply=%add
  ROOT %moved = f32[8,4]{1,0} collective-permute(%y), source_target_pairs={{0,1},{1,0}}
}
"""
GROUPS = "replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}"
LOOP = 'backend_config={"known_trip_count":{"n":"30"}}'


def test_kinds_shapes_groups_and_loops_are_read() -> None:
    found = collectives(PROGRAM.replace("%LOOP%", LOOP).replace("%GROUPS%", GROUPS))
    assert sorted(found, key=lambda c: c.kind) == [
        Collective("all-gather", (("f32", (8, 4)),), 4, 30),
        Collective("all-gather", (("bf16", (8, 4)),), 4, 1),
        Collective("all-reduce", (("f32", (16,)), ("f32", ())), 4, 1),
        Collective("collective-permute", (("f32", (8, 4)),), 2, 1),
        Collective("reduce-scatter", (("f32", (4,)),), 4, 1),
    ]


def test_bytes_have_their_closed_forms() -> None:
    """Of a ring of 4: each device sends three quarters of the whole, twice to sum."""
    shapes = (("f32", (8, 4)), ("bf16", (2,)))
    assert Collective("all-gather", shapes, 4, 1).result_bytes == 132
    assert Collective("all-gather", shapes, 4, 1).sent_bytes == 99
    assert Collective("all-reduce", shapes, 4, 1).sent_bytes == 198
    assert Collective("reduce-scatter", shapes, 4, 1).sent_bytes == 396  # 132 is a quarter of what is reduced
    assert Collective("all-to-all", shapes, 4, 1).sent_bytes == 99
    assert Collective("collective-permute", shapes, 4, 1).sent_bytes == 132


def test_groups_that_cannot_be_read_are_an_error() -> None:
    with pytest.raises(ProgramError, match="replica_groups=new"):
        readable = PROGRAM.replace("%GROUPS%", GROUPS).replace("%LOOP%", LOOP)
        collectives(readable.replace("replica_groups={{0},{1}}", "replica_groups=new{}"))


def test_a_loop_for_a_tpu_is_as_long_as_its_condition_says() -> None:
    bound = "%n = s32[]{:T(128)} constant(12)\n  ROOT %less"
    program = PROGRAM.replace("%GROUPS%", GROUPS).replace("%LOOP%", "metadata={}").replace("ROOT %less", bound)
    assert {c.times for c in collectives(program) if c.kind == "all-gather"} == {1, 12}


def test_a_collective_in_a_loop_of_unknown_length_is_an_error() -> None:
    program = PROGRAM.replace("%GROUPS%", GROUPS).replace("%LOOP%", "metadata={}")
    with pytest.raises(ProgramError, match="length cannot be read: %gather"):
        collectives(program)
