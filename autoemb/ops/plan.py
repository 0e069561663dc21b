"""Distinct ids of a batch: the plan that forward, backward and the row optimisers share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from autoemb import runtime


class Plan(NamedTuple):
    """The distinct ids of one field in one batch.

    Attributes
    ----------
    rows : Tensor[U], int64
        Distinct row numbers, ascending.
    inverse : Tensor[B], int64
        ``rows[inverse]`` is the batch again.
    counts : Tensor[U], int64
        Multiplicity of each distinct row; sums to B.
    """

    rows: Tensor
    inverse: Tensor
    counts: Tensor


def distinct(ids: Tensor) -> Plan:
    """Return the distinct ids of one field with their multiplicities.

    A chronological batch of 500 ratings holds 5 to 25 distinct users, so everything that depends
    on the id alone (lookup, projection, controller) is computed once per distinct id.

    Parameters
    ----------
    ids : Tensor[B], int64
        Row numbers of one field.

    Returns
    -------
    Plan

    Examples
    --------
    >>> import torch
    >>> plan = distinct(torch.tensor([7, 3, 7]))
    >>> plan.rows.tolist(), plan.inverse.tolist(), plan.counts.tolist()
    ([3, 7], [1, 0, 1], [1, 2])
    """
    if ids.device.type == "cpu":
        # 500 ids: 11 us, torch.unique 45 us.
        return Plan(*map(torch.from_numpy, runtime.distinct(ids.contiguous().numpy())))
    return Plan(*torch.unique(ids, return_inverse=True, return_counts=True))


def distinct_columns(ids: Tensor) -> list[Plan]:
    """Return one :class:`Plan` per column of ``ids`` [B, F].

    Examples
    --------
    >>> import torch
    >>> [plan.rows.tolist() for plan in distinct_columns(torch.tensor([[7, 0], [3, 0]]))]
    [[3, 7], [0]]
    """
    return [distinct(column) for column in ids.unbind(1)]
