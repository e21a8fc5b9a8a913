"""Augmentation: every operation against an independent implementation, every draw with its declared law."""

from __future__ import annotations

import colorsys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from wenlan_jax.data import images
from wenlan_jax.models import augment

STRENGTHS = (0.4, 0.4, 0.4, 0.1)
WEIGHTS = np.array([0.2989, 0.587, 0.114])

_jitter = jax.jit(augment.jitter_and_grayscale, static_argnums=(2, 3, 4))


def _images(batch: int = 4, side: int = 6) -> np.ndarray:
    """Images in [0, 1], the same in every test."""
    return np.random.default_rng(0).random((batch, side, side, 3), dtype=np.float32)


def test_unit_range_and_normalise() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    mean, std = (0.5, 0.25, 0.0), (0.5, 0.25, 2.0)
    expected = (pixels / 255.0 - np.array(mean)) / np.array(std)
    assert np.allclose(augment.normalise(jnp.asarray(pixels), mean, std), expected, atol=1e-6)
    floats = augment.unit_range(jnp.asarray(pixels))
    assert floats.dtype == jnp.float32
    assert floats.min() == 0
    assert floats.max() == 1
    assert np.allclose(augment.normalise(floats, mean, std), expected, atol=1e-6)


def test_brightness() -> None:
    factors = jnp.array([0.0, 0.5, 1.0, 1.7])
    expected = np.minimum(_images() * np.asarray(factors)[:, None, None, None], 1)
    assert np.allclose(augment.adjust_brightness(jnp.asarray(_images()), factors), expected, atol=1e-6)


def test_contrast_is_about_the_mean_grey_of_each_image() -> None:
    factors = jnp.array([0.0, 0.6, 1.0, 1.4])
    found = np.asarray(augment.adjust_contrast(jnp.asarray(_images()), factors))
    for image, factor, changed in zip(_images(), factors, found, strict=True):
        grey = (image @ WEIGHTS).mean()
        assert np.allclose(changed, np.clip(grey + factor * (image - grey), 0, 1), atol=1e-6)


def test_saturation_is_about_the_grey_of_each_pixel() -> None:
    factors = jnp.array([0.0, 0.6, 1.0, 1.4])
    grey = (_images() @ WEIGHTS)[..., None]
    expected = np.clip(grey + np.asarray(factors)[:, None, None, None] * (_images() - grey), 0, 1)
    assert np.allclose(augment.adjust_saturation(jnp.asarray(_images()), factors), expected, atol=1e-6)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.07, 1 / 3])
def test_hue_is_that_of_hsv(turn: float) -> None:
    images = _images(1)
    images[0, 0, :6] = [[0, 0, 0], [1, 1, 1], [0.3, 0.3, 0.3], [1, 0, 0], [0.2, 0.7, 0.7], [0.7, 0.2, 0.7]]
    found = np.asarray(augment.adjust_hue(jnp.asarray(images), jnp.full(1, turn)))
    for pixel, changed in zip(images.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
        assert np.allclose(changed, colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value), atol=2e-6)


def test_a_third_of_a_circle_permutes_the_channels() -> None:
    turned = augment.adjust_hue(jnp.asarray(_images()), jnp.full(4, 1 / 3))
    assert np.allclose(turned, _images()[..., [2, 0, 1]], atol=2e-6)


@pytest.mark.parametrize("factor", [0.6, 1.4])
@pytest.mark.parametrize("kind", ["Brightness", "Contrast", "Color"])
def test_operations_agree_with_pil(kind: str, factor: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    expected = np.asarray(getattr(ImageEnhance, kind)(Image.fromarray(pixels)).enhance(factor), np.float32)
    ours = {
        "Brightness": augment.adjust_brightness,
        "Contrast": augment.adjust_contrast,
        "Color": augment.adjust_saturation,
    }[kind]
    found = 255 * ours(augment.unit_range(jnp.asarray(pixels[None])), jnp.full(1, factor))[0]
    assert np.abs(np.asarray(found) - expected).max() <= 1.5  # PIL rounds at every stage


def test_neutral_factors_change_nothing() -> None:
    one, zero = jnp.ones(4), jnp.zeros(4)
    for adjust in (augment.adjust_brightness, augment.adjust_contrast, augment.adjust_saturation):
        assert np.allclose(adjust(jnp.asarray(_images()), one), _images(), atol=1e-6)
    assert np.allclose(augment.adjust_hue(jnp.asarray(_images()), zero), _images(), atol=1e-6)


def test_results_stay_in_range_and_differ_between_images() -> None:
    same = np.repeat(_images(1), 16, axis=0)
    found = np.asarray(_jitter(same, jax.random.key(0), STRENGTHS, 1.0, 0.0))
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert len(np.unique(found.reshape(16, -1).round(5), axis=0)) == 16


def test_an_image_depends_on_its_index_and_not_on_its_neighbours() -> None:
    images, key = _images(8), jax.random.key(1)
    whole = _jitter(images, key, STRENGTHS, 0.8, 0.2)
    half = _jitter(images[:4], key, STRENGTHS, 0.8, 0.2)
    assert np.allclose(whole[:4], half, atol=1e-6)
    others = images.copy()
    others[4:] = 0
    assert np.allclose(_jitter(others, key, STRENGTHS, 0.8, 0.2)[:4], half, atol=1e-6)


@pytest.mark.parametrize("devices", [2, 8])
def test_the_result_does_not_depend_on_the_number_of_devices(devices: int) -> None:
    if jax.device_count() < devices:
        pytest.skip(f"{devices} devices are needed, {jax.device_count()} are there")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    images, key = _images(16), jax.random.key(4)
    spread = _jitter(jax.device_put(images, rows), key, STRENGTHS, 0.8, 0.2)
    assert len(spread.sharding.device_set) == devices
    assert np.allclose(spread, _jitter(images, key, STRENGTHS, 0.8, 0.2), atol=1e-6)


def test_one_key_gives_one_result() -> None:
    first = _jitter(_images(), jax.random.key(2), STRENGTHS, 0.8, 0.2)
    assert np.array_equal(first, _jitter(_images(), jax.random.key(2), STRENGTHS, 0.8, 0.2))
    assert not np.array_equal(first, _jitter(_images(), jax.random.key(3), STRENGTHS, 0.8, 0.2))


def test_zero_probability_is_the_identity() -> None:
    assert np.array_equal(_jitter(_images(), jax.random.key(0), STRENGTHS, 0.0, 0.0), _images())
    assert np.array_equal(_jitter(_images(), jax.random.key(0), (0, 0, 0, 0), 1.0, 0.0), _images())


def test_grayscale_makes_channels_equal() -> None:
    found = np.asarray(_jitter(_images(), jax.random.key(0), STRENGTHS, 0.0, 1.0))
    assert np.allclose(found, (_images() @ WEIGHTS)[..., None], atol=1e-6)
    assert np.array_equal(found[..., 0], found[..., 2])


def test_probabilities_are_met_and_independent() -> None:
    pixels = np.full((4000, 1, 1, 3), [0.5, 0.3, 0.2], np.float32)
    found = np.asarray(_jitter(pixels, jax.random.key(0), (0.4, 0, 0, 0), 0.8, 0.2))
    grey = np.ptp(found, axis=-1).ravel() < 1e-6
    luma = (found @ WEIGHTS).ravel()
    # The weights sum to .9999, so grey is darker by 1e-4 of itself.
    still = np.isclose(luma, (pixels @ WEIGHTS).ravel(), atol=1e-4)
    assert abs(grey.mean() - 0.2) < 0.03
    assert abs(1 - still.mean() - 0.8) < 0.03
    assert abs((grey & ~still).mean() - 0.16) < 0.03


def test_factors_are_uniform_in_their_range() -> None:
    pixels = np.full((4000, 1, 1, 3), 0.5, np.float32)
    factors = np.asarray(_jitter(pixels, jax.random.key(0), (0.4, 0, 0, 0), 1.0, 0.0))[:, 0, 0, 0] / 0.5
    counts, _ = np.histogram(factors, bins=8, range=(0.6, 1.4))
    assert counts.sum() == 4000
    assert np.abs(counts - 500).max() < 100


def test_hue_turns_both_ways_within_its_range() -> None:
    pixels = np.full((2000, 1, 1, 3), [1.0, 0.0, 0.0], np.float32)
    found = np.asarray(_jitter(pixels, jax.random.key(0), (0, 0, 0, 0.1), 1.0, 0.0))[:, 0, 0]
    turns = np.array([colorsys.rgb_to_hsv(*pixel.tolist())[0] for pixel in found])
    turns = np.where(turns > 0.5, turns - 1, turns)
    assert turns.min() > -0.1 - 1e-5
    assert turns.max() < 0.1 + 1e-5
    assert turns.min() < -0.09
    assert turns.max() > 0.09
    assert abs(turns.mean()) < 0.01


def test_the_order_of_the_adjustments_varies_with_the_key() -> None:
    """Brightness and contrast do not commute once clipped: both orders must occur, and no third result."""
    image = np.zeros((1, 1, 2, 3), np.float32)
    image[0, 0, 1] = 0.9
    seen = set()
    for seed in range(12):
        key = jax.random.key(seed)
        found = np.asarray(_jitter(image, key, (1.0, 1.0, 0, 0), 1.0, 0.0))
        example = jax.random.fold_in(jax.random.split(key)[1], 0)
        brightness, contrast = 2 * jax.random.uniform(example, (6,))[2:4, None]
        first = augment.adjust_contrast(augment.adjust_brightness(jnp.asarray(image), brightness), contrast)
        second = augment.adjust_brightness(augment.adjust_contrast(jnp.asarray(image), contrast), brightness)
        matches = (np.allclose(found, first, atol=1e-5), np.allclose(found, second, atol=1e-5))
        assert any(matches)
        seen.add(matches)
    assert {(True, False), (False, True)} <= seen


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 16), (7, 3), (16, 16), (15, 11)])
def test_images_grow_as_where_they_are_decoded(height: int, width: int) -> None:
    """Bilinear with half-pixel centres, to the next whole number; what is beside the image does not count."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    part = np.ascontiguousarray(image[:height, :width])
    grown = np.asarray(augment.enlarged(jnp.asarray(image[None]), jnp.asarray([[height, width]])))[0]
    exact = cv2.resize(part.astype(np.float64), (16, 16), interpolation=cv2.INTER_LINEAR)
    assert np.abs(grown - exact).max() <= 0.5 + 1e-3
    assert np.array_equal(grown, np.round(grown))
    assert np.abs(grown - images.resize(part, 16, antialias=True)).max() <= 1
    whole = augment.whole({"image": jnp.asarray(image[None])})
    assert whole.dtype == jnp.uint8
    assert np.array_equal(np.asarray(whole)[0], image)
