"""Pages: links and anchors lead somewhere, commands and fields exist, and README says the same in both languages."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from repository import ROOT

import wenlan_jax
from wenlan_jax import cli
from wenlan_jax.config import sections, settings
from wenlan_jax.prepare.clean import options
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.experiment import Config

README, CHINESE = ROOT / "README.md", ROOT / ".github" / "README.zh.md"
FOLDERS = (".github", "configs", "launch", "tests", "wenlan_jax")
PAGES = sorted([README, *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`]+)`")
FIELD = re.compile(r"[a-z]\w*(\.(?!safetensors|onnx|json|mdb)\w+)+")
PATH = re.compile(r"(?<![\w./-])(?:configs|launch|tests|wenlan_jax|\.ci|\.github)/[\w./-]*")

per_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


class Command(NamedTuple):
    """A command line of `wenlan` in a block of code."""

    words: list[str]

    @property
    def name(self) -> str:
        return self.words[0]

    @property
    def fields(self) -> list[str]:
        return [word for word in self.words if word.startswith("--config.")]

    @property
    def config(self) -> Path | None:
        """The configuration file that it names and that is part of this repository."""
        named = [word.removeprefix("--config=") for word in self.words if word.startswith("--config=configs/")]
        return ROOT / named[0] if named else None


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text("utf-8")) if language in languages]


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return FENCE.sub("", page.read_text("utf-8"))


def lines(block: str) -> Iterator[list[str]]:
    """The words of each command of a block, without comments."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def commands(page: Path) -> list[Command]:
    """Those that start with `wenlan`, and those that a launcher is given."""
    found = []
    for words in itertools.chain.from_iterable(map(lines, blocks(page, "bash"))):
        if words[0] == "bash" and "--" in words:
            words = words[words.index("--") + 1 :]
        if words[0] == "wenlan" and words[1] != "--help":
            found.append(Command(words[1:]))
    return found


def spans(page: Path) -> list[str]:
    return [" ".join(span.split()) for span in SPAN.findall(prose(page))]


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@functools.cache
def offered(*command: str) -> set[str]:
    """The options that the help of a command lists; argparse itself takes beginnings of them, too."""
    with contextlib.redirect_stdout(io.StringIO()) as helped, pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    assert ended.value.code == 0, command
    return set(re.findall(r"--[\w-]+", helped.getvalue()))


def unknown_options(words: list[str]) -> list[str]:
    """Of a command, or of its beginning, those that it does not have."""
    known = offered(*words[: 2 if words[0] == "data" else 1])
    given = [word.partition("=")[0] for word in words if word.startswith("--") and not word.startswith("--config.")]
    return [option for option in given if option not in known]


def known_fields(kind: type = Config) -> set[str]:
    return {name for name, *_ in settings.fields(kind)}


@per_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@per_page
def test_paths_of_this_repository_exist(page: Path) -> None:
    """As they are written in code, from the root of the repository."""
    text = "\n".join([*spans(page), *blocks(page, "bash")])
    assert [path for path in PATH.findall(text) if "NAME" not in path and not (ROOT / path).exists()] == []


@per_page
def test_commands_can_be_parsed(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = cli._parser()
    for command in commands(page):
        try:
            parsed, rest = parser.parse_known_args(command.words)
        except SystemExit:
            pytest.fail(f"{shlex.join(command.words)}: {capsys.readouterr().err}")
        assert rest == command.fields, command
        assert cli.COMMANDS[parsed.command].takes_fields or not rest, command
        assert unknown_options(command.words) == [], command


@per_page
def test_fields_of_commands_exist_and_take_their_values(page: Path) -> None:
    for command in commands(page):
        if command.name == "clean":
            options.load(command.config or ROOT / "configs" / "clean" / "web_zh.py", command.fields)
        elif command.config is None:
            experiment.override(experiment.default(), command.fields)
        else:
            experiment.load(command.config, command.fields)


@per_page
def test_commands_and_fields_within_sentences_exist(page: Path) -> None:
    """Beginnings of commands, such as `wenlan pack --regions`, whose further arguments the reader knows."""
    for span in spans(page):
        words = shlex.split(span)
        known = known_fields(options.CleanOptions if words[:2] == ["wenlan", "clean"] else Config)
        fields = [word.removeprefix("--config.").partition("=")[0] for word in words if word.startswith("--config.")]
        assert set(fields) <= known, span
        if words[0] == "wenlan" and len(words) > 1 and words[1].islower() and words[1] != "--help":
            assert unknown_options(words[1:]) == [], span


def test_dotted_names_of_fields_are_fields() -> None:
    """`train.steps` and the like: what begins as a section of the configuration is a field, a section, or the API's."""
    known = known_fields()
    sections = {".".join(parts[:end]) for parts in (name.split(".") for name in known) for end in range(1, len(parts))}
    of_model = {f"model.{name}" for name in (*dir(wenlan_jax.Model), *wenlan_jax.Model.__dataclass_fields__)}
    for page in PAGES:
        named = (span.partition("=")[0] for span in spans(page))
        named = (name for name in named if not name.endswith(".py"))
        fields = {name for name in named if FIELD.fullmatch(name) and name.split(".")[0] in sections}
        assert fields - known - sections - of_model == set(), page


def test_readme_is_as_long_as_a_newcomer_reads() -> None:
    assert 1_200 <= len(README.read_text("utf-8").split()) <= 1_500


def test_readme_says_the_same_in_chinese() -> None:
    """The same headings, blocks of code but for their comments, tables and links."""

    def outline(page: Path) -> list[str]:
        return re.findall(r"^#+ ", prose(page), re.MULTILINE)

    def code(page: Path) -> list[list[list[str]]]:
        return [list(lines(block)) for block in blocks(page, "bash", "python", "bibtex", "")]

    def tables(page: Path) -> list[int]:
        return [row.count("|") for row in prose(page).splitlines() if row.startswith("|")]

    def links(page: Path) -> list[str]:
        found = LINK.findall(prose(page))
        whole = [link if re.match(r"\w+:", link) else os.path.normpath(page.parent / link) for link in found]
        return [link for link in whole if link not in (str(README), str(CHINESE))]

    assert outline(README) == outline(CHINESE)
    assert code(README) == code(CHINESE)
    assert tables(README) == tables(CHINESE)
    assert links(README) == links(CHINESE)


def test_every_page_can_be_reached_from_readme() -> None:
    seen, waiting = set(), [README]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        targets = ((page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(prose(page)))
        waiting += [target for target in targets if target in PAGES and target not in seen]
    assert [page for page in PAGES if page not in seen] == []


def test_tags_of_sources_are_explained_as_by_the_command() -> None:
    text = (ROOT / "configs" / "PAPERS.md").read_text("utf-8")
    for tag, meaning in sections.SOURCES.items():
        assert f"| [{tag}] | {meaning} |" in text


def test_every_configuration_is_on_its_page() -> None:
    text = (ROOT / "configs" / "README.md").read_text("utf-8")
    files = (path.relative_to(ROOT / "configs").with_suffix("") for path in (ROOT / "configs").rglob("*.py"))
    names = [name.as_posix() for name in files if name.parts[0] != "ablations"]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_workflow_runs_the_tests_on_the_oldest_and_the_newest_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    job = workflow["jobs"]["tests"]
    assert [one["python"] for one in job["strategy"]["matrix"]["include"]] == ["3.11", "3.13"]
    scripts = " ".join(step.get("run", "") for step in job["steps"])
    assert "bash launch/test.sh" in scripts
    checks = re.findall(r'"\$VENV/bin/(.+?)"(.*)', (ROOT / ".ci" / "run").read_text("utf-8"))
    assert all(f".venv/bin/{program}{rest}" in scripts for program, rest in checks)
    assert len(checks) == 3


def test_the_citation_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / ".github" / "CITATION.cff").read_text("utf-8"))
    version = re.search(r'__version__ = "(.+)"', (ROOT / "wenlan_jax" / "__init__.py").read_text("utf-8"))
    assert version is not None
    assert citation["version"] == version[1]
    for page in (README, CHINESE):
        assert f"version = {{{version[1]}}}" in page.read_text("utf-8")
        assert all(one.get("doi", one.get("url")) in page.read_text("utf-8") for one in citation["references"])
