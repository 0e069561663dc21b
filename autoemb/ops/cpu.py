"""The native CPU kernels (``csrc/cpu``): checks, pointers, and nothing of their arithmetic.

They are bound by plain pointers instead of through torch's C++ interface: building them takes
seconds and no torch, and one binary serves every version of it. A call costs some 10 us more.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from autoemb.ops.bounds import out_of_range
from autoemb.ops.checks import expect_op, expect_state, expect_total, expect_update
from autoemb.ops.sizes import size_slices

_cpu: Any = None
IMPORT_ERROR: str | None = None
try:
    _cpu = import_module("autoemb._cpu")
except ImportError as error:
    IMPORT_ERROR = str(error)

COMPILED = _cpu is not None

#: Instruction set of the kernels: the best that this CPU has.
KERNELS: str = _cpu.kernels[0] if _cpu else ""

#: Type of the tensors' device.
DEVICE = "cpu"


class _Call:
    """One call of the kernels; keeps alive the tensors whose memory they read."""

    def __init__(
        self,
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
    ) -> None:
        mean, variance = mean.contiguous(), variance.contiguous()
        projection, bias = projection.contiguous(), bias.contiguous()
        self._tensors = tables, ids, weights, projection, bias, mean, variance
        sizes = [
            (table.data_ptr() + table.element_size() * columns.start, table.stride(0), 0)
            for table in tables
            for columns in size_slices(dims)
        ]
        self.arguments = _cpu.Call(
            batch=len(ids),
            width=projection.shape[1],
            dims=list(dims),
            tables=sizes,
            num_rows=[len(table) for table in tables],
            ids=(ids.data_ptr(), *ids.stride()),
            weights=(weights.data_ptr(), *weights.stride()),
            projection=projection.data_ptr(),
            bias=bias.data_ptr(),
            mean=mean.data_ptr(),
            variance=variance.data_ptr(),
            eps=eps,
            average=average,
            training=training,
            kernels=KERNELS,
            threads=_threads(),
        )


def forward(
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
    statistics: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the op ``autoemb::soft_embedding``."""
    expect_op(tables, ids, weights, projection, bias, (running_mean, running_variance), dims)
    output = weights.new_empty(*ids.shape, projection.shape[1])
    training = running_mean is None or running_variance is None
    if running_mean is None or running_variance is None:
        mean = torch.zeros_like(bias, memory_format=torch.contiguous_format)
        variance = torch.zeros_like(mean)
    else:  # an op must not return its inputs
        mean = running_mean.clone(memory_format=torch.contiguous_format)
        variance = running_variance.clone(memory_format=torch.contiguous_format)
    options = dims, eps, average, training
    call = _Call(tables, ids, weights, projection, bias, mean, variance, *options)
    own = (torch.zeros_like(mean), torch.zeros_like(mean)) if statistics and not training else ()
    addresses = [x.data_ptr() for x in own] or [0, 0]
    _raise_if_out_of_range(_cpu.forward(call.arguments, output.data_ptr(), *addresses), tables)
    return output, *(own or (mean, variance))


def backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the op ``autoemb::soft_embedding_backward``."""
    expect_op(tables, ids, weights, projection, bias, (mean, variance), dims, grad)
    batch, fields = ids.shape
    kept = fields if embeddings else 0
    rows = ids.new_empty(kept, batch)
    embeddings_grad = projection.new_empty(kept, batch, projection.shape[2])
    weights_grad = torch.empty_like(weights, memory_format=torch.contiguous_format)
    projection_grad = projection.new_empty(kept, *projection.shape[1:])
    bias_grad = bias.new_empty(kept, *bias.shape[1:])
    if batch == 0:
        projection_grad.zero_()
        bias_grad.zero_()
    if grad.stride(2) != 1:
        grad = grad.contiguous()
    call = _Call(
        tables, ids, weights, projection, bias, mean, variance, dims, eps, average, training
    )
    found = _cpu.backward(
        call.arguments,
        (grad.data_ptr(), grad.stride(0), grad.stride(1)),
        weights_grad.data_ptr(),
        rows.data_ptr() if embeddings else 0,
        embeddings_grad.data_ptr(),
        projection_grad.data_ptr(),
        bias_grad.data_ptr(),
    )
    _raise_if_out_of_range(found, tables)
    return embeddings_grad, weights_grad, projection_grad, bias_grad, rows


def _raise_if_out_of_range(found: tuple[int, int], tables: Sequence[Tensor]) -> None:
    field, bad = found
    if field >= 0:
        raise out_of_range(field, bad, len(tables[field]))


def update_sgd(table: Tensor, rows: Tensor, grad: Tensor, learning_rate: float) -> None:
    """Do what :class:`autoemb.optim.RowSGD` does to rows [U] of a table [V, C], in one pass."""
    rows, grad = rows.contiguous(), grad.contiguous()
    _cpu.update_sgd(*_row_arguments(table, rows, grad), learning_rate, KERNELS, _threads())


def update_adagrad(
    table: Tensor, rows: Tensor, grad: Tensor, total: Tensor, learning_rate: float, eps: float
) -> None:
    """Do what RowAdagrad of :mod:`autoemb.optim` does; row-wise if its sum ``total`` is [V, 1]."""
    rows, grad = rows.contiguous(), grad.contiguous()
    rowwise = expect_total(total, table)
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
    rows, grad = rows.contiguous(), grad.contiguous()
    expect_state("average", average, table.device, torch.float32, table.shape)
    expect_state("square", square, table.device, torch.float32, table.shape)
    expect_state("steps", steps, table.device, torch.int32, (len(table), 1))
    state = average.data_ptr(), square.data_ptr(), steps.data_ptr()
    arguments = *_row_arguments(table, rows, grad), learning_rate, beta_1, beta_2, eps, *state
    _cpu.update_adam(*arguments, KERNELS, _threads())


def _row_arguments(table: Tensor, rows: Tensor, grad: Tensor) -> tuple[int, ...]:
    expect_update(table, rows, grad)
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
