"""`wenlan <command>`: each command is a thin call into the package.

Nothing heavy is imported here, so that `--help` answers at once and data workers, which import this file again, stay
free of jax.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wenlan_jax import __version__

if TYPE_CHECKING:
    from wenlan_jax.schema import Config

ADVICE = """\
Every field of the configuration can be set on the command line: --config.train.steps=500 or
--config.model.image.regions.grid='(1, 5)'. Start from a file in configs/."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status is 0 if done, 1 after an explained fault, 128 + n if signal n stopped it."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    strangers = [argument for argument in rest if not argument.startswith("--config.")]
    if strangers or (rest and not parsed.takes_fields):
        parser.error(f"unknown argument: {(strangers or rest)[0]}; see `wenlan {parsed.command} --help`")
    try:
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
        if explanation is None:
            raise
        print(f"wenlan {parsed.command}: {explanation}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"wenlan {parsed.command}: interrupted", file=sys.stderr)
        return 130


def _explain(error: Exception, parsed: argparse.Namespace) -> str | None:
    """The message of an error of ours, or of the system's with its path; None for any other error, which is a bug."""
    if type(error).__module__.startswith("wenlan_jax."):
        return str(error)
    if not isinstance(error, OSError):
        return None
    reason = error.strerror or str(error)
    if error.filename is None:
        # Writing to an open file, as on a full disk: the system does not say which one.
        place = getattr(parsed, "workdir", None) or getattr(parsed, "out", None)
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
    _add(commands, "eval", "evaluate retrieval of a trained model", _eval_arguments, _eval, True)
    _add(commands, "pack", "turn your own image-text pairs into records", _pack_arguments, _pack, False)
    _add(commands, "vocab", "train a SentencePiece vocabulary on a corpus", _vocab_arguments, _vocab, False)
    _add(commands, "bench", "measure speed, memory and where they go", _bench_arguments, _bench, True)
    _add(
        commands,
        "fields",
        "list every configuration field with its default and source",
        _fields_arguments,
        _fields,
        False,
    )
    return parser


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


def _train(arguments: argparse.Namespace, rest: list[str]) -> int:
    config = _read_config(arguments.config, rest)
    from wenlan_jax import train

    train.train(config, arguments.workdir)
    return 0


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Evaluate retrieval of a checkpoint on the splits of its own configuration, or on other data: fields of the\n"
        "sections data, eval and mesh may be set, e.g. --config.eval.final_splits=\"('validation',)\".\n"
        "Prints a table and writes result.json and gallery.html into --out."
    )
    parser.epilog = "example:\n  wenlan eval --workdir=runs/first --config.eval.languages=\"('zh',)\""
    parser.add_argument("--workdir", type=Path, required=True, help="directory of a run of `wenlan train`")
    parser.add_argument("--step", type=int, help="the checkpoint to evaluate (default: the newest)")
    parser.add_argument("--out", type=Path, help="where results are written (default: WORKDIR/eval)")


def _eval(arguments: argparse.Namespace, rest: list[str]) -> int:
    from wenlan_jax.eval import command

    command.run_eval(arguments.workdir, arguments.step, arguments.out or arguments.workdir / "eval", rest)
    return 0


def _pack_arguments(parser: argparse.ArgumentParser) -> None:
    from wenlan_jax.data import pack

    pack.add_arguments(parser)


def _pack(arguments: argparse.Namespace) -> int:
    from wenlan_jax.data import pack

    return pack.run(arguments)


def _vocab_arguments(parser: argparse.ArgumentParser) -> None:
    from wenlan_jax.data import vocab

    vocab.add_vocab_arguments(parser)


def _vocab(arguments: argparse.Namespace) -> int:
    from wenlan_jax.data import vocab

    return vocab.run_vocab(arguments)


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure the training step of a configuration on random pairs: pairs/s, FLOPs, share of the measured\n"
        "matrix-product peak, time per part, memory.\n\n" + ADVICE
    )
    parser.epilog = "example:\n  wenlan bench --config=configs/bench_b0.py --against=torch"
    parser.add_argument("--config", type=Path, required=True, help="a configuration file")
    parser.add_argument(
        "--steps",
        type=int,
        default=10,
        help="measured steps, of each side and round in a comparison (default: %(default)s)",
    )
    parser.add_argument(
        "--against",
        choices=("torch",),
        help="time the PyTorch reference side by side, same weights, same batch, steps in turn (extra [torch])",
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def _bench(arguments: argparse.Namespace, rest: list[str]) -> int:
    config = _read_config(arguments.config, rest)
    from wenlan_jax.bench import command

    command.run_bench(config, arguments.steps, arguments.against, arguments.json)
    return 0


def _fields_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  wenlan fields | grep -A 1 optimizer"


def _fields(arguments: argparse.Namespace) -> int:
    del arguments
    from wenlan_jax import config

    print(config.describe())
    return 0


def _read_config(path: Path, fields: Sequence[str]) -> Config:
    """The checked configuration of a file with fields set on the command line."""
    from wenlan_jax import config

    return config.load(path, fields)


if __name__ == "__main__":
    sys.exit(main())
