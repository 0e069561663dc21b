"""Recommenders over any embedding module, by the name that a recipe gives them."""

from autoemb.nn.models.dcn import DCN
from autoemb.nn.models.deepfm import DeepFM
from autoemb.nn.models.mlp import MLP
from autoemb.nn.models.told import Told
from autoemb.nn.models.trivial import FM, Bias, Logistic, Mean, Trivial

#: (embedding, outputs=, hidden=, num_dense=) -> a model.
MODELS = {"mlp": MLP, "deepfm": DeepFM, "dcn": DCN}

__all__ = ["DCN", "FM", "MLP", "MODELS", "Bias", "DeepFM", "Logistic", "Mean", "Told", "Trivial"]
