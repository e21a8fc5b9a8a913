"""Checkpoints: the only file that knows Orbax.

A checkpoint holds the whole train state, leaf by leaf under its path name, and beside it the configuration's text,
its hash and the tokenizer's fingerprint. It is written in the background and appears under its step number only
when complete, so a killed run leaves the previous one intact.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from wenlan_jax import __version__, config, schema, trees

T = TypeVar("T")

DATA_FILE_BYTES = 2**27
"""Of each file of a checkpoint. Orbax holds a file's data in host memory until it is full, and its default is 2 GiB."""


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, of another model, or that could not be written."""


@dataclasses.dataclass(frozen=True)
class Note:
    """What is stored beside the state."""

    config: dict[str, Any]
    fingerprint: str
    tokenizer: str
    version: str


def nested(tree: Any) -> dict[str, Any]:
    """The leaves of any tree as nested dicts by path name, so that what is stored does not depend on its classes."""
    return traverse_util.unflatten_dict(trees.flatten(tree), sep="/")


class Checkpoints:
    """The checkpoints of one work directory. A context manager: leaving it waits until all is written.

    host_arrays: what is saved are NumPy arrays that stay as they are until it is written, so that no copies are made.
    """

    def __init__(self, directory: Path, settings: schema.Checkpoint, host_arrays: bool = False) -> None:
        self.directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=settings.keep, create=True)
        # Named here so that a manager that has not saved yet can read the metadata of what an earlier process saved.
        handlers = {"state": _state_handler(host_arrays), "note": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        self._stored: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait()
        self._manager.close()

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, settings: schema.Config, tokenizer: str) -> None:
        """Starts writing `state` as checkpoint `step`; raises CheckpointError if an earlier write failed."""
        note = Note(json.loads(config.to_json(settings)), config.fingerprint(settings), tokenizer, __version__)
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(nested(state), ocdbt_target_data_file_size=DATA_FILE_BYTES),
            note=ocp.args.JsonSave(dataclasses.asdict(note)),
        )
        self._writing(lambda: self._manager.save(step, args=args, force=True))

    def wait(self) -> None:
        """Waits until every started write is complete; raises CheckpointError if one failed."""
        self._writing(self._manager.wait_until_finished)

    def _writing(self, action: Any) -> None:
        try:
            action()
            self._manager.check_for_errors()
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"a checkpoint could not be written under {self.directory}: {error}. Earlier ones are intact; "
                "free space or choose another --workdir, and run the same command again"
            ) from error

    def note(self, step: int | None = None) -> tuple[int, Note]:
        """The step (the latest by default) and what is stored beside its state."""
        step = self.latest() if step is None else step
        if step is None or step not in self._manager.all_steps():
            found = ", ".join(map(str, self._manager.all_steps())) or "none"
            raise CheckpointError(
                f"no checkpoint {'' if step is None else step} under {self.directory}; found: {found}"
            )
        try:
            stored = self._manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore()))["note"]
            return step, Note(**stored)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(self._damaged(step, error)) from error

    def stored(self, step: int | None = None) -> tuple[int, dict[str, Any]]:
        """The step (the latest by default) and shape and dtype of every leaf of its state, by path name."""
        step, _ = self.note(step)
        if step not in self._stored:  # a second or so for thousands of leaves
            try:
                metadata = dict(self._manager.item_metadata(step)["state"])
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise CheckpointError(self._damaged(step, error)) from error
            self._stored[step] = traverse_util.flatten_dict(metadata, sep="/")
        return step, self._stored[step]

    def restore(self, abstract: T, step: int | None = None) -> tuple[int, T]:
        """The state at `step` (the latest by default), on the shardings of `abstract`.

        `abstract` may be a part of the state, e.g. its parameters alone: then only that is read. Raises
        CheckpointError that names every leaf that is missing or has another shape.
        """
        step, stored = self.stored(step)
        wanted = trees.flatten(abstract)
        faults = [
            f"{name}: {'missing' if name not in stored else f'shape {tuple(stored[name].shape)}'}, "
            f"{tuple(leaf.shape)} is needed"
            for name, leaf in wanted.items()
            if name not in stored or tuple(stored[name].shape) != tuple(leaf.shape)
        ]
        if faults:
            more = f"\n  and {len(faults) - 20} more" if len(faults) > 20 else ""
            raise CheckpointError(
                f"checkpoint {step} under {self.directory} is of another model:\n  " + "\n  ".join(faults[:20]) + more
            )
        target = nested(abstract)
        request = ocp.args.PyTreeRestore(
            item=target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        )
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(state=request))["state"]
        except Exception as error:  # Orbax raises plain Exception for data it cannot read
            raise CheckpointError(self._damaged(step, error)) from error
        leaves = trees.flatten(restored)
        return step, trees.map_named(lambda name, _: leaves[name], abstract)

    def _damaged(self, step: int, error: Exception) -> str:
        return (
            f"checkpoint {step} under {self.directory} cannot be read ({type(error).__name__}: {error}). "
            "Remove its folder to continue from the one before"
        )


def _state_handler(host_arrays: bool) -> ocp.PyTreeCheckpointHandler:
    # Weights and moments are noise to a compressor: it would take seconds a gigabyte to save a tenth of the space.
    if not host_arrays:
        return ocp.PyTreeCheckpointHandler(use_compression=False)
    handler = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, handler))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry, save_concurrent_gb=1, use_compression=False)


def abstract_of(shapes: T, shardings: T) -> T:
    """Shapes with the shardings they are to be restored on."""
    return jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, shardings)
