"""Torch modules: embeddings, controllers, models, and the tables that ids own rows of."""

from autoemb.nn.controller import Controller, PerIdLogits, select_hard, spread
from autoemb.nn.fixed import FixedEmbedding
from autoemb.nn.models import RatingModel
from autoemb.nn.soft import SoftEmbedding

__all__ = [
    "Controller",
    "FixedEmbedding",
    "PerIdLogits",
    "RatingModel",
    "SoftEmbedding",
    "select_hard",
    "spread",
]
