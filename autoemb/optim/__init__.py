"""Optimisers: of rows that a batch used, and of dense parameters beside them.

A file an optimiser, a record each; whoever takes one by name finds it in :data:`OPTIMIZERS`.
"""

from autoemb.optim.adagrad import ADAGRAD, ROWWISE_ADAGRAD, RowAdagrad, RowwiseAdagrad
from autoemb.optim.adam import ADAM, RowAdam
from autoemb.optim.base import OptimizerKind, Rates, RowOptimizer
from autoemb.optim.ftrl import FTRL, Ftrl, RowFtrl
from autoemb.optim.sgd import SGD, RowSGD

OPTIMIZERS: dict[str, OptimizerKind] = {
    kind.name: kind for kind in (ADAGRAD, ADAM, FTRL, ROWWISE_ADAGRAD, SGD)
}

__all__ = [
    "OPTIMIZERS",
    "Ftrl",
    "OptimizerKind",
    "Rates",
    "RowAdagrad",
    "RowAdam",
    "RowFtrl",
    "RowOptimizer",
    "RowSGD",
    "RowwiseAdagrad",
]
