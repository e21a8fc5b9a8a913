"""Files for `torch.load` that are written array by array: what PyTorch, zip tools and this package read in them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from wenlan_jax.convert import torch_file, weights

VALUES = np.random.default_rng(0).integers(0, 2, (3, 5, 2))
TYPES = [*(getattr(np, name, None) or ml_dtypes.bfloat16 for name in torch_file.STORAGES)]


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with weights.torch_file(path) as file:
        stored = {key: file.put(array) for key, array in arrays.items()}
        file.finish({"learnable": stored, "step": 7})


@pytest.mark.parametrize("load", [lambda path: torch.load(path), lambda path: torch.load(path, mmap=True)])
def test_every_type_and_shape_is_what_torch_itself_would_save(tmp_path: Path, load: Callable[[Path], dict]) -> None:
    arrays = {np.dtype(kind).name: VALUES.astype(kind) for kind in TYPES}
    arrays |= {"none": np.zeros((0, 4), np.float32), "one": np.float32([3.5]), "plain": np.array(2.5, np.float32)}
    arrays |= {"view": VALUES.astype(np.float32).transpose(2, 0, 1)[:, ::2]}
    write(tmp_path / "x.pth", arrays)
    read = load(tmp_path / "x.pth")
    assert read["step"] == 7
    assert list(read["learnable"]) == list(arrays)
    for key, array in arrays.items():
        tensor = read["learnable"][key]
        plain = array.astype(np.float32) if key == "bfloat16" else np.ascontiguousarray(array)
        expected = torch.from_numpy(plain.reshape(array.shape)).to(getattr(torch, array.dtype.name))
        assert tensor.dtype == expected.dtype and tensor.is_contiguous(), key
        assert torch.equal(tensor, expected), key


@pytest.mark.parametrize("limit", [None, 100])
def test_the_archive_is_sound_and_aligned(tmp_path: Path, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checksums of every record hold, and values start at multiples of 64 bytes, where they can be mapped."""
    if limit is not None:  # records above it get the header of those beyond 2 GiB
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    path = tmp_path / "x.pth"
    arrays = {str(size): np.arange(size, dtype=np.float32) for size in (1, 3, 17, 40, 1000)}
    write(path, arrays)
    monkeypatch.undo()
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for number, array in enumerate(arrays.values()):
            header = archive.getinfo(f"archive/data/{number}").header_offset
            name, extra = (int.from_bytes(content[header + at : header + at + 2], "little") for at in (26, 28))
            start = header + 30 + name + extra
            assert start % 64 == 0
            assert content[start : start + array.nbytes] == array.tobytes()
    for key, tensor in torch.load(path, weights_only=True)["learnable"].items():
        np.testing.assert_array_equal(tensor.numpy(), arrays[key])


def test_values_are_taken_when_they_are_put(tmp_path: Path) -> None:
    """An array may be used for something else as soon as it was put."""
    array = np.ones(4, np.float32)
    with weights.torch_file(tmp_path / "x.pth") as file:
        first = file.put(array)
        array[:] = 2
        file.finish({"first": first, "second": file.put(array)})
    read = torch.load(tmp_path / "x.pth", weights_only=True)
    assert (read["first"].tolist(), read["second"].tolist()) == ([1.0] * 4, [2.0] * 4)


def test_an_unknown_type_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no type for complex64"):
        write(tmp_path / "x.pth", {"a": np.ones(2, np.complex64)})
    assert not list(tmp_path.iterdir())
