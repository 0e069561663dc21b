"""What the registered ops compute: the native kernels where they can, else the reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoemb.ops import cpu, cuda, reference
from autoemb.ops.lookup import check_range, rows_of
from autoemb.ops.native import kernels_for
from autoemb.ops.plan import distinct
from autoemb.ops.tanh import tanh


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the arithmetic: at least float32, so that statistics are exact enough."""
    return torch.promote_types(dtype, torch.float32)


def forward(
    tables: list[Tensor],
    ids: Tensor,
    weights: Tensor,
    projection: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    dims: Sequence[int],
    eps: float,
    average: bool,
    sparse: bool,
    backend: str,
    statistics: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the op; arguments and results as :func:`autoemb.ops.soft_embedding` documents."""
    dtype = compute_dtype(projection.dtype)
    if running_mean is not None and running_variance is not None:
        running_mean, running_variance = running_mean.to(dtype), running_variance.to(dtype)
    inputs = tables, ids, weights, projection, bias, running_mean, running_variance
    match kernels_for(backend, tables, weights):
        case "cpu":
            return cpu.forward(*inputs, dims, eps, average, statistics)
        case "cuda":
            return cuda.forward(cuda.kernels, *inputs, dims, eps, average, statistics=statistics)
    batch, fields = ids.shape
    sizes, width = len(dims), projection.shape[1]
    output = weights.new_empty(batch, fields, width)
    mean = projection.new_zeros(fields, sizes, width, dtype=dtype)
    variance = torch.zeros_like(mean)
    running = None
    if running_mean is not None and running_variance is not None:
        running = running_mean, running_variance
        if not statistics:
            mean.copy_(running_mean)
            variance.copy_(running_variance)
    for f, table in enumerate(tables if batch else []):
        check_range(ids[:, f], len(table), f)
        plan = distinct(ids[:, f])
        embedded, matrix = table.index_select(0, plan.rows).to(dtype), projection[f].to(dtype)
        shift = bias[f].to(dtype)
        given = None if running is None else (running[0][f], running[1][f])
        normalised, _, *own = reference.normalise(embedded, plan, matrix, shift, given, dims, eps)
        if running is None:
            mean[f], variance[f] = own
        elif statistics:
            z = reference.project(embedded, matrix, dims)
            mean[f], variance[f], _ = reference.statistics(z, plan)
            mean[f] += shift
        weighed = weights[:, f].to(dtype)
        output[:, f] = reference.mix(tanh(normalised), plan.inverse, weighed, average)
    return output, mean, variance


def backward(
    grad: Tensor,
    tables: list[Tensor],
    ids: Tensor,
    weights: Tensor,
    projection: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    dims: Sequence[int],
    eps: float,
    average: bool,
    training: bool,
    embeddings: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return gradients of distinct rows [F, B, S], weights, projection, bias; and the rows [F, B].

    Everything of size B x D for every size is computed again here, not kept since the forward
    pass. ``embeddings`` False (a validation pass) computes the gradient of the weights alone and
    leaves the others empty.
    """
    inputs = grad, tables, ids, weights, projection, bias, mean, variance
    options = dims, eps, average, training, embeddings
    match kernels_for(backend, tables, weights):
        case "cpu":
            return cpu.backward(*inputs, *options)
        case "cuda":
            return cuda.backward(cuda.kernels, *inputs, *options)
    dtype = compute_dtype(projection.dtype)
    batch, fields = ids.shape
    weights_grad = torch.empty_like(weights, memory_format=torch.contiguous_format)
    kept = fields if embeddings else 0
    rows = ids.new_zeros(kept, batch)
    embeddings_grad = projection.new_empty(kept, batch, projection.shape[2])
    projection_grad = projection.new_zeros(kept, *projection.shape[1:])
    bias_grad = bias.new_zeros(kept, *bias.shape[1:])
    result = embeddings_grad, weights_grad, projection_grad, bias_grad, rows
    for f, table in enumerate(tables if batch else []):
        plan = distinct(ids[:, f])
        used = len(plan.rows)
        embedded, matrix = table.index_select(0, plan.rows).to(dtype), projection[f].to(dtype)
        normalised, scale, *_ = reference.normalise(
            embedded,
            plan,
            matrix,
            bias[f].to(dtype),
            None if training else (mean[f], variance[f]),
            dims,
            eps,
        )
        activation, g = tanh(normalised), grad[:, f].to(dtype)
        weights_grad[:, f] = reference.backward_weights(g, activation, plan.inverse, average)
        if embeddings:
            rows[f, :used], rows[f, used:] = plan.rows, plan.rows[-1]
            embeddings_grad[f, used:] = 0
            embeddings_grad[f, :used], projection_grad[f], bias_grad[f] = (
                reference.backward_embeddings(
                    g,
                    embedded,
                    plan,
                    weights[:, f].to(dtype),
                    matrix,
                    normalised,
                    scale,
                    activation,
                    dims,
                    average,
                    training,
                )
            )
    return result


def double_backward(
    cotangents: list[Tensor],
    grad: Tensor,
    tables: list[Tensor],
    ids: Tensor,
    weights: Tensor,
    projection: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    dims: Sequence[int],
    eps: float,
    average: bool,
    training: bool,
    embeddings: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Differentiate :func:`backward`.

    Parameters
    ----------
    cotangents : list of 4 Tensor
        One for each gradient that :func:`backward` returns, in its order.

    Returns
    -------
    tuple of Tensor
        Derivatives with respect to grad, distinct rows [F, B, S], weights, projection and bias;
        the rows [F, B].
    """
    dtype = compute_dtype(projection.dtype)
    batch, fields = ids.shape
    rows = ids.new_zeros(fields, batch)
    grad_2, weights_2 = torch.zeros_like(grad), torch.zeros_like(weights)
    projection_2, bias_2 = torch.zeros_like(projection), torch.zeros_like(bias)
    embeddings_2 = projection.new_zeros(fields, batch, projection.shape[2])
    ids = rows_of(ids, [len(table) for table in tables])
    for f, table in enumerate(tables if batch else []):
        plan = distinct(ids[:, f])
        used = len(plan.rows)
        # An event whose id has no row adds to nothing; its place in the plan is another id's.
        absent = (plan.rows.index_select(0, plan.inverse) != ids[:, f]).unsqueeze(1)
        rows[f, :used], rows[f, used:] = plan.rows, plan.rows[-1]
        e, w, b = (
            table.index_select(0, plan.rows).to(dtype),
            projection[f].to(dtype),
            bias[f].to(dtype),
        )
        if embeddings:
            from_rows, from_projection = cotangents[0][f, :used], cotangents[2][f]
            from_bias = cotangents[3][f]
        else:  # backward computed the gradient of the weights alone
            from_rows, from_projection = torch.zeros_like(e), torch.zeros_like(w)
            from_bias = torch.zeros_like(b)
        from_weights, g, a = (
            x[:, f].to(dtype).masked_fill(absent, 0) for x in (cotangents[1], grad, weights)
        )
        parts = from_rows, from_weights, from_projection, from_bias
        grad_2[:, f], embeddings_2[f, :used], weights_2[:, f], projection_2[f], bias_2[f] = (
            reference.double_backward(
                [part.to(dtype) for part in parts],
                g,
                e,
                plan,
                a,
                w,
                b,
                None if training else (mean[f], variance[f]),
                dims,
                eps,
                average,
            )
        )
    return grad_2, embeddings_2, weights_2, projection_2, bias_2, rows
