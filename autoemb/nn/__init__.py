"""Torch modules: embeddings, controllers, models, and the tables that ids own rows of."""

from autoemb.nn.controller import Controller, PerIdLogits, select_hard
from autoemb.nn.fixed import FixedEmbedding
from autoemb.nn.inputs import Inputs
from autoemb.nn.models import DCN, MLP, MODELS, DeepFM
from autoemb.nn.nested import NestedEmbedding
from autoemb.nn.rows import RowModule
from autoemb.nn.soft import SoftEmbedding

__all__ = [
    "DCN",
    "MLP",
    "MODELS",
    "Controller",
    "DeepFM",
    "FixedEmbedding",
    "Inputs",
    "NestedEmbedding",
    "PerIdLogits",
    "RowModule",
    "SoftEmbedding",
    "select_hard",
]
