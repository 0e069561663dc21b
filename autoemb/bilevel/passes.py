"""Passes that leave no trace: in eval mode, or without using up random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put modules in eval mode; afterwards each of their parts is in the mode it was in."""
    parts = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in parts:
        part.training = False
    try:
        yield
    finally:
        for part, training in parts:
            part.training = training


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Give every virtual pass the random numbers (dropout) that the next real pass will draw.

    A CUDA graph cannot go back to them; a model that draws some is not captured
    (:mod:`autoemb.streaming.graph`).
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
