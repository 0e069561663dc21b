"""From rows as they stand in a file to typed columns, and what is wrong with the rows that fail.

One rule: a column's expression gives null for every value that is not usable, and a row with a null
is bad. Why it is bad is worked out for one row only, the one the message is about.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from autoemb.data.ids import Kinds, id_columns, kinds_of, read_ids
from autoemb.data.message import printable
from autoemb.data.numbers import (
    read_bag_weights,
    read_dense,
    read_label,
    read_timestamp,
    read_weight,
)
from autoemb.data.reading import Reading
from autoemb.data.table import Table, refuse
from autoemb.errors import UserError
from autoemb.schema import Schema

_SAMPLE = 1_000  # rows that tell how times are written, and how ids seem to be


@dataclass
class _Rows:
    """The rows of a table, their columns named c0, c1, ... in the order of the schema.

    Names of the file's own could be those of the other columns: ``row``, ``text``, ``problem``.
    """

    table: Table
    schema: Schema
    raw: dict[str, str]
    frame: pl.LazyFrame
    sample: pl.DataFrame

    def dtype(self, name: str) -> pl.DataType:
        return self.sample.schema[self.raw[name]]


def clean(table: Table, schema: Schema, skip_bad_rows: bool) -> tuple[pl.DataFrame, int]:
    """Return the usable rows, typed, in the order of the file, and how many others there are.

    Raises
    ------
    UserError
        At the first bad row, or with `skip_bad_rows` where all rows are bad; where there are none;
        for a column of the wrong type, and an event id that repeats.
    """
    picked = table.pick(schema)
    raw = {name: f"c{at}" for at, name in enumerate(schema.columns)}
    frame = table.scan({raw[ours]: theirs for ours, theirs in picked.items()})
    sample = frame.head(_SAMPLE).collect(engine="streaming")
    rows = _Rows(table, schema, raw, frame, sample)
    kinds = kinds_of(table, schema, raw, sample)
    kinds.text |= _found_text(rows, kinds, sample.lazy())
    kinds.open -= kinds.text
    readings = _readings(rows, kinds)
    judged = _judge(rows, readings)
    if judged["bad"].any() and (text := _found_text(rows, kinds, frame)):
        kinds.text |= text
        readings = _readings(rows, kinds)
        judged = _judge(rows, readings)
    if judged.is_empty():
        raise refuse(table.path, "holds no events")
    skipped = int(judged["bad"].sum())
    if skipped and not (skip_bad_rows and skipped < len(judged)):
        raise _first_error(rows, readings, all_bad=skip_bad_rows)
    found = judged.filter(~pl.col("bad")) if skipped else judged
    found, repeated = _once(rows, found, skip_bad_rows)
    found = found.select(raw.values())
    return found.rename({theirs: ours for ours, theirs in raw.items()}), skipped + repeated


def _readings(rows: _Rows, kinds: Kinds) -> dict[str, Reading]:
    """Return how each column of the schema is read."""
    schema, raw, path = rows.schema, rows.raw, rows.table.path
    found = {
        feature.column: read_ids(
            rows.table, feature, raw[feature.column], rows.dtype(feature.column), kinds
        )
        for feature in id_columns(schema)
    }
    for bag in schema.bag:
        if (name := bag.weights) is not None:
            ids = found[bag.column].value
            found[name] = read_bag_weights(bag, raw[name], rows.dtype(name), ids, path)
    for dense in schema.dense:
        name = dense.column
        found[name] = read_dense(name, raw[name], rows.dtype(name), path)
    name = schema.label.column
    found[name] = read_label(schema.label, raw[name], rows.dtype(name), path)
    if (name := schema.timestamp) is not None:
        found[name] = read_timestamp(name, raw[name], rows.sample[raw[name]], path)
    if (name := schema.weight) is not None:
        found[name] = read_weight(name, raw[name], rows.dtype(name), path)
    return {name: found[name] for name in schema.columns}


def _judge(rows: _Rows, readings: dict[str, Reading]) -> pl.DataFrame:
    """Return the values of all rows, ``bad``, and ``row`` where event ids may have to be named."""
    values = [reading.value.alias(rows.raw[name]) for name, reading in readings.items()]
    row = ["row"] if rows.schema.event_id is not None else []
    names = list(rows.raw.values())
    judged = rows.frame.select(*values, "problem", *row).select(
        *names,
        *row,
        bad=pl.any_horizontal(pl.col(names).is_null()) | pl.col("problem").is_not_null(),
    )
    return judged.collect(engine="streaming")


def _found_text(rows: _Rows, kinds: Kinds, frame: pl.LazyFrame) -> set[str]:
    """Return the tables, integers so far, of which rows that are sound but for that are not.

    Broken rows decide nothing: their fields may stand in the wrong columns.
    """
    if not kinds.open:
        return set()
    readings = _readings(rows, kinds)
    open_columns = {f.column: f.table for f in id_columns(rows.schema) if f.table in kinds.open}
    # The weights of a bag are usable only where its ids are.
    open_columns |= {
        bag.weights: bag.table
        for bag in rows.schema.bag
        if bag.weights is not None and bag.table in kinds.open
    }
    others = [reading.value for name, reading in readings.items() if name not in open_columns]
    as_text = _readings(rows, Kinds(kinds.text | kinds.open, set()))
    usable = [as_text[name].value for name in open_columns]
    sound = pl.all_horizontal(
        *(value.is_not_null() for value in (*others, *usable)), pl.col("problem").is_null()
    )
    counts = (
        frame.filter(sound)
        .select(readings[name].value.is_null().any().alias(rows.raw[name]) for name in open_columns)
        .collect(engine="streaming")
        .row(0, named=True)
    )
    return {table for name, table in open_columns.items() if counts[rows.raw[name]]}


def _first_error(rows: _Rows, readings: dict[str, Reading], all_bad: bool) -> UserError:
    """Return the error that describes the first bad row."""
    usable = {
        f"{rows.raw[name]} usable": reading.value.is_not_null()
        for name, reading in readings.items()
    }
    sound = pl.all_horizontal(*usable) & pl.col("problem").is_null()
    row = rows.frame.with_columns(**usable).filter(~sound).head(1).collect().row(0, named=True)
    reason = row["problem"]
    if reason is None:
        name = next(name for name in readings if not row[f"{rows.raw[name]} usable"])
        raw, shown = row[rows.raw[name]], printable(name)
        missing = raw is None or raw == ""
        fault = "is missing" if missing else readings[name].reason(raw)
        reason = f"{shown} {fault}" if missing else f"{shown} '{printable(raw, 40)}' {fault}"
    line = "" if row["text"] is None else f"; the line is '{printable(row['text'])}'"
    every = "no usable row; the first: " if all_bad else ""
    return UserError(f"{rows.table.where(row['row'])}: {every}{reason}{line}")


def _once(rows: _Rows, found: pl.DataFrame, skip_bad_rows: bool) -> tuple[pl.DataFrame, int]:
    """Return the rows whose event id is new, and how many others there are, or refuse those."""
    if rows.schema.event_id is None:
        return found, 0
    name = rows.raw[rows.schema.event_id]
    first = found[name].is_first_distinct()
    if first.all():
        return found, 0
    if skip_bad_rows:
        return found.filter(first), int((~first).sum())
    value, row = found.filter(~first).select(name, "row").row(0)
    earlier = found.filter(pl.col(name) == value)["row"][0]
    raise UserError(
        f"{rows.table.where(row)}: {printable(rows.schema.event_id)} '{printable(value, 40)}' "
        f"repeats that of {_short(rows.table.where(earlier))}; expected a new one for each event"
    )


def _short(where: str) -> str:
    return where.rpartition(": ")[2]
