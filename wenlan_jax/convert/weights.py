"""Files of PyTorch weights, as flat dictionaries of NumPy arrays: the only reader and writer of both formats.

Safetensors are read and written here rather than by the `safetensors` package, which reads each array into new memory
and wants all arrays that it writes in order at once: 2 GB more for 2 GB, both ways. Here arrays are
views of the mapped file, and writing holds one array at a time. The package also takes a file with a key twice. The
format is eight bytes of header length, a JSON header of types, shapes and offsets, and the data
(https://github.com/huggingface/safetensors). Pickled files go through `torch.load`; torch is imported for them only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import ml_dtypes
import numpy as np

from wenlan_jax.convert import array_copies
from wenlan_jax.convert.torch_file import TorchFile
from wenlan_jax.util.errors import WenlanError

SAFETENSORS_SUFFIX = ".safetensors"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
INDEX_SUFFIX = ".index.json"
DIRECTORY_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What a Hugging Face directory keeps its weights in, the preferred first."""

OUTER_LEVELS = ("module", "state_dict", "model", "learnable")
"""Dictionary keys under which training code keeps a state dict: DeepSpeed, common scripts, the official BriVL."""

_BESIDE = re.compile(r"queue|ptr|pointer")
"""What belongs to the model although it may lie beside the state dict: queues of negatives and their pointers."""

WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile put before every key."""

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""Types of the safetensors format that NumPy and ml_dtypes have."""

_HALF = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_HEADER_LENGTH = 8
_MAXIMAL_HEADER = 100_000_000
"""Bytes; the format's own limit, which keeps damaged lengths from being believed."""
_NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)-of-(?P<total>\d+)(?P<after>.*)")
"""The name of a shard by the usual scheme."""
_ZIP = b"PK\x03\x04"
_LFS_POINTER = b"version https://git-lfs"

StateDict = dict[str, np.ndarray]


class WeightsError(WenlanError, ValueError):
    """A file of weights that cannot be read or written; the message names the file and the remedy."""


def read(path: Path, trust_pickle: bool = False) -> StateDict:
    """Reads a PyTorch state dict.

    Outer levels (`OUTER_LEVELS`, in any order) are opened; what lies beside them is dropped, but for queues.
    Wrapper prefixes that all keys share are removed, and plain numbers become arrays without axes. Half
    precision becomes float32, other types stay.

    Args:
        path: a file, a Hugging Face directory, or the index of a sharded model.
        trust_pickle: run whatever code a pickled file contains. Without it only tensors and plain containers are read.

    Returns:
        Read-only arrays by key; float32 ones are views of the mapped file.

    Raises:
        WeightsError: if the file is absent, damaged, needs trust or holds something else.
    """
    file = _weights_file(Path(path))
    flat = _read_shards(file, trust_pickle) if file.name.endswith(INDEX_SUFFIX) else _read_file(file, trust_pickle)
    if not flat:
        raise WeightsError(f"{file}: the state dict is empty; give a file that holds a model's weights.")
    return _without_wrappers(flat)


def write_safetensors(state: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes one safetensors file, array by array, keeping every type; nothing is left behind on failure.

    Args:
        state: arrays by key.
        path: the file.
        metadata: stored in the header.

    Raises:
        WeightsError: for a type that the format does not have.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    unknown = sorted(f"{key} ({array.dtype})" for key, array in state.items() if array.dtype not in names)
    if unknown:
        raise WeightsError(f"{path}: safetensors have no type for {', '.join(unknown)}; convert these arrays first.")
    # Wide types first, as the reference writer does: every array is then aligned to its own type.
    ordered = dict(sorted(state.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for key, array in ordered.items():
        end = offset + array.nbytes
        header[key] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_LENGTH)
    with _replacing(path) as file:
        file.write(len(text).to_bytes(_HEADER_LENGTH, "little") + text)
        for array in ordered.values():
            file.write(array_copies.contiguous(array).reshape(-1).view(np.uint8).data)


def write_torch(state: Mapping[str, Any], path: Path) -> None:
    """Writes a dictionary, nested as it is, as `torch.save` does; nothing is left behind on failure.

    Args:
        state: arrays become tensors of their type; other values are stored as they are.
        path: the file.

    Raises:
        WeightsError: if torch is not installed.
    """
    _torch(path)
    with torch_file(path) as file:
        file.finish(_put(state, file))


@contextlib.contextmanager
def torch_file(path: Path) -> Iterator[TorchFile]:
    """Opens a file for `torch.load` to be written array by array; it appears once the block ends well."""
    with _replacing(path) as file, contextlib.closing(TorchFile(file)) as archive:
        yield archive


def _put(value: Any, file: TorchFile) -> Any:
    """`value` with its arrays written and replaced by what stands for them."""
    if isinstance(value, Mapping):
        return {key: _put(inner, file) for key, inner in value.items()}
    return file.put(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic)) else value


def _weights_file(path: Path) -> Path:
    """The file that `path` stands for: itself, or the one in a directory that holds the weights."""
    if path.is_file():
        return path
    if not path.exists():
        raise WeightsError(f"{path}: there is no such file or directory.")
    for name in DIRECTORY_FILES:
        if (path / name).is_file():
            return path / name
    suffixes = (SAFETENSORS_SUFFIX, *PICKLE_SUFFIXES)
    found = sorted(file for file in path.iterdir() if file.suffix in suffixes)
    if len(found) == 1:
        return found[0]
    what = f"several files of weights ({', '.join(f.name for f in found)})" if found else "no file of weights"
    raise WeightsError(f"{path}: {what} and none of {', '.join(DIRECTORY_FILES)}; give the file itself.")


def _read_file(path: Path, trust_pickle: bool) -> StateDict:
    if path.suffix == SAFETENSORS_SUFFIX:
        return _read_safetensors(path)
    if path.suffix in PICKLE_SUFFIXES:
        return _state_of(_load_pickle(path, trust_pickle), path)
    accepted = ", ".join((SAFETENSORS_SUFFIX, *PICKLE_SUFFIXES, INDEX_SUFFIX))
    raise WeightsError(f"{path}: the name of a file of weights ends in one of {accepted}; rename it or give another.")


def _read_shards(index: Path, trust_pickle: bool) -> StateDict:
    """All arrays that an index names, from the files beside it."""
    places = _weight_map(index)
    names = sorted(set(places.values()))
    outside = [name for name in names if Path(name).name != name or name in ("", ".", "..")]
    if outside:
        raise WeightsError(f"{index}: shards must lie beside the index, not at {', '.join(outside)}.")
    missing = [name for name in names if not (index.parent / name).is_file()] + _left_out(names)
    if missing:
        raise WeightsError(f"{index}: missing shard(s) {', '.join(missing)}; download all of the model's files.")
    shards = {name: _read_file(index.parent / name, trust_pickle) for name in names}
    absent = sorted(key for key, name in places.items() if key not in shards[name])
    if absent:
        raise WeightsError(f"{index}: {', '.join(absent)} not in the shard that the index names; download it again.")
    beside = sorted(f"{key} of {name}" for name, shard in shards.items() for key in shard if places.get(key) != name)
    if beside:
        raise WeightsError(f"{index}: does not name {', '.join(beside[:5])}; index and shards are of different models.")
    return {key: shards[name][key] for key, name in places.items()}


def _weight_map(index: Path) -> dict[str, str]:
    """File by key. Raises WeightsError where the index is not one."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=_no_key_twice)["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{index}: not an index of a sharded model: no `weight_map` in it ({error}).") from error
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise WeightsError(f"{index}: not an index of a sharded model: `weight_map` must give each key a file's name.")
    return places


def _left_out(names: list[str]) -> list[str]:
    """Shards whose number no name has, though others of their series have `N-of-M`."""
    numbered = [match for match in map(_NUMBERED.fullmatch, names) if match]
    left_out = []
    for before, total, after in sorted({(m["before"], m["total"], m["after"]) for m in numbered}):
        found = {int(m["number"]) for m in numbered if (m["before"], m["total"], m["after"]) == (before, total, after)}
        # Names that agree on a total far beyond their number are told by the first that is missing.
        gap = next((n for n in range(1, min(int(total), len(found) + 1) + 1) if n not in found), None)
        if gap is not None:
            left_out.append(f"{before}{gap:0{len(total)}}-of-{total}{after} (not named)")
    return left_out


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that comes twice, readers would take different values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} comes twice")
    return found


def metadata(path: Path) -> dict[str, str]:
    """Reads what a safetensors file says of itself in its header.

    Args:
        path: see `read`.

    Returns:
        Its metadata; empty for other files.

    Raises:
        WeightsError: see `read`.
    """
    file = _weights_file(Path(path))
    return _header(file)[1] if file.suffix == SAFETENSORS_SUFFIX else {}


def _read_safetensors(path: Path) -> StateDict:
    entries, _, start = _header(path)
    empty = start == path.stat().st_size  # which cannot be mapped
    data = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, "r", start)
    return {key: _stored_array(path, key, entry, data) for key, entry in entries.items()}


Entry = tuple[str, tuple[int, ...], int, int]
"""Type, shape, and where the data begin and end."""


def _header(path: Path) -> tuple[dict[str, Entry], dict[str, str], int]:
    """Entries and metadata of a safetensors file, and where its data start.

    Raises WeightsError for a header that the format does not allow: its arrays must fill the data one after another.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEADER_LENGTH), "little")
        start = _HEADER_LENGTH + length
        if size < _HEADER_LENGTH or length > _MAXIMAL_HEADER or start > size:
            raise _damaged(path, "its header is incomplete")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_key_twice)
        said = header.pop("__metadata__", {})
        entries = {key: _entry(entry) for key, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"its header cannot be read: {error}") from error
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise _damaged(path, "its header cannot be read: `__metadata__` must give texts")
    _check_layout(path, entries, size - start)
    return entries, said, start


def _entry(entry: Any) -> Entry:
    """An entry of the header. Raises ValueError, TypeError or KeyError for anything but type, shape and offsets."""
    if set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"an entry has {', '.join(sorted(entry))}")
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    numbers = [*shape, begin, end]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"{numbers} are not all whole numbers from 0")
    return str(entry["dtype"]), tuple(shape), begin, end


def _check_layout(path: Path, entries: Mapping[str, Entry], size: int) -> None:
    """Raises WeightsError unless the arrays lie one after another, without gap or overlap, and fill the data."""
    place = 0
    for key, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != place or end < begin:
            what = "overlaps another array" if begin < place else "does not follow the array before it"
            raise _damaged(path, f"{key}, at bytes {begin} to {end}, {what}")
        place = end
    if place != size:
        raise _damaged(path, f"its header promises {place} bytes of data, but it has {size}")


def _stored_array(path: Path, key: str, entry: Entry, data: np.ndarray) -> np.ndarray:
    """One array of a safetensors file, a view of `data` if its type needs no change."""
    name, shape, begin, end = entry
    if name not in DTYPES:
        raise WeightsError(f"{path}: {key} has type {name}, which is not supported; convert it to float32.")
    dtype = DTYPES[name]
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _damaged(path, f"{key} has {end - begin} bytes for shape {shape}")
    try:
        array = np.asarray(data[begin:end]).view(dtype).reshape(shape)
    except ValueError as error:
        raise _damaged(path, f"{key} has shape {shape}: {error}") from error
    return _widened(array if array.flags.aligned else array.copy())


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype in _HALF else array


def _load_pickle(path: Path, trust_pickle: bool) -> Any:
    """What `torch.load` makes of a file; nothing in it is run unless trusted."""
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
    if not start or start == _LFS_POINTER:
        raise _damaged(path, "it has no weights in it")
    torch = _torch(path)
    try:
        with warnings.catch_warnings():
            # Said before a plain pickle is refused; the refusal says more.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            # Files from before torch 1.6 are no zip archives and cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle, mmap=start.startswith(_ZIP))
    except Exception as error:  # a damaged file makes the unpickler raise anything
        refused = re.search(r"GLOBAL ([\w.]+)|Can only (?:build|create)[^.]*", str(error))
        if trust_pickle or refused is None:
            detail = re.search(r"WeightsUnpickler error: *([^\n]+)", str(error)) or re.match(r"([^\n]*)", str(error))
            reason = (detail[1] if detail else "") or type(error).__name__
            raise _damaged(path, f"or not written by torch.save ({reason.strip()})") from error
        raise WeightsError(
            f"{path}: holds Python objects other than tensors ({refused[1] or refused[0]}), and loading them can run"
            " any code. If you trust where the file comes from, pass --trust-pickle; else save its state dict alone."
        ) from error


def _state_of(content: Any, path: Path) -> StateDict:
    """The flat state dict in what a pickled file holds, below any outer levels."""
    if not isinstance(content, Mapping) and callable(getattr(content, "state_dict", None)):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict; save model.state_dict().")
    inner = [name for name in OUTER_LEVELS if _is_level(content.get(name))]
    if len(inner) > 1:
        raise WeightsError(f"{path}: holds weights under each of {', '.join(inner)}; save one of them alone.")
    if inner:
        beside = {key: value for key, value in content.items() if _BESIDE.search(str(key))}
        return {**_arrays(beside, path), **_state_of(content[inner[0]], path)}
    return _without_wrappers(_arrays(content, path))


def _is_level(value: Any) -> bool:
    return isinstance(value, Mapping) or callable(getattr(value, "state_dict", None))


def _arrays(state: Mapping[Any, Any], path: Path) -> StateDict:
    strange = sorted(f"{key} ({type(value).__name__})" for key, value in state.items() if not _is_numeric(key, value))
    if strange:
        raise WeightsError(f"{path}: not a state dict of tensors: it holds {', '.join(strange[:5])}; save the weights.")
    return {key: _to_array(value) for key, value in state.items()}


def _is_numeric(key: Any, value: Any) -> bool:
    """Whether an entry is a dense tensor, an array or a number under a name."""
    dense = hasattr(value, "detach") and str(value.layout) == "torch.strided" and not value.is_quantized
    return isinstance(key, str) and (dense or isinstance(value, (np.ndarray, int, float)))


def _to_array(value: Any) -> np.ndarray:
    if not hasattr(value, "detach"):
        return _widened(np.asarray(value))
    tensor = value.detach()
    half = tensor.is_floating_point() and tensor.element_size() < np.dtype(np.float32).itemsize
    array: np.ndarray = (tensor.float() if half else tensor).numpy()
    array.flags.writeable = False
    return array


def _without_wrappers(state: StateDict) -> StateDict:
    for prefix in WRAPPER_PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return _without_wrappers({key.removeprefix(prefix): array for key, array in state.items()})
    return state


def _torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise WeightsError(f"{path}: files of this kind need PyTorch: pip install 'wenlan_jax[torch]'.") from error
    module: ModuleType = torch
    return module


def _damaged(path: Path, what: str) -> WeightsError:
    return WeightsError(f"{path}: truncated or damaged, {what}; download or save it again.")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` once it is complete, and is removed on any error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
