"""The streaming runtime in Python: the readable specification of `csrc/runtime`, and its stand-in.

Same names, same answers and the same errors as the compiled :mod:`autoemb._runtime`;
:mod:`autoemb.runtime` chooses between the two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from autoemb._arrays import check_rows, check_vector
from autoemb._statistics_python import advance_statistics

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

__all__ = ["Int64IdTable", "StringIdTable", "advance_statistics", "distinct", "record"]


class _IdTable:
    """Row numbers in the order in which ids are first seen, by a dict."""

    def __init__(self) -> None:
        self._row_of: dict[Any, int] = {}

    def __len__(self) -> int:
        return len(self._row_of)

    def reserve(self, rows: int) -> None:
        """Do nothing: a dict cannot be told its size."""

    def nbytes(self) -> int:
        """Return the bytes that ids and rows take."""
        whole = dict(self._row_of)  # as large as its ids need: however they came
        return sys.getsizeof(whole) + sum(map(sys.getsizeof, whole))

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
        check_vector("ids", ids, np.int64)
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
    check_vector("rows", rows, np.int64)
    check_vector("loss", loss, np.float32)
    check_vector("count", count, np.int64, writable=True)
    check_vector("last_loss", last_loss, np.float32, writable=True)
    check_vector("mean_loss", mean_loss, np.float32, writable=True)
    if len(loss) != len(rows):
        raise ValueError("loss must be as long as rows")
    if not len(last_loss) == len(mean_loss) == len(count):
        raise ValueError("last_loss and mean_loss must be as long as count")
    check_rows(rows, len(count))
    for row, value in zip(rows.tolist(), loss.tolist(), strict=True):
        if count[row]:
            mean_loss[row] = decay * mean_loss.item(row) + (1.0 - decay) * value
        else:
            mean_loss[row] = value
        last_loss[row] = value
        count[row] += 1


def distinct(rows: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return the distinct values [U] of ``rows`` ascending, where each row is there, and counts."""
    check_vector("rows", rows, np.int64)
    values, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return values, inverse, counts
