"""Recommenders over any embedding module, by the name that a recipe gives them."""

from autoemb.nn.models.mlp import MLP

MODELS = {"mlp": MLP}

__all__ = ["MLP", "MODELS"]
