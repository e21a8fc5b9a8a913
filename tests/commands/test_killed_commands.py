"""Commands that are killed at random moments, their process alone, and called again until they are done.

Each of train, pack, clean, embed, export and sweep must end in what an undisturbed call gives, byte for byte, and leave
no process behind. WENLAN_KILLS in the environment sets the kills of each command, in place of 2:

    WENLAN_KILLS=17 python -m pytest tests/commands/test_killed_commands.py -m slow -s
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from repository import CONFIGS
from whole_runs import Place, final_state, training_lines

from wenlan_jax.tasks import experiment

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("WENLAN_KILLS", "2"))
THRESHOLDS = CONFIGS / "clean" / "web_zh.py"
UNITS, IMAGES = 5, 40
"""Files that are packed, and the images of each."""

MEASURED = ("seconds", "goodput", "_gib", "per_second", "data_wait_share", "mfu")
"""Parts of names of figures that a clock or the system gives."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    rng = np.random.default_rng(0)
    for unit in range(UNITS):
        lines = ["image,caption,id"]
        for number in range(IMAGES):
            name = f"{unit}-{number}.png"
            cv2.imwrite(str(folder / name), rng.integers(0, 256, (80, 80, 3), np.uint8))
            lines.append(f"{name},第{unit}张图{number}里有一只猫和两只狗,{unit}-{number}")
        (folder / f"pairs-{unit}.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


@pytest.fixture
def place(root: Path, tiny: Callable[..., experiment.Config]) -> Place:
    return Place.make(
        root,
        tiny(
            data__dir=str(root / "data"),
            data__workers=1,
            tokenizer__train_size=1000,
            model__text__bert__vocab_size=0,
            train__steps=12,
            checkpoint__every=2,
            eval__final_splits=("test",),
            telemetry__tensorboard="off",
        ),
    )


TABLE = """
from wenlan_jax.sweep.table import Row
from wenlan_jax.sweep.table import Table


def get_table():
    return Table(
        title="Banks",
        base="config.py",
        rows=(Row("K = 20"), Row("K = 8", {"contrast.bank_size": 8})),
        seeds=(0,),
        baseline="K = 20",
        metrics=("retrieval/test/mean_recall",),
    )
"""


@dataclasses.dataclass(frozen=True)
class Command:
    """arguments: of a call that writes to a place. result: what it left there, without what a clock gives."""

    arguments: Callable[[Place, Path], list[str]]
    result: Callable[[Path], Any]


def _files(out: Path) -> dict[str, Any]:
    """Every file by name: JSON without what is measured or names the place, all else in bytes."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        content: Any = path.read_bytes()
        if path.suffix == ".json":
            content = _without_times(json.loads(content.replace(str(out).encode(), b"OUT")))
        found[str(path.relative_to(out))] = content
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: _without_times(inner) for name, inner in value.items()}
        return {name: inner for name, inner in kept.items() if not any(part in name for part in MEASURED)}
    return value


def _training(workdir: Path) -> dict[str, Any]:
    """The bits of the last state, the lines of all steps, the figures and the checkpoints that are kept."""
    return {
        "state": {name: leaf.tobytes() for name, leaf in final_state(workdir).items()},
        "lines": training_lines(workdir),
        "result": _without_times(json.loads((workdir / "result.json").read_text())),
        "checkpoints": sorted(path.name for path in (workdir / "checkpoints").iterdir()),
    }


def _sweep(out: Path) -> dict[str, Any]:
    assert [line.rsplit(",", 1)[1] for line in (out / "table.csv").read_text().splitlines()[1:]] == ["done"] * 2
    return {path.name: _training(path) for path in sorted((out / "runs").iterdir())}


COMMANDS = {
    "train": Command(lambda place, out: place.training(out.name), _training),
    "pack": Command(
        lambda place, out: [
            "pack", *(str(place.root / f"pairs-{unit}.csv") for unit in range(UNITS)), f"--out={out}", "--language=zh",
            "--source=here", "--workers=2",
        ],
        _files,
    ),
    "clean": Command(
        lambda place, out: [
            "clean", str(made("pack", place)), f"--out={out}", "--workers=2", f"--config={THRESHOLDS}",
            "--config.repeats.max_template_images=0", "--config.duplicates.texts=off",
        ],
        _files,
    ),
    "embed": Command(lambda place, out: ["embed", f"--workdir={made('train', place)}", f"--out={out}"], _files),
    "export": Command(
        lambda place, out: ["export", f"--workdir={made('train', place)}", "--format=huggingface", f"--out={out}"],
        _files,
    ),
    "sweep": Command(lambda place, out: ["sweep", str(place.root / "table.py"), f"--out={out}", "--jobs=2"], _sweep),
}  # fmt: skip


@functools.cache
def straight(name: str, place: Place) -> tuple[Path, float]:
    """What an undisturbed call left, and its seconds."""
    (place.root / "table.py").write_text(TABLE)
    out = place.root / f"straight_{name}"
    words = COMMANDS[name].arguments(place, out)
    began = time.monotonic()
    done = place.call(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, time.monotonic() - began


def made(name: str, place: Place) -> Path:
    return straight(name, place)[0]


def processes(mark: str) -> list[str]:
    """The command lines of this machine's processes that name `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:  # it has ended
            continue
        if mark in words:
            found.append(words)
    return found


def descendants(pid: int) -> set[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found, new = {pid}, [pid]
    while new:
        new = [child for one in new for child in children.get(one, [])]
        found.update(new)
    return found


def alive(pids: set[int]) -> list[str]:
    """Those of some processes that still run, by their command lines."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if state != "Z":
            found.append(words)
    return found


def strike(command: list[str], place: Place, after: float) -> tuple[bool, set[int]]:
    """Calls a command and kills its process alone after some seconds: whether it was in time, and who was below it."""
    with (place.root / "killed.log").open("ab") as log:
        process = subprocess.Popen(command, env=place.environment(), stdout=log, stderr=subprocess.STDOUT)
    try:
        process.wait(after)
        return False, set()
    except subprocess.TimeoutExpired:
        below = descendants(process.pid) - {process.pid}
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL, below


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_random_moments_gives_what_an_undisturbed_one_gives(name: str, place: Place) -> None:
    if name == "export":
        pytest.importorskip("torch")
    whole, seconds = straight(name, place)
    rng, kills, ends, orphans = random.Random(name), 0, 0, set()
    expected = COMMANDS[name].result(whole)
    out = place.root / f"killed_{name}_0"
    while kills < KILLS:
        words, began = place.command(*COMMANDS[name].arguments(place, out)), time.monotonic()
        killed, below = strike(words, place, rng.uniform(0.0, seconds))
        kills += killed
        orphans |= below
        if not killed:
            assert COMMANDS[name].result(out) == expected, f"after {kills} kills"
            ends, seconds = ends + 1, time.monotonic() - began  # the first call compiled, too
            out = place.root / f"killed_{name}_{ends}"
    done = place.call(*COMMANDS[name].arguments(place, out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert COMMANDS[name].result(out) == expected
    limit = time.monotonic() + 20
    while (left := alive(orphans) + processes(f"/killed_{name}_")) and time.monotonic() < limit:
        time.sleep(0.2)
    assert not left, left
    assert not [path for path in place.root.glob(f".killed_{name}_*") if path.name.endswith(".incomplete")]
    print(f"{name}: {kills} kills, {ends + 1} ends, {seconds:.1f} s undisturbed, no orphan")
