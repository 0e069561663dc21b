"""The streaming runtime in Python: the readable specification of `csrc/runtime`, and its stand-in.

Same names, same answers and the same errors as the compiled :mod:`autoemb._runtime`;
:mod:`autoemb.runtime` chooses between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


class _IdTable:
    """Row numbers in the order in which ids are first seen, by a dict."""

    def __init__(self) -> None:
        self._row_of: dict[Any, int] = {}

    def __len__(self) -> int:
        return len(self._row_of)

    def reserve(self, rows: int) -> None:
        """Do nothing: a dict cannot be told its size."""

    def _rows(self, ids: Iterable[Any], insert: bool) -> Int64Array:
        row_of = self._row_of
        if insert:
            rows = [row_of.setdefault(id, len(row_of)) for id in ids]
        else:
            rows = [row_of.get(id, -1) for id in ids]
        return np.array(rows, dtype=np.int64)


class Int64IdTable(_IdTable):
    """Rows of integer ids."""

    def rows(self, ids: Int64Array, insert: bool = True) -> Int64Array:
        """Return the row of each id [B]; an unknown one gets the next if ``insert``, else -1."""
        _check_vector("ids", ids, np.int64)
        return self._rows(ids.tolist(), insert)

    def ids(self) -> Int64Array:
        """Return the ids in row order."""
        return np.fromiter(self._row_of, dtype=np.int64, count=len(self))


class StringIdTable(_IdTable):
    """Rows of string ids."""

    def rows(self, ids: list[str], insert: bool = True) -> Int64Array:
        """Return the row of each id [B]; an unknown one gets the next if ``insert``, else -1."""
        for position, id in enumerate(ids):
            if not isinstance(id, str):
                raise TypeError(f"ids[{position}] must be a str, not {type(id).__name__}")
            id.encode()  # what has no UTF-8 form cannot be stored
        return self._rows(ids, insert)

    def ids(self) -> list[str]:
        """Return the ids in row order."""
        return list(self._row_of)


def record(
    rows: Int64Array,
    loss: Float32Array,
    decay: float,
    count: Int64Array,
    last_loss: Float32Array,
    mean_loss: Float32Array,
) -> None:
    """Update the counters [V] of ``rows`` [B] in place, in the order of the events."""
    _check_vector("rows", rows, np.int64)
    _check_vector("loss", loss, np.float32)
    _check_vector("count", count, np.int64, writable=True)
    _check_vector("last_loss", last_loss, np.float32, writable=True)
    _check_vector("mean_loss", mean_loss, np.float32, writable=True)
    if len(loss) != len(rows):
        raise ValueError("loss must be as long as rows")
    if not len(last_loss) == len(mean_loss) == len(count):
        raise ValueError("last_loss and mean_loss must be as long as count")
    _check_rows(rows, len(count))
    for row, value in zip(rows.tolist(), loss.tolist(), strict=True):
        if count[row]:
            mean_loss[row] = decay * mean_loss.item(row) + (1.0 - decay) * value
        else:
            mean_loss[row] = value
        last_loss[row] = value
        count[row] += 1


def forgetting_sums(
    rows: Int64Array, values: Float32Array, decay: float, sums: Float32Array
) -> None:
    """Add ``values`` [L, C] to the sums [V, C] of ``rows`` [L] in place, which forget."""
    _check_vector("rows", rows, np.int64)
    _check_matrix("values", values, np.float32)
    _check_matrix("sums", sums, np.float32, writable=True)
    if len(values) != len(rows):
        raise ValueError("values must be as long as rows")
    if values.shape[1] != sums.shape[1]:
        raise ValueError("values must be as wide as sums")
    _check_rows(rows, len(sums))
    for row, value in zip(rows.tolist(), values.astype(np.float64), strict=True):
        sums[row] = decay * sums[row].astype(np.float64) + value


def learn_factors(
    tables: Sequence[Float32Array],
    rows: Sequence[Int64Array],
    residual: Float32Array,
    weight: Float32Array,
    rate: float,
    penalty: float,
) -> None:
    """Let factors of F ``tables`` [V, K] learn what their products lack of ``residual`` [B]."""
    _check_vector("residual", residual, np.float32)
    _check_vector("weight", weight, np.float32)
    if len(weight) != len(residual):
        raise ValueError("weight must be as long as residual")
    if len(rows) != len(tables):
        raise ValueError("rows must be as many as tables")
    for table, own in zip(tables, rows, strict=True):
        _check_matrix("table", table, np.float32, writable=True)
        _check_vector("rows", own, np.int64)
        if table.shape[1] != tables[0].shape[1]:
            raise ValueError("tables must be of one width")
        if len(own) != len(residual):
            raise ValueError("rows must be as long as residual")
        _check_rows(own, len(table))
    for event, (left, share) in enumerate(zip(residual.tolist(), weight.tolist(), strict=True)):
        pairs = list(zip(tables, (own[event] for own in rows), strict=True))
        before = np.array([table[row] for table, row in pairs], np.float64)
        total = before.sum(0)
        error = left - (total**2 - (before**2).sum(0)).sum() / 2
        full = rate * share
        step = full / (1 + full * ((total - before) ** 2).sum())
        for (table, row), was in zip(pairs, before, strict=True):
            change = step * (error * (total - was) - penalty * was)
            table[row] = table[row].astype(np.float64) + change


def distinct(rows: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return the distinct values [U] of ``rows`` ascending, where each row is there, and counts."""
    _check_vector("rows", rows, np.int64)
    values, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return values, inverse, counts


def _check_rows(rows: Int64Array, num_rows: int) -> None:
    outside = np.flatnonzero((rows < 0) | (rows >= num_rows))
    if outside.size:
        raise IndexError(
            f"rows[{outside[0]}] is {rows[outside[0]]}; the tables have {num_rows} rows"
        )


def _check_vector(
    name: str, array: npt.NDArray[Any], dtype: Any, *, writable: bool = False
) -> None:
    _check_array(name, array, dtype, 1, writable)


def _check_matrix(
    name: str, array: npt.NDArray[Any], dtype: Any, *, writable: bool = False
) -> None:
    _check_array(name, array, dtype, 2, writable)


def _check_array(
    name: str, array: npt.NDArray[Any], dtype: Any, dimensions: int, writable: bool
) -> None:
    flags = array.flags
    if (
        array.ndim != dimensions
        or array.dtype != dtype
        or not (flags.c_contiguous and flags.aligned)
        or (writable and not flags.writeable)
    ):
        raise TypeError(
            f"{name} must be a contiguous {'writable ' if writable else ''}"
            f"{dimensions}-D array of {np.dtype(dtype)}"
        )
