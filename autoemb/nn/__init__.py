"""Torch modules: embeddings, controllers, models, and the tables that ids own rows of."""

from autoemb.nn.controller import Controller, PerIdLogits, select_hard
from autoemb.nn.fixed import FixedEmbedding
from autoemb.nn.inputs import Inputs
from autoemb.nn.models import MLP, MODELS
from autoemb.nn.rows import RowModule
from autoemb.nn.soft import SoftEmbedding

__all__ = [
    "MLP",
    "MODELS",
    "Controller",
    "FixedEmbedding",
    "Inputs",
    "PerIdLogits",
    "RowModule",
    "SoftEmbedding",
    "select_hard",
]
