"""How columns of ids are read: as integers where all ids of a table are, and as text else.

The ids of a table are of one kind, and the whole of its columns decides it. Text that reads as a
canonical integer (7, -7; neither 007 nor +7, nor digits past 64 bits) is one; a single other id
makes all ids of the table text, so that 007 and 7 stay two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import polars as pl

from autoemb.batch import MISSING
from autoemb.data.reading import Reading
from autoemb.data.table import Table, refuse
from autoemb.schema import Bag, Schema, Sparse

_INTEGER = r"^[+-]?[0-9]+$"
_NOT_TEXT = r"[\x00-\x1f\x7f\x{fffd}]"
_WIDE = (pl.UInt64, pl.Int128, pl.UInt128)  # may hold what int64 does not
TEXT = (pl.String, pl.Categorical, pl.Enum)


@dataclass
class Kinds:
    """Whether the ids of each table are text, as far as it is known.

    Attributes
    ----------
    text : set of str
        Tables of text.
    open : set of str
        Tables taken for integers so far, which an id that is none makes text.
    """

    text: set[str]
    open: set[str]


def kinds_of(table: Table, schema: Schema, raw: dict[str, str], sample: pl.DataFrame) -> Kinds:
    """Return what the types of the columns say of the ids of each table.

    Parameters
    ----------
    table, schema
    raw : dict of str to str
        Name of each column in the sample.
    sample : polars.DataFrame
        The first rows.

    Raises
    ------
    UserError
        Where a column is of a type that holds no ids, or lists where one id is expected.
    """
    kinds = Kinds(set(), set())
    integers, declared = set(), set()  # tables with a column of that type in the file
    for feature in id_columns(schema):
        values = sample[raw[feature.column]]
        dtype = _checked(table, feature, values.dtype)
        if dtype not in (*TEXT, *_WIDE):
            integers.add(feature.table)
            continue
        if table.integers:
            continue
        kinds.open.add(feature.table)
        split = isinstance(feature, Bag) and values.dtype in TEXT
        if table.typed and not split and dtype in TEXT:
            declared.add(feature.table)
    # Text that the file declares as such stays text, unless the ids beside it are integers.
    kinds.text |= declared - integers
    kinds.open -= kinds.text
    return kinds


def id_columns(schema: Schema) -> list[Sparse]:
    """Return the columns of ids: features and, as a table of its own, the event id."""
    columns: list[Sparse] = [*schema.features]
    if schema.event_id is not None:
        columns.append(Sparse(column=schema.event_id, table="\0event id", missing="refuse"))
    return columns


def _checked(table: Table, feature: Sparse, dtype: pl.DataType) -> pl.DataType:
    """Return the type of single ids, or refuse the column."""
    name, is_list = feature.column, isinstance(dtype, pl.List | pl.Array)
    inner: pl.DataType = dtype.inner if is_list else dtype  # type: ignore[attr-defined]
    fits = inner.is_integer() or inner in (*TEXT, pl.Boolean)
    if isinstance(feature, Bag):
        if (not is_list and dtype not in TEXT) or (is_list and not fits and inner != pl.Null):
            raise refuse(
                table.path,
                f"column {name} is of type {dtype}; expected lists of integers or text, or text "
                f"with {feature.separator!r} between ids",
            )
    elif is_list:
        raise refuse(
            table.path,
            f"column {name} holds lists; expected one id an event (several are a bag: --bags)",
        )
    elif not fits and not (inner == pl.Null and feature.missing == "id"):
        raise refuse(table.path, f"column {name} is of type {dtype}; expected integers or text")
    return inner


def _integer(text: pl.Expr, exact: bool) -> pl.Expr:
    """Return text as int64, or null; if `exact`, only text that is how the integer is written."""
    number = text.cast(pl.Int64, strict=False)
    if not exact:
        return number
    padded = text.str.starts_with("0") & (text != "0")
    # "+7" and "-07" stand before "-1": one comparison takes a third of the time of two prefixes.
    return pl.when(~(padded | (text < "-1"))).then(number)


def read_ids(table: Table, feature: Sparse, raw: str, dtype: pl.DataType, kinds: Kinds) -> Reading:
    """Return how a column of ids is read, given the kinds of ids that are known so far."""
    as_text = feature.table in kinds.text
    column = pl.col(raw)
    if isinstance(feature, Bag):
        return _read_bag(table, feature, column, dtype, as_text)
    missing = column.is_null()
    if dtype in TEXT:
        column = column.cast(pl.String)
        missing = missing | (column == "")
    value = _one(column, dtype, as_text, exact=not table.integers)
    if feature.missing == "id":
        none = "" if as_text else MISSING
        value = pl.when(missing).then(pl.lit(none)).when(value != none).then(value)
    return Reading(value, _why_not_text if as_text else _why_not_integer)


def _one(column: pl.Expr, dtype: pl.DataType, as_text: bool, exact: bool) -> pl.Expr:
    """Return single ids as text or int64, and null for what is not usable."""
    if not as_text:
        return _integer(column, exact) if dtype in TEXT else column.cast(pl.Int64, strict=False)
    if dtype == pl.Boolean:
        column = column.cast(pl.Int8)
    text = column.cast(pl.String)
    if dtype not in TEXT:
        return text
    return pl.when((text != "") & ~text.str.contains(_NOT_TEXT)).then(text)


def _read_bag(
    table: Table, bag: Bag, column: pl.Expr, dtype: pl.DataType, as_text: bool
) -> Reading:
    lists, inner = lists_of(column, dtype, bag.separator)
    element = pl.element().cast(pl.String).str.strip_chars() if inner in TEXT else pl.element()
    ids = lists.list.eval(_one(element, inner, as_text, exact=not table.integers))
    ids = ids.cast(pl.List(pl.String if as_text else pl.Int64))
    whole = ids.list.drop_nulls().list.len() == ids.list.len()
    reason = "holds an id that is empty, no integer, or not UTF-8 text"
    return Reading(pl.when(whole).then(ids), lambda _: reason)


def lists_of(column: pl.Expr, dtype: pl.DataType, separator: str) -> tuple[pl.Expr, pl.DataType]:
    """Return a column's lists, empty where they are missing, and the type of what is in them.

    Text is split into its parts; there are none where it is empty.
    """
    if isinstance(dtype, pl.List | pl.Array):
        lists = column.arr.to_list() if isinstance(dtype, pl.Array) else column
        return pl.when(column.is_null()).then([]).otherwise(lists), dtype.inner  # type: ignore[return-value]
    text = column.cast(pl.String)
    empty = text.is_null() | (text.str.strip_chars() == "")
    return pl.when(empty).then([]).otherwise(text.str.split(separator)), pl.String()


def _why_not_text(_: object) -> str:
    return "holds characters that are not UTF-8 text"


def _why_not_integer(raw: object) -> str:
    if not re.match(_INTEGER, str(raw)):
        return "is not an integer"
    return "is past the largest 64-bit integer"
