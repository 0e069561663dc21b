"""The streaming runtime: compiled where it was built, in Python otherwise. Nothing else chooses.

Attributes
----------
Int64IdTable, StringIdTable : type
    Tables from raw ids to rows; :class:`autoemb.streaming.id_table.IdTable` is made of them.
record : function
    ``record(rows [B], loss [B], decay, count [V], last_loss [V], mean_loss [V])`` updates the
    counters of the rows in place, in the order of the events:
    ``mean_loss = decay * mean_loss + (1 - decay) * loss`` (at a row's first event: ``loss``),
    ``last_loss = loss``, ``count += 1``. Rows and counts are int64, losses float32. Raises
    IndexError for a row outside the counters, and then changes nothing.
advance_statistics : function
    What labels say of ids, event by event: see :mod:`autoemb.streaming.statistics`, and
    :class:`autoemb._statistics_python.StatisticsPass` for the rule.
distinct : function
    ``distinct(rows [B]) -> (values [U], inverse [B], counts [U])``, as ``numpy.unique``, sooner.
COMPILED : bool
    Whether the compiled module is in use.
COMPILER : str or None
    What compiled it, such as ``"GNU 12.2.0"``.
IMPORT_ERROR : str or None
    Why the compiled module is not in use.

Examples
--------
>>> import numpy as np
>>> from autoemb.runtime import distinct
>>> [array.tolist() for array in distinct(np.array([7, 3, 7]))]
[[3, 7], [1, 0, 1], [1, 2]]
"""

from __future__ import annotations

__all__ = [
    "COMPILED",
    "COMPILER",
    "IMPORT_ERROR",
    "Int64IdTable",
    "StringIdTable",
    "advance_statistics",
    "distinct",
    "record",
]

COMPILED = True
COMPILER: str | None = None
IMPORT_ERROR: str | None = None

try:
    from autoemb._runtime import (
        Int64IdTable,
        StringIdTable,
        advance_statistics,
        distinct,
        record,
    )
    from autoemb._runtime import compiler as COMPILER
except ImportError as error:
    from autoemb._runtime_python import (  # type: ignore[assignment]
        Int64IdTable,
        StringIdTable,
        advance_statistics,
        distinct,
        record,
    )

    COMPILED = False
    IMPORT_ERROR = str(error)
