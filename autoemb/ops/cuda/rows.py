"""What changes the rows of a batch: optimisers on tables, and the counters of the stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoemb.ops.cuda.call import address, check_device, on_device, stream_of
from autoemb.ops.cuda.plan import PaddedPlan, plan_addresses


def _rows(
    kernels: Any, table: Tensor, rows: Tensor, counts: Tensor, grad: Tensor, rate: Tensor
) -> tuple[Any, int]:
    check_device(table, rows=rows, counts=counts, grad=grad, rate=rate)
    if rate.dtype != torch.float64:
        raise RuntimeError(f"expected rate of dtype torch.float64 but got {rate.dtype}")
    arguments = kernels.Rows(
        table=table.data_ptr(),
        table_stride=table.stride(0),
        rows=rows.data_ptr(),
        counts=counts.data_ptr(),
        num_rows=len(rows),
        grad=grad.data_ptr(),
        grad_stride=grad.stride(0),
        width=table.shape[1],
        rate=rate.data_ptr(),
    )
    return arguments, stream_of(table.device)


def update_sgd(
    kernels: Any, table: Tensor, rows: Tensor, counts: Tensor, grad: Tensor, rate: Tensor
) -> None:
    """Update distinct rows of a table as :class:`autoemb.optim.RowSGD` does.

    Parameters
    ----------
    kernels : module
    table : Tensor[V, S]
    rows, counts : Tensor[B], int64
        Distinct rows; those with a count of 0 are padding and left alone.
    grad : Tensor[B, S]
    rate : Tensor[], float64
        Learning rate, on the device: a captured graph follows a schedule.
    """
    with on_device(table.device):
        kernels.update_sgd(*_rows(kernels, table, rows, counts, grad, rate))


def update_adagrad(
    kernels: Any,
    table: Tensor,
    rows: Tensor,
    counts: Tensor,
    grad: Tensor,
    rate: Tensor,
    total: Tensor,
    eps: float,
) -> None:
    """Update rows as :class:`autoemb.optim.RowAdagrad` does; ``total`` [V] is its ``sum``."""
    with on_device(table.device):
        arguments, stream = _rows(kernels, table, rows, counts, grad, rate)
        kernels.update_adagrad(arguments, total.data_ptr(), eps, stream)


def update_adam(
    kernels: Any,
    table: Tensor,
    rows: Tensor,
    counts: Tensor,
    grad: Tensor,
    rate: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Update rows as :class:`autoemb.optim.RowAdam` does.

    ``exp_avg`` and ``exp_avg_sq`` [V, S] and ``step`` [V], int32, are its state, contiguous.
    """
    with on_device(table.device):
        arguments, stream = _rows(kernels, table, rows, counts, grad, rate)
        state = map(address, (exp_avg, exp_avg_sq, step))
        kernels.update_adam(arguments, *state, *betas, eps, stream)


def record(
    kernels: Any,
    plan: PaddedPlan,
    field: int,
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
    plan : PaddedPlan
        Of the batch.
    field : int
    loss : Tensor[B]
        Of the events.
    decay : float
    count, last_loss, mean_loss : Tensor[V]
        Counters of the field's rows: int64, float32, float32.
    """
    check_device(plan.rows, loss=loss, count=count, last_loss=last_loss, mean_loss=mean_loss)
    one = plan._replace(
        rows=plan.rows[field],
        counts=plan.counts[field],
        order=plan.order[field],
        starts=plan.starts[field],
        used=plan.used[field],
    )
    if len(loss) == 0:
        return
    with on_device(loss.device):
        kernels.record(
            plan_addresses(kernels, one),
            len(loss),
            loss.data_ptr(),
            decay,
            *map(address, (count, last_loss, mean_loss)),
            stream_of(loss.device),
        )
