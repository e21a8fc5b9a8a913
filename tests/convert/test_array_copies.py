"""Copies in tiles hold what NumPy's hold."""

import itertools

import numpy as np
import pytest

from wenlan_jax.convert import array_copies
from wenlan_jax.convert.array_copies import SOURCE_TILE, TARGET_TILE

SHAPES = [
    (SOURCE_TILE + 3, TARGET_TILE + 5),
    (2, TARGET_TILE * 2 + 1, SOURCE_TILE * 2 - 1),
    (7, 5, 3, 3),
    (1, 4, 1, 6),
    (0, 3),
    (5,),
    (),
]


def numbers(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_any_order_of_axes_is_copied_as_numpy_does(shape: tuple[int, ...]) -> None:
    for axes in itertools.permutations(range(len(shape))):
        view = numbers(shape).transpose(axes)
        copy = array_copies.contiguous(view)
        assert copy.flags.c_contiguous and copy.dtype == view.dtype
        np.testing.assert_array_equal(copy, view)


@pytest.mark.parametrize("dtype", ["float16", "int64", "uint8", "bool"])
def test_any_type_keeps_its_bits(dtype: str) -> None:
    view = numbers((TARGET_TILE + 1, 90), dtype).T
    copy = array_copies.contiguous(view)
    assert copy.dtype == view.dtype and copy.tobytes() == view.tobytes()


@pytest.mark.parametrize(
    "view",
    [
        numbers((70, 80))[::-1, ::2].T,
        numbers((70, 80)).T[:, ::-1],
        np.broadcast_to(numbers((80,)), (70, 80)).T,
        np.broadcast_to(numbers((70, 1)), (70, 80)),
    ],
    ids=["steps", "backwards", "repeated rows", "repeated columns"],
)
def test_views_of_other_steps_are_copied(view: np.ndarray) -> None:
    copy = array_copies.contiguous(view)
    assert copy.flags.c_contiguous
    np.testing.assert_array_equal(copy, view)


def test_what_lies_in_order_is_not_copied() -> None:
    array = numbers((4, 5))
    assert array_copies.contiguous(array) is array


def test_a_buffer_holds_one_copy_at_a_time() -> None:
    buffer = array_copies.Buffer()
    for dtype, shape in (("float32", (3, 5)), ("float16", (9, 7)), ("int64", (2, 2))):
        view = numbers(shape, dtype).T
        copy = buffer.contiguous(view)
        assert copy.dtype == view.dtype and copy.flags.c_contiguous
        np.testing.assert_array_equal(copy, view)
        kept = copy
        assert np.shares_memory(buffer.contiguous(view), kept)
        assert buffer.contiguous(kept) is kept


@pytest.mark.parametrize("shape", SHAPES)
def test_stacking_is_that_of_numpy(shape: tuple[int, ...]) -> None:
    views = [np.asarray(numbers(shape) + start).T for start in range(3)]
    stacked = array_copies.stacked(views)
    assert stacked.flags.c_contiguous
    np.testing.assert_array_equal(stacked, np.stack(views))


def test_arrays_of_different_shapes_are_not_stacked() -> None:
    with pytest.raises(ValueError, match=r"float32 \(2, 3\).*float32 \(3, 2\)"):
        array_copies.stacked([numbers((2, 3)), numbers((3, 2))])
