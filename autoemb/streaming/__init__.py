"""The streaming runtime: ids to rows, history, reservoir, and the loop over them."""

from autoemb.streaming.id_table import IdTable
from autoemb.streaming.learner import Step, StreamLearner
from autoemb.streaming.reservoir import Reservoir
from autoemb.streaming.state import InteractionState
from autoemb.streaming.stream import Events, Stream

__all__ = [
    "Events",
    "IdTable",
    "InteractionState",
    "Reservoir",
    "Step",
    "Stream",
    "StreamLearner",
]
