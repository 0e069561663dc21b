"""The op by :mod:`autoemb.ops.reference`, field by field: on any device, in any dtype.

Each function takes its own arguments and then the fields of a
:class:`~autoemb.ops.problem.Problem`, as the registered ops pass them on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from autoemb.ops import reference
from autoemb.ops.lookup import check_range, rows_of
from autoemb.ops.plan import Plan, distinct
from autoemb.ops.problem import Problem, compute_dtype
from autoemb.ops.tanh import tanh

P = ParamSpec("P")
R = TypeVar("R")


def _exactly(function: Callable[P, R]) -> Callable[P, R]:
    """Keep autocast out: it would round the operands of each product by itself."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch._C._DisableAutocast():
            return function(*args, **kwargs)

    return call


class _Field(NamedTuple):
    """One field of a problem that has events, in the dtype of the arithmetic."""

    plan: Plan
    embeddings: Tensor  # [U, S]
    weights: Tensor  # [B, N]
    projection: Tensor
    bias: Tensor
    given: tuple[Tensor, Tensor] | None


def _fields(problem: Problem, ids: Tensor) -> Iterator[tuple[int, _Field]]:
    dtype = compute_dtype(problem.projection.dtype)
    given = problem.given
    for f, table in enumerate(problem.tables if len(ids) else []):
        plan = distinct(ids[:, f])
        yield (
            f,
            _Field(
                plan,
                table.index_select(0, plan.rows).to(dtype),
                problem.weights[:, f].to(dtype),
                problem.projection[f].to(dtype),
                problem.bias[f].to(dtype),
                given and (given[0][f].to(dtype), given[1][f].to(dtype)),
            ),
        )


def _check_ids(problem: Problem) -> None:
    for f, table in enumerate(problem.tables):
        check_range(problem.ids[:, f], len(table), f)


@_exactly
def forward(statistics: bool, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the op; results as :func:`autoemb.ops.soft_embedding` documents."""
    problem = Problem(*arguments)
    _check_ids(problem)
    output = problem.weights.new_empty(*problem.ids.shape, problem.projection.shape[1])
    dtype = compute_dtype(problem.projection.dtype)
    mean = problem.projection.new_zeros(problem.statistics_shape, dtype=dtype)
    variance = torch.zeros_like(mean)
    if problem.given is not None and not statistics:
        mean.copy_(problem.given[0])
        variance.copy_(problem.given[1])
    for f, field in _fields(problem, problem.ids):
        plan, embeddings, weights, projection, bias, given = field
        normalised, _, *own = reference.normalise(
            embeddings, plan, projection, bias, given, problem.dims, problem.eps
        )
        if given is None:
            mean[f], variance[f] = own
        elif statistics:
            z = reference.project(embeddings, projection, problem.dims)
            mean[f], variance[f], _ = reference.statistics(z, plan)
            mean[f] += bias
        output[:, f] = reference.mix(tanh(normalised), plan.inverse, weights, problem.average)
    return output, mean, variance


@_exactly
def backward(
    grad: Tensor, embeddings: bool, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return gradients of distinct rows [F, B, S], weights, projection, bias; and the rows [F, B].

    Everything of size B x D for every size is computed again here, not kept since the forward
    pass. ``embeddings`` False (a validation pass) computes the gradient of the weights alone and
    leaves the others empty.
    """
    problem = Problem(*arguments)
    ids, projection, bias = problem.ids, problem.projection, problem.bias
    batch, fields = ids.shape
    weights_grad = torch.empty_like(problem.weights, memory_format=torch.contiguous_format)
    kept = fields if embeddings else 0
    rows = ids.new_zeros(kept, batch)
    embeddings_grad = projection.new_empty(kept, batch, projection.shape[2])
    projection_grad = projection.new_zeros(kept, *projection.shape[1:])
    bias_grad = bias.new_zeros(kept, *bias.shape[1:])
    for f, field in _fields(problem, ids):
        plan, used = field.plan, len(field.plan.rows)
        normalised, scale, *_ = reference.normalise(
            field.embeddings,
            plan,
            field.projection,
            field.bias,
            field.given,
            problem.dims,
            problem.eps,
        )
        activation, g = tanh(normalised), grad[:, f].to(field.bias.dtype)
        weights_grad[:, f] = reference.backward_weights(
            g, activation, plan.inverse, problem.average
        )
        if not embeddings:
            continue
        rows[f, :used], rows[f, used:] = plan.rows, plan.rows[-1]
        embeddings_grad[f, used:] = 0
        embeddings_grad[f, :used], projection_grad[f], bias_grad[f] = reference.backward_embeddings(
            g,
            field.embeddings,
            plan,
            field.weights,
            field.projection,
            normalised,
            scale,
            activation,
            problem.dims,
            problem.average,
            problem.training,
        )
    return embeddings_grad, weights_grad, projection_grad, bias_grad, rows


@_exactly
def double_backward(
    cotangents: list[Tensor], grad: Tensor, embeddings: bool, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Differentiate :func:`backward`.

    Parameters
    ----------
    cotangents : list of 4 Tensor
        One for each gradient that :func:`backward` returns, in its order.
    grad, embeddings, *arguments
        As of :func:`backward`.

    Returns
    -------
    tuple of Tensor
        Derivatives with respect to grad, distinct rows [F, B, S], weights, projection and bias;
        the rows [F, B].
    """
    problem = Problem(*arguments)
    batch, fields = problem.ids.shape
    rows = problem.ids.new_zeros(fields, batch)
    grad_2, weights_2 = torch.zeros_like(grad), torch.zeros_like(problem.weights)
    projection_2, bias_2 = torch.zeros_like(problem.projection), torch.zeros_like(problem.bias)
    embeddings_2 = problem.projection.new_zeros(fields, batch, problem.projection.shape[2])
    ids = rows_of(problem.ids, [len(table) for table in problem.tables])
    for f, field in _fields(problem, ids):
        plan, used = field.plan, len(field.plan.rows)
        # An event whose id has no row adds to nothing; its place in the plan is another id's.
        absent = (plan.rows.index_select(0, plan.inverse) != ids[:, f]).unsqueeze(1)
        rows[f, :used], rows[f, used:] = plan.rows, plan.rows[-1]
        if embeddings:
            from_rows, from_projection = cotangents[0][f, :used], cotangents[2][f]
            from_bias = cotangents[3][f]
        else:  # backward computed the gradient of the weights alone
            from_rows, from_projection = map(torch.zeros_like, (field.embeddings, field.projection))
            from_bias = torch.zeros_like(field.bias)
        dtype = field.bias.dtype
        parts = from_rows, cotangents[1][:, f].masked_fill(absent, 0), from_projection, from_bias
        grad_2[:, f], embeddings_2[f, :used], weights_2[:, f], projection_2[f], bias_2[f] = (
            reference.double_backward(
                [part.to(dtype) for part in parts],
                grad[:, f].to(dtype).masked_fill(absent, 0),
                field.embeddings,
                plan,
                field.weights.masked_fill(absent, 0),
                field.projection,
                field.bias,
                field.given,
                problem.dims,
                problem.eps,
                problem.average,
            )
        )
    return grad_2, embeddings_2, weights_2, projection_2, bias_2, rows
