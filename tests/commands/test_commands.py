"""Every command is one file of one form, and only the one that is typed is imported."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from wenlan_jax import cli, commands
from wenlan_jax.cli import COMMANDS

FOLDER = Path(commands.__file__).parent


def test_every_file_is_a_command() -> None:
    files = {file.stem for file in FOLDER.glob("*.py")} - {"__init__", "process"}
    assert files == {command.module for command in COMMANDS.values()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_two_functions_and_says_what_it_is(name: str) -> None:
    module = importlib.import_module(f"wenlan_jax.commands.{COMMANDS[name].module}")
    assert (module.__doc__ or "").startswith(f"`wenlan {name}`: ")
    assert list(inspect.signature(module.add_arguments).parameters) == ["parser"]
    assert list(inspect.signature(module.run).parameters) == ["arguments", "fields"]


def test_nothing_else_declares_arguments() -> None:
    """Options of work that lies elsewhere are fields of a dataclass, see `config/options.py`."""
    declaring = set()
    for file in FOLDER.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("add_argument", "Namespace", "parse_args"):
                declaring.add(file)
    outside = {str(file.relative_to(FOLDER.parent)) for file in declaring if FOLDER not in file.parents}
    assert outside == {"cli.py", "config/options.py"}


@pytest.mark.parametrize(
    ("words", "module"),
    [(["--help"], None), (["--version"], None), (["pack", "--help"], "pack"), (["fields"], "fields")],
)
def test_no_command_is_imported_but_the_one_that_is_typed(words: list[str], module: str | None) -> None:
    code = (
        "import sys\nfrom wenlan_jax import cli\ntry:\n    cli.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True)
    inside = {name.removeprefix("wenlan_jax.commands.") for name in done.stderr.split() if ".commands." in name}
    assert inside == {"process", module} - {None}


@pytest.mark.parametrize("name", [name for name in COMMANDS if not COMMANDS[name].takes_fields])
def test_a_command_without_fields_refuses_them(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"wenlan_jax.commands.{COMMANDS[name].module}")
    words = {
        "export": ["--workdir=a", "--format=torch", "--out=b"],
        "pack": ["a", "--out=b"],
        "data": ["list"],
        "regions": ["a", "--out=b", "--detector=c"],
        "score": ["a", "--embeddings=b", "--out=c"],
        "vocab": ["--out=a", "--size=1"],
        "sweep": ["a", "--out=b"],
        "report": ["a"],
        "fields": [],
    }[name]
    with pytest.raises(SystemExit) as stop:
        cli.main([name, *words, "--config.seed=1"])
    assert stop.value.code == 2 and module is not None
    assert "unknown argument: --config.seed=1" in capsys.readouterr().err
