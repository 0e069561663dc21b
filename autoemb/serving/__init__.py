"""Trained runs as small models: one row an id, of the width that it needs, within a byte budget."""

from autoemb.serving.model import ServedField, ServedModel, load_model

__all__ = ["ServedField", "ServedModel", "load_model"]
