"""`wenlan bench --data`: records a CPU-second of the loader, beside decoding alone and a PyTorch DataLoader.

The sides take turns, round by round, on images made here. Every side counts the user and system seconds of its
process and workers, so that the number of cores and the other load of the machine matter little. Nothing of jax runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import statistics
import tempfile
from pathlib import Path

from wenlan_jax.bench import data_images
from wenlan_jax.bench.data_sides import Kind, LoaderJob, LoaderSide, SideError
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.experiment import ConfigError

SIZES = (224, 384, 600)
"""Sides of the squares that are loaded, in pixels."""

STORED = ((468, 401), (1365, 1024))
"""Width and height of the stored images: as image search delivers them, and larger ones."""

BATCH = 32
ROUNDS = 3
ROUND_BATCHES = 8
SETTLING_BATCHES = 3

OURS: tuple[Kind, ...] = ("ours", "ours, not enlarged")
ALONE: tuple[Kind, ...] = (*OURS, "decoding alone", "decoding alone, memory kept")
TORCH: tuple[Kind, ...] = ("DataLoader, same work", "DataLoader, usual transforms")


def run_data(config: experiment.Config, records: int, against: str | None, out: Path | None) -> dict[str, float]:
    """Measures the loader under data.workers, .prefetch, .text_length, .antialias and .averaging; prints a table.

    Args:
        config: the configuration.
        records: images of each stored size, made in the temporary directory.
        against: `torch` to measure PyTorch's loaders, too; None for no comparison.
        out: a file for the figures, as JSON; None for none.

    Returns:
        The figures by name.

    Raises:
        ConfigError: for fewer than one record.
        SideError: when a loader fails.
    """
    if records < 1:
        raise ConfigError(f"--data-records: at least 1 is needed, not {records}")
    if against:
        _require_torch()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="wenlan_data_") as temporary:
        folder = Path(temporary)
        data_images.write_vocabulary(folder / "vocab.txt")
        for width, height in STORED:
            place = folder / f"{width}x{height}"
            size = data_images.write(place, records, width, height, config.seed)
            _say(f"{records} JPEGs of {width} x {height}, {size / records / 1000:.0f} kB each; records a CPU-second:")
            for side in SIZES:
                _say(f"  to {side} px, {ROUNDS} rounds of each side ...")
                job = _job(config, place, folder / "vocab.txt", side)
                rates = _measure(job, ALONE + TORCH if against else ALONE)
                figures |= {f"{width}x{height}/{side}/{name}": value for name, value in _figures(rates).items()}
                _say(_row(side, rates))
    if out is not None:
        out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    return figures


def _say(line: str) -> None:
    print(line, flush=True)  # not console.say, which asks jax whether this is the first process


def _require_torch() -> None:
    missing = [name for name in ("torch", "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        raise SideError(f"--against=torch needs {' and '.join(missing)}; pip install 'wenlan_jax[torch]'")


def _job(config: experiment.Config, place: Path, vocabulary: Path, size: int) -> LoaderJob:
    data = config.data
    return LoaderJob(
        kind="ours",
        folder=place,
        vocabulary=vocabulary,
        size=size,
        batch_size=BATCH,
        workers=data.workers,
        prefetch=data.prefetch,
        text_length=data.text_length,
        antialias=data.antialias,
        averaging=data.averaging,
        seed=config.seed,
    )


def _measure(job: LoaderJob, kinds: tuple[Kind, ...]) -> dict[Kind, list[float]]:
    """Records a CPU-second of each side and round; the sides take turns."""
    rates: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    with contextlib.ExitStack() as stack:
        sides = {kind: stack.enter_context(LoaderSide(dataclasses.replace(job, kind=kind))) for kind in kinds}
        for side in sides.values():
            side.take(SETTLING_BATCHES)
        for _ in range(ROUNDS):
            for kind, side in sides.items():
                rates[kind].append(BATCH * ROUND_BATCHES / side.cpu_seconds_of(ROUND_BATCHES))
    return rates


def _ratio(rates: dict[Kind, list[float]], one: Kind, other: Kind) -> float:
    """`one` over `other`: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))


def _figures(rates: dict[Kind, list[float]]) -> dict[str, float]:
    found = {f"{kind}/records_per_cpu_second": statistics.median(values) for kind, values in rates.items()}
    others = [kind for kind in rates if kind not in OURS]
    return found | {f"{one} over {other}": _ratio(rates, one, other) for one in OURS for other in others}


def _row(size: int, rates: dict[Kind, list[float]]) -> str:
    """One line of the table; in brackets are ours over that side, enlarged here and left to the accelerator."""
    speeds = {kind: f"{kind} {statistics.median(values):.0f}" for kind, values in rates.items()}
    others = [kind for kind in rates if kind not in OURS]
    ratios = {other: ", ".join(f"{_ratio(rates, one, other):.2f}" for one in OURS) for other in others}
    cells = [speeds[one] for one in OURS] + [f"{speeds[other]} ({ratios[other]})" for other in others]
    return f"  to {size} px: " + "; ".join(cells)
