"""Numbers of ids in few bytes: rounded by chance, so that sums stay right on average."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Bits of a float32 that are left out: of a sum, 16 are kept of its fraction; of another, 8.
_SUM_BITS, _OTHER_BITS = 8, 16


class CompactRows:
    """Rows [V, W] of one float32, some sums of three bytes and other numbers of two.

    What bits are left out is rounded up or down by chance, in proportion: a sum of many small
    steps then keeps growing as it should, and two bytes do for what forgets. The chance is decided
    by the number itself and by the first of its row, a count: runs repeat to the last bit, and a
    sum that was rounded down once is not every time.

    Parameters
    ----------
    sums, others : int
        Numbers of three and of two bytes. W is one more than both.

    Attributes
    ----------
    packed : array [V, R], uint8
        R bytes a row.

    Examples
    --------
    >>> rows = CompactRows(sums=1, others=2)
    >>> rows.grow(4)
    >>> rows.write(np.array([2]), np.array([[5, 0.25, -3, 1e-3]], dtype=np.float32))
    >>> rows.read(np.array([2, 0])).round(5).tolist()[1], rows.row_bytes
    ([0.0, 0.0, 0.0, 0.0], 11)
    >>> bool(abs(rows.read(np.array([2]))[0, 3] / 1e-3 - 1) < 2**-7)
    True
    """

    def __init__(self, sums: int, others: int) -> None:
        self.sums, self.others = sums, others
        self.row_bytes = 4 + 3 * sums + 2 * others
        self.packed = np.zeros((0, self.row_bytes), np.uint8)
        left_out = [_SUM_BITS] * sums + [_OTHER_BITS] * others
        self._mask = (np.uint32(1) << np.array(left_out, np.uint32)) - np.uint32(1)

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def width(self) -> int:
        """W, numbers of a row."""
        return 1 + self.sums + self.others

    def grow(self, rows: int) -> None:
        """Have at least so many rows; new ones are zeros."""
        missing = rows - len(self.packed)
        if missing > 0:
            self.packed = np.concatenate(
                [self.packed, np.zeros((missing, self.row_bytes), np.uint8)]
            )

    def read(self, rows: Array | slice) -> Array:
        """Return rows [U, W], float32."""
        packed = self.packed[rows]
        high = 4 + 2 * (self.sums + self.others)
        values = np.empty((len(packed), self.width), np.float32)
        values[:, :1] = _as(packed[:, :4], np.float32)
        bits = _as(packed[:, 4:high], np.uint16).astype(np.uint32) << np.uint32(16)
        bits[:, : self.sums] |= packed[:, high:].astype(np.uint32) << np.uint32(8)
        values[:, 1:] = bits.view(np.float32)
        return values

    def write(self, rows: Array | slice, values: Array) -> None:
        """Keep values [U, W], float32, as rows."""
        bits = np.ascontiguousarray(values[:, 1:]).view(np.uint32)
        count = np.ascontiguousarray(values[:, :1]).view(np.uint32)
        bits = bits + (_scrambled(bits ^ _scrambled(count)) & self._mask)
        high = 4 + 2 * (self.sums + self.others)
        packed = np.empty((len(values), self.row_bytes), np.uint8)
        packed[:, :4] = np.ascontiguousarray(values[:, :1]).view(np.uint8)
        packed[:, 4:high] = (bits >> np.uint32(16)).astype(np.uint16).view(np.uint8)
        packed[:, high:] = (bits[:, : self.sums] >> np.uint32(8)).astype(np.uint8)
        self.packed[rows] = packed


def _as(packed: Array, kind: Any) -> Array:
    return np.ascontiguousarray(packed).view(kind)


def _scrambled(bits: Array) -> Array:
    """Return numbers whose low bits look like chance, decided by ``bits`` alone."""
    x = bits * np.uint32(0x9E3779B1)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x85EBCA77)
    x ^= x >> np.uint32(13)
    return x
