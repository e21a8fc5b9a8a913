"""`wenlan <command>`: each command is a thin call into the package.

Nothing heavy is imported here, so that `--help` answers at once. Data workers import this file again; they stay free
of jax.
"""

from __future__ import annotations

from wenlan_jax.util import interrupts  # first, as Ctrl-C is heard from here on

# isort: split
import argparse
import atexit
import gc
import importlib
import io
import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wenlan_jax import __version__
from wenlan_jax.util.arguments import real, whole
from wenlan_jax.util.errors import WenlanError

if TYPE_CHECKING:
    from wenlan_jax.tasks.experiment import Config

if multiprocessing.current_process().name != "MainProcess" and Path(sys.argv[0]).stem == "wenlan":
    # A data worker of this command. Grain would import jax here, which it does not need: time and memory for nothing.
    # None makes that import fail, as where jax is not installed.
    sys.modules.setdefault("jax", None)  # type: ignore[arg-type]

ADVICE = """\
Every field of the configuration can be set on the command line: --config.train.steps=500 or
--config.model.image.regions.grid='(1, 5)'. Start from a file in configs/."""


GARBAGE_AFTER = 10_000
"""New objects between two searches for garbage. Python's default, 700, has importing jax and tracing a model walk a
million objects several times, which takes a quarter of the start and frees nothing; so does the last search at exit."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status is 0 if done, 1 after an explained fault, 128 + n if signal n stopped it."""
    gc.set_threshold(GARBAGE_AFTER)
    atexit.register(gc.freeze)
    _print_anything()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    return _end(_status_of(parser, parsed, rest))


def _print_anything() -> None:
    """Has what a terminal has no characters for, or a path no text for, printed as escapes; it would be a fault."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _status_of(parser: argparse.ArgumentParser, parsed: argparse.Namespace, rest: list[str]) -> int:
    """Runs the command and explains its fault; the exit status."""
    strangers = [argument for argument in rest if not argument.startswith("--config.")]
    if strangers or (rest and not parsed.takes_fields):
        parser.error(f"unknown argument: {(strangers or rest)[0]}; see `wenlan {parsed.command} --help`")
    try:
        interrupts.are_raised()
        return int(parsed.run(parsed, rest) if parsed.takes_fields else parsed.run(parsed))
    except BrokenPipeError:
        # The reader went away, as in `wenlan fields | head`; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        number = getattr(error, "signal", None)
        if number is not None:
            print(error, flush=True)
            return 128 + int(number)
        explanation = _explain(error, parsed)
        if explanation is not None:
            print(f"wenlan {parsed.command}: {explanation}", file=sys.stderr)
        elif _in_a_job():
            traceback.print_exception(error)  # raised, it would wait for the other processes before it is shown
        else:
            raise
        return _leave(1)
    except KeyboardInterrupt:
        print(f"wenlan {parsed.command}: interrupted", file=sys.stderr)
        return _leave(130)


def _in_a_job() -> bool:
    """Whether this is one of several processes; the module is imported only by commands that may join a job."""
    distributed = sys.modules.get("wenlan_jax.parallel.distributed")
    return distributed is not None and bool(distributed.in_a_job())


def _end(status: int) -> int:
    """Returns `status`, unless a call was left behind that the normal way out would wait for, or fall over."""
    waiting = sys.modules.get("wenlan_jax.parallel.waiting")
    if waiting is None or not waiting.abandoned():
        return status
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _leave(status: int) -> int:
    """Leaves the job that this process may be part of, without waiting for processes that wait for this one."""
    return int(sys.modules["wenlan_jax.parallel.distributed"].leave(status)) if _in_a_job() else status


def _explain(error: Exception, parsed: argparse.Namespace) -> str | None:
    """The message of an error of ours, or of the system's with its path; None for any other error, which is a bug."""
    if isinstance(error, WenlanError):
        return str(error)
    if _in_a_job() and (lost := sys.modules["wenlan_jax.parallel.distributed"].lost_peer(error)) is not None:
        return str(lost)
    if not isinstance(error, OSError):
        return None
    reason = error.strerror or str(error)
    if error.filename is None:
        # Writing to an open file, as on a full disk: the system does not say which one.
        place = getattr(parsed, "out", None) or getattr(parsed, "workdir", None)  # with both, the latter is read
        return f"{reason} (this command writes to {place})" if place else reason
    if isinstance(error, FileExistsError) and os.path.isfile(error.filename):
        reason = "is a file; a directory is needed"
    return f"{error.filename}: {reason}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wenlan", description="Pretrain and evaluate image-text models of the WenLan family in JAX."
    )
    parser.add_argument("--version", action="version", version=f"wenlan_jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add(commands, "train", "train a model; the same command again continues", _train_arguments, _train, True)
    _add(commands, "eval", "measure a trained model on held-out data", _eval_arguments, _eval, True)
    _add(commands, "embed", "write embeddings of a data set by a trained model", _embed_arguments, _embed, True)
    _add(
        commands,
        "rerank",
        "order the best answers of two towers by a single one",
        *_in("applications.rerank_command"),
        True,
    )
    _add(commands, "attention", "draw where the words of a text look", *_in("applications.attention_command"), True)
    _add(commands, "import", "take over weights of PyTorch models", _import_arguments, _import, True)
    _add(commands, "export", "write a trained model for PyTorch users, with proof", _export_arguments, _export, False)
    _add(commands, "pack", "turn your own image-text pairs into records", *_in("prepare.pack_command"), False)
    _add(commands, "data", "build named data sets, list them, look into any", *_in("prepare.command"), False)
    _add(commands, "clean", "leave out bad and repeated records, and say which", *_in("prepare.clean.command"), True)
    _add(commands, "regions", "add a detector's boxes and features to records", *_in("prepare.regions.command"), False)
    _add(commands, "score", "measure how correlated pairs are", *_in("prepare.clean.command", "_score"), False)
    _add(commands, "vocab", "train a SentencePiece vocabulary on a corpus", *_in("data.vocab", "_vocab"), False)
    _add(commands, "bench", "measure speed, memory and where they go", _bench_arguments, _bench, True)
    _add(commands, "sweep", "run the rows of ablation tables and write the tables", *_in("sweep.command"), False)
    _add(commands, "report", "turn one run into a page that a person reads", *_in("report.command"), False)
    _add(commands, "plan", "say what a run needs on devices that are not here", _plan_arguments, _plan, True)
    _add(
        commands,
        "fields",
        "list every configuration field with its default and source",
        _fields_arguments,
        _fields,
        False,
    )
    return parser


def _in(module: str, which: str = "") -> tuple[Callable[[argparse.ArgumentParser], None], Callable[..., int]]:
    """A command that a module of this package owns: what declares its arguments, and what runs it."""

    def arguments(parser: argparse.ArgumentParser) -> None:
        importlib.import_module(f"wenlan_jax.{module}").__dict__[f"add{which}_arguments"](parser)

    def run(*parsed: object) -> int:
        return int(importlib.import_module(f"wenlan_jax.{module}").__dict__[f"run{which}"](*parsed))

    return arguments, run


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[..., int],
    takes_fields: bool,
) -> None:
    parser = commands.add_parser(
        name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments(parser)
    parser.set_defaults(run=run, takes_fields=takes_fields)


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a model and evaluate it. WORKDIR receives checkpoints/, metrics.jsonl, result.json, curves.png and\n"
        "gallery.html. The same command again continues from the newest checkpoint, bit for bit. Ctrl-C or SIGTERM\n"
        "saves the state and ends with status 128 + the signal's number.\n\n" + ADVICE + " `wenlan fields` lists them."
    )
    parser.epilog = "example:\n  wenlan train --config=configs/quickstart.py --workdir=runs/first --config.seed=1"
    parser.add_argument("--config", type=Path, required=True, help="a configuration file, e.g. configs/quickstart.py")
    parser.add_argument("--workdir", type=Path, required=True, help="directory of this run, made if absent")
    parser.add_argument(
        "--profile",
        metavar="FIRST:COUNT",
        help="trace COUNT steps from step FIRST into WORKDIR/profile, for xprof; short for --config.telemetry.profile",
    )


def _train(arguments: argparse.Namespace, rest: list[str]) -> int:
    began = time.time()
    if arguments.profile is not None:
        rest = [*rest, f"--config.telemetry.profile={arguments.profile}"]
    config = _read_config(arguments.config, rest)
    from wenlan_jax.training import loop

    loop.train(config, arguments.workdir, began)
    return 0


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run the evaluations of a checkpoint's task on the splits of its configuration, or on other data: fields of\n"
        "the sections data, eval and mesh may be set, e.g. --config.eval.final_splits=\"('validation',)\".\n"
        "Prints a table and writes result.json and gallery.html into --out."
    )
    parser.epilog = "example:\n  wenlan eval --workdir=runs/quickstart --config.eval.languages=\"('zh',)\""
    parser.add_argument("--workdir", type=Path, required=True, help="directory of a run of `wenlan train`")
    parser.add_argument("--step", type=whole(0), help="the checkpoint to evaluate (default: the newest)")
    parser.add_argument("--out", type=Path, help="where results are written (default: WORKDIR/eval)")


def _eval(arguments: argparse.Namespace, rest: list[str]) -> int:
    from wenlan_jax.commands import eval

    eval.run_eval(arguments.workdir, arguments.step, arguments.out or arguments.workdir / "eval", rest)
    return 0


def _embed_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the embeddings of all images and texts of a data set, SPLIT.images.npy and SPLIT.texts.npy,\n"
        "float32 unit rows, for `wenlan score` or for your own search. Fields data.*, eval.* and mesh.* may be set."
    )
    parser.epilog = (
        "example:\n  wenlan embed --workdir=runs/quickstart --config.data.source=data/web --out=embeddings/web"
    )
    parser.add_argument("--workdir", type=Path, required=True, help="of a training run or an import")
    parser.add_argument("--out", type=Path, required=True, help="directory for the arrays")
    parser.add_argument("--step", type=whole(0), help="checkpoint (default: the newest)")
    parser.add_argument("--splits", nargs="+", default=[], help="splits to embed (default: all)")


def _embed(arguments: argparse.Namespace, rest: list[str]) -> int:
    from wenlan_jax.applications import embed

    embed.run_embed(arguments.workdir, arguments.step, arguments.out, arguments.splits, rest)
    return 0


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    from wenlan_jax.convert import IMPORT_FORMATS

    known = "\n".join(f"  {name:12} {meaning}" for name, meaning in IMPORT_FORMATS.items())
    parser.description = (
        "Import PyTorch weights that fit a configuration; `wenlan train --config.init_from=OUT` starts from them.\n"
        "Several imports into the same OUT add up, e.g. an image backbone and a text backbone. Formats:\n\n"
        f"{known}\n\n{ADVICE}"
    )
    parser.epilog = (
        "examples:\n  wenlan import --format=bert --from=chinese-roberta-wwm-ext --config=configs/brivl_2_released.py "
        "--out=weights/start\n  wenlan import --format=bert --from=xlm-roberta-base --write-config=mine.py"
    )
    parser.add_argument("--format", choices=tuple(IMPORT_FORMATS), required=True)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="a file or directory of weights")
    parser.add_argument("--config", type=Path, help="the configuration that will be trained")
    parser.add_argument("--out", type=Path, help="directory to write or to add to")
    parser.add_argument(
        "--write-config",
        type=Path,
        metavar="FILE",
        help="write --config (the default one without it) with the sizes of these weights, for --config; with --out "
        "they are also imported into it",
    )
    parser.add_argument(
        "--tower",
        choices=("image", "text", "both"),
        default="both",
        help="of a format that gives both (default: %(default)s)",
    )
    parser.add_argument("--trust-pickle", action="store_true", help="run the code that a pickled file may contain")
    parser.add_argument("--replace", action="store_true", help="overwrite what an earlier import into OUT took over")


def _import(arguments: argparse.Namespace, rest: list[str]) -> int:
    from wenlan_jax.convert import importing

    return importing.run_command(arguments, rest)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    from wenlan_jax.convert import EXPORT_FORMATS

    known = "\n".join(f"  {name:12} {of.meaning}" for name, of in EXPORT_FORMATS.items())
    parser.description = (
        "Export a checkpoint of a training run, of whatever mesh. The artefact is run beside the JAX towers on a\n"
        "fixed batch; OUT appears only if they agree, with the figures in parity.json. Formats:\n\n" + known
    )
    parser.epilog = (
        "examples:\n  wenlan export --workdir=runs/quickstart --format=torch --out=exports/quickstart\n"
        "  wenlan export --workdir=runs/mlmm --format=uc2 --out=exports/mlmm"
    )
    parser.add_argument("--workdir", type=Path, required=True, help="directory of a run of `wenlan train`")
    parser.add_argument("--format", choices=tuple(EXPORT_FORMATS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="directory to write; must not exist")
    parser.add_argument("--step", type=whole(0), help="the checkpoint to export (default: the newest)")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the written weights")
    parser.add_argument(
        "--tolerance",
        type=real(0, 2),
        help="largest allowed difference of a coordinate (default: 1e-4 in float32, more in float16 for its rounding)",
    )
    parser.add_argument(
        "--license",
        default="",
        metavar="NAME",
        help="of the exported model, for its card, by Hugging Face's name such as apache-2.0 (default: unknown)",
    )


def _export(arguments: argparse.Namespace) -> int:
    from wenlan_jax.convert import exporting

    return exporting.run(arguments)


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure the training step of a configuration on random pairs: pairs/s, FLOPs, share of the measured\n"
        "matrix-product peak, time per part, memory.\n\n" + ADVICE
    )
    parser.epilog = (
        "examples:\n  wenlan bench --config=configs/bench_b0.py --against=torch\n  wenlan bench --data --against=torch"
    )
    parser.add_argument("--config", type=Path, help="a configuration file; --data has one without it")
    parser.add_argument(
        "--steps",
        type=whole(1),
        default=10,
        help="measured steps, of each side and round in a comparison (default: %(default)s)",
    )
    parser.add_argument(
        "--against",
        choices=("torch",),
        help="time the PyTorch reference side by side, same weights, same batch, steps in turn (extra [torch])",
    )
    parser.add_argument(
        "--conversion",
        action="store_true",
        help="instead: time and memory of an import and an export at the configuration's size (extra [torch])",
    )
    parser.add_argument(
        "--data", action="store_true", help="instead: records a CPU-second of the data loader, beside decoding alone"
    )
    parser.add_argument(
        "--data-records", type=whole(1), default=96, metavar="N", help="images made for --data (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def _bench(arguments: argparse.Namespace, rest: list[str]) -> int:
    from wenlan_jax.tasks import experiment

    if arguments.data:
        from wenlan_jax.bench import data

        config = (
            experiment.load(arguments.config, rest)
            if arguments.config
            else experiment.override(experiment.default(), rest)
        )
        data.run_data(config, arguments.data_records, arguments.against, arguments.json)
        return 0
    if arguments.config is None:
        raise experiment.ConfigError("--config: name a configuration file, e.g. configs/bench_b0.py")
    if arguments.conversion:
        from wenlan_jax.bench import torch_side

        torch_side.require("--conversion")
        from wenlan_jax.bench import conversion

        conversion.run_conversion(arguments.config, rest, arguments.json)
        return 0
    config = _read_config(arguments.config, rest)
    from wenlan_jax.bench import command as bench_command

    bench_command.run_bench(config, arguments.steps, arguments.against, arguments.json)
    return 0


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    from wenlan_jax.plan import command as plan_command

    plan_command.add_arguments(parser, ADVICE)


def _plan(arguments: argparse.Namespace, rest: list[str]) -> int:
    from wenlan_jax.plan import command as plan_command

    return plan_command.run(arguments, rest)


def _fields_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  wenlan fields | grep -A 1 optimizer"


def _fields(arguments: argparse.Namespace) -> int:
    del arguments
    from wenlan_jax.tasks import experiment

    print(experiment.describe())
    return 0


def _read_config(path: Path, fields: Sequence[str]) -> Config:
    """The checked configuration of a file with fields set on the command line."""
    from wenlan_jax.tasks import experiment

    return experiment.load(path, fields)


if __name__ == "__main__":
    sys.exit(main())
