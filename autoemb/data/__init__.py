"""Streams of events: read from the layouts their publishers use, or made up from a seed."""

from autoemb.data.dataset import Dataset
from autoemb.data.formats import load
from autoemb.data.synthetic import synthetic

__all__ = ["Dataset", "load", "synthetic"]
