"""What changes the rows of a batch: optimisers on tables, and the counters of the stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoemb.ops.checks import (
    expect_adam,
    expect_device,
    expect_state,
    expect_total,
    expect_update,
)
from autoemb.ops.cuda.call import address, on_device, stream_of
from autoemb.ops.cuda.errors import error_memory


def _rows(
    kernels: Any, table: Tensor, rows: Tensor, grad: Tensor, learning_rate: float
) -> tuple[Any, int]:
    arguments = kernels.Rows(
        table=table.data_ptr(),
        table_stride=table.stride(0),
        rows=rows.data_ptr(),
        num_rows=len(rows),
        grad=grad.data_ptr(),
        width=table.shape[1],
        learning_rate=learning_rate,
        table_rows=len(table),
        error=error_memory(table.device).data_ptr(),
    )
    return arguments, stream_of(table.device)


def update_sgd(
    kernels: Any, table: Tensor, rows: Tensor, grad: Tensor, learning_rate: float
) -> None:
    """Update distinct rows of a table as :class:`autoemb.optim.RowSGD` does.

    Parameters
    ----------
    kernels : module
    table : Tensor[V, S]
    rows : Tensor[B], int64
        Distinct rows; one that repeats the one before it is padding and left alone.
    grad : Tensor[B, S]
    learning_rate : float
    """
    expect_update(table, rows, grad, kernels.device)
    rows, grad = rows.contiguous(), grad.contiguous()
    with on_device(table.device):
        kernels.update_sgd(*_rows(kernels, table, rows, grad, learning_rate))


def update_adagrad(
    kernels: Any,
    table: Tensor,
    rows: Tensor,
    grad: Tensor,
    total: Tensor,
    learning_rate: float,
    eps: float,
) -> None:
    """Update rows as RowAdagrad of :mod:`autoemb.optim`; row-wise if ``total`` is [V, 1]."""
    expect_update(table, rows, grad, kernels.device)
    rowwise = expect_total(total, table)
    rows, grad = rows.contiguous(), grad.contiguous()
    with on_device(table.device):
        arguments, stream = _rows(kernels, table, rows, grad, learning_rate)
        kernels.update_adagrad(arguments, total.data_ptr(), rowwise, eps, stream)


def update_adam(
    kernels: Any,
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
    """Update rows as :class:`autoemb.optim.RowAdam` does.

    ``average`` and ``square`` [V, S] and ``steps`` [V, 1], int32, are its state, contiguous.
    """
    expect_update(table, rows, grad, kernels.device)
    expect_adam(average, square, steps, table)
    rows, grad = rows.contiguous(), grad.contiguous()
    with on_device(table.device):
        arguments, stream = _rows(kernels, table, rows, grad, learning_rate)
        state = map(address, (average, square, steps))
        kernels.update_adam(arguments, *state, beta_1, beta_2, eps, stream)


def record(
    kernels: Any,
    rows: Tensor,
    counts: Tensor,
    order: Tensor,
    starts: Tensor,
    loss: Tensor,
    decay: float,
    count: Tensor,
    last_loss: Tensor,
    mean_loss: Tensor,
) -> None:
    """Update one field's counters as :func:`autoemb.runtime.record` does, to the last bit.

    Parameters
    ----------
    kernels : module
    rows, counts, order, starts : Tensor[B], Tensor[B], Tensor[B], Tensor[B + 1], int64
        Of the field's padded plan, contiguous. What they hold is trusted: only plans make it.
    loss : Tensor[B]
        Of the events.
    decay : float
    count, last_loss, mean_loss : Tensor[V]
        Counters of the field's rows: int64, float32, float32.
    """
    device, batch, known = rows.device, loss.numel(), (count.numel(),)
    expect_device(device, kernels.device)
    plan = (("rows", rows), ("counts", counts), ("order", order))
    for name, tensor in plan:
        expect_state(name, tensor, device, torch.int64, (batch,))
    expect_state("starts", starts, device, torch.int64, (batch + 1,))
    expect_state("loss", loss, device, torch.float32, (batch,))
    expect_state("count", count, device, torch.int64, known)
    expect_state("last_loss", last_loss, device, torch.float32, known)
    expect_state("mean_loss", mean_loss, device, torch.float32, known)
    if batch == 0:
        return
    with on_device(loss.device):
        kernels.record(
            kernels.Plan(*map(address, (rows, counts, starts, order, None, None))),
            len(loss),
            loss.data_ptr(),
            decay,
            *map(address, (count, last_loss, mean_loss)),
            len(count),
            error_memory(loss.device).data_ptr(),
            stream_of(loss.device),
        )
