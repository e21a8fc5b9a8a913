"""Checkpoints: the only file that knows Orbax.

A checkpoint holds the whole train state, leaf by leaf under its path name, and beside it the configuration's text,
its hash, the tokenizer's fingerprint and a checksum of every leaf. It is written in the background and appears under
its step number only when complete, so a killed run leaves the previous one intact.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import re
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from flax import traverse_util

from wenlan_jax import __version__
from wenlan_jax.checkpoints import checksums
from wenlan_jax.checkpoints.errors import CheckpointError, DamagedError, in_short, is_damage
from wenlan_jax.config import sections
from wenlan_jax.core import trees
from wenlan_jax.parallel import distributed
from wenlan_jax.tasks import experiment

T = TypeVar("T")


def _is_news(record: logging.LogRecord) -> bool:
    """Orbax logs with a traceback what it also raises, and what is raised is told in our words."""
    message = record.getMessage()
    raised = record.exc_info and "orbax" in record.pathname + message
    return not raised and "ArrayMetadata persistence is disabled" not in message  # of NumPy arrays; we keep checksums


@functools.cache
def _leave_out_echoes() -> None:
    """Has what is no news left out of the log and of what Python tells of errors that no caller can catch, for good.

    Threads of Orbax and TensorStore still report when a manager is closed, so nothing is put back.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)
    sys.unraisablehook = functools.partial(_tell_news, sys.unraisablehook)


def _tell_news(tell: Callable[[Any], None], found: Any) -> None:
    """Tells of errors that no caller can catch, but for those that follow from a failed write.

    When one file cannot be written, Orbax closes its event loop and raises, while threads of TensorStore still report
    other files to that loop: a traceback for each, of something that is told already.
    """
    if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"):
        tell(found)


DATA_FILE_BYTES = 2**27
"""Of each file of a checkpoint. Orbax holds a file's data in host memory until it is full, and its default is 2 GiB."""

BROKEN = "broken-"
"""Before the step in the name of a checkpoint that was set aside. Orbax takes only plain numbers for checkpoints."""


@dataclasses.dataclass(frozen=True)
class CheckpointNote:
    """What is stored beside the state.

    Attributes:
        config: the whole configuration.
        fingerprint: of the configuration.
        tokenizer: the fingerprint of the tokenizer.
        version: of wenlan_jax that wrote it.
        checksums: of every leaf by name, see `wenlan_jax.checkpoints.checksums`; empty in checkpoints of versions that
            did not write them.
        own_checksum: of the other fields; None in checkpoints of versions that did not write it.
    """

    config: dict[str, Any]
    fingerprint: str
    tokenizer: str
    version: str
    checksums: dict[str, int] = dataclasses.field(default_factory=dict)
    own_checksum: int | None = None

    def summed(self) -> CheckpointNote:
        """Returns this note with its own checksum, which is that of its JSON text without it."""
        fields = {**dataclasses.asdict(self), "own_checksum": None}
        return dataclasses.replace(self, own_checksum=zlib.crc32(json.dumps(fields, sort_keys=True).encode()))


UNREADABLE = {
    r"\[": "[",
    r"\]": "]",
    r"\*": "*",
    r"\?": "?",
    r"\\": "a backslash",
    r":(/|$)": "a name that ends with :",
}
"""What a path of checkpoints must not hold, as patterns with names. TensorStore and Orbax take it for a pattern or the
scheme of an address: they write without a fault what they do not find again."""


def check_place(directory: Path) -> None:
    """Checks that checkpoints can be read again from under a path.

    Args:
        directory: where they are to be written.

    Raises:
        CheckpointError: for a path that Orbax takes for something else.
    """
    path = str(directory.absolute())
    found = [name for pattern, name in UNREADABLE.items() if re.search(pattern, path)]
    if any("\udc80" <= letter <= "\udcff" for letter in path):
        found.append("bytes that are not UTF-8")
    if found:
        raise CheckpointError(
            f"{ascii(path)}: checkpoints cannot be read back from under a path with {' or '.join(found)} in it; choose "
            "another name, e.g. lr_1e-3 for lr[1e-3]"
        )


def nested(tree: Any) -> dict[str, Any]:
    """Makes nested dicts by path name of any tree, so that what is stored does not depend on its classes."""
    return traverse_util.unflatten_dict(trees.flatten(tree), sep="/")


class Checkpoints:
    """The checkpoints of one work directory. A context manager: leaving it waits until all is written.

    Args:
        directory: where they lie.
        settings: the section `checkpoint` of the configuration.
        host_arrays: what is saved are NumPy arrays that stay as they are until it is written; no copies are made.

    Attributes:
        directory: where they lie, as an absolute path.

    Raises:
        CheckpointError: for a path from which they could not be read again.
    """

    def __init__(self, directory: Path, settings: sections.CheckpointConfig, host_arrays: bool = False) -> None:
        _leave_out_echoes()
        self.directory = directory.absolute()
        check_place(self.directory)
        options = ocp.CheckpointManagerOptions(max_to_keep=settings.keep, create=True)
        # Named here so that a manager that has not saved yet can read the metadata of what an earlier process saved.
        handlers = {"state": _state_handler(host_arrays), "note": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        self._stored: dict[int, dict[str, Any]] = {}
        self._unverified: dict[int, frozenset[str]] = {}

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()

    def latest(self) -> int | None:
        """Returns the newest complete step, or None."""
        return self._manager.latest_step()

    def remove_unfinished(self) -> list[str]:
        """Removes what saves that were cut short have left behind. Only for the job that saves.

        Returns:
            The names of what was removed.
        """
        found = sorted(self.directory.glob(f"*{ocp.path.atomicity.TMP_DIR_SUFFIX}*"))
        if jax.process_index() == 0:
            for path in found:
                shutil.rmtree(path)
        return [path.name for path in found]

    def set_aside(self, step: int) -> Path:
        """Renames a checkpoint, so that it is none any more but can be looked at.

        Args:
            step: its number.

        Returns:
            Where it is now.
        """
        taken = {path.name for path in self.broken()}
        names = (f"{BROKEN}{step}" + (f".{again}" if again else "") for again in range(len(taken) + 1))
        place = self.directory / next(name for name in names if name not in taken)
        if jax.process_index() == 0:
            (self.directory / str(step)).rename(place)
        distributed.barrier(place.name)
        self._stored.pop(step, None)
        self._manager.reload()
        return place

    def broken(self) -> list[Path]:
        """Lists the checkpoints that were set aside."""
        return sorted(self.directory.glob(f"{BROKEN}*"))

    def save(self, step: int, state: Any, settings: experiment.Config, tokenizer: str) -> None:
        """Starts writing a checkpoint in the background.

        Args:
            step: its number.
            state: any tree of arrays.
            settings: the configuration of the run.
            tokenizer: the fingerprint of its tokenizer.

        Raises:
            CheckpointError: if an earlier write failed.
        """
        saved, fingerprint = json.loads(experiment.to_json(settings)), experiment.fingerprint(settings)
        note = CheckpointNote(saved, fingerprint, tokenizer, __version__, checksums.of_tree(state)).summed()
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(nested(state), ocdbt_target_data_file_size=DATA_FILE_BYTES),
            note=ocp.args.JsonSave(dataclasses.asdict(note)),
        )
        self._writing(lambda: self._manager.save(step, args=args, force=True))
        self._unverified[step] = frozenset(trees.flatten(state))

    def wait(self) -> None:
        """Waits until every started write is complete.

        Raises:
            CheckpointError: if one failed or left nothing behind.
        """
        self._writing(self._manager.wait_until_finished)
        self._verify()

    def _verify(self) -> None:
        """Looks for what was committed: a write that raised nothing may still have left nothing that can be read."""
        written, self._unverified = self._unverified, {}
        if not written or jax.process_index() != 0:
            return
        step = max(written)  # earlier ones may have been removed since, as `keep` says
        missing = sorted(written[step] - _leaves_on_disk(self.directory / str(step)))
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(
                f"checkpoint {step} was written under {self.directory} without a fault, but {missing[0]}{more} cannot "
                "be found there. Earlier checkpoints are as they were. See whether the file system is full, read-only "
                "or was unmounted, and whether something removes files there, or choose another --workdir"
            )

    def check(self) -> None:
        """Looks whether a write in the background has failed; does not wait for one that goes on.

        Raises:
            CheckpointError: if one has.
        """
        if not self._manager.is_saving_in_progress():
            self.wait()

    def _writing(self, action: Callable[[], object]) -> None:
        try:
            action()
            self._manager.check_for_errors()
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"a checkpoint could not be written under {self.directory}: {in_short(error)}. Earlier ones are "
                "intact; free space, or see to the rights of the directory, and run the same command again"
            ) from error

    def note(self, step: int | None = None) -> tuple[int, CheckpointNote]:
        """Reads what is stored beside a state.

        Args:
            step: the number of the checkpoint; None for the newest.

        Returns:
            The number, and the note.

        Raises:
            CheckpointError: if there is no such checkpoint, or it cannot be read.
            DamagedError: if the note is not what was written.
        """
        step = self.latest() if step is None else step
        if step is None or step not in self._manager.all_steps():
            found = ", ".join(map(str, self._manager.all_steps())) or "none"
            raise CheckpointError(
                f"no checkpoint{'' if step is None else f' {step}'} under {self.directory}; found: {found}"
            )
        stored = self._reading(
            step, lambda: self._manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore()))["note"]
        )
        try:
            note = CheckpointNote(**stored)
        except TypeError as error:
            raise CheckpointError(
                f"checkpoint {step} under {self.directory} was written by wenlan {stored.get('version', '?')}, "
                f"this is {__version__}: {error}"
            ) from error
        if note.own_checksum not in (None, note.summed().own_checksum):
            raise self._damaged(step, "its note has another checksum than was written")
        return step, note

    def stored(self, step: int | None = None) -> tuple[int, dict[str, Any]]:
        """Lists the leaves of a stored state.

        Args:
            step: the number of the checkpoint; None for the newest.

        Returns:
            The number, and shape and dtype of every leaf by path name.

        Raises:
            CheckpointError: if there is no such checkpoint, or it cannot be read.
        """
        step, _ = self.note(step)
        if step not in self._stored:  # a second or so for thousands of leaves
            metadata = self._reading(step, lambda: self._manager.item_metadata(step)["state"])
            if metadata is None:
                raise self._damaged(step, "the metadata of its state is missing")
            self._stored[step] = traverse_util.flatten_dict(dict(metadata), sep="/")
        return step, self._stored[step]

    def restore(self, abstract: T, step: int | None = None) -> tuple[int, T]:
        """Reads a state.

        Args:
            abstract: the state with shapes, dtypes and shardings in place of arrays. It may be a part of the state,
                e.g. its parameters alone: then only that is read.
            step: the number of the checkpoint; None for the newest.

        Returns:
            The number, and the state on the shardings of `abstract`.

        Raises:
            CheckpointError: names every leaf that is missing or has another shape or dtype.
            DamagedError: if the files do not hold what was written.
        """
        step = self.check_leaves(abstract, step)
        _, note = self.note(step)
        target = nested(abstract)
        request = ocp.args.PyTreeRestore(
            item=target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        )
        restored = self._reading(
            step, lambda: self._manager.restore(step, args=ocp.args.Composite(state=request))["state"]
        )
        leaves = trees.flatten(restored)
        wrong = checksums.differing(restored, note.checksums)
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise self._damaged(step, f"{wrong[0]}{more}: another checksum than was written")
        return step, trees.map_named(lambda name, _: leaves[name], abstract)

    def check_leaves(self, abstract: Any, step: int | None = None) -> int:
        """Checks that leaves are stored in their shapes and dtypes.

        Args:
            abstract: the leaves that are needed.
            step: the number of the checkpoint; None for the newest.

        Returns:
            The number of the checkpoint.

        Raises:
            CheckpointError: names the leaves that are not.
        """
        step, stored = self.stored(step)
        wanted = trees.flatten(abstract)
        faults = [
            f"{name}: {_describe(stored[name]) if name in stored else 'missing'}, {_describe(leaf)} is needed"
            for name, leaf in wanted.items()
            if name not in stored or _describe(stored[name]) != _describe(leaf)
        ]
        if faults:
            more = f"\n  and {len(faults) - 20} more" if len(faults) > 20 else ""
            raise CheckpointError(
                f"checkpoint {step} under {self.directory} is of another model:\n  "
                + "\n  ".join(faults[:20])
                + f"{more}\nUse another --workdir, set model.*, contrast.bank_size and train.batch_size as they were, "
                "or import what is missing"
            )
        return step

    def _reading(self, step: int, action: Callable[[], Any]) -> Any:
        """What `action` returns; turns what it raises into DamagedError or, where it may pass, CheckpointError."""
        try:
            return action()
        except Exception as error:  # Orbax raises plain Exception for data it cannot read
            if is_damage(error):
                raise self._damaged(step, f"{type(error).__name__}: {in_short(error)}") from error
            raise CheckpointError(
                f"checkpoint {step} under {self.directory} cannot be read ({type(error).__name__}: "
                f"{in_short(error)}). It was left as it is: mend that and run the same command again, or move its "
                "folder away to continue from the one before"
            ) from error

    def _damaged(self, step: int, reason: str) -> DamagedError:
        others = ", ".join(str(other) for other in self._manager.all_steps() if other != step) or "none"
        return DamagedError(
            f"checkpoint {step} under {self.directory} is damaged ({reason}); others there: {others}. `wenlan train` "
            "goes on from the newest whole one, other commands take one by --step",
            step,
            reason,
        )


def _leaves_on_disk(checkpoint: Path) -> set[str]:
    """The names of the leaves whose arrays lie in a checkpoint, as TensorStore lists them; none where it cannot."""
    place = checkpoint / "state"
    if not place.is_dir():
        return set()
    base = {"driver": "file", "path": f"{place}/"}
    try:
        keys = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result().list().result()
    except (ValueError, OSError):
        return set()
    ends = [b"/.zarray", b"/zarr.json"]
    found = {key.removesuffix(end) for key in keys for end in ends if key.endswith(end)}
    return {name.decode().replace(".", "/") for name in found}


def _describe(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name} {tuple(leaf.shape)}"


def _state_handler(host_arrays: bool) -> ocp.PyTreeCheckpointHandler:
    # Weights and moments are noise to a compressor: it would take seconds a gigabyte to save a tenth of the space.
    if not host_arrays:
        return ocp.PyTreeCheckpointHandler(use_compression=False)
    handler = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, handler))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry, save_concurrent_gb=1, use_compression=False)


def abstract_of(shapes: T, shardings: T) -> T:
    """Puts together shapes and the shardings they are to be restored on."""
    return jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, shardings)


def on_host(shapes: T) -> T:
    """Asks `Checkpoints.restore` for NumPy arrays, whatever mesh they were saved from.

    Args:
        shapes: a tree of shapes and dtypes.

    Returns:
        The same tree, to be given as `abstract`.
    """
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes)
