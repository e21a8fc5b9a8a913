"""What a work directory holds about its run, read as it is, with a remark on everything that cannot be read.

Nothing here imports jax or Orbax: the note beside a checkpoint is plain JSON, and its arrays are not opened.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wenlan_jax.evaluation import query_ranks
from wenlan_jax.monitoring import curves, metrics_file, run_info, time_ledger
from wenlan_jax.tasks import experiment
from wenlan_jax.util import html_page, json_files
from wenlan_jax.util.errors import WenlanError

CHECKPOINTS, METRICS, LEDGER, RESULT, GALLERY = (
    "checkpoints",
    "metrics.jsonl",
    "ledger.jsonl",
    "result.json",
    "gallery.html",
)
"""What `wenlan train` leaves in a work directory; a run that has begun to step has one of the first three."""


class ReportError(WenlanError, ValueError):
    """A directory that holds no run to report on."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """What the newest readable checkpoint says of its run.

    Attributes:
        step: its number.
        version: of wenlan_jax, which wrote it.
        fingerprint: of the configuration.
        tokenizer: the fingerprint of the tokenizer.
        config: the configuration.
    """

    step: int
    version: str
    fingerprint: str
    tokenizer: str
    config: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that is known of a run; what is missing is None or empty.

    Attributes:
        workdir: its work directory.
        start: the note of the newest start.
        saved: what the newest checkpoint says.
        result: the figures of result.json by name.
        series: those of metrics.jsonl over the steps.
        snapshots: the ledger.
        ranks: of every query of the final splits.
        gallery: what stands in the body of gallery.html.
        remarks: what could not be read.
    """

    workdir: Path
    start: run_info.RunInfo | None
    saved: Saved | None
    result: Mapping[str, float] | None
    series: Mapping[str, curves.Series]
    snapshots: tuple[time_ledger.Snapshot, ...]
    ranks: Mapping[str, query_ranks.Ranks]
    gallery: str | None
    remarks: tuple[str, ...]

    @property
    def steps_done(self) -> int:
        """The steps that count in the run, by whichever file knows most."""
        logged = max((max(series) for series in self.series.values() if series), default=0)
        return max(logged, self.snapshots[-1].done if self.snapshots else 0, self.saved.step if self.saved else 0)

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The configuration: that of the newest checkpoint, or before there is one, of the newest start."""
        if self.saved is not None:
            return self.saved.config
        return self.start.config if self.start is not None else None

    @property
    def fingerprint(self) -> str | None:
        """That of `config`."""
        known = self.saved or self.start
        return known.fingerprint if known is not None else None

    @property
    def figures(self) -> tuple[Mapping[str, float], int]:
        """The figures of the newest evaluation and its step: those of result.json, or else the last ones logged."""
        if self.result is not None:
            return self.result, int(self.result.get("train/steps", self.steps_done))
        logged = {name: series for name, series in self.series.items() if not name.startswith(("train/", "data/"))}
        last = max((max(series) for series in logged.values()), default=0)
        return {name: series[last] for name, series in logged.items() if last in series}, last


def read(workdir: Path) -> Evidence:
    """Reads what a work directory holds about its run.

    Args:
        workdir: the directory.

    Returns:
        The evidence.

    Raises:
        ReportError: where there is no run.
    """
    if not workdir.is_dir():
        raise ReportError(f"{workdir}: no such directory; name the --workdir of a `wenlan train`")
    if not any((workdir / name).exists() for name in (CHECKPOINTS, METRICS, LEDGER)):
        raise ReportError(
            f"{workdir}: holds no run: none of {CHECKPOINTS}/, {METRICS} and {LEDGER} is there. Name the "
            "--workdir of a `wenlan train` that has begun to step"
        )
    remarks: list[str] = []
    return Evidence(
        workdir,
        _start(workdir, remarks),
        _saved(workdir / CHECKPOINTS, remarks),
        _result(workdir / RESULT, remarks),
        _series(workdir / METRICS, remarks),
        _snapshots(workdir / LEDGER, remarks),
        _ranks(workdir, remarks),
        _gallery(workdir / GALLERY, remarks),
        tuple(remarks),
    )


def _start(workdir: Path, remarks: list[str]) -> run_info.RunInfo | None:
    try:
        return run_info.read(workdir)
    except json_files.NoteError as error:
        remarks.append(f"{error}, and is left out.")
        return None


def _saved(directory: Path, remarks: list[str]) -> Saved | None:
    """The note of the newest checkpoint whose note can be read."""
    steps = sorted((int(path.name) for path in directory.glob("*") if path.name.isdecimal()), reverse=True)
    for step in steps:
        try:
            note = json_files.read(directory / str(step) / "note" / "metadata", dict[str, Any])
            named = {name: note.get(name) for name in ("version", "fingerprint", "tokenizer", "config")}
            saved = json_files.parse(json.dumps({"step": step, **named}), Saved, "it")
            if saved.fingerprint != experiment.fingerprint_of(saved.config):
                remarks.append(
                    f"The note of checkpoint {step} was changed: its fingerprint is of another configuration."
                )
            return saved
        except json_files.NoteError as error:
            remarks.append(f"The note of checkpoint {step} cannot be read: {error}.")
    if not steps:
        remarks.append("There is no checkpoint yet.")
    return None


def _result(path: Path, remarks: list[str]) -> dict[str, float] | None:
    if not path.exists():
        return None
    try:
        return json_files.read_figures(path)
    except json_files.NoteError as error:
        remarks.append(f"{path.name} cannot be read and is left out: {error}.")
        return None


def _series(path: Path, remarks: list[str]) -> dict[str, curves.Series]:
    try:
        whole, torn = metrics_file.read_counted(path)
    except json_files.NoteError as error:
        remarks.append(f"{path.name} cannot be read and is left out: {error}.")
        return {}
    if torn:
        remarks.append(f"{path.name}: {len(torn)} of {len(whole) + len(torn)} lines are not whole and are left out.")
    return curves.by_name(whole)


def _snapshots(path: Path, remarks: list[str]) -> tuple[time_ledger.Snapshot, ...]:
    try:
        found = tuple(time_ledger.read(path))
    except json_files.NoteError as error:
        remarks.append(f"{path.name} cannot be read and is left out: {error}.")
        return ()
    if not found:
        remarks.append(f"{path.name} holds no line: where the time went is not known.")
    return found


def _ranks(workdir: Path, remarks: list[str]) -> dict[str, query_ranks.Ranks]:
    found = {}
    for path in sorted(workdir.glob("ranks_*.npz")):
        try:
            split = path.stem.removeprefix("ranks_")
            found[split] = query_ranks.read(workdir, split)
        except query_ranks.RanksError as error:
            remarks.append(f"There are no intervals: {error}.")
    return found


def _gallery(path: Path, remarks: list[str]) -> str | None:
    """What stands in the body of a gallery of ours below its title; a work directory may hold anything by that name."""
    if not path.exists():
        return None
    try:
        page = json_files.read_bytes(path).decode("utf-8", "replace")
    except json_files.NoteError as error:
        remarks.append(f"{path.name} is left out: {error}.")
        return None
    _, found, rest = page.partition("</h1>")
    body, end, _ = rest.rpartition("</body>")
    parts = html_page.gallery_parts(body) if found and end else None
    if parts is None:
        remarks.append(f"{path.name} is not a whole gallery of `wenlan train` and is left out.")
        return None
    return parts
