"""`wenlan sweep`: runs the rows of ablation tables and writes the tables."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.sweep import figure, local_runs, plan, report, slurm, summary, table
from wenlan_jax.sweep import folder as folders
from wenlan_jax.util.arguments import LARGEST_SEED, whole

DESCRIPTION = """\
Run the rows of ablation tables, each with every seed, through `wenlan train`, and write the tables.

What is done is skipped, what is half done continues, what failed is tried again. Ctrl-C or SIGTERM has the trainings
save their state. Several calls, also on several machines, may share OUT and then share the work. OUT receives, of
every table file, <table>.md, <table>.csv and <table>.png, and the runs in runs/, each in a directory that is named
after its configuration: the same row in two tables is one run. The exit status is 1 while a run has no result.
"""

EXAMPLES = """\
examples:
  wenlan sweep configs/ablations/queue.py --out=runs/ablations --dry-run
  wenlan sweep configs/ablations --out=runs/ablations --jobs=2
  wenlan sweep configs/ablations/queue.py --out=/shared/ablations --backend=slurm --jobs=16 \\
      --sbatch='--time=4:00:00 --partition=gpu --gpus=1 --cpus-per-task=8' --submit
  wenlan sweep configs/ablations/queue.py --out=/shared/ablations --table-only
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan sweep`."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="table files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs and the tables")
    parser.add_argument("--jobs", type=whole(1), default=1, help="trainings side by side (default: %(default)s)")
    parser.add_argument(
        "--gpus-per-run",
        type=whole(1),
        metavar="G",
        help="give each training G GPUs of its own by CUDA_VISIBLE_DEVICES (default: each sees all)",
    )
    parser.add_argument("--only", action="append", metavar="ROW", help="run this row alone; may be given several times")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=whole(0, LARGEST_SEED),
        default=[],
        metavar="N",
        help="instead of those of the tables",
    )
    parser.add_argument("--only-run", metavar="NAME", help="one run by the name of its directory, and no table")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="check the tables and list the runs")
    what.add_argument("--table-only", action="store_true", help="write the tables of what is there, run nothing")
    _add_slurm_arguments(parser.add_argument_group("job array"))


def _add_slurm_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--backend",
        choices=("local", "slurm"),
        default="local",
        help=f"slurm: write OUT/{slurm.SCRIPT}, one job array with a task a run that is not done "
        "(default: %(default)s)",
    )
    group.add_argument("--submit", action="store_true", help="also give it to sbatch")
    group.add_argument("--sbatch", default="", metavar="'--A=B ...'", help="options of sbatch for every task")
    group.add_argument("--setup", type=Path, metavar="FILE", help="a script that each task sources first")


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan sweep`.

    Args:
        arguments: the parsed arguments.
        fields: none.

    Returns:
        0 if every run asked for is done, else 1.

    Raises:
        SweepError: for arguments that do not go together, or a row or run that no table has.
        TableError: lists the faults of the tables.
    """
    del fields
    _check(arguments)
    files = [file for path in arguments.files for file in (table.in_folder(path) if path.is_dir() else [path])]
    planned = plan.make([table.load(file) for file in files], arguments.seeds)
    chosen = plan.chosen(planned, arguments.only, arguments.only_run)
    slots = local_runs.slots(arguments.jobs, arguments.gpus_per_run or 0, os.environ.get("CUDA_VISIBLE_DEVICES"))
    store = folders.RunStore(arguments.out)
    wanted = [store.folder(run) for run in chosen]
    if arguments.dry_run:
        return _list(wanted, planned)
    open_runs = [folder for folder in wanted if folder.result() is None]
    if arguments.backend == "slurm":
        return _write_array(arguments, open_runs)
    if not arguments.table_only:
        print(f"{len(wanted) - len(open_runs)} of {len(wanted)} run(s) are done already", flush=True)
        local_runs.RunPool(open_runs, slots, folders.wenlan_command(), lambda line: print(line, flush=True)).run()
    if arguments.only_run is None:
        _write_tables(planned, store, arguments.out)
    return 0 if all(folder.result() is not None for folder in wanted) else 1


def _check(arguments: argparse.Namespace) -> None:
    if arguments.backend == "local" and (arguments.submit or arguments.sbatch or arguments.setup):
        raise plan.SweepError("--submit, --sbatch and --setup are for --backend=slurm")
    if arguments.backend == "slurm" and (arguments.table_only or arguments.gpus_per_run):
        raise plan.SweepError(
            "--backend=slurm: the tables come from the same command without it; GPUs are asked of sbatch"
        )


def _list(wanted: Sequence[folders.RunFolder], planned: plan.SweepPlan) -> int:
    for folder in wanted:
        places = "; ".join(f"{place.table}: {place.row}, seed {place.seed}" for place in folder.run.places)
        print(f"{folder.path}  {folder.state().text()}\n  {places}")
        changes = ", ".join(f"{name}={value!r}" for name, value in folder.run.overrides.items())
        print(f"  {folder.run.base} with {changes}")
    print(f"{len(wanted)} run(s) for {len(planned.names)} place(s) in {len(planned.files)} table(s)")
    return 0


def _write_array(arguments: argparse.Namespace, open_runs: Sequence[folders.RunFolder]) -> int:
    if not open_runs:
        print("every run is done; the same command without --backend=slurm writes the tables")
        return 0
    out = arguments.out.resolve()
    seeds = ["--seeds", *map(str, arguments.seeds)] if arguments.seeds else []
    command = ["wenlan", "sweep", *(str(path.resolve()) for path in arguments.files), f"--out={out}", *seeds]
    options, names = shlex.split(arguments.sbatch), [folder.run.name for folder in open_runs]
    path = slurm.write(slurm.SlurmRequest(names, command, arguments.jobs, options, arguments.setup, out))
    print(f"{len(names)} task(s) in {path}")
    print(slurm.submit(path) if arguments.submit else f"submit it with: sbatch {path}")
    return 0


def _write_tables(planned: plan.SweepPlan, store: folders.RunStore, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for file in planned.files:
        lines = summary.lines(file, planned, store)
        pages = [*report.write(file, lines, out), figure.draw(file, lines, out)]
        print(f"\n{report.plain(file, lines)}\n{', '.join(path.name for path in pages)} are in {out}")
