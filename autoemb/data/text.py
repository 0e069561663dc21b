"""Text files with one event a line: the lines, and their division into fields.

Every text format is read line by line, so that a bad row is known by its line number, and none of
its fields is interpreted here. 20 M lines are read and split in 3 s on two cores.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import polars as pl

from autoemb.data.file import File
from autoemb.data.head import BYTE_ORDER_MARK
from autoemb.data.table import refuse

_CHUNK = 2_000  # records at once; with 100,000 the garbage collector takes most of the time


def read_lines(files: Sequence[File]) -> pl.LazyFrame:
    """Return ``row`` (1-based, counted on through all files) and ``text`` of every line.

    Bytes that are not UTF-8 become U+FFFD, so that they spoil the row they are in and no other.
    """
    frame = _scan([file.source for file in files])
    try:
        # Decodes every line: 0.2 s for 20 M of them.
        frame.select(pl.col("text").str.len_bytes().max()).collect(engine="streaming")
    except pl.exceptions.ComputeError:
        frame = _scan([_decoded(file) for file in files])
    return frame.with_columns(pl.col("text").str.strip_prefix(BYTE_ORDER_MARK))


def _scan(sources: Any) -> pl.LazyFrame:
    return pl.scan_lines(sources, name="text", row_index_name="row", row_index_offset=1, glob=False)


def _decoded(file: File) -> bytes:
    return file.read().decode("utf-8", errors="replace").encode()


def not_blank() -> pl.Expr:
    """Return whether a line holds more than white space."""
    return pl.col("text").str.strip_chars() != ""


def split(
    lines: pl.LazyFrame, separator: str, width: int, picks: Mapping[str, int]
) -> pl.LazyFrame:
    """Divide every line at each `separator`, which must give exactly `width` fields.

    Parameters
    ----------
    lines : polars.LazyFrame
        As `read_lines` gives it; further columns are kept.
    separator : str
        One or more characters.
    width : int
        Number of fields of a sound line.
    picks : mapping of str to int
        Name of each wanted column, and the position of its field.

    Returns
    -------
    polars.LazyFrame
        `lines` with a column for each of `picks` and ``problem``.
    """
    field = pl.col("fields").struct.field
    return (
        lines.filter(not_blank())
        .with_columns(fields=pl.col("text").str.split_exact(separator, width))
        .with_columns(
            problem=pl.when(field(f"field_{width - 1}").is_null())
            .then(pl.lit(f"has fewer than {width} fields"))
            .when(field(f"field_{width}").is_not_null())
            .then(pl.lit(f"has more than {width} fields")),
            **{name: field(f"field_{at}").str.strip_chars() for name, at in picks.items()},
        )
        .drop("fields")
    )


def has_quotes(lines: pl.LazyFrame) -> bool:
    """Return whether any of the lines holds a quotation mark."""
    found = lines.select(pl.col("text").str.contains('"', literal=True).any())
    return bool(found.collect(engine="streaming").item())


def split_quoted(
    file: File, header_line: int, separator: str, width: int, picks: Mapping[str, int]
) -> pl.LazyFrame:
    """Do what `split` does for a file with quoted fields, which can hold separators and line ends.

    Python's csv module reads them, which takes 50 s and 4 GB for 20 M rows, where `split` leads to
    6 s and 2 GB for the whole of loading.
    """
    chunks = []
    with file.open() as stream, _fields_of_any_length():
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="\n")
        for _ in range(header_line):
            next(lines)
        records = _records(lines, separator, file, header_line)
        while chunk := list(islice(records, _CHUNK)):
            chunks.append(_frame(chunk, separator, width, picks))
    empty = _frame([], separator, width, picks)
    return pl.concat([empty, *chunks]).lazy()


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Lift the 131,072 characters that a field may have: the field may be one that nobody needs."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _records(
    lines: Iterator[str], separator: str, file: File, header_line: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record begins, and its fields."""
    row = header_line + 1
    record: list[str] = []  # its lines

    def noted() -> Iterator[str]:
        for line in lines:
            record.append(line)
            yield line

    reader = csv.reader(noted(), delimiter=separator)
    try:
        for fields in reader:
            if record and not _ends(record, separator):
                raise csv.Error("no quotation mark closes it")
            if len(fields) > 1 or (fields and fields[0].strip()):
                yield row, fields
            row = header_line + 1 + reader.line_num
            record.clear()
    except csv.Error as error:
        raise refuse(
            file.path, f"row {row}: does not end as a quoted field should ({error})"
        ) from None


def _ends(record: list[str], separator: str) -> bool:
    """Return whether a record ends before the file does: the reader takes what there is."""
    if sum(line.count('"') for line in record) % 2 == 0:
        return True
    try:
        list(csv.reader(record, delimiter=separator, strict=True))
    except csv.Error as error:
        return "unexpected end" not in str(error)
    return True


def _frame(
    records: list[tuple[int, list[str]]], separator: str, width: int, picks: Mapping[str, int]
) -> pl.DataFrame:
    rows = [row for row, _ in records]
    fields = [fields for _, fields in records]
    problems: list[str | None] = [None] * len(records)
    texts: list[str | None] = [None] * len(records)  # of the others, a bad value says enough
    for at, record in enumerate(fields):
        if len(record) != width:
            problems[at] = f"has {'fewer' if len(record) < width else 'more'} than {width} fields"
            texts[at] = separator.join(record)
            fields[at] = [""] * width
    columns = list(zip(*fields, strict=True)) or [()] * width
    frame = pl.DataFrame(
        {
            "row": pl.Series(rows, dtype=pl.UInt32),
            "problem": pl.Series(problems, dtype=pl.String),
            "text": pl.Series(texts, dtype=pl.String),
            **{name: pl.Series(columns[at], dtype=pl.String) for name, at in picks.items()},
        }
    )
    return frame.with_columns(pl.col(*picks).str.strip_chars())
