"""Trained learners as small models: one row an id, of the width that it needs, within a budget."""

from autoemb.serving.export import Exporter
from autoemb.serving.model import ServedModel
from autoemb.serving.saved import load_model
from autoemb.serving.table import ServedTable

__all__ = ["Exporter", "ServedModel", "ServedTable", "load_model"]
