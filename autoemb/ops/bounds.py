"""Ids outside their table, said in one way."""

from __future__ import annotations


def out_of_range(field: int | None, bad: int, num_rows: int) -> IndexError:
    """Return the error for an id outside its table; for a row of no known field, give None.

    Examples
    --------
    >>> out_of_range(1, 30, 20)
    IndexError('index out of range in field 1: id 30 is not in [0, 19]')
    >>> out_of_range(None, 30, 20)
    IndexError('index out of range: row 30 is not in [0, 19]')
    """
    what = f": row {bad}" if field is None else f" in field {field}: id {bad}"
    return IndexError(f"index out of range{what} is not in [0, {num_rows - 1}]")
