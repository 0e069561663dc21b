"""The streaming runtime: ids to rows, history, reservoir, and the loop over them."""

from autoemb.streaming.history import History
from autoemb.streaming.id_table import IdTable
from autoemb.streaming.learner import StreamLearner
from autoemb.streaming.reservoir import Reservoir
from autoemb.streaming.step import Step
from autoemb.streaming.stream import Stream

__all__ = ["History", "IdTable", "Reservoir", "Step", "Stream", "StreamLearner"]
