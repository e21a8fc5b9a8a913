"""Where a run goes on: the newest checkpoint that is whole and of this run.

A checkpoint whose files are damaged is set aside, never removed, and the one before is used: the run repeats steps and
loses nothing else. That is all that is mended here. A checkpoint of another configuration, rights, a failing disk, or
no whole checkpoint at all where there were some, stop the run with a message, as going on could waste or hide work.
"""

from __future__ import annotations

from wenlan_jax import checkpoint, run
from wenlan_jax import config as configs
from wenlan_jax.progress import say
from wenlan_jax.state import TrainState


def resume(current: run.Run, checkpoints: checkpoint.Checkpoints, tokenizer: str) -> TrainState | None:
    """The state of the newest whole checkpoint where the run's mesh has it, or None where none was ever made.

    `tokenizer` is the fingerprint of this run's. Raises CheckpointError when it is not safe to go on.
    """
    for name in checkpoints.remove_unfinished():
        say(f"removed {name}, which was never finished")
    while (at := checkpoints.latest()) is not None:
        try:
            check_same(checkpoints, current, tokenizer)
            return checkpoints.restore(checkpoint.abstract_of(current.shapes, current.shardings), at)[1]
        except checkpoint.DamagedError as error:
            place = checkpoints.set_aside(error.step)
            say(f"checkpoint {error.step} is damaged ({error.reason}): set aside as {place.name}, using the one before")
    broken = checkpoints.broken()
    if broken:
        raise checkpoint.CheckpointError(
            f"no whole checkpoint is left under {checkpoints.directory}, only {', '.join(p.name for p in broken)}; "
            "use another --workdir, or remove them to start this run from its beginning"
        )
    return None


def check_same(checkpoints: checkpoint.Checkpoints, current: run.Run, tokenizer: str) -> None:
    """Raises CheckpointError if the newest checkpoint was made by another configuration or tokenizer."""
    at, note = checkpoints.note()
    changed = configs.changes(note.config, current.config)
    if note.tokenizer != tokenizer:
        changed.append("the tokenizer's file is another one")
    if changed and not current.config.checkpoint.accept_changes:
        raise checkpoint.CheckpointError(
            f"checkpoint {at} under {checkpoints.directory} was made by another configuration:\n  "
            + "\n  ".join(changed)
            + "\nUse another --workdir, or --config.checkpoint.accept_changes=true to go on with the new values"
        )
