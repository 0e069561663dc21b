"""Adaptive embedding sizes for recommenders on live streams.

The parts, each usable alone:

- :class:`Schema`: what the columns of a stream are; :class:`Batch`: events of it, ids as they came.
- :func:`build_learner`: from a schema, a task and a :class:`Recipe` to a :class:`StreamLearner`.
- :class:`SoftEmbedding`: embeddings of several sizes for every id, mixed by weights;
  :class:`NestedEmbedding`: prefixes of one row as sizes.
- :class:`Controller`, :class:`PerIdLogits`: who gets which mix.
- :class:`BilevelTrainer`: weights on new events, controller on new or past ones.
- :mod:`autoemb.data`: event files; :mod:`autoemb.lab`: the paper's comparison.
"""

from importlib.metadata import version

from autoemb.batch import Bag, Batch
from autoemb.bilevel import BilevelTrainer
from autoemb.build import build_info, warn_if_never_built
from autoemb.errors import UserError
from autoemb.learners import build_learner
from autoemb.nn import (
    MLP,
    Controller,
    FixedEmbedding,
    NestedEmbedding,
    PerIdLogits,
    RowModule,
    SoftEmbedding,
    select_hard,
)
from autoemb.optim import RowAdagrad, RowAdam, RowFtrl, RowSGD, RowwiseAdagrad
from autoemb.recipe import Recipe
from autoemb.schema import Label, Schema, Sparse
from autoemb.streaming import History, IdTable, Reservoir, Stream, StreamLearner
from autoemb.tasks import Task, task_for

__version__ = version("autoemb")
warn_if_never_built()

__all__ = [
    "MLP",
    "Bag",
    "Batch",
    "BilevelTrainer",
    "Controller",
    "FixedEmbedding",
    "History",
    "IdTable",
    "Label",
    "NestedEmbedding",
    "PerIdLogits",
    "Recipe",
    "Reservoir",
    "RowAdagrad",
    "RowAdam",
    "RowFtrl",
    "RowModule",
    "RowSGD",
    "RowwiseAdagrad",
    "Schema",
    "SoftEmbedding",
    "Sparse",
    "Stream",
    "StreamLearner",
    "Task",
    "UserError",
    "__version__",
    "build_info",
    "build_learner",
    "select_hard",
    "task_for",
]
