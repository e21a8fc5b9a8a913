"""Model FLOPs against closed forms, and what must not change them.

The losses below end in a tanh: the forward pass of a linear one is not needed for its gradient, and is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked
from flax import linen as nn

from wenlan_jax.models import depthwise
from wenlan_jax.monitoring import meter as progress
from wenlan_jax.monitoring import time_ledger
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks import experiment
from wenlan_jax.training import compiled_steps, model_flops
from wenlan_jax.training import setup as runs


def shaped(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_a_dense_layer_costs_two_operations_a_weight_and_row_forward_and_twice_that_backward() -> None:
    rows, inputs, outputs = 5, 7, 3
    forward = 2 * rows * inputs * outputs

    def loss(kernel: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(x @ kernel))

    kernel, x = shaped(inputs, outputs), shaped(rows, inputs)
    assert model_flops.of(loss, kernel, x) == forward
    assert model_flops.of(jax.grad(loss), kernel, x) == 2 * forward  # x needs no gradient
    assert model_flops.of(jax.grad(loss, argnums=(0, 1)), kernel, x) == 3 * forward


def test_attention_costs_four_operations_a_pair_of_tokens_and_channel() -> None:
    batch, tokens, heads, width = 2, 6, 4, 8

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.tanh(nn.dot_product_attention(q, k, v)).sum()

    qkv = [shaped(batch, tokens, heads, width // heads)] * 3
    forward = 2 * 2 * batch * tokens * tokens * width
    assert model_flops.of(attend, *qkv) == forward
    assert model_flops.of(jax.grad(attend, argnums=(0, 1, 2)), *qkv) == 3 * forward


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_costs_the_same_in_each_of_its_three_directions(stride: int) -> None:
    batch, side, inputs, outputs, size = 2, 8, 3, 4, 3

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=numbers)
        return jnp.tanh(y).sum()

    forward = 2 * batch * (side // stride) ** 2 * size**2 * inputs * outputs
    arguments = shaped(batch, side, side, inputs), shaped(size, size, inputs, outputs)
    assert model_flops.of(convolve, *arguments) == forward
    assert model_flops.of(jax.grad(convolve, argnums=1), *arguments) == 2 * forward
    assert model_flops.of(jax.grad(convolve, argnums=(0, 1)), *arguments) == 3 * forward


def test_a_depthwise_convolution_costs_its_places_and_channels() -> None:
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.tanh(depthwise.depthwise_conv(x, kernel, 2, "conv")).sum()

    forward = 2 * 2 * 4 * 4 * 5 * 5 * 6
    arguments = shaped(2, 8, 8, 6), shaped(5, 5, 1, 6)
    assert model_flops.of(convolve, *arguments) == forward
    assert model_flops.of(jax.grad(convolve, argnums=(0, 1)), *arguments) == 3 * forward


def test_a_loop_counts_every_turn() -> None:
    turns, rows, width = 7, 8, 16

    def loss(kernel: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ kernel), None), x, None, length=turns)[0].sum()

    arguments = shaped(width, width), shaped(rows, width)
    forward = 2 * turns * rows * width * width
    assert model_flops.of(loss, *arguments) == forward
    assert model_flops.of(jax.grad(loss), *arguments) == 3 * forward


def test_a_loop_of_unknown_length_is_refused() -> None:
    def until(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, x)

    with pytest.raises(ValueError, match="length is not fixed"):
        model_flops.of(until, shaped(4, 4))


def test_what_no_result_needs_is_not_counted() -> None:
    def idle(x: jax.Array) -> jax.Array:
        _ = jax.jit(lambda y: (y @ y, y + 1))(x)[0]
        return x + 1

    assert model_flops.of(idle, shaped(4, 4)) == 0


def count(config: experiment.Config, batch: dict[str, np.ndarray]) -> float:
    return model_flops.of_step(config, {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in batch.items()})


Make = Callable[..., experiment.Config]
Batch = Callable[..., dict[str, np.ndarray]]


def test_memory_savers_and_the_mesh_do_not_change_the_count(tiny: Make, make_batch: Batch) -> None:
    plain, batch = tiny(), make_batch(tiny())
    expected = count(plain, batch)
    savers = tiny(
        model__image__backbone__remat=True,
        model__image__encoder__remat=True,
        model__text__bert__remat=True,
        model__image__encoder__scan=True,
        model__text__bert__scan_segments=(1,),
        train__accumulation=2,
        mesh__data=4,
    )
    assert count(savers, batch) == expected
    clip = [tiny(task="clip", train__accumulation=parts) for parts in (1, 2)]
    assert count(clip[0], batch) == count(clip[1], batch) < expected


def test_the_count_grows_with_what_is_trained_and_with_the_bank(tiny: Make, make_batch: Batch) -> None:
    batch = make_batch(tiny())
    few, many = count(tiny(), batch), count(tiny(contrast__bank_size=2 * tiny().contrast.bank_size), batch)
    # Forward and the query's gradient, both directions; a bank is rounded up to whole batches: 3 and 5.
    width, size = tiny().model.embedding, tiny().train.batch_size
    assert many - few == 2 * 2 * (2 * size * width * (5 - 3) * size)
    frozen = tiny(model__freeze=("image/backbone/", "text/backbone/"))
    assert count(frozen, batch) < few


def test_a_text_layer_costs_its_matrices(tiny: Make, make_batch: Batch) -> None:
    """One more trained layer of the text tower: forward of key and query tower and twice forward for gradients."""
    batch = make_batch(tiny())
    one, two = (count(tiny(model__text__encoder__layers=n), batch) for n in (1, 2))
    rows, tokens = batch["token_ids"].shape
    width, hidden = tiny().model.text.bert.width, tiny().model.text.encoder.feed_forward
    matrices = 2 * rows * tokens * (4 * width * width + 2 * width * hidden)
    attention = 2 * 2 * rows * tokens * tokens * width
    assert two - one == 4 * (matrices + attention)


def test_a_count_that_fails_is_told_and_ends_nothing(
    tiny: Callable[..., experiment.Config], make_batch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The notation of a traced program differs between versions of JAX."""

    def fails(*arguments: Any) -> float:
        raise KeyError("num_consts")

    monkeypatch.setattr(model_flops, "of_step", fails)
    current = runs.set_up(tiny(), jax.devices()[:1])
    made = compiled_steps.Programs(current)
    batch = meshes.to_devices(current.mesh, make_batch(current.config))
    made.compile(batch)
    assert np.isnan(made[batch].model_flops)
    assert "could not be counted" in capsys.readouterr().out
    meter = progress.Meter(current.config, 0, time_ledger.TimeLedger(None))
    with unchecked():
        line = meter.add(1, {"loss": 1.0, "loss_reference": 2.0}, made[batch].model_flops, SimpleNamespace(replaced=0))
    assert line is not None
    assert "model_flops_per_second" not in line and "MFU" not in meter.text(line, 1)
