"""Tables: CSV and TSV with a header, JSON lines, Parquet. One row is one image with its texts.

Traps: byte order marks; quotes in TSV, which are characters like others; unclosed quotes in CSV; rows with too many or
too few columns. Parquet holds images as paths, as bytes, or as Hugging Face's `{bytes, path}`; its files have a row
number and no line. Without `bytes`, the `path` of such a field is read from the image folder.
"""

from __future__ import annotations

import base64
import binascii
import csv
import dataclasses
from collections.abc import Iterator
from typing import Any

from wenlan_jax.data import readers
from wenlan_jax.data.formats import files
from wenlan_jax.data.readers import Fields, Item, Outcome, ReadError, ReadOptions, Reason, Rejected, Row

_CELL_LIMIT = 1 << 20  # an unclosed quote in a CSV file swallows no more than this
_BATCH = 64  # rows of a Parquet file in memory at a time, each perhaps with its image


def read_csv(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """Rows of a CSV file, quoted as in RFC 4180."""
    return _convert(_rows(places[0], options, csv_dialect=True), options)


def read_tsv(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """Rows of a TSV file."""
    return _convert(_rows(places[0], options, csv_dialect=False), options)


def read_jsonl(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """Lines of a JSON lines file, an object each."""
    return _convert(files.json_lines(places[0], options.encoding), options)


def read_parquet(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """Rows of a Parquet file. Raises ReadError where the file, or pyarrow, is missing or damaged."""
    return _convert(_parquet_rows(places[0], options.fields), options)


def _convert(rows: Iterator[tuple[int, Row | Rejected]], options: ReadOptions) -> Iterator[Outcome]:
    return readers.convert(rows, _item, options, options.fields.image)


def _item(number: int, row: Row, options: ReadOptions) -> Item:
    """The item in a row whose image is a path, bytes, or `{bytes, path}`."""
    name = options.fields.image
    image = row.get(name)
    data = image.get("bytes") if isinstance(image, dict) else image
    path = image.get("path") if isinstance(image, dict) else None
    if isinstance(data, str) and isinstance(image, dict):
        data = _from_base64(data)
    if not isinstance(data, bytes):
        return readers.item_of_row(number, row if path is None else {**row, name: path}, options)
    item = readers.item_of_row(number, {**row, name: path or f"row {number}"}, options)
    return dataclasses.replace(item, data=data, id=item.id or item.image)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Rejected(Reason.CORRUPT_IMAGE, f"not base64: {error}") from error


def _rows(place: str, options: ReadOptions, csv_dialect: bool) -> Iterator[tuple[int, Row | Rejected]]:
    csv.field_size_limit(_CELL_LIMIT)
    lines = files.lines(place, options.encoding)
    table = csv.reader(lines, strict=True) if csv_dialect else tsv_cells(lines)
    header = _header(place, table, options.fields)
    start = table.line_num + 1
    while (cells := next_cells(table)) is not None:
        if isinstance(cells, Rejected):
            yield start, cells
        elif any(cell.strip() for cell in cells):
            yield start, _row(header, cells)
        start = table.line_num + 1


def tsv_cells(lines: Iterator[str]) -> Any:
    """A reader of cells between tabs, where quotes mean nothing."""
    return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)


def next_cells(table: Any) -> list[str] | Rejected | None:
    """The cells of the next row; None at the end."""
    try:
        return next(table, None)
    except csv.Error as error:
        return Rejected(Reason.WRONG_COLUMNS, f"{error} (an unclosed quote?)")


def _header(place: str, table: Any, fields: Fields) -> list[str]:
    cells = next_cells(table)
    header = [cell.strip() for cell in cells] if isinstance(cells, list) else []
    _check_columns(place, header, fields, "the first line must name the columns; it")
    return header


def _check_columns(place: str, header: list[str], fields: Fields, what: str) -> None:
    missing = [name for name in fields.asked() if name not in header]
    if missing or len(set(header)) < len(header):
        problem = f"has no column {', '.join(map(repr, missing))}" if missing else "names a column twice"
        raise ReadError(
            f"{place}: {what} {problem} (found: {readers.printable(', '.join(header))[:1000] or 'nothing'}); "
            "add a header, or say which column is which with --image-field and --text-field"
        )


def _row(header: list[str], cells: list[str]) -> Row | Rejected:
    if len(cells) != len(header):
        return Rejected(Reason.WRONG_COLUMNS, f"{len(cells)} columns, but the header has {len(header)}")
    return dict(zip(header, cells, strict=True))


def _parquet_rows(place: str, fields: Fields) -> Iterator[tuple[int, Row | Rejected]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ReadError(
            f"{place}: Parquet needs pyarrow; install it with: pip install 'wenlan_jax[parquet]'"
        ) from error
    number = 0
    with files.reading(place), files.open_stored(place) as stream, parquet.ParquetFile(stream) as file:
        header = list(file.schema_arrow.names)
        _check_columns(place, header, fields, "the table")
        wanted = {*fields.asked(), "id", "split", "language", "kind", "source"}
        for batch in file.iter_batches(_BATCH, columns=[name for name in header if name in wanted]):
            for row in batch.to_pylist():
                number += 1
                yield number, row
