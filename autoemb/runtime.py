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
forgetting_sums : function
    ``forgetting_sums(rows [L], values [L, C], decay, sums [V, C])`` updates sums in place, in the
    order of the entries: ``sums = decay * sums + value``.
learn_factors : function
    ``learn_factors(tables F x [V, K], rows F x [B], residual [B], weight [B], rate, penalty)``
    takes a step of stochastic gradient descent an event, in their order, on
    ``(residual - sum_{f<g} <p_f, p_g>)^2 / 2 + penalty / 2 * sum_f |p_f|^2``, of size
    ``r / (1 + r * reach)`` with r = rate * weight and reach the squared norm of the products'
    gradient: to first order no error changes its sign.
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
    "distinct",
    "forgetting_sums",
    "learn_factors",
    "record",
]

COMPILED = True
COMPILER: str | None = None
IMPORT_ERROR: str | None = None

try:
    from autoemb._runtime import (
        Int64IdTable,
        StringIdTable,
        distinct,
        forgetting_sums,
        learn_factors,
        record,
    )
    from autoemb._runtime import compiler as COMPILER
except ImportError as error:
    from autoemb._runtime_python import (  # type: ignore[assignment]
        Int64IdTable,
        StringIdTable,
        distinct,
        forgetting_sums,
        learn_factors,
        record,
    )

    COMPILED = False
    IMPORT_ERROR = str(error)
