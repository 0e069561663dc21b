"""Streams of ratings: read from the layouts their publishers use, or made up from a seed."""

from autoemb.data.formats import load
from autoemb.data.interactions import Interactions
from autoemb.data.synthetic import synthetic

__all__ = ["Interactions", "load", "synthetic"]
