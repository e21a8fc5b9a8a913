"""Tables: CSV and TSV with a header, JSON lines and arrays, Parquet. One row is one image with its texts.

Traps: separators that are not those of the name (a .csv with tabs or semicolons, a .tsv with commas), which the header
tells; byte order marks; quotes in TSV, which are characters like others; unclosed quotes in CSV, which cost their own
line; rows with too many or too few columns. Parquet holds images as paths, as bytes, or as Hugging Face's
`{bytes, path}`; its files have a row number and no line; a damaged value costs its row. Without `bytes`, the `path` of
such a field is read from the image folder. What pandas writes for an absent value (NaN in JSON and Parquet, the texts
nan, NaN and <NA>) is one, but for a caption in a text: that is absent when it is empty, and nan is a word (grandmother,
or a bread). Rows of img2dataset whose download failed have a `status` and no image.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.formats import files
from wenlan_jax.prepare.raw_items import FieldNames, Item, Outcome, ReadError, ReadOptions, Reason, Rejected, Row

_CELL_LIMIT = 1 << 20
_ROW_LINES = 256  # of a CSV file, within which a quote must be closed
_SEPARATORS = (",", "\t", ";", "|")
_BATCH, _BATCH_BYTES = 64, 1 << 28  # of a Parquet file in memory at a time, each row perhaps with its image
_LOST_ROWS = 1 << 20  # of one damaged group, named one by one


def read_csv(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """Rows of a CSV file, quoted as in RFC 4180."""
    return _convert(_rows(places[0], options, ","), options)


def read_tsv(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """Rows of a TSV file."""
    return _convert(_rows(places[0], options, "\t"), options)


def read_jsonl(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """Lines of a JSON lines file, an object each; or the objects of a JSON array."""
    if not files.head(places[0], options.encoding).lstrip().startswith("["):
        return _convert(files.json_lines(places[0], options.encoding), options)
    return _convert(files.json_array(places[0], options.encoding), options)


def read_parquet(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """Reads the rows of a Parquet file.

    Args:
        places: the file.
        options: how raw text is understood.

    Returns:
        An iterator over items and faults; it raises ReadError where the file, or pyarrow, is missing or damaged.
    """
    return _convert(_parquet_rows(places[0], options.fields), options)


def _convert(rows: Iterator[tuple[int, Any]], options: ReadOptions) -> Iterator[Outcome]:
    return raw_items.convert(rows, _item, options, options.fields.image)


def _item(number: int, row: Row, options: ReadOptions) -> Item:
    """The item in a row whose image is a path, bytes, or `{bytes, path}`."""
    name = options.fields.image
    image = row.get(name)
    if image is None and (why := raw_items.failure(row)):
        raise Rejected(Reason.MISSING_IMAGE, why)
    data = image.get("bytes") if isinstance(image, dict) else image
    path = image.get("path") if isinstance(image, dict) else None
    if isinstance(data, str) and (isinstance(image, dict) or files.is_data_url(data)):
        data = files.from_base64(data)
    if not isinstance(data, bytes):
        return raw_items.item_of_row(number, row if path is None else {**row, name: path}, options)
    item = raw_items.item_of_row(number, {**row, name: path or f"row {number}"}, options)
    return dataclasses.replace(item, data=data, id=item.id or item.image)


def _rows(place: str, options: ReadOptions, usual: str) -> Iterator[tuple[int, Row | Rejected]]:
    """The rows of a table whose columns are separated by `usual`, unless its header tells otherwise."""
    csv.field_size_limit(_CELL_LIMIT)
    lines = files.lines(place, options.encoding)
    first = next(lines, "")
    separator = _separator(first, usual, options.fields)
    lines = itertools.chain([first], lines)
    rows = _plain_rows(lines) if separator == usual == "\t" else _quoted_rows(lines, separator)
    header = _header(place, next(rows, (1, []))[1], options.fields)
    width = len(header)
    for number, cells in rows:
        if isinstance(cells, Rejected):
            yield number, cells
        elif any(cell.strip() for cell in cells):
            fits = len(cells) == width
            wrong = Rejected(Reason.WRONG_COLUMNS, f"{len(cells)} columns, but the header has {width}")
            yield number, {name: cell.strip() for name, cell in zip(header, cells, strict=True)} if fits else wrong


def _separator(header: str, usual: str, fields: FieldNames) -> str:
    """The separator under which the header has the columns asked for: the usual one, or else the only other."""
    fitting = [
        one
        for one in (usual, *_SEPARATORS)
        if {*fields.asked()} <= {cell.strip() for cell in next(csv.reader([header], delimiter=one), [])}
    ]
    return fitting[0] if fitting else usual


def _plain_rows(lines: Iterator[str]) -> Iterator[tuple[int, list[str] | Rejected]]:
    """The cells between tabs, where quotes mean nothing, with the number of their line."""
    table = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    while (cells := _next_cells(table)) is not None:
        yield table.line_num, cells


def _quoted_rows(lines: Iterator[str], separator: str) -> Iterator[tuple[int, list[str] | Rejected]]:
    """The cells of each row, quoted as in RFC 4180, with the number of its first line.

    Where a row of several lines is none (its quote is never closed, or it has another number of columns than the
    first), only its first line is refused, and the next one starts a row.
    """
    ahead: collections.deque[str] = collections.deque()
    number, width = 1, 0
    while True:
        if not ahead:
            ahead.extend(itertools.islice(lines, 1))
        if not ahead:
            return
        cells, taken = _first_row(ahead, lines, separator)
        if isinstance(cells, list) and taken > 1 and width and len(cells) != width:
            cells = Rejected(Reason.WRONG_COLUMNS, "an unclosed quote: with the lines after it, it is no row")
        if isinstance(cells, Rejected):
            taken = 1
        else:
            width = width or len(cells)
        yield number, cells
        number += taken
        for _ in range(taken):
            ahead.popleft()


def _first_row(ahead: collections.deque[str], lines: Iterator[str], separator: str) -> tuple[Any, int]:
    """The cells of the row that begins with the first line `ahead`, or why there are none, and how many lines it has.

    Lines that it needs besides come from `lines`, and stay `ahead`.
    """
    table = csv.reader([ahead[0]], delimiter=separator, strict=True)
    cells = _next_cells(table)
    if isinstance(cells, Rejected):  # perhaps it goes on in the next line
        table = csv.reader(_ahead(ahead, lines), delimiter=separator, strict=True)
        cells = _next_cells(table)
    return cells, table.line_num


def _ahead(ahead: collections.deque[str], lines: Iterator[str]) -> Iterator[str]:
    for index in range(_ROW_LINES):
        if index == len(ahead):
            ahead.extend(itertools.islice(lines, 1))
        if index == len(ahead):
            return
        yield ahead[index]


def _next_cells(table: Any) -> list[str] | Rejected | None:
    """The cells of the next row; None at the end."""
    try:
        return next(table, None)
    except csv.Error as error:
        return Rejected(Reason.WRONG_COLUMNS, f"{error} (an unclosed quote?)")


def _header(place: str, cells: list[str] | Rejected, fields: FieldNames) -> list[str]:
    header = [cell.strip() for cell in cells] if isinstance(cells, list) else []
    _check_columns(place, header, fields, "the first line must name the columns; it")
    return header


def _check_columns(place: str, header: list[str], fields: FieldNames, what: str) -> None:
    missing = [name for name in fields.asked() if name not in header]
    if missing or len(set(header)) < len(header):
        problem = f"has no column {', '.join(map(repr, missing))}" if missing else "names a column twice"
        found = raw_items.printable(", ".join(header)).replace("\0", "")[:1000]
        hint = "; is it UTF-16? see --encoding" if any("\0" in name for name in header) else ""
        raise ReadError(
            f"{place}: {what} {problem} (found: {found or 'nothing'}{hint}); "
            "add a header, or say which column is which with --image-field and --text-field"
        )


def _parquet_rows(place: str, fields: FieldNames) -> Iterator[tuple[int, Row | Rejected]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ReadError(
            f"{place}: Parquet needs pyarrow; install it with: pip install 'wenlan_jax[parquet]'"
        ) from error
    with files.reading(place), files.open_stored(place) as stream, parquet.ParquetFile(stream) as file:
        header = list(file.schema_arrow.names)
        _check_columns(place, header, fields, "the table")
        wanted = {*fields.asked(), *_USUAL_COLUMNS}
        columns = [name for name in header if name in wanted]
        before = 0
        for group in range(file.num_row_groups):
            yield from _group_rows(file, group, columns, before)
            before += file.metadata.row_group(group).num_rows


_CALLING_COLUMNS = ("key", "url", "status", "error_message")
_USUAL_COLUMNS = ("id", "split", "language", "kind", "source", *_CALLING_COLUMNS)


def _group_rows(file: Any, group: int, columns: list[str], before: int) -> Iterator[tuple[int, Row | Rejected]]:
    """The rows of one group, numbered after those `before` it. Rows that damage makes unreadable are named each."""
    number, last = before, before + file.metadata.row_group(group).num_rows
    try:
        for batch in file.iter_batches(_rows_at_once(file, group, columns), row_groups=[group], columns=columns):
            for row in _values(batch):
                number += 1
                yield number, row
    except Exception as error:  # pyarrow has errors of its own for each kind of damage
        detail = f"rows {number + 1} to {last} of row group {group} cannot be read ({str(error)[:200]})"
        for lost in range(number + 1, max(number + 1, min(last, number + _LOST_ROWS)) + 1):
            yield lost, Rejected(Reason.DAMAGED_SHARD, detail)


def _rows_at_once(file: Any, group: int, columns: list[str]) -> int:
    """As many rows as fit into the memory, even if one value that is stored once comes in each."""
    chunks = file.metadata.row_group(group)
    stored = (chunks.column(index) for index in range(chunks.num_columns))
    size = sum(one.total_uncompressed_size for one in stored if one.path_in_schema.split(".")[0] in columns)
    return max(1, min(_BATCH, _BATCH_BYTES // max(1, size)))


def _values(batch: Any) -> list[Any]:
    """The rows of a batch; a row with a value that is not what its type says is refused alone."""
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError):
        return [_value(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _value(batch: Any) -> Row | Rejected:
    """The only row of a batch. Columns that only tell how to call a row may be damaged."""
    row: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column.to_pylist()[0]
        except (ValueError, OverflowError) as error:
            if name not in _CALLING_COLUMNS:
                is_text = isinstance(error, UnicodeDecodeError)
                reason = Reason.WRONG_ENCODING if is_text else Reason.BAD_VALUE
                return Rejected(reason, f"column {name!r}: {'not UTF-8: ' if is_text else ''}{error}")
    return row
