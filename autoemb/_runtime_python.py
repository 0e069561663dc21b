"""The streaming runtime in Python: the readable specification of `csrc/runtime`, and its stand-in.

Same names, same answers and the same errors as the compiled :mod:`autoemb._runtime`;
:mod:`autoemb.runtime` chooses between the two.
"""

from __future__ import annotations

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
        self._ids: list[Any] = []

    def __len__(self) -> int:
        return len(self._ids)

    def reserve(self, rows: int) -> None:
        """Do nothing: a dict cannot be told its size."""

    def nbytes(self) -> int:
        """Return the bytes that the compiled table would take: budgets must not depend on which."""
        ids = len(self)
        slots = 16 if ids else 0
        while ids > slots // 5 * 4:
            slots += slots // 2
        return 4 * slots + self._bytes_of_ids()

    def _bytes_of_ids(self) -> int:
        raise NotImplementedError

    def _rows(self, ids: Iterable[Any], insert: bool) -> Int64Array:
        if not insert:
            return np.array([self._row_of.get(id, -1) for id in ids], dtype=np.int64)
        rows = []
        for id in ids:
            row = self._row_of.setdefault(id, len(self._ids))
            if row == len(self._ids):
                self._ids.append(id)
            rows.append(row)
        return np.array(rows, dtype=np.int64)

    def _at(self, rows: Int64Array) -> list[Any]:
        check_vector("rows", rows, np.int64)
        check_rows(rows, len(self))
        return [self._ids[row] for row in rows.tolist()]


class Int64IdTable(_IdTable):
    """Rows of integer ids."""

    def rows(self, ids: Int64Array, insert: bool = True) -> Int64Array:
        """Return the row of each id [B]; an unknown one gets the next if ``insert``, else -1."""
        check_vector("ids", ids, np.int64)
        return self._rows(ids.tolist(), insert)

    def ids(self) -> Int64Array:
        """Return the ids in row order."""
        return np.array(self._ids, dtype=np.int64)

    def at(self, rows: Int64Array) -> Int64Array:
        """Return the ids of rows [B]."""
        return np.array(self._at(rows), dtype=np.int64)

    def _bytes_of_ids(self) -> int:
        return 8 * _room(len(self))


class StringIdTable(_IdTable):
    """Rows of string ids."""

    def __init__(self) -> None:
        super().__init__()
        self._characters = 0  # bytes of all ids

    def rows(self, ids: list[str], insert: bool = True) -> Int64Array:
        """Return the row of each id [B]; an unknown one gets the next if ``insert``, else -1."""
        for position, id in enumerate(ids):
            if not isinstance(id, str):
                raise TypeError(f"ids[{position}] must be a str, not {type(id).__name__}")
            id.encode()  # what has no UTF-8 form cannot be stored
        known = len(self)
        rows = self._rows(ids, insert)
        self._characters += sum(len(id.encode()) for id in self._ids[known:])
        return rows

    def ids(self) -> list[str]:
        """Return the ids in row order."""
        return list(self._ids)

    def at(self, rows: Int64Array) -> list[str]:
        """Return the ids of rows [B]."""
        return self._at(rows)

    def _bytes_of_ids(self) -> int:
        blocks = -(-len(self) // 64)
        return _room(self._characters) + 4 * _room(len(self)) + 8 * _room(blocks)


def _room(size: int) -> int:
    """Return for how many values there is room, which grows by a quarter."""
    room = 0
    while room < size:
        room += room // 4 + 16
    return room


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
