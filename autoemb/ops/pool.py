"""Pooling of bags: sums or means of some rows an event."""

from __future__ import annotations

import torch
from torch import Tensor


def pool(
    values: Tensor, positions: Tensor, offsets: Tensor, weights: Tensor | None, pooling: str
) -> Tensor:
    """Return the pooled rows [B, D] of B bags; an empty bag gives zeros."""
    lengths = offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths)
    rows = values.index_select(0, positions)
    if weights is not None:
        rows = rows * weights.unsqueeze(1)
    total = values.new_zeros(len(lengths), values.shape[1]).index_add(0, owner, rows)
    if pooling == "sum":
        return total
    share = lengths.to(values.dtype)
    if weights is not None:
        share = values.new_zeros(len(lengths)).index_add(0, owner, weights)
    return torch.where(share.unsqueeze(1) != 0, total / share.unsqueeze(1).clamp_min(1e-20), 0.0)
