"""`wenlan <command>`: the table of commands; each is a module of `wenlan_jax.commands`.

Nothing heavy is imported here, and of the commands only the one that was typed, so that `--help` answers at once. Data
workers import this file again; they stay free of jax.
"""

from __future__ import annotations

from wenlan_jax.util import interrupts  # noqa: F401 - first, as Ctrl-C is heard from here on

# isort: split
import argparse
import difflib
import functools
import importlib
import multiprocessing
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from wenlan_jax import __version__
from wenlan_jax.commands import process

if multiprocessing.current_process().name != "MainProcess" and Path(sys.argv[0]).stem == "wenlan":
    # A data worker of this command. Grain would import jax here, which it does not need: time and memory for nothing.
    # None makes that import fail, as where jax is not installed.
    sys.modules.setdefault("jax", None)  # type: ignore[arg-type]


class Command(NamedTuple):
    """A command: its module in `wenlan_jax.commands`, its line of `wenlan --help`, and whether it takes fields.

    Fields are those of a configuration, `--config.FIELD=VALUE`.
    """

    module: str
    summary: str
    takes_fields: bool = False


COMMANDS = {
    "train": Command("train", "train a model; the same command again continues", takes_fields=True),
    "eval": Command("eval", "measure a trained model on held-out data", takes_fields=True),
    "embed": Command("embed", "write embeddings of a data set by a trained model", takes_fields=True),
    "rerank": Command("rerank", "order the best answers of two towers by a single one", takes_fields=True),
    "attention": Command("attention", "draw which regions the words of a text attend to", takes_fields=True),
    "import": Command("import_", "take over weights of PyTorch models", takes_fields=True),
    "export": Command("export", "write a trained model for PyTorch users, with proof"),
    "pack": Command("pack", "turn your own image-text pairs into records"),
    "data": Command("data", "build named data sets, list them, look into any"),
    "clean": Command("clean", "leave out bad and repeated records, and say which", takes_fields=True),
    "regions": Command("regions", "add a detector's boxes and features to records"),
    "score": Command("score", "measure how well texts fit their images"),
    "vocab": Command("vocab", "train a SentencePiece vocabulary on a corpus"),
    "bench": Command("bench", "measure speed, memory and where they go", takes_fields=True),
    "sweep": Command("sweep", "run the rows of ablation tables and write the tables"),
    "report": Command("report", "turn one run into a page that a person reads"),
    "plan": Command("plan", "say what a run needs on devices that this machine does not have", takes_fields=True),
    "fields": Command("fields", "list every configuration field with its default and source"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status is 0 if done, 1 after an explained fault, 128 + n if signal n stopped it."""
    process.prepare()
    given = sys.argv[1:] if arguments is None else list(arguments)
    named = [word for word in given if not word.startswith("-")][:1]
    parser = _parser(named)
    _check_command(parser, *named)
    parsed, rest = parser.parse_known_args(given)
    takes_fields = COMMANDS[parsed.command].takes_fields
    strangers = [word for word in rest if not (takes_fields and word.startswith("--config."))]
    if strangers:
        parsed.parser.error(f"unknown argument: {strangers[0]}; see `wenlan {parsed.command} --help`")
    module = importlib.import_module(f"wenlan_jax.commands.{COMMANDS[parsed.command].module}")
    return process.run(functools.partial(module.run, parsed, rest), parsed)


def _check_command(parser: argparse.ArgumentParser, word: str = "") -> None:
    """Ends with a message where a word is typed for a command that there is not."""
    if word and word not in COMMANDS:
        near = difflib.get_close_matches(word, COMMANDS, n=1)
        parser.error(f"no command {word}{f'; did you mean {near[0]}?' if near else ''}; `wenlan --help` lists them")


def _parser(commands: Iterable[str] = COMMANDS.keys()) -> argparse.ArgumentParser:
    """The parser of the command line. Of `commands` it knows the arguments, of the others the line of `--help`."""
    parser = argparse.ArgumentParser(
        prog="wenlan", description="Pretrain and evaluate image-text models of the WenLan family in JAX."
    )
    parser.add_argument("--version", action="version", version=f"wenlan_jax {__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        one = parsers.add_parser(
            name,
            help=command.summary,
            description=command.summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(parser=one)
        if name in commands:
            importlib.import_module(f"wenlan_jax.commands.{command.module}").add_arguments(one)
    return parser


if __name__ == "__main__":
    sys.exit(main())
