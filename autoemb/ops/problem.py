"""What every pass of the op is given: one object, whose fields are spelled out here alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: The fields of :class:`Problem` as the registered ops take them, after their own arguments.
SCHEMA = (
    "Tensor ids, Tensor weights, Tensor projection, Tensor bias, Tensor? mean, Tensor? variance,"
    " Tensor[] tables, int[] dims, float eps, bool average, bool training"
)
_TENSORS = 6  # before the tables


class Problem(NamedTuple):
    """The inputs of the op, in the order of its schema.

    Shapes: B events, F fields, N sizes, S = sum(dims), D output columns, V_f rows of a table.

    Attributes
    ----------
    ids : Tensor[B, F], int64
    weights : Tensor[B, F, N]
    projection, bias : Tensor[F, D, S], Tensor[F, N, D]
    mean, variance : Tensor[F, N, D], or None
        What is normalised with. None in the forward pass of a training problem, which finds them.
    tables : sequence of F Tensor[V_f, S]
    dims : sequence of N int
    eps : float
    average : bool
        Keep Eq. 7's factor 1/N.
    training : bool
        Whether mean and variance are the batch's own, and so depend on its rows.

    Examples
    --------
    >>> zeros = torch.zeros
    >>> tensors = zeros(5, 1), zeros(5, 1, 2), zeros(1, 3, 4), zeros(1, 2, 3), None, None
    >>> problem = Problem(*tensors, [zeros(9, 4)], (1, 3), 1e-5, True, True)
    >>> options, *tensors = problem.flat()
    >>> options, len(tensors)
    (((1, 3), 1e-05, True, True), 7)
    """

    ids: Tensor
    weights: Tensor
    projection: Tensor
    bias: Tensor
    mean: Tensor | None
    variance: Tensor | None
    tables: Sequence[Tensor]
    dims: Sequence[int]
    eps: float
    average: bool
    training: bool

    def flat(self) -> tuple[Any, ...]:
        """Return the options, then all tensors one by one: an autograd Function takes no list."""
        return self[_TENSORS + 1 :], *self[:_TENSORS], *self.tables

    @property
    def given(self) -> tuple[Tensor, Tensor] | None:
        """Mean and variance of a problem that is not a training one."""
        if self.training or self.mean is None or self.variance is None:
            return None
        return self.mean, self.variance

    @property
    def statistics_shape(self) -> tuple[int, int, int]:
        """[F, N, D]."""
        return self.ids.shape[1], len(self.dims), self.projection.shape[1]


def from_flat(options: tuple[Any, ...], tensors: Sequence[Tensor]) -> Problem:
    """Return the problem of which ``options, *tensors`` is the flat form."""
    arguments: tuple[Any, ...] = *tensors[:_TENSORS], tensors[_TENSORS:], *options
    return Problem(*arguments)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the arithmetic: at least float32, so that statistics are exact enough.

    Examples
    --------
    >>> compute_dtype(torch.bfloat16)
    torch.float32
    """
    return torch.promote_types(dtype, torch.float32)
