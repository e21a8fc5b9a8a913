"""Model FLOPs of a training step: what the model's mathematics needs, however a machine computes it.

Counted are the multiply-adds (two operations each) of matrix products and convolutions: forward and backward of the
query towers, forward of the key towers, the contrast with batch and banks. Left out are element-wise operations, as
usual for this figure (Chowdhery et al. 2022, PaLM, appendix B), gradients that nothing uses (of frozen layers), and
whatever a configuration computes a second time to save memory (`remat`, and CLIP's first pass under `accumulation`).

The count is made on the traced program of the step, without compiling it. The compiler's own count
(`cost_analysis`) is another figure, hardware FLOPs: it contains recomputation and counts the body of a loop once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core

from wenlan_jax.config import sections, settings
from wenlan_jax.core import step
from wenlan_jax.tasks import experiment, remat
from wenlan_jax.training import setup


def of_step(config: experiment.Config, batch: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> float:
    """Counts the model FLOPs of one training step over all devices. It takes as long as tracing the step.

    Args:
        config: the configuration; its vocabulary size must be known.
        batch: gives the shapes of the whole batch.

    Returns:
        Floating-point operations.
    """
    current = setup.set_up(_plain(config), jax.local_devices()[:1])
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in batch.items()}
    return of(functools.partial(step.train_step, current.recipe), current.shapes, shapes)


def of(function: Any, *arguments: Any) -> float:
    """Counts the FLOPs of matrix products and convolutions, as far as the results need them.

    Args:
        function: the function to trace.
        *arguments: its arguments, or their shapes.

    Returns:
        Floating-point operations.

    Raises:
        ValueError: for a loop around such operations whose length is not fixed.
    """
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    return _count(program, [True] * len(program.outvars))[0]


def counted(count: Callable[[], float]) -> tuple[float, str]:
    """Counts, and explains where that fails.

    A count reads a traced program, whose notation differs between versions of JAX. It is a figure beside the work, so
    that no fault in it may end the work.

    Args:
        count: makes the count.

    Returns:
        The count and "", or NaN and why there is none.
    """
    try:
        return count(), ""
    except Exception as error:
        return math.nan, f"{type(error).__name__}: {error}"


def _plain(config: experiment.Config) -> experiment.Config:
    """The same mathematics on one device, each operation once and as the operation that it is."""
    values = {"train.accumulation": 1, "mesh": sections.MeshConfig(), "model.image.backbone.depthwise": "conv"}
    return settings.replaced(remat.without(config), values)


def _count(program: core.Jaxpr, used: Sequence[bool]) -> tuple[float, list[bool]]:
    """FLOPs that the `used` results of a program need, and which of its inputs they need."""
    needed = {out for out, use in zip(program.outvars, used, strict=True) if use and isinstance(out, core.Var)}
    total = 0.0
    for equation in reversed(program.eqns):
        outs = [out in needed for out in equation.outvars]
        if any(outs):
            flops, inputs = _equation(equation, outs)
            total += flops
            needed |= {
                var for var, use in zip(equation.invars, inputs, strict=True) if use and isinstance(var, core.Var)
            }
    return total, [var in needed for var in program.invars]


def _equation(equation: core.JaxprEqn, used: list[bool]) -> tuple[float, list[bool]]:
    everything = [True] * len(equation.invars)
    match equation.primitive.name:
        case "dot_general":
            return _product(equation), everything
        case "conv_general_dilated":
            return _convolution(equation), everything
        case "scan":
            return _scan(equation, used)
    inner = list(core.jaxprs_in_params(equation.params))
    if equation.primitive.name == "cond":
        return max(_whole(branch) for branch in inner), everything
    if equation.primitive.name == "while" and any(_whole(part) for part in inner):
        raise ValueError("FLOPs cannot be counted: matrix products in a loop whose length is not fixed")
    if len(inner) == 1 and _fits(inner[0], equation):
        return _count(inner[0], used)
    return sum(_whole(part) for part in inner), everything


def _whole(program: core.Jaxpr) -> float:
    return _count(program, [True] * len(program.outvars))[0]


def _fits(program: core.Jaxpr, equation: core.JaxprEqn) -> bool:
    """Whether the equation is a call: inputs and results of `program` are its own, one for one."""
    return len(program.invars) == len(equation.invars) and len(program.outvars) == len(equation.outvars)


def _scan(equation: core.JaxprEqn, used: list[bool]) -> tuple[float, list[bool]]:
    """A loop of fixed length. What a turn needs of the carry, the turn before it must give."""
    body = equation.params["jaxpr"].jaxpr
    consts, carries = _loop_inputs(equation)
    while True:
        flops, inputs = _count(body, used)
        fed_back = inputs[consts : consts + carries]
        grown = [use or more for use, more in zip(used[:carries], fed_back, strict=True)] + used[carries:]
        if grown == used:
            return flops * equation.params["length"], inputs
        used = grown


def _loop_inputs(equation: core.JaxprEqn) -> tuple[int, int]:
    """How many inputs of a scan are constants, and how many are carried from turn to turn; they come in this order."""
    if "num_consts" in equation.params:
        return equation.params["num_consts"], equation.params["num_carry"]
    consts, carries = equation.params["ft_in"].unpack()[:2]  # from jax 0.11 on
    return len(consts), len(carries)


def _product(equation: core.JaxprEqn) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = _shape(equation.invars[0])
    return 2.0 * math.prod(_shape(equation.outvars[0])) * math.prod(shape[axis] for axis in contracted)


def _convolution(equation: core.JaxprEqn) -> float:
    """Every output sums over the kernel's places and the input channels of its group; padding counts, as is usual.

    The gradient of a strided convolution spreads its input with zeros, which are no work.
    """
    kernel = _shape(equation.invars[1])
    out_channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    spread = math.prod(equation.params["lhs_dilation"])
    return 2.0 * math.prod(_shape(equation.outvars[0])) * math.prod(kernel) / out_channels / spread


def _shape(value: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = value.aval.shape
    return shape
