"""Trained learners as small models: one row an id, of the width that it needs, within a budget."""

from autoemb.serving.export import Exporter
from autoemb.serving.model import ServedField, ServedModel, load_model

__all__ = ["Exporter", "ServedField", "ServedModel", "load_model"]
