"""The page of one run: `wenlan report WORKDIR`."""

from __future__ import annotations

from pathlib import Path

from wenlan_jax.report import elements, evidence, results, sections
from wenlan_jax.report.evidence import RESULT, Evidence
from wenlan_jax.util import atomic_files, html_page

NAME = "report.html"
"""In the work directory, unless another place is named."""


def write(workdir: Path, out: Path | None = None) -> Path:
    """Writes the page of a run, whole or not at all.

    Args:
        workdir: the work directory of the run.
        out: the file; None for `report.html` in the work directory.

    Returns:
        The file.

    Raises:
        ReportError: where there is no run.
    """
    run = evidence.read(workdir)
    place = out or workdir / NAME
    atomic_files.write(place, render(run).encode("utf-8"))
    return place


def render(run: Evidence) -> str:
    """Renders the page; it has no scripts and loads nothing."""
    figures, _ = run.figures
    note = f"{sections.state(run)} {results.headline(figures, run.ranks)}".strip()
    parts = [
        elements.STYLE,
        *(elements.remark(text) for text in run.remarks),
        sections.summary(run),
        _results(run),
        sections.curves_of(run),
        sections.gallery(run),
        sections.time(run),
        sections.configuration(run),
        sections.environment(run),
    ]
    return html_page.document(f"Run {run.workdir.absolute().name}", note, parts)


def _results(run: Evidence) -> str:
    """The figures of the newest evaluation, and where they come from."""
    figures, step = run.figures
    if not figures:
        return elements.section("Results", elements.note("Nothing was evaluated yet."))
    if run.result is None:
        origin = elements.remark(
            f"There is no {RESULT}: these are of an evaluation while training, after step {step:,}."
        )
    elif sections.is_old(run):
        origin = elements.remark(f"{RESULT} is of step {step:,}; the run has gone on to step {run.steps_done:,} since.")
    else:
        origin = ""
    everything = elements.table(["name", "value"], ((name, f"{value:.6g}") for name, value in sorted(figures.items())))
    shown = results.parts(figures, run.ranks)
    return elements.section("Results", origin, *shown, elements.folded("Every figure", everything))
