"""A finished run as `wenlan train` leaves it, made by what writes its files but without training, and pages as read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from conftest import tiny_dict

from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections
from wenlan_jax.evaluation import gallery, query_ranks, retrieval
from wenlan_jax.monitoring import time_ledger
from wenlan_jax.tasks import experiment

STEPS, IMAGES = 6, 400
BEGAN = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


class Page(HTMLParser):
    """The tables of a page by caption or first header, each a list of rows of cells, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.tables and self.tables[-1] and self.tables[-1][-1] and self.tags[-1][0] in ("td", "th"):
            self.tables[-1][-1][-1] += data.rstrip("\n")

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def table(self, *headers: str) -> dict[str, list[str]]:
        """The rows of the first table whose head begins so, by their first cell."""
        rows = self.rows(*headers)
        return {row[0]: row[1:] for row in rows[1:]}

    def rows(self, *headers: str) -> list[list[str]]:
        """The first table whose head begins so."""
        return next(table for table in self.tables if table[0][: len(headers)] == list(headers))

    def said(self, name: str) -> str:
        """What stands beside a name in any table of two columns."""
        return next(row[1] for table in self.tables for row in table if len(row) == 2 and row[0] == name)


def ranks_of(seed: int, languages: Sequence[str] = ("zh", "en")) -> query_ranks.Ranks:
    """Ranks of one text for each image, about half of them the best."""
    rng = np.random.default_rng(seed)
    both = [np.where(rng.random(IMAGES) < 0.5, 1, rng.integers(2, 30, IMAGES)) for _ in range(2)]
    said = [languages[number % len(languages)] for number in range(IMAGES)]
    return query_ranks.of_queries(both[0], both[1], np.arange(IMAGES), said, [f"text {i}" for i in range(IMAGES)])


def figures_of(of: query_ranks.Ranks, split: str = "test") -> dict[str, float]:
    """What an evaluation with these ranks tells."""
    found = retrieval.of_ranks(of.image_to_text, of.text_to_image, of.image)
    for language in sorted(set(of.language.tolist())):
        hits = of.text_to_image[of.language == language] <= 1
        found[f"{language}/text_to_image/recall_at_1"] = float(hits.mean())
    return {f"retrieval/{split}/{name}": value for name, value in found.items()}


def snapshot(done: int, state: str = time_ledger.RUNNING, start: int = 0, began: float = BEGAN) -> time_ledger.Snapshot:
    """A line of a ledger: 10 s until the first step, then 20 s a step."""
    seconds = {**dict.fromkeys(time_ledger.PHASES, 0.0), time_ledger.START: 10.0, time_ledger.STEPS: 20.0 * done}
    return time_ledger.Snapshot(start, began, 0, done, seconds, state)


def write_lines(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make(root: Path) -> None:
    """A run that has ended, with what it leaves but for the curves; its checkpoints hold next to nothing."""
    config = experiment.parse(tiny_dict(train__steps=STEPS, init_from="weights/<b>start</b>"))
    with store.Checkpoints(root / "checkpoints", sections.CheckpointConfig()) as checkpoints:
        for step in (3, STEPS):
            checkpoints.save(step, {"weights": np.ones(4, np.float32)}, config, "tokens:0123")
            checkpoints.wait()
    of = ranks_of(0)
    query_ranks.write(root, "test", of)
    figures = figures_of(of)
    result = {**figures, "train/steps": float(STEPS), "train/pairs": STEPS * 8.0, "host_memory_gib": 1.5}
    (root / "result.json").write_text(json.dumps(result))
    training = [
        {"step": s, "train/loss": 3.0 - s / 10, "train/pairs_per_second": 10.0 * s} for s in range(1, STEPS + 1)
    ]
    validation = {"step": 4, **figures_of(ranks_of(1), "validation")}
    write_lines(root / "metrics.jsonl", [*training[:4], validation, *training[4:], {"step": STEPS, **figures}])
    write_ledger(root, [snapshot(0), snapshot(3), snapshot(STEPS), snapshot(STEPS, time_ledger.FINISHED)])
    html = gallery.render_gallery([gallery.TextQuery("a < b", "en", [], 1)], "Found", "note")
    (root / "gallery.html").write_text(html)


def write_ledger(root: Path, lines: Sequence[time_ledger.Snapshot]) -> None:
    """The ledger of a run."""
    write_lines(root / "ledger.jsonl", [dataclasses.asdict(line) for line in lines])
