"""Forward and backward pass of the op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autoemb.ops.checks import expect_op
from autoemb.ops.cuda.call import Call, address, mode_name, on_device, strided
from autoemb.ops.cuda.plan import distinct_of, plan_addresses


def forward(
    kernels: Any,
    tables: Sequence[Tensor],
    ids: Tensor,
    weights: Tensor,
    projection: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    dims: Sequence[int],
    eps: float,
    average: bool,
    row_numbers: Tensor | None = None,
    statistics: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the op: output [B, F, D], mean and variance [F, N, D].

    Parameters
    ----------
    kernels : module
    tables : sequence of Tensor[V_f, S]
        Rows contiguous, at any distance.
    ids, weights, projection, bias, running_mean, running_variance, dims, eps, average
        As the op ``autoemb::soft_embedding`` takes them; ids and weights with any strides.
    row_numbers : Tensor[F, N, B], int64, optional
        Row of each event's id in the table, per size; -1 where it has none: that size adds nothing
        to the event's output and counts in no statistic. Default: the ids.

    Raises
    ------
    IndexError
        For an id out of range in an earlier call.
    RuntimeError
        For inputs on different devices, and for an error of CUDA, naming the kernel.
    ValueError
        For more sizes, or wider ones, than the kernels take.
    """
    expect_op(tables, ids, weights, projection, bias, (running_mean, running_variance), dims)
    with on_device(ids.device):
        call = Call(kernels, tables, ids, dims, projection, row_numbers)
        output = call.floats(call.events, call.fields, call.width)
        if call.events == 0:
            if running_mean is not None and running_variance is not None and not statistics:
                return output, running_mean.clone(), running_variance.clone()
            zeros = torch.zeros_like(call.statistic())
            return output, zeros, zeros.clone()
        bias = bias.contiguous()
        training = running_mean is None or running_variance is None
        if training or statistics:
            mean, variance, centre = call.statistic(), call.statistic(), call.statistic()
            shift = call.floats(call.fields, call.total)
            strips = call.fields, call.sizes, 2 * call.batch.groups
            moments = call.floats(*strips), *(call.floats(*strips, call.width) for _ in range(2))
            kernels.statistics(
                call.batch,
                [address(x) for x in moments],
                *map(address, (shift, bias, centre, mean, variance)),
                mode_name(),
                call.stream,
            )
            normaliser = call.normaliser(centre, None, variance, shift, eps, average)
        if running_mean is not None and running_variance is not None:
            given = running_mean.contiguous(), running_variance.contiguous()
            normaliser = call.normaliser(given[0], bias, given[1], None, eps, average)
            if not statistics:
                mean, variance = (x.clone() for x in given)  # an op must not return its input
        kernels.normalise(
            call.batch, normaliser, strided(weights), output.data_ptr(), mode_name(), call.stream
        )
        return output, mean, variance


def backward(
    kernels: Any,
    grad: Tensor,
    tables: Sequence[Tensor],
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
    row_numbers: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of distinct rows, weights, projection and bias; and these rows.

    As the op ``autoemb::soft_embedding_backward`` does; grad, ids and weights with any strides.
    Raises as :func:`forward` does.
    """
    expect_op(tables, ids, weights, projection, bias, (mean, variance), dims, grad)
    with on_device(ids.device):
        call = Call(kernels, tables, ids, dims, projection, row_numbers)
        kept = call.fields if embeddings else 0
        weights_grad = call.floats(call.events, call.fields, call.sizes)
        rows_grad = call.floats(kept, call.events, call.total)
        projection_grad = call.floats(kept, call.width, call.total)
        bias_grad = call.floats(kept, call.sizes, call.width)
        if call.events == 0:
            projection_grad.zero_()
            bias_grad.zero_()
            rows = call.integers(kept, 0)
            return rows_grad, weights_grad, projection_grad, bias_grad, rows

        bias, mean, variance = bias.contiguous(), mean.contiguous(), variance.contiguous()
        if training:
            centre, shift = call.statistic(), call.floats(call.fields, call.total)
            groups = call.batch.groups
            sums = call.floats(groups, *shift.shape)
            counts = call.floats(groups, call.fields, call.sizes)
            kernels.recentre(
                call.batch, *map(address, (shift, sums, counts, centre)), mode_name(), call.stream
            )
            normaliser = call.normaliser(centre, None, variance, shift, eps, average)
        else:
            normaliser = call.normaliser(mean, bias, variance, None, eps, average)
        column_blocks = call.batch.column_blocks
        chunks = call.floats(column_blocks, *weights_grad.shape) if column_blocks > 1 else None
        kernels.weights_gradient(
            call.batch,
            normaliser,
            strided(grad),
            address(chunks),
            weights_grad.data_ptr(),
            mode_name(),
            call.stream,
        )
        if not embeddings:
            return (
                rows_grad,
                weights_grad,
                projection_grad,
                bias_grad,
                call.integers(0, call.events),
            )

        plan = distinct_of(call)
        groups = call.batch.distinct_groups
        windows = call.floats(call.fields, call.events // 32, call.sizes, call.width)
        statistics = groups, call.fields, call.sizes, call.width
        matrices = groups, call.fields, call.width, call.total
        parts = (
            call.floats(*statistics),
            call.floats(*statistics),
            call.floats(*statistics[:3]),
            call.floats(groups, call.fields, call.total),
            call.floats(*matrices),
            call.floats(*matrices) if training else None,
        )
        totals = call.statistic(), call.statistic(), call.floats(call.fields, call.sizes)
        kernels.gradients(
            call.batch,
            normaliser,
            plan_addresses(kernels, plan),
            strided(weights),
            strided(grad),
            windows.data_ptr(),
            [address(x) for x in parts],
            [address(x) for x in totals],
            *map(address, (rows_grad, projection_grad, bias_grad)),
            training,
            mode_name(),
            call.stream,
        )
        return rows_grad, weights_grad, projection_grad, bias_grad, plan.rows
