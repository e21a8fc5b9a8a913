"""What a table file declares: the rows of an ablation, as overrides of a configuration, times seeds."""

from __future__ import annotations

import dataclasses
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wenlan_jax.util.errors import WenlanError


class TableError(WenlanError, ValueError):
    """Table files that cannot be run; the message lists every fault found, one a line."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: of the row.
        overrides: values by dotted field, such as {"contrast.bank_size": 256}.
        base: a configuration file instead of the table's.
    """

    name: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    base: str | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """An ablation.

    Attributes:
        title: of the table.
        base: configuration file that every row changes, relative to the working directory, or to the folder of the
            table file or one above it.
        rows: the rows.
        seeds: each row is run with each.
        baseline: the name of the row that the others are compared with.
        metrics: names as in result.json; the first is drawn and compared.
    """

    title: str
    base: str
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    baseline: str
    metrics: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TableFile:
    """A table with the file it comes from.

    Attributes:
        path: the file.
        statement: its docstring, which says what is tested.
        table: the table.
    """

    path: Path
    statement: str
    table: Table

    @property
    def name(self) -> str:
        """The file's name without its ending: the name of what is written about the table."""
        return self.path.stem

    def base(self, row: Row) -> Path:
        """Finds the configuration file of a row; where none is found, the path in the working directory."""
        wanted = Path(row.base or self.table.base)
        folders = [Path(), *self.path.resolve().parents]
        return next((folder / wanted for folder in folders if (folder / wanted).is_file()), wanted)


def load(path: Path) -> TableFile:
    """Loads the table that `get_table()` of a file returns.

    Args:
        path: the file.

    Returns:
        The table.

    Raises:
        TableError: where the file is missing or does not run, or the table contradicts itself.
    """
    if not path.is_file():
        raise TableError(f"{path}: no such table file; see configs/ablations/")
    try:
        module = runpy.run_path(str(path))
        if "get_table" not in module:
            raise TableError(f"{path}: has no get_table(), as a table file must")
        table = module["get_table"]()
    except TableError:
        raise
    except Exception as error:
        raise TableError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(table, Table):
        raise TableError(f"{path}: get_table() must return a wenlan_jax.sweep.table.Table, not {table!r}")
    faults = list(_faults(table))
    if faults:
        raise TableError("\n".join(f"{path}: {fault}" for fault in faults))
    return TableFile(path, (module["__doc__"] or "").strip(), table)


def in_folder(folder: Path) -> list[Path]:
    """Lists the table files of a folder, by name; configurations beside them are left out.

    Args:
        folder: the folder.

    Returns:
        The files.

    Raises:
        TableError: if there is none.
    """
    found = [path for path in sorted(folder.glob("*.py")) if "def get_table(" in path.read_text(encoding="utf-8")]
    if not found:
        raise TableError(f"{folder}: no table file (*.py with a get_table()) is in this folder")
    return found


def _faults(table: Table) -> Iterator[str]:
    """What is wrong with a table as such; its fields and values are `plan`'s to check."""
    names = [row.name for row in table.rows]
    if not table.rows or not table.seeds or not table.metrics:
        yield "rows, seeds and metrics: at least one of each is needed"
    yield from (f"rows: {name!r} stands twice" for name in sorted(set(names)) if names.count(name) > 1)
    if len(set(table.seeds)) < len(table.seeds):
        yield f"seeds: {table.seeds} names a seed twice, which is one run"
    if table.baseline not in names:
        yield f"baseline: {table.baseline!r} is none of the rows: {', '.join(map(repr, names))}"
    for row in table.rows:
        if "seed" in row.overrides:
            yield f"row {row.name!r}: seed comes from the table's seeds, not from a row"
