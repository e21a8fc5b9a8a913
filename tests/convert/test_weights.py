"""Files of weights: every accepted form gives the same arrays, and every bad one a clear error."""

from __future__ import annotations

import builtins
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("torch")

import safetensors.numpy
import safetensors.torch
import torch

from wenlan_jax.convert import torch_modules, weights
from wenlan_jax.convert.weights import WeightsError

State = dict[str, np.ndarray]


@pytest.fixture
def state() -> State:
    rng = np.random.default_rng(0)
    return {
        "layer.weight": rng.normal(size=(5, 7)).astype(np.float32),
        "layer.bias": rng.normal(size=3).astype(np.float32),
        "bn.num_batches_tracked": np.array(9, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "mask": np.array([True, False, True]),
    }


def tensors(state: State) -> dict[str, torch.Tensor]:
    return {key: torch.tensor(value) for key, value in state.items()}


def assert_same(read: State, expected: State) -> None:
    assert set(read) == set(expected)
    for key, value in expected.items():
        assert (read[key].dtype, read[key].shape) == (value.dtype, value.shape), key
        np.testing.assert_array_equal(read[key], value)


def write_index(folder: Path, shards: dict[str, list[str]], name: str) -> Path:
    places = {key: file for file, keys in shards.items() for key in keys}
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder / name


def write_sharded(folder: Path, state: State) -> Path:
    """Two safetensors shards and their index, by the reference writer."""
    names = sorted(state)
    shards = {"model-1-of-2.safetensors": names[:2], "model-2-of-2.safetensors": names[2:]}
    for file, keys in shards.items():
        safetensors.numpy.save_file({key: state[key] for key in keys}, folder / file)
    return write_index(folder, shards, "model.safetensors.index.json")


def test_the_reference_package_reads_what_we_write(tmp_path: Path, state: State):
    state |= {"half": np.arange(3, dtype=np.float16), "brain": np.arange(3).astype(ml_dtypes.bfloat16)}
    state["transposed"] = state["layer.weight"].T
    path = tmp_path / "x.safetensors"
    weights.write_safetensors(state, path, {"step": "7", "note": "文澜"})
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"step": "7", "note": "文澜"}
        theirs = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a dictionary
    assert theirs.pop("brain").dtype == torch.bfloat16
    del state["brain"]
    assert_same({key: value.numpy() for key, value in theirs.items()}, state)


def test_we_read_what_the_reference_package_writes(tmp_path: Path, state: State):
    safetensors.numpy.save_file(state, tmp_path / "x.safetensors", {"format": "pt"})
    assert_same(weights.read(tmp_path / "x.safetensors"), state)


def test_round_trip_is_bit_exact(tmp_path: Path, state: State):
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    state["odd"] = np.array([-0.0, np.nan, np.inf, np.finfo(np.float32).tiny / 2], np.float32)
    weights.write_safetensors(state, first, {})
    read = weights.read(first)
    assert read["odd"].tobytes() == state["odd"].tobytes()
    weights.write_safetensors(dict(reversed(read.items())), second, {})
    assert first.read_bytes() == second.read_bytes()


def test_float32_arrays_are_views_of_the_mapped_file(tmp_path: Path, state: State):
    weights.write_safetensors(state, tmp_path / "x.safetensors", {})
    weights.write_torch(state, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        array = weights.read(tmp_path / name)["layer.weight"]
        assert not array.flags.owndata and not array.flags.writeable
        assert array.flags.aligned


def test_unaligned_headers_are_read(tmp_path: Path):
    entry = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(entry).encode()
    text += b" " * (3 - len(text) % 4)
    values = np.array([1.5, -2.0], np.float32)
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + values.tobytes())
    read = weights.read(tmp_path / "x.safetensors")["a"]
    assert read.flags.aligned
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize("old_format", [False, True])
def test_pickled_files(tmp_path: Path, state: State, suffix: str, old_format: bool):
    path = tmp_path / f"x{suffix}"
    torch.save(tensors(state), path, _use_new_zipfile_serialization=not old_format)
    assert_same(weights.read(path), state)


def test_write_torch_keeps_nesting_types_and_order(tmp_path: Path, state: State):
    state["half"] = np.arange(3, dtype=np.float16)
    state["brain"] = np.array([1.5, -2.0]).astype(ml_dtypes.bfloat16)
    for value in state.values():
        value.flags.writeable = False
    weights.write_torch({"learnable": state, "step": 3}, tmp_path / "x.pth")
    read = torch.load(tmp_path / "x.pth", weights_only=True)
    assert read["step"] == 3 and list(read["learnable"]) == list(state)
    assert read["learnable"]["brain"].dtype == torch.bfloat16
    assert read["learnable"].pop("brain").tolist() == [1.5, -2.0]
    del state["brain"]
    assert_same({key: value.numpy() for key, value in read["learnable"].items()}, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_half_precision_is_widened(tmp_path: Path, state: State, dtype: torch.dtype, suffix: str):
    half = {key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors(state).items()}
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(half, tmp_path / f"x{suffix}")
    expected = {key: value.float().numpy() if value.dtype == dtype else value.numpy() for key, value in half.items()}
    assert_same(weights.read(tmp_path / f"x{suffix}"), expected)


@pytest.mark.parametrize(
    "levels", [("learnable",), ("module", "learnable"), ("state_dict", "module"), ("model", "state_dict", "learnable")]
)
def test_outer_levels_are_opened_and_what_lies_beside_them_is_dropped(tmp_path: Path, state: State, levels: tuple):
    content: Any = tensors(state)
    for level in levels:
        content = {"epoch": 3, "optimizer": {"state": {}}, "best": torch.ones(1), level: content}
    torch.save(content, tmp_path / "x.pt")
    assert_same(weights.read(tmp_path / "x.pt"), state)


def test_queues_and_pointers_beside_the_state_dict_are_kept(tmp_path: Path, state: State):
    beside = {"image_queue": torch.ones(4, 2), "queue_ptr": 3}
    inner = {f"module.{key}": value for key, value in tensors(state).items()}
    torch.save({**beside, "lr": 0.1, "learnable": inner}, tmp_path / "x.pt")
    extra = {"image_queue": np.ones((4, 2), np.float32), "queue_ptr": np.array(3)}
    assert_same(weights.read(tmp_path / "x.pt"), {**state, **extra})


@pytest.mark.parametrize("prefix", ["module.", "module.module.", "_orig_mod.", "module._orig_mod."])
def test_wrapper_prefixes_of_all_keys_are_removed(tmp_path: Path, state: State, prefix: str):
    torch.save({prefix + key: value for key, value in tensors(state).items()}, tmp_path / "x.pt")
    assert_same(weights.read(tmp_path / "x.pt"), state)


def test_a_prefix_of_some_keys_only_is_a_name(tmp_path: Path, state: State):
    mixed = {**state, "module.weight": state["layer.weight"]}
    weights.write_safetensors(mixed, tmp_path / "x.safetensors", {})
    assert_same(weights.read(tmp_path / "x.safetensors"), mixed)


def test_gradients_and_strides_do_not_matter(tmp_path: Path):
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    torch.save({"p": parameter, "t": parameter.detach().T}, tmp_path / "x.pt")
    read = weights.read(tmp_path / "x.pt")
    np.testing.assert_array_equal(read["p"].T, read["t"])
    assert read["t"].shape == (3, 2)


def test_sharded_by_directory_by_index_and_as_bin(tmp_path: Path, state: State):
    index = write_sharded(tmp_path, state)
    assert_same(weights.read(tmp_path), state)
    assert_same(weights.read(index), state)
    pickled = tmp_path / "bin"
    pickled.mkdir()
    torch.save(tensors(state), pickled / "pytorch_model-1-of-1.bin")
    write_index(pickled, {"pytorch_model-1-of-1.bin": list(state)}, "pytorch_model.bin.index.json")
    assert_same(weights.read(pickled), state)


def test_a_directory_prefers_safetensors_and_takes_a_lone_file(tmp_path: Path, state: State):
    torch.save({"other": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    weights.write_safetensors(state, tmp_path / "model.safetensors", {})
    assert_same(weights.read(tmp_path), state)
    lone = tmp_path / "lone"
    lone.mkdir()
    torch.save(tensors(state), lone / "BriVL.pth")
    assert_same(weights.read(lone), state)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.path),)


def save_plainly(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def save_in_old_format(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [torch.save, save_in_old_format, save_plainly])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, save: Callable):
    trap = tmp_path / "trap"
    save({"weight": [1, 2], "extra": Malicious(trap)}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"x\.pt.*mkdir.*--trust-pickle"):
        weights.read(tmp_path / "x.pt")
    assert not trap.exists()


def test_a_pickle_that_torch_did_not_write_is_no_state_dict(tmp_path: Path):
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"weight": np.ones(2), "extra": Malicious(tmp_path / "trap")}))
    with pytest.raises(WeightsError, match="not written by torch.save"):
        weights.read(tmp_path / "x.pt")
    assert not (tmp_path / "trap").exists()


def test_a_trusted_pickle_is_loaded(tmp_path: Path):
    module = torch.nn.Linear(2, 3)
    torch.save({"model": module, "arguments": Malicious(tmp_path / "trap")}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="--trust-pickle"):
        weights.read(tmp_path / "x.pt")
    read = weights.read(tmp_path / "x.pt", trust_pickle=True)
    np.testing.assert_array_equal(read["weight"], module.weight.detach())
    assert (tmp_path / "trap").is_dir()


@pytest.mark.parametrize("keep", [0, 5, 40, 0.5, -1])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".old.pt"])
def test_a_truncated_file_is_named(tmp_path: Path, state: State, suffix: str, keep: float):
    path = tmp_path / f"x{suffix}"
    if suffix == ".safetensors":
        weights.write_safetensors(state, path, {})
    else:
        torch.save(tensors(state), path, _use_new_zipfile_serialization=suffix == ".pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(WeightsError, match=r"x.*truncated or damaged"):
        weights.read(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_something_else_under_the_name_is_named(tmp_path: Path, suffix: str):
    for content in (b"version https://git-lfs.github.com/spec/v1\n", b"<html>not found</html>" * 9, b"\xff" * 64):
        (tmp_path / f"x{suffix}").write_bytes(content)
        with pytest.raises(WeightsError, match="truncated or damaged"):
            weights.read(tmp_path / f"x{suffix}")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "8 bytes for shape"),
        ({"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}, "type F8_E4M3, which is not supported"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}, "promises"),
        ({"dtype": "F32"}, "header cannot be read"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}, "damaged"),
    ],
)
def test_a_wrong_safetensors_header_is_named(tmp_path: Path, entry: dict, message: str):
    text = json.dumps({"a": entry}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(WeightsError, match=message):
        weights.read(tmp_path / "x.safetensors")


def test_missing_shards_and_keys_are_named(tmp_path: Path, state: State):
    index = write_sharded(tmp_path, state)
    (tmp_path / "model-2-of-2.safetensors").rename(tmp_path / "aside")
    with pytest.raises(WeightsError, match=r"missing shard\(s\) model-2-of-2.safetensors"):
        weights.read(index)
    safetensors.numpy.save_file({"x": np.zeros(1)}, tmp_path / "model-2-of-2.safetensors")
    with pytest.raises(WeightsError, match="empty, layer.bias, layer.weight, mask|layer.weight.*not in the shard"):
        weights.read(index)


def test_an_index_cannot_point_elsewhere(tmp_path: Path, state: State):
    weights.write_safetensors(state, tmp_path / "x.safetensors", {})
    inner = tmp_path / "inner"
    inner.mkdir()
    index = write_index(inner, {"../x.safetensors": list(state)}, "model.safetensors.index.json")
    with pytest.raises(WeightsError, match="beside the index"):
        weights.read(index)
    index.write_text("{}")
    with pytest.raises(WeightsError, match="no `weight_map`"):
        weights.read(index)


def test_absent_and_unclear_paths_are_named(tmp_path: Path, state: State):
    with pytest.raises(WeightsError, match="no such file"):
        weights.read(tmp_path / "nothing.pt")
    with pytest.raises(WeightsError, match=r"no file of weights.*model\.safetensors"):
        weights.read(tmp_path)
    for name in ("a.pt", "b.pth"):
        torch.save(tensors(state), tmp_path / name)
    with pytest.raises(WeightsError, match=r"several files of weights \(a.pt, b.pth\)"):
        weights.read(tmp_path)
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(WeightsError, match="rename it or give another"):
        weights.read(tmp_path / "weights.h5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(3), "holds a Tensor, not a state dict"),
        ({"names": ["a"], "w": torch.ones(1)}, r"names \(list\)"),
        ({"s": torch.ones(2, 2).to_sparse()}, r"s \(Tensor\)"),
        ({3: torch.ones(1)}, r"3 \(Tensor\)"),
        ({"model": {"a": torch.ones(1)}, "module": {"a": torch.ones(1)}}, "under each of module, model"),
        ({}, "is empty"),
    ],
)
def test_other_content_is_named(tmp_path: Path, content: Any, message: str):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=message):
        weights.read(tmp_path / "x.pt")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.safetensors"
    weights.write_safetensors({"a": np.ones(2, np.float32)}, path, {})
    before = path.read_bytes()
    with pytest.raises(WeightsError, match=r"b \(complex128\)"):
        weights.write_safetensors({"b": np.ones(2, np.complex128)}, path, {})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    for write in (
        lambda: weights.write_safetensors({"c": np.ones(9)}, path, {}),
        lambda: weights.write_torch({}, path),
    ):
        with pytest.raises(OSError, match="disk full"):
            write()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_without_torch_only_pickles_are_out_of_reach(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch):
    torch.save(tensors(state), tmp_path / "x.pt")
    weights.write_safetensors(state, tmp_path / "x.safetensors", {})
    plain_import = builtins.__import__

    def without_torch(name: str, *rest: Any, **named: Any) -> Any:
        if name == "torch":
            raise ImportError(name)
        return plain_import(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert_same(weights.read(tmp_path / "x.safetensors"), state)
    with pytest.raises(WeightsError, match=r"wenlan_jax\[torch\]"):
        weights.read(tmp_path / "x.pt")


def stored(header: str | dict, data: int) -> bytes:
    """A safetensors file with this header and so many bytes of data."""
    text = (json.dumps(header) if isinstance(header, dict) else header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def entry(begin: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end], **changes}


ONE = json.dumps(entry(0, 8))
WIDE = f'{{"a":{ONE}}}'.encode("utf-16")
LIES = {
    "overlap": (stored({"a": entry(0, 8), "b": entry(4, 12)}, 12), "b, at bytes 4 to 12, overlaps"),
    "same place": (stored({"a": entry(0, 8), "b": entry(0, 8)}, 8), "overlaps"),
    "within": (stored({"a": entry(0, 12), "b": entry(4, 8)}, 12), "overlaps"),
    "gap": (stored({"a": entry(0, 8), "b": entry(12, 16)}, 16), "b, at bytes 12 to 16, does not follow"),
    "gap at the start": (stored({"a": entry(4, 12)}, 12), "does not follow"),
    "more data": (stored({"a": entry(0, 8)}, 12), "promises 8 bytes of data, but it has 12"),
    "less data": (stored({"a": entry(0, 8)}, 4), "promises 8"),
    "negative": (stored({"a": entry(-8, 0, shape=[2])}, 0), "not all whole numbers"),
    "backwards": (stored({"a": entry(8, 0, shape=[-2])}, 8), "not all whole numbers"),
    "fractions": (stored({"a": entry(0, 8, data_offsets=[0.0, 8.0])}, 8), "not all whole numbers"),
    "truth": (stored({"a": entry(0, 4, shape=[True])}, 4), "not all whole numbers"),
    "key twice": (stored(f'{{"a": {ONE}, "a": {ONE}}}', 8), "'a' comes twice"),
    "metadata twice": (stored(f'{{"__metadata__": {{"x": "1", "x": "2"}}, "a": {ONE}}}', 8), "'x' comes twice"),
    "offsets twice": (stored('{"a": {"dtype": "F32", "shape": [2], "shape": [1]}}', 8), "'shape' comes twice"),
    "nested": (stored({"a": {"b": entry(0, 8)}}, 8), "an entry has b"),
    "deep": (stored('{"a":' * 100_000 + "1" + "}" * 100_000, 0), "header cannot be read"),
    "more fields": (stored({"a": entry(0, 8, more=1)}, 8), "an entry has data_offsets, dtype, more"),
    "three offsets": (stored({"a": entry(0, 8, data_offsets=[0, 4, 8])}, 8), "header cannot be read"),
    "list": (stored("[]", 0), "header cannot be read"),
    "metadata of numbers": (stored({"__metadata__": {"step": 7}, "a": entry(0, 8)}, 8), "must give texts"),
    "UTF-16": (len(WIDE).to_bytes(8, "little") + WIDE + bytes(8), "header cannot be read"),
    "shape": (stored({"a": entry(0, 8, shape=[3])}, 8), "8 bytes for shape"),
    "type": (stored({"a": entry(0, 8, dtype="F64", shape=[2])}, 8), "8 bytes for shape"),
    "product beyond 64 bits": (stored({"a": entry(0, 0, shape=[2**40, 2**40])}, 0), "0 bytes for shape"),
    "too many axes": (stored({"a": entry(0, 4, shape=[1] * 99)}, 4), "a has shape"),
    "huge header": ((2**62).to_bytes(8, "little") + b"{}", "header is incomplete"),
    "header beyond the limit": ((100_000_001).to_bytes(8, "little") + b"{}", "header is incomplete"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_safetensors_that_lie_are_refused(tmp_path: Path, lie: str):
    content, message = LIES[lie]
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        weights.read(tmp_path / "x.safetensors")


def test_shipped_code_refuses_overlaps_gaps_and_ends_outside(tmp_path: Path):
    for lie in ("overlap", "same place", "gap", "gap at the start", "less data", "negative"):
        (tmp_path / "x.safetensors").write_bytes(LIES[lie][0])
        with pytest.raises(ValueError, match="does not follow"):
            torch_modules.read_safetensors(tmp_path / "x.safetensors")


def index_of(folder: Path, **places: Any) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {key.replace("__", "."): place for key, place in places.items()}}))
    return path


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "in/x.safetensors", "..", ".", ""])
def test_shards_lie_beside_their_index(tmp_path: Path, state: State, name: str):
    weights.write_safetensors(state, tmp_path / "x.safetensors", {})
    with pytest.raises(WeightsError, match="must lie beside the index"):
        weights.read(index_of(tmp_path, a=name))


@pytest.mark.parametrize("place", [7, None, ["x.safetensors"], {"file": "x.safetensors"}])
def test_an_index_names_files(tmp_path: Path, place: Any):
    with pytest.raises(WeightsError, match="a file's name"):
        weights.read(index_of(tmp_path, a=place))


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{" * 9, "[" * 200_000])
def test_an_index_that_is_none_is_told(tmp_path: Path, text: str):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(WeightsError, match="not an index of a sharded model"):
        weights.read(tmp_path)


def test_an_index_with_a_key_twice_is_refused(tmp_path: Path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x", "a": "y"}}')
    with pytest.raises(WeightsError, match="'a' comes twice"):
        weights.read(tmp_path)


@pytest.mark.parametrize(("present", "told"), [((1, 3), "00002-of"), ((1, 2), "00003-of"), ((2, 3), "00001-of")])
def test_an_index_that_leaves_out_a_shard_is_refused(tmp_path: Path, state: State, present: tuple, told: str):
    for number in (1, 2, 3):
        weights.write_safetensors({f"k{number}": state["layer.weight"]}, shard(tmp_path, number), {})
    with pytest.raises(WeightsError, match=f"missing shard.*model-{told}.*not named"):
        weights.read(index_of(tmp_path, **{f"k{number}": shard(tmp_path, number).name for number in present}))


def shard(folder: Path, number: int) -> Path:
    return folder / f"model-{number:05}-of-00003.safetensors"


def test_an_index_that_leaves_out_a_key_is_refused(tmp_path: Path, state: State):
    weights.write_safetensors({"a": state["layer.weight"], "b": state["layer.weight"]}, tmp_path / "x.safetensors", {})
    with pytest.raises(WeightsError, match="does not name b of x.safetensors"):
        weights.read(index_of(tmp_path, a="x.safetensors"))
