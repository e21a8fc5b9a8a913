"""`wenlan embed`: the embeddings of all images and texts of a data set, as arrays on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from wenlan_jax.applications.loaded_model import ModelPlace, find
from wenlan_jax.config import sections
from wenlan_jax.data import sources
from wenlan_jax.parallel import compilation_cache, distributed
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks.experiment import Config
from wenlan_jax.tasks.shared_data import data_dir
from wenlan_jax.tasks.two_tower import embedded_split
from wenlan_jax.tasks.two_tower.spec import TWO_TOWERS
from wenlan_jax.training import restore as restore
from wenlan_jax.util import atomic_files, json_files, progress_line
from wenlan_jax.util.errors import WenlanError

NOTE = "embeddings.json"


class EmbedError(WenlanError, ValueError):
    """Embeddings that cannot be written; the message says why and what to do."""


def run_embed(workdir: Path, step: int | None, out: Path, splits: Sequence[str], overrides: Sequence[str]) -> None:
    """Embeds all images and texts of a data set.

    Writes SPLIT.images.npy (records, dim) and SPLIT.texts.npy (texts, dim), float32 unit vectors in the order of the
    records and of the texts within them, as `wenlan score` reads them. Every text counts, whatever `eval.kinds` and
    `eval.languages` say. Arrays are written batch by batch and get their names when they are complete; those that are
    there already are left, so that the same command goes on after a stop.

    Args:
        workdir: of two towers: a training run or an import.
        step: the checkpoint; None for the newest.
        out: the folder for the arrays; several processes must see one.
        splits: of `data.source`; empty for all.
        overrides: `--config.field=value` each.

    Raises:
        EmbedError: if `out` holds arrays of another model or of other data.
        CheckpointError: if there is no such checkpoint.
        TaskError: if the model is no pair of towers.
    """
    atomic_files.check_kind(out, NOTE)
    same = {"--workdir": str(workdir), "--step": step, "splits": list(splits), "fields": list(overrides)}
    distributed.start(sections.DistributedConfig(), same)
    trained = find(ModelPlace("--workdir", workdir, step), overrides, TWO_TOWERS)
    assert trained.tokenizer is not None  # `find` has looked
    config = trained.current.config
    compilation_cache.use_cache(config.compilation)
    everything = dataclasses.replace(config.eval, kinds=(), languages=())
    current = dataclasses.replace(trained.current, config=dataclasses.replace(config, eval=everything))
    state = trained.read("params", "batch_stats")
    evaluator = embedded_split.Evaluator(current, trained.tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_files.holding(out) if jax.process_index() == 0 else contextlib.nullcontext():
        _claim(out, _made_by(trained, config))
        _embed(evaluator, state, config, out, splits)


def _embed(
    evaluator: embedded_split.Evaluator,
    state: Mapping[str, Any],
    config: Config,
    out: Path,
    splits: Sequence[str],
) -> None:
    for split in splits or sources.split_sizes(config.data.source, data_dir(config)):
        for name, parts in evaluator.parts(state["params"], state["batch_stats"], split).items():
            file = out / f"{split}.{name}.npy"
            if _is_whole(file, parts.rows, config.model.embedding):
                say(f"{file}: is there already, left as it is")
                continue
            _write(file, parts.rows, config.model.embedding, iter(parts))


def _made_by(trained: restore.Trained, config: Config) -> dict[str, object]:
    """What the arrays depend on: the model with its weights and tokenizer, and the data with how they are read."""
    _, note = trained.checkpoints.note(trained.step)
    assert trained.tokenizer is not None
    data = {name: getattr(config.data, name) for name in OF_DATA}
    return {
        "step": trained.step,
        "model": note.fingerprint,
        "weights": note.own_checksum,
        "tokenizer": trained.tokenizer.fingerprint,
        "data": data | {"files": sources.identity(config.data.source, data_dir(config))},
    }


OF_DATA = ("source", "image_size", "antialias", "averaging", "enlarge", "text_length")
"""Fields of `data` that change embeddings."""


def _claim(out: Path, made_by: dict[str, object]) -> None:
    """Notes what the arrays in `out` are made by. Raises EmbedError if others are there."""
    file = out / NOTE
    unknown = [] if file.exists() else [*out.glob("*.images.npy"), *out.glob("*.texts.npy")]
    if unknown:
        raise EmbedError(
            f"{unknown[0]}: is there without {NOTE}, so of unknown origin; choose another --out, or remove it"
        )
    if file.exists() and (differing := _differing(_read_note(file), json.loads(json.dumps(made_by)))):
        raise EmbedError(
            f"{out}: holds embeddings of another {' and '.join(differing)}; choose another --out, or remove it"
        )
    if jax.process_index() == 0:
        atomic_files.write_json(file, made_by)


def _read_note(file: Path) -> object:
    """The note of earlier embeddings; None where it is damaged, so that it equals no other."""
    try:
        return json_files.read(file, dict[str, Any])
    except json_files.NoteError:
        return None


def _differing_data(found: object, wanted: object) -> list[str]:
    """The fields of `data` that differ, with what they were; "data" where only the files do."""
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return ["data"]
    if {**found, "files": sources.of_records(found.get("files"))} == wanted:
        return []
    fields = [name for name in OF_DATA if found.get(name) != wanted[name]]
    told = [f"data.{name} ({found.get(name)!r}, now {wanted[name]!r})" for name in fields]
    return told or [f"version of the data {wanted['source']}, whose files have changed"]


def _differing(found: object, wanted: dict[str, object]) -> list[str]:
    """In which respects two notes differ."""
    if not isinstance(found, dict):
        return [f"origin, as {NOTE} is damaged"]
    names = [name for name in wanted if name != "data" and found.get(name) != wanted[name]]
    names += _differing_data(found.get("data"), wanted["data"])
    return names or ([] if found.keys() == wanted.keys() else ["version of wenlan"])


def _is_whole(file: Path, rows: int, width: int) -> bool:
    """Whether an array of an earlier call is there; one that was damaged since is written again."""
    if not file.exists():
        return False
    try:
        found = json_files.read_array(file, mapped=True)
        if (found.shape, found.dtype) == ((rows, width), np.dtype("<f4")):
            return True
        say(f"{file}: is {found.dtype}{found.shape}; writing it again")
    except json_files.NoteError as error:
        say(f"{error}; writing it again")
    return False


def _write(file: Path, rows: int, width: int, parts: Iterator[Float32[np.ndarray, "part dim"]]) -> None:
    """Writes `parts` below each other; all processes compute, the first one writes."""
    partial = file.with_suffix(".partial")
    first = jax.process_index() == 0
    beat, done = progress_line.ProgressLine(), 0
    # Plain writes: with a mapped file, a full disk ends the process by a bus error.
    with partial.open("wb") if first else contextlib.nullcontext() as out:
        if out is not None:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
            np.lib.format.write_array_header_1_0(out, header)
        for part in parts:
            if out is not None:
                out.write(np.ascontiguousarray(part, "<f4").data)
            done += len(part)
            if beat.due():
                say(f"{file.name}: {done} of {rows}, {done / beat.seconds:.0f}/s")
        if out is not None:
            out.flush()
            os.fsync(out.fileno())
    if first:
        partial.replace(file)
    say(f"{file}: {rows} rows")
