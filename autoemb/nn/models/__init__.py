"""Recommenders over any embedding module, by the name that a recipe gives them."""

from autoemb.nn.models.dcn import DCN
from autoemb.nn.models.deepfm import DeepFM
from autoemb.nn.models.mlp import MLP

#: (embedding, outputs=, hidden=, num_dense=) -> a model.
MODELS = {"mlp": MLP, "deepfm": DeepFM, "dcn": DCN}

__all__ = ["DCN", "MLP", "MODELS", "DeepFM"]
