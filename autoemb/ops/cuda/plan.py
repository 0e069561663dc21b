"""Distinct ids of a batch, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autoemb.ops.checks import expect, expect_device
from autoemb.ops.cuda.call import Call, address, on_device


class PaddedPlan(NamedTuple):
    """Distinct ids of every field, of a shape that does not depend on the ids.

    Attributes
    ----------
    rows : Tensor[F, B], int64
        U distinct ids, ascending, then the last of them again and again.
    inverse : Tensor[B, F], int64
        ``rows[f][inverse[:, f]]`` is column f of the ids again.
    counts : Tensor[F, B], int64
        Multiplicity of each distinct id; 0 in the padding.
    order : Tensor[F, B], int64
        Events sorted by id, those of one id in their order; events with a bad id at the end.
    starts : Tensor[F, B + 1], int64
        ``order[f, starts[f, i]:starts[f, i + 1]]`` are the events of ``rows[f, i]``.
    used : Tensor[F], int64
        U of each field.
    """

    rows: Tensor
    inverse: Tensor
    counts: Tensor
    order: Tensor
    starts: Tensor
    used: Tensor


def plan_addresses(kernels: Any, plan: PaddedPlan) -> Any:
    """Return the plan as kernels see it."""
    rows, inverse, counts, order, starts, used = map(address, plan)
    return kernels.Plan(rows, counts, starts, order, inverse, used)


def plan_of(call: Call) -> PaddedPlan:
    """Return the distinct ids of a call that has events."""
    kernels, events, fields = call.kernels, call.events, call.fields
    plan = PaddedPlan(
        rows=call.integers(fields, events),
        inverse=call.integers(events, fields),
        counts=call.integers(fields, events),
        order=call.integers(fields, events),
        starts=call.integers(fields, events + 1),
        used=call.integers(fields),
    )
    if events <= kernels.MAX_SORTED:
        kernels.plan(call.batch, plan_addresses(kernels, plan), call.stream)
        return plan
    keys = call.integers(fields, events)
    kernels.checked_ids(call.batch, keys.data_ptr(), keys.t().stride(), 0, call.stream)
    sorted_keys, order = keys.sort(dim=1, stable=True)
    plan = plan._replace(order=order)
    indices = torch.zeros_like(keys)
    torch.cumsum(sorted_keys[:, 1:] != sorted_keys[:, :-1], 1, out=indices[:, 1:])
    kernels.plan_from_sorted(
        call.batch,
        plan_addresses(kernels, plan),
        sorted_keys.data_ptr(),
        indices.data_ptr(),
        call.stream,
    )
    return plan


def distinct(kernels: Any, ids: Tensor, num_rows: Sequence[int] | None = None) -> PaddedPlan:
    """Return the distinct ids of every field.

    Parameters
    ----------
    kernels : module
    ids : Tensor[B, F], int64
        With any strides. An id outside [0, num_rows[f]) is in no plan, and :func:`check_ids` tells.
    num_rows : sequence of int, optional
        Of each field's table. By default any id that is not negative and that a key can hold.
    """
    if num_rows is None:
        num_rows = [kernels.MAX_IDS] * ids.shape[1]
    expect_ids(kernels, ids, num_rows)
    with on_device(ids.device):
        call = Call.of_ids(kernels, ids, num_rows)
        if call.events == 0:
            empty = call.integers(call.fields, 0)
            starts = torch.zeros(call.fields, 1, dtype=torch.int64, device=ids.device)
            used = torch.zeros_like(starts[:, 0])
            return PaddedPlan(empty, torch.empty_like(ids), empty, empty, starts, used)
        return plan_of(call)


def expect_ids(kernels: Any, ids: Tensor, num_rows: Sequence[int]) -> None:
    """Raise for ids that kernels would misread: other than int64 [B, F] where they run."""
    expect_device(ids.device, kernels.device)
    expect("ids", ids, ids.device, torch.int64, (*ids.shape[:1], len(num_rows)))


def rows_of(kernels: Any, ids: Tensor, num_rows: Sequence[int], field: int) -> Tensor:
    """Return ids [B, F], the largest integer in place of one outside [0, num_rows[f]).

    :func:`check_ids` tells of such an id; ``field`` is the number that it gives the first column.
    """
    expect_ids(kernels, ids, num_rows)
    with on_device(ids.device):
        call = Call.of_ids(kernels, ids, num_rows)
        rows = call.integers(call.events, call.fields)
        if call.events:
            kernels.checked_ids(call.batch, rows.data_ptr(), rows.stride(), field, call.stream)
        return rows
