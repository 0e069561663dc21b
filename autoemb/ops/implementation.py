"""What the registered ops compute on any device: the reference field by field, padded to B rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoemb.ops import reference
from autoemb.ops.plan import Plan, distinct
from autoemb.ops.tanh import tanh


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the arithmetic: at least float32, so that statistics are exact enough."""
    return torch.promote_types(dtype, torch.float32)


def check_range(ids: Tensor, num_rows: int, field: int) -> None:
    """Raise IndexError if an id of this field is outside its table."""
    if len(ids) == 0:
        return
    low, high = torch.aminmax(ids)
    if low < 0 or high >= num_rows:
        bad = int(low if low < 0 else high)
        raise IndexError(
            f"index out of range in field {field}: id {bad} is not in [0, {num_rows - 1}]"
        )


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the op; arguments and results as :func:`autoemb.ops.soft_embedding` documents."""
    batch, fields = ids.shape
    sizes, width = len(dims), projection.shape[1]
    dtype = compute_dtype(projection.dtype)
    output = weights.new_empty(batch, fields, width)
    mean = projection.new_zeros(fields, sizes, width, dtype=dtype)
    variance = torch.zeros_like(mean)
    normalised = projection.new_zeros(fields, sizes, batch, width, dtype=dtype)
    rows, counts = ids.new_zeros(fields, batch), ids.new_zeros(fields, batch)
    inverse = torch.empty_like(ids)
    for f, table in enumerate(tables):
        check_range(ids[:, f], len(table), f)
        plan = distinct(ids[:, f])
        used = len(plan.rows)
        rows[f, :used], inverse[:, f], counts[f, :used] = plan
        if batch == 0:
            continue
        running = None
        if running_mean is not None and running_variance is not None:
            running = running_mean[f], running_variance[f]
        output[:, f], mean[f], variance[f], normalised[f, :, :used] = reference.forward(
            table.index_select(0, plan.rows).to(dtype),
            plan,
            weights[:, f].to(dtype),
            projection[f].to(dtype),
            bias[f].to(dtype),
            running,
            dims,
            eps,
            average,
        )
    return output, mean, variance, normalised, rows, inverse, counts


def field_plan(rows: Tensor, inverse: Tensor, counts: Tensor, field: int) -> Plan:
    """Return one field's plan without its padding."""
    used = int(torch.count_nonzero(counts[field]))
    return Plan(rows[field, :used], inverse[:, field], counts[field, :used])


def backward(
    grad: Tensor,
    tables: list[Tensor],
    weights: Tensor,
    projection: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    normalised: Tensor,
    rows: Tensor,
    inverse: Tensor,
    counts: Tensor,
    dims: Sequence[int],
    eps: float,
    average: bool,
    training: bool,
    embeddings: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of distinct rows [F, B, S], weights, projection and bias.

    ``embeddings`` False (a validation pass) computes the gradient of the weights alone and leaves
    the others empty.
    """
    dtype = compute_dtype(projection.dtype)
    batch, fields = inverse.shape
    weights_grad = torch.empty_like(weights)
    kept = fields if embeddings else 0
    embeddings_grad = projection.new_zeros(kept, batch, projection.shape[2])
    projection_grad = projection.new_zeros(kept, *projection.shape[1:])
    bias_grad = bias.new_zeros(kept, *bias.shape[1:])
    for f, table in enumerate(tables if batch else []):
        plan = field_plan(rows, inverse, counts, f)
        used = len(plan.rows)
        y = normalised[f, :, :used]
        activation = tanh(y)
        g = grad[:, f].to(dtype)
        weights_grad[:, f] = reference.backward_weights(g, activation, plan.inverse, average)
        if embeddings:
            embeddings_grad[f, :used], projection_grad[f], bias_grad[f] = (
                reference.backward_embeddings(
                    g,
                    table.index_select(0, plan.rows).to(dtype),
                    plan,
                    weights[:, f].to(dtype),
                    projection[f].to(dtype),
                    variance[f],
                    y,
                    activation,
                    dims,
                    eps,
                    average,
                    training,
                )
            )
    return embeddings_grad, weights_grad, projection_grad, bias_grad


def double_backward(
    cotangents: list[Tensor],
    grad: Tensor,
    tables: list[Tensor],
    weights: Tensor,
    projection: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    rows: Tensor,
    inverse: Tensor,
    counts: Tensor,
    dims: Sequence[int],
    eps: float,
    average: bool,
    training: bool,
    embeddings: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Differentiate :func:`backward`.

    Parameters
    ----------
    cotangents : list of 4 Tensor
        One for each result of :func:`backward`, in its order.

    Returns
    -------
    tuple of Tensor
        Derivatives with respect to grad, distinct rows [F, B, S], weights, projection and bias.
    """
    dtype = compute_dtype(projection.dtype)
    grad_2, weights_2 = torch.zeros_like(grad), torch.zeros_like(weights)
    projection_2, bias_2 = torch.zeros_like(projection), torch.zeros_like(bias)
    embeddings_2 = projection.new_zeros(len(tables), len(inverse), projection.shape[2])
    for f, table in enumerate(tables if len(inverse) else []):
        plan = field_plan(rows, inverse, counts, f)
        used = len(plan.rows)
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
        parts = from_rows, cotangents[1][:, f], from_projection, from_bias
        grad_2[:, f], embeddings_2[f, :used], weights_2[:, f], projection_2[f], bias_2[f] = (
            reference.double_backward(
                [part.to(dtype) for part in parts],
                grad[:, f].to(dtype),
                e,
                plan,
                weights[:, f].to(dtype),
                w,
                b,
                mean[f],
                variance[f],
                dims,
                eps,
                average,
                training,
            )
        )
    return grad_2, embeddings_2, weights_2, projection_2, bias_2
