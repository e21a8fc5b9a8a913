"""The page besides its figures: what the run is, its curves, where its time went, how it was configured."""

from __future__ import annotations

import datetime
import itertools
import json
import shlex
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wenlan_jax.monitoring import curves, run_info, time_ledger
from wenlan_jax.report import elements
from wenlan_jax.report.evidence import LEDGER, METRICS, Evidence
from wenlan_jax.tasks import experiment
from wenlan_jax.util import json_files

ENDED = "Stopped"
"""How the ledger names a start that a signal ended, whose state is saved."""


def state(run: Evidence) -> str:
    """Says how far the run is, in a sentence."""
    total = _whole(run, "train.steps")
    steps = f"{run.steps_done:,} of {total:,} steps" if total else f"{run.steps_done:,} steps"
    if not run.snapshots:
        return f"In what state it ended is not recorded; {steps} are done."
    last = run.snapshots[-1]
    when = _time(last.began + last.total)
    if last.state == time_ledger.FINISHED:
        return f"Finished after {steps}, {when}."
    if last.state == time_ledger.RUNNING:
        return f"Not finished: {steps} are done at its last line, {when}. It may be under way, or was killed then."
    if last.state in (ENDED, KeyboardInterrupt.__name__):
        return f"Not finished: stopped after {steps}, {when}. The same command continues."
    return f"Failed with {last.state} after {steps}, {when}. Its own output says why; the same command tries again."


def is_old(run: Evidence) -> bool:
    """Says whether result.json is of an earlier end of a run that has gone on since."""
    return run.result is not None and run.figures[1] < run.steps_done


def _whole(run: Evidence, field: str) -> int | None:
    """A field that is a whole number, or None."""
    value = _value(run, field)
    return value if type(value) is int else None


def _value(run: Evidence, field: str) -> Any:
    """A field of the saved configuration, or None."""
    values: Any = run.config or {}
    for part in field.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _time(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def summary(run: Evidence) -> str:
    """Writes what was trained on what, how much of it, and when."""
    batch, steps = _whole(run, "train.batch_size"), run.steps_done
    rows = [
        ("task", _value(run, "task")),
        ("data", _data(run)),
        ("starts from", _value(run, "init_from") or ("nothing" if run.config else None)),
        ("steps", f"{steps:,}" + (f" of {total:,}" if (total := _whole(run, "train.steps")) else "")),
        ("pairs seen", f"{steps * batch:,} in batches of {batch:,}" if batch else None),
        ("seed", _value(run, "seed")),
        ("began", _time(run.snapshots[0].began) if run.snapshots else None),
        ("took", _duration(time_ledger.account(run.snapshots).total) if run.snapshots else None),
        ("configuration", run.fingerprint),
        ("work directory", run.workdir),
    ]
    return elements.pairs((name, str(text)) for name, text in rows if text is not None)


def _data(run: Evidence) -> str | None:
    source, mixture = _value(run, "data.source"), _value(run, "data.mixture")
    parts = [part.get("source") for part in mixture if isinstance(part, dict)] if isinstance(mixture, list) else []
    if not parts:
        return f"{source}, {_value(run, 'data.train_split')}" if source else None
    return f"{', '.join(map(str, parts))}; evaluated on {source}"


def curves_of(run: Evidence) -> str:
    """Draws loss, learning rate, results and speed over the steps."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "curves.svg"
        try:
            curves.plot_curves(run.workdir / METRICS, place)
        except (curves.CurvesError, json_files.NoteError):
            return elements.section("Curves", elements.note(f"{METRICS} holds no step yet."))
        drawn = place.read_text(encoding="utf-8")
    return elements.section("Curves", f'<div class="wide">{drawn[drawn.index("<svg") :]}</div>')


def gallery(run: Evidence) -> str:
    """Writes the gallery of the run as it is, folded; nothing where the task makes none."""
    if run.gallery is None:
        return ""
    return elements.section("Gallery", elements.folded("What the model retrieves", run.gallery))


def time(run: Evidence) -> str:
    """Writes where the time went, over all starts."""
    if not run.snapshots:
        return elements.section("Time", elements.note(f"There is no {LEDGER}."))
    spent = time_ledger.account(run.snapshots)
    whole = max(spent.total, 1e-9)
    phases = [([name, _duration(of), f"{of / whole:.1%}"], of / whole) for name, of in spent.seconds.items()]
    starts = [list(lines) for _, lines in itertools.groupby(run.snapshots, key=lambda line: line.start)]
    said = (
        f"{_duration(spent.total)} from the first start to the last line; goodput, the share in which steps were "
        f"computed that count, {spent.goodput:.1%}; restarts: {len(starts) - 1}."
    )
    table = elements.bars(["phase", "time", "share"], phases)
    return elements.section("Time", elements.note(said), table, elements.folded("Starts", _starts(starts)))


def _starts(starts: Sequence[Sequence[time_ledger.Snapshot]]) -> str:
    rows = []
    for lines in starts:
        last = lines[-1]
        rows.append([_time(last.began), f"{last.first:,}", f"{last.done:,}", _duration(last.total), last.state])
    return elements.table(["began", "from step", "to step", "for", "state at its last line"], rows)


def configuration(run: Evidence) -> str:
    """Writes what differs from the default, and below it every field."""
    if run.config is None:
        nowhere = "Neither a checkpoint nor the note of a start is there to read it from."
        return elements.section("Configuration", elements.note(nowhere))
    documented = {name: str(field.metadata["doc"]) for name, field, _ in experiment.fields()}
    default = dict(_leaves(json.loads(json.dumps(experiment.default().to_dict()))))
    values = dict(_leaves(run.config))
    changed = [
        (name, _text(value), _text(default[name]) if name in default else "no such field", documented.get(name, ""))
        for name, value in values.items()
        if name not in default or value != default[name]
    ]
    everything = elements.table(["field", "value"], ((n, _text(v)) for n, v in sorted(values.items())), words=True)
    differing = elements.table(["field", "value", "default", "meaning"], changed, words=True)
    holder = f"checkpoint {run.saved.step}" if run.saved else run_info.NAME
    said = f"As {holder} holds it. {len(changed)} of {len(values)} fields differ from the default:"
    return elements.section("Configuration", elements.note(said), differing, elements.folded("Every field", everything))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of nested sections by dotted path."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def environment(run: Evidence) -> str:
    """Writes what the run recorded about where it ran."""
    figures, series = run.figures[0], run.series
    rows = [
        *_started(run.start),
        ("tokenizer", run.saved.tokenizer if run.saved else None),
        ("mesh as configured", _text(_value(run, "mesh")) if run.config else None),
        ("computation in", _value(run, "model.dtype")),
        ("pairs per second", _median(series, "train/pairs_per_second", "{:.1f}")),
        ("waiting for data", _median(series, "train/data_wait_share", "{:.1%}")),
        ("model FLOP/s of a device", _median(series, "train/model_flops_per_second", "{:.3g}")),
        ("of the datasheet's peak", _median(series, "train/mfu", "{:.1%}")),
        ("host memory at most", _gib(figures, series, "host_memory_gib")),
        ("accelerator memory at most", _gib(figures, series, "device_memory_gib")),
    ]
    known = elements.pairs((name, str(text)) for name, text in rows if text is not None)
    said = "Speeds are medians over the lines of the log; machines and libraries are those of the newest start."
    return elements.section("Environment", known, elements.note(said))


def _started(start: run_info.RunInfo | None) -> list[tuple[str, str]]:
    """Machines and libraries of a start."""
    if start is None:
        return []
    return [
        ("command", shlex.join(start.command)),
        ("machines", f"{start.processes} process(es), the first on {start.host}"),
        ("computed on", f"{start.devices} x {start.device} ({start.backend})"),
        ("system", f"{start.system}, Python {start.python}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in start.versions.items())),
        ("wenlan_jax", start.version),
    ]


def _median(series: Mapping[str, curves.Series], name: str, form: str) -> str | None:
    return form.format(statistics.median(series[name].values())) if series.get(name) else None


def _gib(figures: Mapping[str, float], series: Mapping[str, curves.Series], name: str) -> str | None:
    """The peak by the result, or by the log of a run half done."""
    logged = series.get(f"train/{name}", {})
    seen = [figures[name]] if name in figures else list(logged.values())
    return f"{max(seen):.2f} GiB" if seen else None
