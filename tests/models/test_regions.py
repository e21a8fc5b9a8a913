"""Region pooling: the official sampling in closed form, the corrected one, grids and masks."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked

pytest.importorskip("torch")

import torch
from torch.nn import functional as F  # noqa: N812, the usual name

from wenlan_jax.models.regions import RegionPooling, grid_boxes, pooling_weights, sample_positions

SAMPLES = 4


def random_boxes(count: int, seed: int = 0) -> np.ndarray:
    corners = np.sort(np.random.default_rng(seed).uniform(size=(count, 2, 2)), axis=1)
    return corners.reshape(count, 4).astype(np.float32)


def torch_weights(boxes: np.ndarray, size: int, theta: Callable) -> np.ndarray:
    """Mean weight of every place in every box: the pooled one-hot maps, by grid_sample."""
    x1, y1, x2, y2 = torch.tensor(boxes * size).unbind(1)
    zero = torch.zeros_like(x1)
    rows = [torch.stack((theta(x1, x2)[0], zero, theta(x1, x2)[1]), 1)]
    rows.append(torch.stack((zero, *theta(y1, y2)), 1))
    grid = F.affine_grid(torch.stack(rows, 1), [len(boxes), 1, SAMPLES, SAMPLES], align_corners=False)
    one_hot = torch.eye(size * size).reshape(1, size * size, size, size).expand(len(boxes), -1, -1, -1)
    return F.grid_sample(one_hot, grid, align_corners=False).mean((2, 3)).numpy()


def test_official_weights_equal_grid_sample():
    boxes = np.concatenate([random_boxes(9), grid_boxes((6,), True)])
    official = lambda a, b: ((b - a) / 11, (a + b - 11) / 11)  # noqa: E731
    expected = torch_weights(boxes, 12, official)
    np.testing.assert_allclose(pooling_weights(boxes, 12, 12, SAMPLES, "official"), expected, atol=2e-6)


def test_corrected_weights_equal_grid_sample_over_the_box():
    boxes = np.concatenate([random_boxes(9), grid_boxes((6,), True)])
    inside = lambda a, b: ((b - a) / 12, (a + b) / 12 - 1)  # noqa: E731
    expected = torch_weights(boxes, 12, inside)
    np.testing.assert_allclose(pooling_weights(boxes, 12, 12, SAMPLES, "corrected"), expected, atol=2e-6)


def test_corrected_weights_are_centred_on_the_box():
    """On a linear ramp the token is the box's centre, exactly, as long as no sample leaves the map."""
    boxes = 0.2 + 0.6 * random_boxes(20)
    weights = pooling_weights(boxes, 10, 10, SAMPLES, "corrected").reshape(-1, 10, 10)
    places = np.arange(10) + 0.5
    np.testing.assert_allclose(weights.sum(1) @ places, 10 * (boxes[:, 0] + boxes[:, 2]) / 2, rtol=1e-5)
    np.testing.assert_allclose(weights.sum(2) @ places, 10 * (boxes[:, 1] + boxes[:, 3]) / 2, rtol=1e-5)


@pytest.mark.parametrize("size", [12, 15, 19])
def test_47_of_the_592_official_samples_leave_the_map(size: int):
    """As many as the official code has on maps of 380, 456 and 600 pixels: samples that no place of the map reaches."""
    boxes = grid_boxes((6,), True)

    def lost(coordinates: str) -> int:
        axes = ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3]))
        x, y = (sample_positions(low, high, size, SAMPLES, coordinates) for low, high in axes)
        outside_x, outside_y = ((p <= -1) | (p >= size) for p in (x, y))
        return int((outside_x[:, :, None] | outside_y[:, None, :]).sum())

    assert len(boxes) * SAMPLES**2 == 592
    assert lost("official") == 47
    assert lost("corrected") == 0


def test_grid_boxes_run_over_x_outside_and_y_inside_with_the_whole_image_last():
    expected = [[0, 0, 0.5, 0.5], [0, 0.5, 0.5, 1], [0.5, 0, 1, 0.5], [0.5, 0.5, 1, 1], [0, 0, 1, 1]]
    np.testing.assert_array_equal(grid_boxes((2,), True), np.array(expected, np.float32))
    assert len(grid_boxes((6,), True)) == 37
    assert len(grid_boxes((1, 5), False)) == 26


def pooling(**changes) -> RegionPooling:
    options = {
        "grid": (),
        "whole_image": False,
        "coordinates": "official",
        "samples": SAMPLES,
        "project": True,
    }
    return RegionPooling(**{**options, "dtype": jnp.float32, **changes})


def test_a_fixed_grid_equals_the_same_boxes_given_with_the_call():
    features = np.random.default_rng(0).normal(size=(2, 5, 5, 6)).astype(np.float32)
    boxes = np.broadcast_to(grid_boxes((3,), True), (2, 10, 4))
    given, fixed = pooling(), pooling(grid=(3,), whole_image=True)
    params = fixed.init(jax.random.key(0), features, None, None)
    expected, mask = given.apply(params, features, jnp.asarray(boxes), jnp.ones((2, 10), bool))
    tokens, fixed_mask = fixed.apply(params, features, None, None)
    np.testing.assert_allclose(tokens, expected, atol=1e-6)
    np.testing.assert_array_equal(mask, fixed_mask)


def test_the_whole_image_is_appended_to_given_boxes_and_always_valid():
    features = np.random.default_rng(0).normal(size=(2, 5, 5, 6)).astype(np.float32)
    boxes, mask = jnp.asarray(random_boxes(6).reshape(2, 3, 4)), jnp.zeros((2, 3), bool)
    layer = pooling(whole_image=True, project=False)
    tokens, tokens_mask = layer.apply({}, features, boxes, mask)
    np.testing.assert_array_equal(tokens_mask, [[False, False, False, True]] * 2)
    whole, _ = pooling(grid=(1,), project=False).apply({}, features, None, None)
    np.testing.assert_allclose(tokens[:, -1:], whole, atol=1e-6)


def test_faulty_arguments_are_refused():
    features, boxes, mask = jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 1, 4)), jnp.ones((1, 1), bool)
    with pytest.raises(ValueError, match="fixed grid"):
        pooling(grid=(2,), project=False).apply({}, features, boxes, mask)
    with pytest.raises(ValueError, match="needs `boxes`"):
        pooling(project=False).apply({}, features, None, None)
    with pytest.raises(ValueError, match="one place"):
        pooling(project=False).apply({}, features[:, :1, :1], boxes, mask)
    with unchecked(), pytest.raises(ValueError, match="'official' or 'corrected'"):
        pooling(coordinates="best", project=False).apply({}, features, boxes, mask)
