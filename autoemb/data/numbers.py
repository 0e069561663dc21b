"""How columns of numbers and times are read: labels, dense features, weights, timestamps."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import polars as pl

from autoemb.data.ids import TEXT, lists_of
from autoemb.data.message import printable
from autoemb.data.reading import Reading
from autoemb.data.table import refuse
from autoemb.schema import Bag, Label

_NUMBER = r"^[+-]?[0-9]*\.?[0-9]*([eE][+-]?[0-9]+)?$"
_DATE = r"^[0-9]+-[0-9]+-[0-9]+$"
_TOP = 100.0  # of the largest rating scale
#: How text says that there is no number.
_NO_NUMBER = ("", "na", "n/a", "nan", "null", "none")
_SCALE_HINT = "; --scale LOW,HIGH tells of another scale"


def read_label(label: Label, raw: str, dtype: pl.DataType, path: Path) -> Reading:
    """Return how a label is read: float32, or the number of its class in int64."""
    column = pl.col(raw)
    if label.kind == "classes":
        return _read_class(label, column, dtype, path)
    _check_number(label.column, dtype, path)
    if label.kind == "click":
        return _read_click(column, dtype)
    number = column.cast(pl.Float64, strict=False)
    if label.kind == "value":
        return Reading(_finite(number), why_no_number)
    low, high = label.scale or (0.0, _TOP)
    value = pl.when(number.is_between(low, high)).then(number).cast(pl.Float32)

    def why(given: Any) -> str:
        said = why_no_number(given)
        if said != "is not a number" or not _is_finite(given):
            return said
        hint = "" if label.scale else _SCALE_HINT
        if float(str(given)) < low:
            return f"is below {low:g}{hint}"
        top = ", the top of the scale" if label.scale else ", the top of the largest scale"
        return f"is above {high:g}{top}{hint}"

    return Reading(value, why)


def _read_click(column: pl.Expr, dtype: pl.DataType) -> Reading:
    number = column.cast(pl.Float64, strict=False)
    if dtype in TEXT:
        words = column.cast(pl.String).str.to_lowercase()
        number = (
            pl.when(words == "true").then(1.0).when(words == "false").then(0.0).otherwise(number)
        )
    value = pl.when((number == 0) | (number == 1)).then(number).cast(pl.Float32)
    return Reading(
        value,
        lambda _: (
            "is neither 0 nor 1, as a click is; a rating has --task regression or "
            "--scale, another number --task value"
        ),
    )


def _read_class(label: Label, column: pl.Expr, dtype: pl.DataType, path: Path) -> Reading:
    if not (dtype.is_integer() or dtype in (*TEXT, pl.Boolean)):
        raise refuse(
            path, f"column {label.column} is of type {dtype}; expected text or integers as classes"
        )
    numbers = pl.Series(range(len(label.classes)), dtype=pl.Int64)
    value = column.cast(pl.String).replace_strict(
        pl.Series(label.classes), numbers, default=None, return_dtype=pl.Int64
    )
    listed = printable(", ".join(label.classes), 200)
    return Reading(value, lambda _: f"is none of the classes {listed}")


def read_dense(name: str, raw: str, dtype: pl.DataType, path: Path) -> Reading:
    """Return how a dense column is read: float32, NaN where there is no number."""
    if dtype == pl.Null:
        return Reading(pl.lit(math.nan, pl.Float32), why_no_number)
    _check_number(name, dtype, path)
    column = pl.col(raw)
    number = column.cast(pl.Float64, strict=False)
    missing = column.is_null()
    if dtype in TEXT:
        missing |= column.cast(pl.String).str.to_lowercase().is_in(_NO_NUMBER)
    elif dtype.is_float():
        missing |= column.is_nan()
    value = pl.when(missing).then(pl.lit(math.nan, pl.Float32)).otherwise(_finite(number))
    return Reading(value, why_no_number)


def read_weight(name: str, raw: str, dtype: pl.DataType, path: Path) -> Reading:
    """Return how the weight of events is read: float32 from 0."""
    _check_number(name, dtype, path)
    number = _finite(pl.col(raw).cast(pl.Float64, strict=False))

    def why(given: Any) -> str:
        return "is below 0" if _is_finite(given) and float(str(given)) < 0 else why_no_number(given)

    return Reading(pl.when(number >= 0).then(number), why)


def read_bag_weights(bag: Bag, raw: str, dtype: pl.DataType, ids: pl.Expr, path: Path) -> Reading:
    """Return how the weights of a bag are read: a list of float32 from 0, one for each id."""
    lists, inner = lists_of(pl.col(raw), dtype, bag.separator)
    if not (isinstance(dtype, pl.List | pl.Array) or dtype in TEXT) or not (
        inner.is_numeric() or inner in TEXT or inner == pl.Null
    ):
        raise refuse(path, f"column {bag.weights} is of type {dtype}; expected lists of numbers")
    element = pl.element().str.strip_chars() if inner in TEXT else pl.element()
    number = _finite(element.cast(pl.Float64, strict=False))
    weights = lists.list.eval(pl.when(number >= 0).then(number)).cast(pl.List(pl.Float32))
    sound = weights.list.drop_nulls().list.len() == ids.list.len()
    same = weights.list.len() == ids.list.len()
    return Reading(
        pl.when(sound & same).then(weights),
        lambda _: f"holds no weight from 0 for each id of {bag.column}",
    )


def _check_number(name: str, dtype: pl.DataType, path: Path) -> None:
    if isinstance(dtype, pl.List | pl.Array):
        raise refuse(path, f"column {name} holds lists; expected one number an event")
    if not (dtype.is_numeric() or dtype in (*TEXT, pl.Boolean)):
        raise refuse(path, f"column {name} is of type {dtype}; expected numbers")


def _finite(number: pl.Expr) -> pl.Expr:
    """Return numbers in float32, and null for those that are none or not finite there."""
    single = number.cast(pl.Float32)
    return pl.when(single.is_finite()).then(single)


def _is_finite(raw: object) -> bool:
    try:
        return math.isfinite(float(str(raw)))
    except ValueError:
        return False


def why_no_number(raw: object) -> str:
    """Return what a value is, if not a number that 32 bits hold."""
    try:
        number = float(str(raw))
    except ValueError:
        return "is not a number"
    if not math.isfinite(number):
        return "is not finite"
    return "is past the largest 32-bit number" if abs(number) > 3.4e38 else "is not a number"


def read_timestamp(name: str, raw: str, sample: pl.Series, path: Path) -> Reading:
    """Return how times are read: int64 seconds since 1970."""
    column, dtype = pl.col(raw), sample.dtype
    if dtype.is_integer():
        seconds = column.cast(pl.Int64, strict=False)
    elif dtype.is_float():
        seconds = column.floor().cast(pl.Int64, strict=False)
    elif dtype == pl.Date or isinstance(dtype, pl.Datetime):
        seconds = column.dt.epoch("s")
    elif dtype != pl.String:
        raise refuse(
            path, f"column {name} is of type {dtype}; expected seconds, dates or datetimes"
        )
    elif _share(sample, _NUMBER) >= 0.5:
        fraction = column.cast(pl.Float64, strict=False).floor()
        seconds = pl.coalesce(
            column.cast(pl.Int64, strict=False), fraction.cast(pl.Int64, strict=False)
        )
    elif _share(sample, _DATE) >= 0.5:
        seconds = column.str.to_date("%Y-%m-%d", strict=False).dt.epoch("s")
    else:
        seconds = _from_iso(column)
    return Reading(pl.when(seconds >= 0).then(seconds), _why_no_timestamp)


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
