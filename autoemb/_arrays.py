"""What the runtime in Python asks of its arguments: what the compiled one asks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def check_rows(rows: npt.NDArray[np.int64], num_rows: int) -> None:
    outside = np.flatnonzero((rows < 0) | (rows >= num_rows))
    if outside.size:
        raise IndexError(
            f"rows[{outside[0]}] is {rows[outside[0]]}; the tables have {num_rows} rows"
        )


def check_vector(name: str, array: npt.NDArray[Any], dtype: Any, *, writable: bool = False) -> None:
    _check_array(name, array, dtype, 1, writable)


def check_matrix(name: str, array: npt.NDArray[Any], dtype: Any, *, writable: bool = False) -> None:
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
