"""Forward and backward pass of the op.

Each takes the module of kernels, its own arguments, and then the fields of a
:class:`~autoemb.ops.problem.Problem`, as the registered ops pass them on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoemb.ops.checks import expect_floating, expect_problem
from autoemb.ops.cuda.call import Call, address, mode_name, on_device, strided
from autoemb.ops.cuda.plan import plan_addresses, plan_of
from autoemb.ops.problem import Problem


def forward(kernels: Any, statistics: bool, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the op: output [B, F, D], mean and variance [F, N, D].

    Parameters
    ----------
    kernels : module
    statistics : bool
        Return the batch's own mean and variance, whatever it is normalised with.
    *arguments
        Fields of a problem; rows of tables contiguous, at any distance, ids and weights with any
        strides.

    Raises
    ------
    IndexError
        For an id out of range in an earlier call.
    RuntimeError
        For inputs on different devices, and for an error of CUDA, naming the kernel.
    ValueError
        For more sizes, or wider ones, than the kernels take.
    """
    problem = Problem(*arguments)
    if problem.given is not None:
        for name, value in zip(("mean", "variance"), problem.given, strict=True):
            expect_floating(name, value)
        mean, variance = (x.to(torch.float32).contiguous() for x in problem.given)
        problem = problem._replace(mean=mean, variance=variance)
    expect_problem(problem, kernels.device)
    given = problem.given
    with on_device(problem.ids.device):
        call = Call(kernels, problem)
        output = call.floats(call.events, call.fields, call.width)
        if call.events == 0:
            if given is not None and not statistics:
                return output, given[0].clone(), given[1].clone()
            zeros = torch.zeros_like(call.statistic())
            return output, zeros, zeros.clone()
        bias = problem.bias.contiguous()
        if given is None or statistics:
            mean, variance, centre, shift = _statistics(call, bias)
        else:  # an op must not return its input
            mean, variance = given[0].clone(), given[1].clone()
        if given is not None:
            normaliser = call.normaliser(given[0], bias, given[1], None)
        else:
            normaliser = call.normaliser(centre, None, variance, shift)
        kernels.normalise(
            call.batch,
            normaliser,
            strided(problem.weights),
            output.data_ptr(),
            mode_name(),
            call.stream,
        )
        return output, mean, variance


def _statistics(call: Call, bias: Tensor) -> tuple[Tensor, ...]:
    """Return the batch's mean and variance, and the centre of shifted z with that shift."""
    mean, variance, centre = call.statistic(), call.statistic(), call.statistic()
    shift = call.floats(call.fields, call.total)
    strips = call.fields, call.sizes, 2 * call.batch.groups
    moments = call.floats(*strips), *(call.floats(*strips, call.width) for _ in range(2))
    call.kernels.statistics(
        call.batch,
        [address(x) for x in moments],
        *map(address, (shift, bias, centre, mean, variance)),
        mode_name(),
        call.stream,
    )
    return mean, variance, centre, shift


def backward(
    kernels: Any, grad: Tensor, embeddings: bool, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of distinct rows, weights, projection and bias; and these rows.

    As the op ``autoemb::soft_embedding_backward`` does; grad, ids and weights with any strides.
    Raises as :func:`forward` does.
    """
    problem = Problem(*arguments)
    expect_problem(problem, kernels.device, grad)
    with on_device(problem.ids.device):
        call = Call(kernels, problem)
        weights_grad = call.floats(call.events, call.fields, call.sizes)
        kept = call.fields if embeddings else 0
        if call.events == 0:
            rows_grad = call.floats(kept, 0, call.total)
            projection_grad = torch.zeros_like(call.floats(kept, call.width, call.total))
            bias_grad = torch.zeros_like(call.floats(kept, call.sizes, call.width))
            return rows_grad, weights_grad, projection_grad, bias_grad, call.integers(kept, 0)
        if problem.training:
            normaliser, _kept = _recentred(call, problem)
        else:
            normaliser, _kept = _given(call, problem)
        _weights_gradient(call, normaliser, grad, weights_grad)
        if not embeddings:
            none = call.floats(0, call.events, call.total), call.floats(0, call.width, call.total)
            bias_grad = call.floats(0, call.sizes, call.width)
            return none[0], weights_grad, none[1], bias_grad, call.integers(0, call.events)
        rows_grad, projection_grad, bias_grad, rows = _gradients(call, problem, normaliser, grad)
        return rows_grad, weights_grad, projection_grad, bias_grad, rows


def _recentred(call: Call, problem: Problem) -> tuple[Any, tuple[Tensor, ...]]:
    """Return the normaliser of a training problem, and the memory that it reads."""
    assert problem.variance is not None
    variance, centre = problem.variance.contiguous(), call.statistic()
    shift = call.floats(call.fields, call.total)
    groups = call.batch.groups
    sums = call.floats(groups, *shift.shape)
    counts = call.floats(groups, call.fields)
    call.kernels.recentre(
        call.batch, *map(address, (shift, sums, counts, centre)), mode_name(), call.stream
    )
    return call.normaliser(centre, None, variance, shift), (centre, variance, shift)


def _given(call: Call, problem: Problem) -> tuple[Any, tuple[Tensor, ...]]:
    """Return the normaliser by given statistics, and the memory that it reads."""
    assert problem.given is not None
    memory = (
        problem.given[0].contiguous(),
        problem.bias.contiguous(),
        problem.given[1].contiguous(),
    )
    return call.normaliser(*memory, None), memory


def _weights_gradient(call: Call, normaliser: Any, grad: Tensor, result: Tensor) -> None:
    column_blocks = call.batch.column_blocks
    chunks = call.floats(column_blocks, *result.shape) if column_blocks > 1 else None
    call.kernels.weights_gradient(
        call.batch,
        normaliser,
        strided(grad),
        address(chunks),
        result.data_ptr(),
        mode_name(),
        call.stream,
    )


def _gradients(
    call: Call, problem: Problem, normaliser: Any, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of distinct rows, projection and bias; and the rows."""
    rows_grad = call.floats(call.fields, call.events, call.total)
    projection_grad = call.floats(call.fields, call.width, call.total)
    bias_grad = call.statistic()
    plan = plan_of(call)
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
        call.floats(*matrices) if problem.training else None,
    )
    totals = call.statistic(), call.statistic(), call.floats(call.fields, call.sizes)
    call.kernels.gradients(
        call.batch,
        normaliser,
        plan_addresses(call.kernels, plan),
        strided(problem.weights),
        strided(grad),
        windows.data_ptr(),
        [address(x) for x in parts],
        [address(x) for x in totals],
        *map(address, (rows_grad, projection_grad, bias_grad)),
        problem.training,
        mode_name(),
        call.stream,
    )
    return rows_grad, projection_grad, bias_grad, plan.rows
