"""How one column becomes typed values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Reading:
    """How a column is read.

    Attributes
    ----------
    value : polars.Expr
        Null where the raw value is unusable.
    reason : function of a raw value to a str
        Why it is, behind the column's name and the value.
    """

    value: pl.Expr
    reason: Callable[[Any], str]
