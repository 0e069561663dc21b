"""The fused op by our kernels: what they read and write is allocated here, with torch.

Every function takes the module of compiled kernels first: ``autoemb._cuda``, or its emulation on the
CPU, so that tests without a GPU run this very code. Kernels are functions of addresses, sizes and a
stream. They see no torch header, so the package builds in seconds and one binary serves every torch
version; in a captured CUDA graph nothing of this Python is left.

Nothing here waits for the device, so all of it may be captured. An id out of range counts as an id
without rows; it is noted in memory that the host can read at any time, and raised by
:func:`check_ids` at the next call.

Shapes as in :mod:`autoemb.ops.soft_embedding`; float32 alone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autoemb.ops.reference import size_slices

_MODES = {"highest": "ieee", "high": "tf32", "medium": "bf16"}

_errors: dict[torch.device, Tensor] = {}
_errors_lock = threading.Lock()


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


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _on(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _mode() -> str:
    return _MODES[torch.get_float32_matmul_precision()]


def _strided(tensor: Tensor) -> tuple[int, Sequence[int]]:
    return tensor.data_ptr(), tensor.stride()


def _check_device(reference: Tensor, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.device != reference.device:
            raise RuntimeError(
                f"expected {name} on {reference.device} but got it on {tensor.device}"
            )


def _error_memory(device: torch.device) -> Tensor:
    """Return the 4 numbers that kernels write for the first id out of range."""
    with _errors_lock:
        if device not in _errors:
            # Pinned memory is the device's too, under the same address.
            pinned = device.type == "cuda"
            _errors[device] = torch.zeros(4, dtype=torch.int64, pin_memory=pinned)
        return _errors[device]


def check_ids(device: torch.device) -> None:
    """Raise IndexError if kernels on this device have met an id out of range, once.

    Without waiting for the device: kernels that still run are seen by a later call.

    Raises
    ------
    IndexError
        Names the field, the id and the rows of its table.

    Examples
    --------
    >>> import torch
    >>> check_ids(torch.device("cpu"))
    """
    memory = _error_memory(device)
    field, bad, rows, _ = memory.tolist()
    if field > 0:
        memory.zero_()
        raise IndexError(
            f"index out of range in field {field - 1}: id {bad} is not in [0, {rows - 1}]"
        )


class _Call:
    """What all kernels of one call of the op share."""

    def __init__(
        self,
        kernels: Any,
        tables: Sequence[Tensor],
        ids: Tensor,
        dims: Sequence[int],
        projection: Tensor | None = None,
        row_numbers: Tensor | None = None,
    ) -> None:
        device = ids.device
        if not _capturing(device):
            check_ids(device)
        self.kernels, self.device, self.stream = kernels, device, _stream(device)
        self.events, self.fields = ids.shape
        self.sizes, self.total = len(dims), sum(dims)
        self.ids, self.row_numbers = ids, row_numbers
        self.projection = None if projection is None else projection.contiguous()
        self.width = 0 if projection is None else projection.shape[1]
        slots = [
            (
                table.data_ptr() + table.element_size() * columns.start,
                table.stride(0),
                0 if row_numbers is None else row_numbers[f, n].data_ptr(),
                len(table),
            )
            for f, table in enumerate(tables)
            for n, columns in enumerate(size_slices(dims))
        ]
        many = len(slots) > kernels.LOCAL_SLOTS
        self.slots = self.integers(kernels.SLOT_BYTES * len(slots) // 8) if many else None
        self.batch = kernels.Batch(
            slots=slots,
            memory=_address(self.slots),
            ids=ids.data_ptr(),
            ids_strides=ids.stride(),
            events=self.events,
            fields=self.fields,
            dims=list(dims),
            width=self.width,
            projection=_address(self.projection),
            error=_error_memory(device).data_ptr(),
            stream=self.stream,
        )

    def floats(self, *shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.float32, device=self.device)

    def integers(self, *shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.int64, device=self.device)

    def statistic(self) -> Tensor:
        return self.floats(self.fields, self.sizes, self.width)

    def normaliser(
        self,
        mean: Tensor,
        bias: Tensor | None,
        variance: Tensor,
        shift: Tensor | None,
        eps: float,
        average: bool,
    ) -> Any:
        addresses = map(_address, (mean, bias, variance, shift))
        return self.kernels.Normaliser(*addresses, eps, 1 / self.sizes if average else 1.0)


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
    _check_device(ids, weights=weights, projection=projection, bias=bias)
    with _on(ids.device):
        call = _Call(kernels, tables, ids, dims, projection, row_numbers)
        output = call.floats(call.events, call.fields, call.width)
        if call.events == 0:
            zeros = torch.zeros_like(call.statistic())
            return output, zeros, zeros.clone()
        bias = bias.contiguous()
        if running_mean is None or running_variance is None:
            mean, variance, centre = call.statistic(), call.statistic(), call.statistic()
            shift = call.floats(call.fields, call.total)
            strips = call.fields, call.sizes, 2 * call.batch.groups
            moments = call.floats(*strips), *(call.floats(*strips, call.width) for _ in range(2))
            kernels.statistics(
                call.batch,
                [_address(x) for x in moments],
                *map(_address, (shift, bias, centre, mean, variance)),
                _mode(),
                call.stream,
            )
            normaliser = call.normaliser(centre, None, variance, shift, eps, average)
        else:
            mean, variance = running_mean.contiguous(), running_variance.contiguous()
            normaliser = call.normaliser(mean, bias, variance, None, eps, average)
        kernels.normalise(
            call.batch, normaliser, _strided(weights), output.data_ptr(), _mode(), call.stream
        )
        if running_mean is not None:  # an op must not return its input
            mean, variance = mean.clone(), variance.clone()
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
    """Return distinct rows and the gradients of them, of weights, projection and bias.

    As the op ``autoemb::soft_embedding_backward`` does; grad, ids and weights with any strides.
    Raises as :func:`forward` does.
    """
    _check_device(ids, grad=grad, weights=weights, projection=projection, bias=bias)
    with _on(ids.device):
        call = _Call(kernels, tables, ids, dims, projection, row_numbers)
        kept = call.fields if embeddings else 0
        weights_grad = call.floats(call.events, call.fields, call.sizes)
        rows_grad = call.floats(kept, call.events, call.total)
        projection_grad = call.floats(kept, call.width, call.total)
        bias_grad = call.floats(kept, call.sizes, call.width)
        if call.events == 0:
            projection_grad.zero_()
            bias_grad.zero_()
            rows = call.integers(kept, 0)
            return rows, rows_grad, weights_grad, projection_grad, bias_grad

        bias, mean, variance = bias.contiguous(), mean.contiguous(), variance.contiguous()
        if training:
            centre, shift = call.statistic(), call.floats(call.fields, call.total)
            kernels.recentre(
                call.batch, *map(_address, (mean, bias, shift, centre)), call.stream
            )
            normaliser = call.normaliser(centre, None, variance, shift, eps, average)
        else:
            normaliser = call.normaliser(mean, bias, variance, None, eps, average)
        column_blocks = call.batch.column_blocks
        chunks = call.floats(column_blocks, *weights_grad.shape) if column_blocks > 1 else None
        kernels.weights_gradient(
            call.batch,
            normaliser,
            _strided(grad),
            _address(chunks),
            weights_grad.data_ptr(),
            _mode(),
            call.stream,
        )
        if not embeddings:
            return call.integers(0, call.events), rows_grad, weights_grad, projection_grad, bias_grad

        plan = _distinct(call)
        groups = call.batch.distinct_groups
        windows = call.floats(call.fields, call.events // 32, call.sizes, call.width)
        statistics = groups, call.fields, call.sizes, call.width
        matrices = groups, call.fields, call.width, call.total
        sums = (
            call.floats(*statistics),
            call.floats(*statistics),
            call.floats(*statistics[:3]),
            call.floats(groups, call.fields, call.total),
            call.floats(*matrices),
            call.floats(*matrices) if training else None,
        )
        means = call.statistic(), call.statistic()
        kernels.gradients(
            call.batch,
            normaliser,
            _addresses(kernels, plan),
            _strided(weights),
            _strided(grad),
            windows.data_ptr(),
            [_address(x) for x in sums],
            [_address(x) for x in means],
            *map(_address, (rows_grad, projection_grad, bias_grad)),
            training,
            _mode(),
            call.stream,
        )
        return plan.rows, rows_grad, weights_grad, projection_grad, bias_grad


def _addresses(kernels: Any, plan: PaddedPlan) -> Any:
    rows, inverse, counts, order, starts, used = map(_address, plan)
    return kernels.Plan(rows, counts, starts, order, inverse, used)


def _distinct(call: _Call) -> PaddedPlan:
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
        kernels.plan(call.batch, _addresses(kernels, plan), call.stream)
        return plan
    keys = call.integers(fields, events)
    kernels.keys(call.batch, keys.data_ptr(), call.stream)
    sorted_keys, order = keys.sort(dim=1, stable=True)
    plan = plan._replace(order=order)
    indices = torch.zeros_like(keys)
    torch.cumsum(sorted_keys[:, 1:] != sorted_keys[:, :-1], 1, out=indices[:, 1:])
    kernels.plan_from_sorted(
        call.batch,
        _addresses(kernels, plan),
        sorted_keys.data_ptr(),
        indices.data_ptr(),
        call.stream,
    )
    return plan


def distinct(kernels: Any, ids: Tensor, num_rows: Sequence[int]) -> PaddedPlan:
    """Return the distinct ids of every field.

    Parameters
    ----------
    kernels : module
    ids : Tensor[B, F], int64
        With any strides. An id outside [0, num_rows[f]) is in no plan, and :func:`check_ids` tells.
    num_rows : sequence of int
        Of each field's table.
    """
    with _on(ids.device):
        tables = [torch.empty(rows, 0, device=ids.device) for rows in num_rows]
        call = _Call(kernels, tables, ids, [1])
        if call.events == 0:
            empty = call.integers(call.fields, 0)
            starts = torch.zeros(call.fields, 1, dtype=torch.int64, device=ids.device)
            used = torch.zeros_like(starts[:, 0])
            return PaddedPlan(empty, torch.empty_like(ids), empty, empty, starts, used)
        return _distinct(call)


def _rows(
    kernels: Any, table: Tensor, rows: Tensor, counts: Tensor, grad: Tensor, rate: Tensor
) -> tuple[Any, int]:
    _check_device(table, rows=rows, counts=counts, grad=grad, rate=rate)
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
    return arguments, _stream(table.device)


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
    with _on(table.device):
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
    with _on(table.device):
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
    with _on(table.device):
        arguments, stream = _rows(kernels, table, rows, counts, grad, rate)
        state = map(_address, (exp_avg, exp_avg_sq, step))
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
    _check_device(plan.rows, loss=loss, count=count, last_loss=last_loss, mean_loss=mean_loss)
    one = plan._replace(
        rows=plan.rows[field],
        counts=plan.counts[field],
        order=plan.order[field],
        starts=plan.starts[field],
        used=plan.used[field],
    )
    if len(loss) == 0:
        return
    with _on(loss.device):
        kernels.record(
            _addresses(kernels, one),
            len(loss),
            loss.data_ptr(),
            decay,
            *map(_address, (count, last_loss, mean_loss)),
            _stream(loss.device),
        )
