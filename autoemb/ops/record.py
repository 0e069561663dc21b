"""What a batch adds to the counters of its ids, in the order of its events."""

from __future__ import annotations

import torch
from torch import Tensor

from autoemb.ops import cuda
from autoemb.ops.native import has_cuda_kernels
from autoemb.ops.plan import Plan, fill_padding, is_padded
from autoemb.runtime import record as record_in_order


def record(
    plan: Plan, losses: Tensor, decay: float, count: Tensor, last_loss: Tensor, mean_loss: Tensor
) -> None:
    """Update the counters of one field's ids in place, event by event.

    ``mean_loss = decay * mean_loss + (1 - decay) * loss`` (at an id's first event: ``loss``),
    ``last_loss = loss``, ``count += 1``.

    Parameters
    ----------
    plan : Plan
        The batch's ids of this field.
    losses : Tensor[B], float32
    decay : float
        Share of the old value in the moving average.
    count : Tensor[V], int64
    last_loss, mean_loss : Tensor[V], float32

    Raises
    ------
    IndexError
        On the CPU, for a row outside the counters; nothing has changed then.

    Examples
    --------
    >>> import torch
    >>> from autoemb.ops import distinct
    >>> count, last, mean = torch.zeros(4, dtype=torch.int64), torch.zeros(4), torch.zeros(4)
    >>> losses = torch.tensor([0.5, 1.0, 0.25])
    >>> record(distinct(torch.tensor([3, 1, 3])), losses, 0.5, count, last, mean)
    >>> count.tolist(), last.tolist(), mean.tolist()
    ([0, 1, 0, 2], [0.0, 1.0, 0.0, 0.25], [0.0, 1.0, 0.0, 0.375])
    """
    counters = count, last_loss, mean_loss
    if has_cuda_kernels(losses.device) and plan.order is not None and plan.starts is not None:
        parts = plan.rows, plan.counts, plan.order, plan.starts
        cuda.record(cuda.kernels, *parts, losses.contiguous(), decay, *counters)
    elif is_padded(losses.device):
        _record_padded(plan, losses, decay, count, last_loss, mean_loss)
    else:
        ids = plan.rows.index_select(0, plan.inverse)
        record_in_order(ids.numpy(), losses.numpy(), decay, *(c.numpy() for c in counters))


def count_events(plan: Plan, count: Tensor) -> None:
    """Add the events of a batch to the counters of one field's ids, up to the largest int32.

    Parameters
    ----------
    plan : Plan
        The batch's ids of this field.
    count : Tensor[V], int32

    Raises
    ------
    IndexError
        On the CPU, for a row outside the counters; nothing has changed then.

    Examples
    --------
    >>> from autoemb.ops import distinct
    >>> count = torch.zeros(4, dtype=torch.int32)
    >>> count_events(distinct(torch.tensor([3, 1, 3])), count)
    >>> count.tolist()
    [0, 1, 0, 2]
    """
    if not is_padded(count.device):
        outside = plan.rows[(plan.rows < 0) | (plan.rows >= len(count))]
        if len(outside):
            raise IndexError(f"row {int(outside[0])} is not in [0, {len(count) - 1}]")
    past = count.index_select(0, plan.rows).long()
    events = fill_padding(plan.rows, plan.counts)
    count.index_copy_(0, plan.rows, (past + events).clamp_max(2**31 - 1).to(torch.int32))


def _record_padded(
    plan: Plan, losses: Tensor, decay: float, count: Tensor, last_loss: Tensor, mean_loss: Tensor
) -> None:
    """Do so without a loop over events: the moving average as a sum of decayed losses.

    Sums go in one order, so runs repeat to the bit. The average is rounded once a batch instead of
    once an event.
    """
    rows, inverse, counts, *_ = plan
    place, order = inverse.sort(stable=True)  # the events id by id, those of one id in order
    number = torch.arange(len(place), device=place.device)
    loss = losses.index_select(0, order).to(torch.float64)
    past = count.index_select(0, rows)  # [U], events before the batch
    end = counts.cumsum(0) - 1  # number of each id's last event; padding has that of the last id
    events = fill_padding(rows, counts)
    share = decay ** (end.index_select(0, place) - number).to(torch.float64)
    first = number == (end - events + 1).index_select(0, place)
    fresh = first & (past.index_select(0, place) == 0)
    total = loss * torch.where(fresh, share, (1 - decay) * share)
    reach = 1
    while reach < len(place):  # each event adds those before it that have its id
        before = total[:-reach].masked_fill(place[reach:] != place[:-reach], 0)
        total = torch.cat([total[:reach], total[reach:] + before])
        reach *= 2
    mean = total.index_select(0, end)
    kept = decay ** events.to(torch.float64) * mean_loss.index_select(0, rows)
    mean = torch.where(past > 0, mean + kept, mean).to(torch.float32)
    count.index_copy_(0, rows, past + events)
    last_loss.index_copy_(0, rows, loss.index_select(0, end).to(torch.float32))
    mean_loss.index_copy_(0, rows, mean)
