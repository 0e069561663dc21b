"""Where the sizes of an id lie in its row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def size_slices(dims: Sequence[int]) -> list[slice]:
    """Return the columns that each size takes in a row of width sum(dims).

    Examples
    --------
    >>> size_slices((2, 16))
    [slice(0, 2, None), slice(2, 18, None)]
    """
    ends = list(accumulate(dims))
    return [slice(end - width, end) for width, end in zip(dims, ends, strict=True)]
