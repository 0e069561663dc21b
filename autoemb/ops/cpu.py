"""The native CPU kernels (``csrc/cpu``): checks, pointers, and nothing of their arithmetic.

They are bound by plain pointers instead of through torch's C++ interface: building them takes
seconds and no torch, and one binary serves every version of it. A call costs some 10 us more.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from autoemb.ops.bounds import out_of_range
from autoemb.ops.checks import (
    expect_adam,
    expect_floating,
    expect_problem,
    expect_total,
    expect_update,
)
from autoemb.ops.problem import Problem
from autoemb.ops.sizes import size_slices

_cpu: Any = None
IMPORT_ERROR: str | None = None
try:
    _cpu = import_module("autoemb._cpu")
except ImportError as error:
    IMPORT_ERROR = str(error)

COMPILED = _cpu is not None


def _chosen_kernels() -> str:
    """Return the best instruction set that this CPU has, or the one asked for."""
    known = [*_cpu.kernels] if _cpu else [""]
    chosen = os.environ.get("AUTOEMB_CPU_KERNELS")
    if chosen is None or not COMPILED:
        return str(known[0])
    if chosen not in known:
        raise ValueError(f"AUTOEMB_CPU_KERNELS is {chosen!r}; this CPU has {', '.join(known)}")
    return chosen


#: Instruction set of the kernels. AUTOEMB_CPU_KERNELS takes another than the best.
KERNELS: str = _chosen_kernels()

#: Type of the tensors' device.
DEVICE = "cpu"


def _call(problem: Problem, mean: Tensor, variance: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
    """Return a problem as kernels see it, and the copies whose memory they read."""
    copies = problem.projection.contiguous(), problem.bias.contiguous()
    call = _cpu.Call(
        batch=len(problem.ids),
        width=problem.projection.shape[1],
        dims=[*problem.dims],
        tables=[
            (table.data_ptr() + table.element_size() * columns.start, table.stride(0))
            for table in problem.tables
            for columns in size_slices(problem.dims)
        ],
        num_rows=[len(table) for table in problem.tables],
        ids=(problem.ids.data_ptr(), *problem.ids.stride()),
        weights=(problem.weights.data_ptr(), *problem.weights.stride()),
        projection=copies[0].data_ptr(),
        bias=copies[1].data_ptr(),
        mean=mean.data_ptr(),
        variance=variance.data_ptr(),
        eps=problem.eps,
        average=problem.average,
        training=problem.training,
        kernels=KERNELS,
        threads=_threads(),
    )
    return call, copies


def forward(statistics: bool, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the op ``autoemb::soft_embedding``; ``arguments`` are the fields of a Problem."""
    problem = Problem(*arguments)
    if problem.given is not None:  # copies in float32: an op must not return its inputs
        mean, variance = map(_copy, ("mean", "variance"), problem.given)
        problem = problem._replace(mean=mean, variance=variance)
    else:
        mean = torch.zeros_like(problem.bias, memory_format=torch.contiguous_format)
        variance = torch.zeros_like(mean)
    expect_problem(problem, "cpu")
    output = problem.weights.new_empty(*problem.ids.shape, problem.projection.shape[1])
    call, _copies = _call(problem, mean, variance)
    own = (torch.zeros_like(mean), torch.zeros_like(mean)) if statistics and problem.given else ()
    addresses = [x.data_ptr() for x in own] or [0, 0]
    _raise_if_out_of_range(_cpu.forward(call, output.data_ptr(), *addresses), problem.tables)
    return output, *(own or (mean, variance))


def _copy(name: str, x: Tensor) -> Tensor:
    expect_floating(name, x)
    return x.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def backward(
    grad: Tensor, embeddings: bool, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute ``autoemb::soft_embedding_backward``; ``arguments`` are the fields of a Problem."""
    problem = Problem(*arguments)
    expect_problem(problem, "cpu", grad)
    assert problem.mean is not None
    assert problem.variance is not None
    ids, projection, bias = problem.ids, problem.projection, problem.bias
    batch, fields = ids.shape
    kept = fields if embeddings else 0
    rows = ids.new_empty(kept, batch)
    embeddings_grad = projection.new_empty(kept, batch, projection.shape[2])
    weights_grad = torch.empty_like(problem.weights, memory_format=torch.contiguous_format)
    projection_grad = projection.new_empty(kept, *projection.shape[1:])
    bias_grad = bias.new_empty(kept, *bias.shape[1:])
    if batch == 0:
        projection_grad.zero_()
        bias_grad.zero_()
    if grad.stride(2) != 1:
        grad = grad.contiguous()
    mean, variance = problem.mean.contiguous(), problem.variance.contiguous()
    call, _copies = _call(problem, mean, variance)
    found = _cpu.backward(
        call,
        (grad.data_ptr(), grad.stride(0), grad.stride(1)),
        weights_grad.data_ptr(),
        rows.data_ptr() if embeddings else 0,
        embeddings_grad.data_ptr(),
        projection_grad.data_ptr(),
        bias_grad.data_ptr(),
    )
    _raise_if_out_of_range(found, problem.tables)
    return embeddings_grad, weights_grad, projection_grad, bias_grad, rows


def _raise_if_out_of_range(found: tuple[int, int], tables: Sequence[Tensor]) -> None:
    field, bad = found
    if field >= 0:
        raise out_of_range(field, bad, len(tables[field]))


def update_sgd(table: Tensor, rows: Tensor, grad: Tensor, learning_rate: float) -> None:
    """Do what :class:`autoemb.optim.RowSGD` does to rows [U] of a table [V, C], in one pass."""
    expect_update(table, rows, grad, "cpu")
    rows, grad = rows.contiguous(), grad.contiguous()
    _cpu.update_sgd(*_row_arguments(table, rows, grad), learning_rate, KERNELS, _threads())


def update_adagrad(
    table: Tensor, rows: Tensor, grad: Tensor, total: Tensor, learning_rate: float, eps: float
) -> None:
    """Do what RowAdagrad of :mod:`autoemb.optim` does; row-wise if its sum ``total`` is [V, 1]."""
    expect_update(table, rows, grad, "cpu")
    rowwise = expect_total(total, table)
    rows, grad = rows.contiguous(), grad.contiguous()
    arguments = *_row_arguments(table, rows, grad), learning_rate, eps, total.data_ptr(), rowwise
    _cpu.update_adagrad(*arguments, KERNELS, _threads())


def update_adam(
    table: Tensor,
    rows: Tensor,
    grad: Tensor,
    average: Tensor,
    square: Tensor,
    steps: Tensor,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    eps: float,
) -> None:
    """Do what :class:`autoemb.optim.RowAdam` does; moments [V, C], ``steps`` [V, 1] int32."""
    expect_update(table, rows, grad, "cpu")
    expect_adam(average, square, steps, table)
    rows, grad = rows.contiguous(), grad.contiguous()
    state = average.data_ptr(), square.data_ptr(), steps.data_ptr()
    arguments = *_row_arguments(table, rows, grad), learning_rate, beta_1, beta_2, eps, *state
    _cpu.update_adam(*arguments, KERNELS, _threads())


def _row_arguments(table: Tensor, rows: Tensor, grad: Tensor) -> tuple[int, ...]:
    return (
        table.data_ptr(),
        len(table),
        table.stride(0),
        rows.data_ptr(),
        len(rows),
        grad.data_ptr(),
        table.shape[1],
    )


def _threads() -> int:
    return torch.get_num_threads()
