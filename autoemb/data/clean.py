"""From rows as they stand in a file to typed columns, and what is wrong with the rows that fail.

One rule: a column's expression gives null for every value that is not usable, and a row with a null
is bad. Why it is bad is worked out for one row only, the one the message is about.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from autoemb.data.message import printable
from autoemb.data.table import COLUMNS, Table, refuse
from autoemb.errors import UserError

_SAMPLE = 1_000  # rows that decide how the values of a column of text are written
_INTEGER = r"^[+-]?[0-9]+$"
_NUMBER = r"^[+-]?[0-9]*\.?[0-9]*([eE][+-]?[0-9]+)?$"
_DATE = r"^[0-9]+-[0-9]+-[0-9]+$"
_NOT_TEXT = r"[\x00-\x1f\x7f\x{fffd}]"
_TOP = 100.0  # of the largest rating scale


@dataclass(frozen=True)
class _Column:
    """How a column is read: `value` is null where the raw value is unusable, `reason` says why."""

    value: pl.Expr
    reason: Callable[[Any], str]


def clean(table: Table, skip_bad_rows: bool) -> tuple[pl.DataFrame, int]:
    """Return the usable rows, typed, in the order of the file, and how many others there are.

    Raises
    ------
    UserError
        At the first bad row, or with `skip_bad_rows` where all rows are bad; where there are none.
    """
    sample = table.rows.head(_SAMPLE).collect(engine="streaming")
    columns = {
        "user_id": _id(table, "user_id", sample),
        "item_id": _id(table, "item_id", sample),
        "rating": _rating(table, sample),
        "timestamp": _timestamp(table, sample),
    }
    values = [columns[name].value.alias(name) for name in COLUMNS]
    judged = table.rows.select(*values, "problem").select(
        *COLUMNS,
        bad=pl.any_horizontal(pl.col(COLUMNS).is_null()) | pl.col("problem").is_not_null(),
    )
    frame = judged.collect(engine="streaming")
    if frame.is_empty():
        raise refuse(table.path, "holds no interactions")
    skipped = int(frame["bad"].sum())
    if skipped == 0:
        return frame.drop("bad"), 0
    if skip_bad_rows and skipped < len(frame):
        return frame.filter(~pl.col("bad")).drop("bad"), skipped
    raise _first_error(table, columns, all_bad=skip_bad_rows)


def _first_error(table: Table, columns: dict[str, _Column], all_bad: bool) -> UserError:
    """Return the error that describes the first bad row."""
    usable = {f"{name} usable": columns[name].value.is_not_null() for name in COLUMNS}
    sound = pl.all_horizontal(*usable) & pl.col("problem").is_null()
    row = table.rows.with_columns(**usable).filter(~sound).head(1).collect().row(0, named=True)
    reason = row["problem"]
    if reason is None:
        name = next(name for name in COLUMNS if not row[f"{name} usable"])
        raw = row[name]
        missing = raw is None or raw == ""
        fault = "is missing" if missing else columns[name].reason(raw)
        reason = f"{name} {fault}" if missing else f"{name} '{printable(raw, 40)}' {fault}"
    line = "" if row["text"] is None else f"; the line is '{printable(row['text'])}'"
    every = "no usable row; the first: " if all_bad else ""
    return UserError(f"{table.where(row['row'])}: {every}{reason}{line}")


def _id(table: Table, name: str, sample: pl.DataFrame) -> _Column:
    raw, dtype = pl.col(name), sample.schema[name]
    if dtype.is_integer() or (not table.typed and _share(sample[name], _INTEGER) >= 0.5):
        number = raw.cast(pl.Int64, strict=False)
        return _Column(pl.when(number >= 0).then(number), _why_not_integer)
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        text = raw.cast(pl.String)
        sound = (text != "") & ~text.str.contains(_NOT_TEXT)
        return _Column(
            pl.when(sound).then(text), lambda _: "holds characters that are not UTF-8 text"
        )
    raise refuse(table.path, f"column {name} is of type {dtype}; expected integers or text")


def _why_not_integer(raw: object) -> str:
    text = str(raw)
    if not re.match(_INTEGER, text):
        return "is not an integer"
    return "is negative" if text.startswith("-") else "is past the largest 64-bit integer"


def _rating(table: Table, sample: pl.DataFrame) -> _Column:
    dtype = sample.schema["rating"]
    if not (dtype.is_numeric() or dtype in (pl.String, pl.Boolean)):
        raise refuse(table.path, f"column rating is of type {dtype}; expected numbers")
    number = pl.col("rating").cast(pl.Float64, strict=False)
    value = pl.when(number.is_between(0, _TOP)).then(number).cast(pl.Float32)
    return _Column(value, _why_no_rating)


def _why_no_rating(raw: object) -> str:
    try:
        number = float(str(raw))
    except ValueError:
        return "is not a number"
    if not math.isfinite(number):
        return "is not finite"
    if number < 0:
        return "is below 0"
    if number > _TOP:
        return f"is above {_TOP:.0f}, the top of the largest scale"
    return "is not a number"


def _timestamp(table: Table, sample: pl.DataFrame) -> _Column:
    raw, dtype = pl.col("timestamp"), sample.schema["timestamp"]
    if dtype.is_integer():
        seconds = raw.cast(pl.Int64, strict=False)
    elif dtype.is_float():
        seconds = raw.floor().cast(pl.Int64, strict=False)
    elif dtype == pl.Date or isinstance(dtype, pl.Datetime):
        seconds = raw.dt.epoch("s")
    elif dtype != pl.String:
        raise refuse(
            table.path, f"column timestamp is of type {dtype}; expected seconds, dates or datetimes"
        )
    elif _share(sample["timestamp"], _NUMBER) >= 0.5:
        fraction = raw.cast(pl.Float64, strict=False).floor()
        seconds = pl.coalesce(
            raw.cast(pl.Int64, strict=False), fraction.cast(pl.Int64, strict=False)
        )
    elif _share(sample["timestamp"], _DATE) >= 0.5:
        seconds = raw.str.to_date("%Y-%m-%d", strict=False).dt.epoch("s")
    else:
        seconds = _from_iso(raw)
    return _Column(pl.when(seconds >= 0).then(seconds), _why_no_timestamp)


def _from_iso(raw: pl.Expr) -> pl.Expr:
    """Return the seconds of an ISO 8601 date and time; without an offset it is read as UTC."""
    text = raw.str.replace("T", " ", literal=True).str.replace("Z$", "+00:00")
    moment = "%Y-%m-%d %H:%M:%S%.f"
    return pl.coalesce(
        text.str.to_datetime(moment, time_unit="us", strict=False).dt.epoch("s"),
        text.str.to_datetime(f"{moment}%z", time_unit="us", time_zone="UTC", strict=False).dt.epoch(
            "s"
        ),
        text.str.to_date("%Y-%m-%d", strict=False).dt.epoch("s"),
    )


def _why_no_timestamp(raw: object) -> str:
    text = str(raw)
    if text.startswith("-") or re.match(r"^(0|1[0-8]|19[0-6])\d*-", text):
        return "is before 1970"
    return "is neither seconds since 1970 nor an ISO 8601 date or datetime"


def _share(values: pl.Series, pattern: str) -> float:
    """Return the share of the values that match, of those that are there."""
    there = values.drop_nulls().filter(values.drop_nulls() != "")
    return int(there.str.contains(pattern).sum()) / len(there) if len(there) else 1.0
