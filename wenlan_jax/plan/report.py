"""A plan as text for a person, as JSON, and as a row of the table in launch/README.md."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from wenlan_jax.plan import planner, roofline
from wenlan_jax.plan.explain import table
from wenlan_jax.plan.topology import Topology

GIB = 2**30


def text(plan: planner.DevicePlan, topology: Topology, shares: roofline.Shares, pairs: float) -> str:
    """Writes the report of a plan.

    Args:
        plan: the plan.
        topology: its devices.
        shares: the assumed shares of their peaks.
        pairs: training pairs that hours are for.

    Returns:
        The text.
    """
    device, mesh = topology.device, " x ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    micro = f", {plan.accumulation} micro-batches" if plan.accumulation > 1 else ""
    parameters = ", ".join(f"{number / 1e9:.3f} billion {what}" for what, number in plan.parameters.items())
    how = "from a program for CPUs and the data sheet" if plan.simulated else "compiled for it by libtpu"
    lines = [
        f"{plan.topology}  {plan.devices} devices, {how}; mesh {mesh}",
        f"batch       {plan.batch_size} pairs, {plan.batch_size / plan.devices:g} a device{micro}",
        f"parameters  {parameters}",
        "",
        "bytes per device",
        *_memory(plan),
        _verdict(plan),
        "",
        f"model FLOPs a step      {plan.model_flops:.4g}; with what is computed again {plan.flops:.4g}",
        *(_costs(plan.costs, shares) if plan.costs else []),
        *(_time(plan, plan.costs, pairs) if plan.costs else []),
        f"compile time            {plan.compile_seconds:.0f} s on this machine",
        f"data sheet              {device.flops / 1e12:g} TFLOP/s bf16, memory {device.bandwidth / 1e9:g} GB/s, links "
        f"{device.links / 1e9:g} GB/s, network {device.network / 1e9:g} GB/s ({device.source})",
        *(f"note: {note}" for note in plan.notes),
    ]
    return "\n".join(lines)


def _memory(plan: planner.DevicePlan) -> list[str]:
    parts = dict(plan.state)
    if plan.memory is not None:
        parts = plan.memory.parts | {
            "padding of the layout": plan.memory.padding,
            "activations and temporaries": plan.memory.temporaries,
            "results": plan.memory.results,
            "program and reserved": plan.memory.reserved,
        }
    return [f"  {name:<28}{gib(number):>10} GiB" for name, number in parts.items()]


def gib(number: float) -> str:
    """Writes bytes in GiB with three decimals."""
    return f"{number / GIB:.3f}"


def _verdict(plan: planner.DevicePlan) -> str:
    if plan.memory is None:
        return (
            f"DOES NOT FIT: the compiler needs {gib(plan.needed)} GiB of {gib(plan.available)} GiB; "
            "`--search` looks for what fits"
        )
    word = "FITS" if plan.fits else "DOES NOT FIT"
    return f"{word}: {gib(plan.needed)} of {gib(plan.available)} GiB ({plan.needed / plan.available:.0%})"


def _costs(costs: planner.StepCosts, shares: roofline.Shares) -> list[str]:
    rows = [(row.kind, str(row.group), f"{row.times:,}", gib(row.results), gib(row.sent)) for row in costs.traffic]
    headings = ("collective", "group", "times", "results GiB", "sent GiB")
    lines = table(headings, rows).splitlines() if rows else ["no collective"]
    return [
        f"bytes moved in memory   {gib(costs.work.memory)} GiB a step and device",
        f"compiler's count        {costs.compiler_flops:.4g} FLOPs, {gib(costs.compiler_bytes)} GiB, loops once",
        "collectives of a step, bytes per device (a ring's)",
        *(f"  {line}" for line in lines),
        f"seconds of a step       at {shares.compute:g} of the peak of products, {shares.memory:g} of the memory's, "
        f"{shares.links:g} of the links'; in brackets at the data sheet's peaks",
        *(
            f"  {name:<22}{seconds:8.4f}  ({dataclasses.asdict(costs.bound)[name]:.4f})"
            for name, seconds in dataclasses.asdict(costs.estimate).items()
        ),
    ]


def _time(plan: planner.DevicePlan, costs: planner.StepCosts, pairs: float) -> list[str]:
    best, expected = costs.bound.bound, costs.estimate.sequence
    whole = roofline.hours(pairs, plan.batch_size, expected)
    return [
        f"step time               {expected:.3f} s (products overlap memory traffic, collectives overlap nothing); no "
        f"less than {best:.3f} s; longest: {costs.estimate.limit}",
        f"{f'{pairs / 1e6:g} million pairs':<24}{whole:.0f} hours; no less than "
        f"{roofline.hours(pairs, plan.batch_size, best):.0f}; without data waits, evaluation, checkpoints and failures",
    ]


def as_json(plan: planner.DevicePlan, pairs: float) -> dict[str, Any]:
    """Returns all figures of a plan; numbers that are not there are None."""
    found = dataclasses.asdict(plan) | {"fits": plan.fits, "pairs": pairs}
    if plan.costs is not None:
        found["step_seconds"] = {"estimate": plan.costs.estimate.sequence, "bound": plan.costs.bound.bound}
        found["hours"] = {
            name: roofline.hours(pairs, plan.batch_size, seconds) for name, seconds in found["step_seconds"].items()
        }
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in found.items()}


COLUMNS = (
    "configuration", "devices", "mesh", "batch", "recomputed", "state", "temporaries", "in all", "of", "step",
    "hours",
)  # fmt: skip


def table_head(pairs: float) -> str:
    """Writes the head of the table of plans."""
    names = [*COLUMNS[:-1], f"hours for {pairs / 1e6:g}M pairs"]
    return "| " + " | ".join(names) + " |\n|" + "---|" * len(names)


def table_row(name: str, plan: planner.DevicePlan, recomputed: str, pairs: float) -> str:
    """Writes one row of the table: GiB per device, seconds, hours.

    Args:
        name: of the configuration.
        plan: the plan.
        recomputed: the parts that are recomputed.
        pairs: training pairs that hours are for.

    Returns:
        A line of Markdown.
    """
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "one device"
    batch = f"{plan.batch_size:,}" + (f" in {plan.accumulation}" if plan.accumulation > 1 else "")
    state = f"{sum(plan.state.values()) / GIB:.2f}"
    cells = [name, plan.topology + (" (CPU program)" if plan.simulated else ""), mesh, batch, recomputed, state]
    if plan.memory is None:
        return "| " + " | ".join([*cells, "", f"{plan.needed / GIB:.1f}", _room(plan), "does not fit", ""]) + " |"
    memory = [f"{plan.memory.temporaries / GIB:.2f}", f"{plan.needed / GIB:.2f}"]
    memory.append(_room(plan) + ("" if plan.fits else ": does not fit"))
    if plan.costs is None:
        return "| " + " | ".join([*cells, *memory, "not counted", ""]) + " |"
    expected, best = plan.costs.estimate.sequence, plan.costs.bound.bound
    hours = [f"{roofline.hours(pairs, plan.batch_size, seconds):,.0f}" for seconds in (expected, best)]
    cells += [*memory, f"{expected:.2f} s", f"{hours[0]} (at best {hours[1]})"]
    return "| " + " | ".join(cells) + " |"


def _room(plan: planner.DevicePlan) -> str:
    return f"{plan.available / GIB:.2f}"
