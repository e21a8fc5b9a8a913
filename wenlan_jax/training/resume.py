"""Where a run goes on: the newest checkpoint that is whole and of this run.

A checkpoint whose files are damaged is set aside, never removed, and the one before is used: the run repeats steps and
loses nothing else. That is all that is mended here. A checkpoint of another configuration, rights, a failing disk, or
no whole checkpoint at all where there were some, stop the run with a message, as going on could waste or hide work.
"""

from __future__ import annotations

import jax

from wenlan_jax.checkpoints import store
from wenlan_jax.core import bank
from wenlan_jax.core.state import TrainState
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks import config_changes, experiment
from wenlan_jax.tasks.run import Run


def resume(current: Run, checkpoints: store.Checkpoints, tokenizer: str) -> TrainState | None:
    """Reads the newest whole checkpoint of a run; damaged ones are set aside.

    Args:
        current: the run.
        checkpoints: of its work directory.
        tokenizer: the fingerprint of its tokenizer.

    Returns:
        The state on the run's mesh, or None where no checkpoint was ever made.

    Raises:
        CheckpointError: when it is not safe to go on.
    """
    for name in checkpoints.remove_unfinished():
        say(f"removed {name}, which was never finished")
    while (at := checkpoints.latest()) is not None:
        try:
            check_same(checkpoints, current, tokenizer)
            say(f"reading checkpoint {at} ...")
            return _restored(current, checkpoints, at)
        except store.DamagedError as error:
            place = checkpoints.set_aside(error.step)
            say(f"checkpoint {error.step} is damaged ({error.reason}): set aside as {place.name}, using the one before")
    broken = checkpoints.broken()
    if broken:
        raise store.CheckpointError(
            f"no whole checkpoint is left under {checkpoints.directory}, only {', '.join(p.name for p in broken)}; "
            "use another --workdir, or remove them to start this run from its beginning"
        )
    return None


def _restored(current: Run, checkpoints: store.Checkpoints, at: int) -> TrainState:
    """The state of checkpoint `at`; its banks are laid out anew if their sizes were changed and that is accepted."""
    abstract = store.abstract_of(current.shapes, current.shardings)
    before = _banks_before(current, checkpoints, at)
    if before is None:
        return checkpoints.restore(abstract, at)[1]
    state: TrainState = checkpoints.restore(abstract.replace(banks=before), at)[1]
    size, batch = current.config.contrast.bank_size, current.config.train.batch_size
    say(
        f"the banks are laid out anew, for {size} keys and batches of {batch}; data go on at step {at} of these batches"
    )
    anew = {name: bank.relaid(jax.device_get(one), size, batch) for name, one in state.banks.items()}
    return state.replace(banks=jax.device_put(anew, current.shardings.banks))


def _banks_before(current: Run, checkpoints: store.Checkpoints, at: int) -> dict[str, bank.Bank] | None:
    """The banks of a checkpoint, abstract, whole on every device, where their size is not that of the run."""
    if not current.config.checkpoint.accept_changes or not current.shapes.banks:
        return None
    saved = experiment.parse(config_changes.completed(checkpoints.note(at)[1].config))
    sizes = saved.contrast.bank_size, saved.train.batch_size
    if sizes == (current.config.contrast.bank_size, current.config.train.batch_size):
        return None
    whole = meshes.replicated(current.mesh)

    def before(one: bank.Bank) -> bank.Bank:
        shapes = jax.eval_shape(lambda: bank.create(*sizes, one.keys.shape[-1]))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), shapes)

    return {name: before(one) for name, one in current.shapes.banks.items()}


def check_same(checkpoints: store.Checkpoints, current: Run, tokenizer: str) -> None:
    """Checks that the newest checkpoint is of this run.

    Args:
        checkpoints: of the work directory.
        current: the run.
        tokenizer: the fingerprint of its tokenizer.

    Raises:
        CheckpointError: if it was made by another configuration or tokenizer, and changes are not accepted.
    """
    at, note = checkpoints.note()
    changed = config_changes.changes(note.config, current.config)
    if note.tokenizer != tokenizer:
        changed.append("the tokenizer's file is another one")
    if changed and not current.config.checkpoint.accept_changes:
        raise store.CheckpointError(
            f"checkpoint {at} under {checkpoints.directory} was made by another configuration:\n  "
            + "\n  ".join(changed)
            + "\nUse another --workdir, or --config.checkpoint.accept_changes=true to go on with the new values"
        )
