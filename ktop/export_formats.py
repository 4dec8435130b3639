"""Where rows go: lines of JSON, CSV, Parquet. Each takes frames one by one and holds little."""

from __future__ import annotations

import csv
import io
from typing import Any, BinaryIO, Protocol

import msgspec

from ktop.export import Table, encode, header, kinds, rows, whole
from ktop.model import Frame

_FORMULA = frozenset("=+-@")  # a cell that begins with one of them is computed
BATCH_ROWS = 20_000  # of a Parquet file are in memory


class ExportError(Exception):
    """One line: why it cannot be written."""


class Sink(Protocol):
    """Takes frames, in order."""

    def put(self, frame: Frame) -> None:
        """One more."""

    def close(self) -> None:
        """That was all."""


class Lines:
    """JSON, a row a line; without a table a frame a line."""

    def __init__(self, out: BinaryIO, table: Table | None) -> None:
        self._out, self._table = out, table
        self._names = header(table) if table else []

    def put(self, frame: Frame) -> None:
        """One more."""
        if self._table is None:
            self._out.write(msgspec.json.encode(whole(frame)) + b"\n")
            return
        for row in rows(self._table, frame):
            self._out.write(msgspec.json.encode(dict(zip(self._names, row, strict=True))) + b"\n")

    def close(self) -> None:
        """That was all."""
        self._out.flush()


class Csv:
    """RFC 4180 with a line of names. Not known is an empty cell; lists and dicts are JSON.

    Text that a spreadsheet would take for a formula (CWE-1236) gets an apostrophe before it: a
    command's name is anybody's choice. JSON lines and Parquet have it as it is.
    """

    def __init__(self, out: BinaryIO, table: Table) -> None:
        self._table = table
        self._json = [n for n, kind in enumerate(kinds(table)) if kind == "json"]
        self._names = [n for n, kind in enumerate(kinds(table)) if kind == "str"]
        self._text = io.TextIOWrapper(out, encoding="utf-8", newline="")
        self._writer = csv.writer(self._text)
        self._writer.writerow(header(table))

    def put(self, frame: Frame) -> None:
        """One more."""
        for row in rows(self._table, frame):
            for n in self._json:
                if row[n] is not None:
                    row[n] = encode(row[n])
            for n in self._names:
                if row[n] and row[n][0] in _FORMULA:
                    row[n] = "'" + row[n]
            self._writer.writerow(row)

    def close(self) -> None:
        """That was all."""
        self._text.flush()
        self._text.detach()


class Parquet:
    """Apache Parquet by pyarrow (`ktop[parquet]`), zstd, a row group each BATCH_ROWS."""

    def __init__(self, out: BinaryIO, table: Table) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError:
            raise ExportError("parquet needs pyarrow: pip install 'ktop[parquet]'") from None
        types = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_(),
                 "json": pa.string()}
        self._pa, self._table = pa, table
        self._kinds = kinds(table)
        self._schema = pa.schema([
            (name, pa.uint64() if name in _UNSIGNED else types[kind])
            for name, kind in zip(header(table), self._kinds, strict=True)])
        self._writer = parquet.ParquetWriter(out, self._schema, compression="zstd")
        self._rows: list[list[Any]] = []

    def put(self, frame: Frame) -> None:
        """One more."""
        for row in rows(self._table, frame):
            self._rows.append([encode(value) if kind == "json" and value is not None else value
                               for kind, value in zip(self._kinds, row, strict=True)])
            if len(self._rows) >= BATCH_ROWS:
                self._write()

    def _write(self) -> None:
        try:
            columns = [self._pa.array(column, field.type) for column, field in
                       zip(zip(*self._rows, strict=True), self._schema, strict=True)]
        except (OverflowError, self._pa.ArrowInvalid, self._pa.ArrowTypeError) as err:
            raise ExportError(f"a figure does not fit into its column: {err}") from None
        self._writer.write_table(self._pa.Table.from_arrays(columns, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        """That was all."""
        if self._rows:
            self._write()
        self._writer.close()


_UNSIGNED = frozenset(("id", "ino", "cgroup", "generation", "fold"))  # the kernel's u64s


def sink(form: str, out: BinaryIO, table: Table | None) -> Sink:
    """The writer of a format. Raises ExportError."""
    if form == "jsonl":
        return Lines(out, table)
    if table is None:
        raise ExportError(f"{form} holds one table: say which with --table (--list shows them)")
    return Csv(out, table) if form == "csv" else Parquet(out, table)
