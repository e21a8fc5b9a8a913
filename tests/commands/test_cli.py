"""The command line: help, exit statuses, messages, and how little it imports."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from listed_records import Listed

from wenlan_jax import __version__, cli
from wenlan_jax.data import loader, records, sources
from wenlan_jax.parallel import stopping
from wenlan_jax.tasks import experiment
from wenlan_jax.training import loop

COMMANDS = tuple(cli.COMMANDS)
GOOD = """
from wenlan_jax import config


def get_config():
    c = config.default()
    c.data.source = "wenlan_scenes/tiny"
    return c
"""


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.py"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert re.search(rf"example.*:\s+wenlan {command}", text)


def test_the_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^\s+{command}\s+\S", text, re.MULTILINE), command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["fly"], "no command fly; `wenlan --help`"),
        (["trian"], "did you mean train?"),
        (["train"], "required: --config, --workdir"),
        (
            ["train", "--config=a", "--workdir=b", "--seed=1"],
            "unknown argument: --seed=1; see `wenlan train --help`",
        ),
        (["train", "--config=a", "--workdir=b", "seed=1"], "unknown argument: seed=1"),
        (["fields", "--config.seed=1"], "unknown argument: --config.seed=1"),
        (["eval", "--workdir=b", "--step=last"], "a whole number from 0 to 2,147,483,647 is needed, not 'last'"),
    ],
)
def test_a_malformed_command_line_ends_with_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_configuration_ends_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "absent.py"
    assert cli.main(["train", f"--config={path}", f"--workdir={tmp_path / 'run'}"]) == 1
    assert capsys.readouterr().err == f"wenlan train: {path}: no such configuration file; see configs/\n"
    assert not (tmp_path / "run").exists()


def test_all_faults_of_the_fields_are_told(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = ["--config.train.stesp=5", "--config.model.dtype=float8"]
    assert cli.main(["train", f"--config={good}", f"--workdir={tmp_path / 'run'}", *fields]) == 1
    error = capsys.readouterr().err
    assert error.startswith("wenlan train: 2 faults in the configuration:")
    assert "did you mean train.steps?" in error
    assert "one of float32, bfloat16" in error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, 0),
        (experiment.ConfigError("wrong"), 1),
        (loop.NonFiniteError("step 3"), 1),
        (stopping.Stopped("saved", 15), 143),
        (stopping.Stopped("saved", 2), 130),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_the_status_tells_how_a_command_ended(
    error: BaseException | None, status: int, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(config: object, workdir: Path, began: float) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(loop, "train", run)
    assert cli.main(["train", f"--config={good}", f"--workdir={tmp_path}"]) == status


def test_a_fault_of_ours_keeps_its_traceback(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(config: object, workdir: Path, began: float) -> None:
        raise IndexError("a bug")

    monkeypatch.setattr(loop, "train", run)
    with pytest.raises(IndexError, match="a bug"):
        cli.main(["train", f"--config={good}", f"--workdir={tmp_path}"])


def test_a_work_directory_that_is_a_file_is_told(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", f"--config={good}", f"--workdir={good}"]) == 1
    assert capsys.readouterr().err == f"wenlan train: {good}: is a file; a directory is needed\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "/data/x: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device (this command writes to {})"),
        (ConnectionError("the host is away"), "the host is away (this command writes to {})"),
    ],
    ids=repr,
)
def test_a_fault_of_the_system_is_one_line_with_a_path(
    error: OSError,
    message: str,
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(config: object, workdir: Path, began: float) -> None:
        raise error

    monkeypatch.setattr(loop, "train", run)
    assert cli.main(["train", f"--config={good}", f"--workdir={tmp_path}"]) == 1
    assert capsys.readouterr().err == f"wenlan train: {message.format(tmp_path)}\n"


def test_a_vocabulary_that_does_not_fit_names_its_field(
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = [records.Text("weak", "zh", f"{chr(0x4E00 + number)} circle {number}") for number in range(300)]
    found = [loader.RecordText(row, text) for row, text in enumerate(texts)]
    monkeypatch.setattr(sources, "open_source", lambda *_: Listed())
    monkeypatch.setattr(loader, "list_texts", lambda *_: found)
    fields = ["--config.tokenizer.train_size=300"]
    assert cli.main(["train", f"--config={good}", f"--workdir={tmp_path / 'run'}", *fields]) == 1
    found_fault = capsys.readouterr().err
    message = r"wenlan train: tokenizer.train_size: a vocabulary of 300 is too small: .*; set more than \d+"
    assert re.match(message, found_fault)


def test_fields_lists_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fields"]) == 0
    found = re.findall(r"^  --config\.([\w.]+)=", capsys.readouterr().out, re.MULTILINE)
    assert found == [name for name, _, _ in experiment.fields()]


def test_a_reader_that_goes_away_is_no_fault() -> None:
    command = f"{sys.executable} -m wenlan_jax.cli fields | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "Where values come from:\n"
    assert done.stderr == ""


def test_the_version_is_told() -> None:
    assert python("from wenlan_jax import cli; cli.main(['--version'])").strip() == f"wenlan_jax {__version__}"


def test_the_command_line_is_light() -> None:
    """Data workers import it again, and --help is to answer at once."""
    loaded = set(python("import sys; from wenlan_jax import cli; cli._parser(); print(*sys.modules)").split())
    assert {f"wenlan_jax.commands.{command.module}" for command in cli.COMMANDS.values()} <= loaded
    heavy = {"jax", "flax", "optax", "orbax", "tensorflow_datasets", "grain", "matplotlib", "torch"}
    assert loaded & heavy == set()


TERMINALS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "strict UTF-8": {"PYTHONIOENCODING": "utf-8:strict"},
    "no locale": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("terminal", TERMINALS)
@pytest.mark.parametrize("name", ["红色的汽车".encode(), b"caf\xe9", "é".encode(), b"a\xff\xfe"])
def test_a_terminal_of_any_encoding_shows_any_path(tmp_path: Path, terminal: str, name: bytes) -> None:
    """In one line of a fault, and in what a command prints when all is well."""
    place = os.path.join(os.fsencode(tmp_path), name)
    command = [sys.executable, "-m", "wenlan_jax.cli"]
    environment = {**os.environ, **TERMINALS[terminal]}
    fault = subprocess.run([*command, "report", place], env=environment, capture_output=True)
    assert fault.returncode == 1 and fault.stdout == b""
    (line,) = fault.stderr.splitlines()
    assert b"no such directory" in line
    os.mkdir(place)
    with open(os.path.join(place, b"metrics.jsonl"), "w") as lines:
        lines.write('{"step": 1, "train/loss": 1.0}\n')
    done = subprocess.run([*command, "report", place], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"report.html written" in done.stdout and b"Traceback" not in done.stderr
    assert os.path.getsize(os.path.join(place, b"report.html")) > 1000
