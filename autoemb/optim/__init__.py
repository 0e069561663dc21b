"""Optimisers: of rows that a batch used, and of dense parameters beside them."""

from autoemb.optim.rows import (
    ROW_OPTIMIZERS,
    ROW_RATES,
    RowAdagrad,
    RowAdam,
    RowOptimizer,
    RowSGD,
    RowwiseAdagrad,
)

__all__ = [
    "ROW_OPTIMIZERS",
    "ROW_RATES",
    "RowAdagrad",
    "RowAdam",
    "RowOptimizer",
    "RowSGD",
    "RowwiseAdagrad",
]
