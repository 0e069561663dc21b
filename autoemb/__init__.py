"""Adaptive embedding sizes for recommenders on live streams.

The parts, each usable alone:

- :class:`SoftEmbedding`: embeddings of several sizes for every id, mixed by weights.
- :class:`Controller`, :class:`PerIdLogits`: who gets which mix.
- :class:`BilevelTrainer`: weights on new events, controller on past ones.
- :mod:`autoemb.streaming`: ids, history and reservoir of a stream, and the loop over them.
- :mod:`autoemb.data`: rating data; :mod:`autoemb.lab`: the paper's comparison.
"""

from importlib.metadata import version

from autoemb.bilevel import BilevelTrainer
from autoemb.build import build_info, warn_if_never_built
from autoemb.errors import UserError
from autoemb.nn.controller import Controller, PerIdLogits, select_hard, spread
from autoemb.nn.fixed import FixedEmbedding
from autoemb.nn.models import RatingModel
from autoemb.nn.soft import SoftEmbedding
from autoemb.optim import RowAdagrad, RowAdam, RowSGD, RowwiseAdagrad
from autoemb.streaming import IdTable, InteractionState, Reservoir, Stream, StreamLearner
from autoemb.tasks import Task, task_for

__version__ = version("autoemb")
warn_if_never_built()

__all__ = [
    "TASKS",
    "BilevelTrainer",
    "Controller",
    "FixedEmbedding",
    "IdTable",
    "InteractionState",
    "PerIdLogits",
    "RatingModel",
    "Reservoir",
    "RowAdagrad",
    "RowAdam",
    "RowSGD",
    "RowwiseAdagrad",
    "SoftEmbedding",
    "Stream",
    "StreamLearner",
    "Task",
    "UserError",
    "__version__",
    "build_info",
    "select_hard",
    "spread",
    "task_for",
]
