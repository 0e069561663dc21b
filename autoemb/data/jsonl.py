"""JSON lines: an object a line, whose keys are columns."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import polars as pl
from pydantic_core import from_json

from autoemb.data.head import Head
from autoemb.data.message import printable
from autoemb.data.table import Table
from autoemb.data.text import read_lines

_CHUNK = 20_000  # lines whose objects are in memory at once
_SAMPLE = 1_000  # lines that must name all columns between them
_INT64 = range(-(2**63), 2**63)


def json_lines(head: Head) -> Table | None:
    """Recognise JSON lines, by a first line that is an object."""
    if not head.lines[0][1].lstrip().startswith("{"):
        return None
    columns: dict[str, None] = {}
    for _, line in head.lines[:_SAMPLE]:
        record, _ = _parsed(line)
        columns |= dict.fromkeys(record)

    def scan(names: Mapping[str, str]) -> pl.LazyFrame:
        lines = read_lines([head.file]).filter(pl.col("text").str.strip_chars() != "")
        rows = lines.collect(engine="streaming")
        frames = [_frame(part, names) for part in rows.iter_slices(_CHUNK)]
        return _united(frames, names).lazy()

    return Table("JSON lines", head.file.path, tuple(columns), scan, typed=True)


def _parsed(line: str) -> tuple[dict[str, Any], str | None]:
    """Return the object of a line, or why there is none."""
    try:
        record = from_json(line)
    except ValueError as error:
        return {}, f"is not JSON: {printable(error, 100)}"
    return (record, None) if isinstance(record, dict) else ({}, "is not a JSON object")


def _frame(lines: pl.DataFrame, names: Mapping[str, str]) -> pl.DataFrame:
    records, problems = map(list, zip(*map(_parsed, lines["text"].to_list()), strict=True))
    columns = {}
    for ours, theirs in names.items():
        values = [record.get(theirs) for record in records]
        if {type(value) for value in values} & {dict, list}:
            for at in filter(lambda at: _is_nested(values[at]), range(len(values))):
                problems[at] = f"{printable(theirs)} holds an object or lists in a list"
                values[at] = None
        columns[ours] = _series(values)
    return lines.with_columns(problem=pl.Series(problems, dtype=pl.String), **columns)


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(one, dict | list) for one in value)
    )


def _series(values: list[Any]) -> pl.Series:
    """Return values as they are where they are of one kind, and as text else."""
    if any(isinstance(value, list) for value in values):
        lists = [value if value is None or isinstance(value, list) else [value] for value in values]
        flat = _scalars([one for value in lists if value for one in value])
        offsets = iter(flat.to_list())
        taken = [None if v is None else list(islice(offsets, len(v))) for v in lists]
        return pl.Series(taken, dtype=pl.List(flat.dtype))
    return _scalars(values)


def _scalars(values: list[Any]) -> pl.Series:
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return pl.Series(values, dtype=pl.Null)
    if kinds == {bool}:
        return pl.Series(values, dtype=pl.Boolean)
    if kinds == {int} and all(value is None or value in _INT64 for value in values):
        return pl.Series(values, dtype=pl.Int64)
    if kinds <= {int, float}:
        if kinds == {int}:  # past 64 bits: digits are an id all the same
            return pl.Series([None if v is None else str(v) for v in values], dtype=pl.String)
        return pl.Series([None if v is None else float(v) for v in values], dtype=pl.Float64)
    return pl.Series([None if v is None else _text(v) for v in values], dtype=pl.String)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _united(frames: list[pl.DataFrame], names: Mapping[str, str]) -> pl.DataFrame:
    """Stack chunks whose columns turned out to be of different kinds."""
    kinds = {ours: _common([frame.schema[ours] for frame in frames]) for ours in names}
    return pl.concat(
        frame.with_columns(_as_kind(ours, frame.schema[ours], kind) for ours, kind in kinds.items())
        for frame in frames
    )


def _as_kind(name: str, kind: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    value = pl.col(name)
    if isinstance(wanted, pl.List) and not isinstance(kind, pl.List):
        value = pl.when(value.is_not_null()).then(pl.concat_list(value))
    return value.cast(wanted)


def _common(kinds: list[pl.DataType]) -> pl.DataType:
    """Return the kind that all of some kinds can be written as."""
    different = [kind for kind in dict.fromkeys(kinds) if kind != pl.Null]
    if not different:
        return pl.String()
    if any(isinstance(kind, pl.List) for kind in different):
        inner = [kind.inner if isinstance(kind, pl.List) else kind for kind in different]
        return pl.List(_common(inner))  # type: ignore[arg-type]
    if len(different) == 1:
        return different[0]
    numeric = all(kind.is_numeric() for kind in different)
    return pl.Float64() if numeric else pl.String()
