"""Rank correlation: whether one number rises with another."""

from __future__ import annotations

import torch
from torch import Tensor


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Return Spearman's rank correlation, ties at their mean rank; NaN where one is constant.

    Examples
    --------
    >>> rank_correlation(torch.tensor([1, 5, 5, 9]), torch.tensor([2, 16, 16, 128]))
    1.0
    """
    ranks = [_mean_ranks(x) for x in (a, b)]
    (x, y) = (rank - rank.mean() for rank in ranks)
    return float(((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()).item())


def _mean_ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    mean_ranks: Tensor = counts.cumsum(0) - (counts.double() - 1) / 2
    return mean_ranks[inverse]
