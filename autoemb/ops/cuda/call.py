"""What every call of a kernel needs: addresses, stream, mode, and the batch as kernels see it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from autoemb.ops.cuda.errors import check_ids, error_memory
from autoemb.ops.problem import Problem
from autoemb.ops.sizes import size_slices

_MODES = {"highest": "ieee", "high": "tf32", "medium": "bf16", "tf32": "tf32"}


def address(tensor: Tensor | None) -> int:
    """Return where the numbers lie; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def stream_of(device: torch.device) -> int:
    """Return the handle of the device's current stream; 0 on the CPU."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Make the device current: a stream takes launches for its own device alone."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def capturing(device: torch.device) -> bool:
    """Return whether launches go into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def mode_name() -> str:
    """Return how kernels multiply, by torch's own switch for float32 products.

    That is ``torch.set_float32_matmul_precision``, or the newer ``fp32_precision``: once that was
    used, torch refuses to read the other.
    """
    try:
        return _MODES[torch.get_float32_matmul_precision()]
    except RuntimeError:
        return _MODES.get(torch.backends.cuda.matmul.fp32_precision, "ieee")


def strided(tensor: Tensor) -> tuple[int, Sequence[int]]:
    """Return the address with the strides."""
    return tensor.data_ptr(), tensor.stride()


class Call:
    """What all kernels of one call of the op share."""

    def __init__(self, kernels: Any, problem: Problem) -> None:
        self._start(kernels, problem.ids, problem.tables, problem.dims, problem.projection)
        self.eps, self.factor = problem.eps, 1 / self.sizes if problem.average else 1.0

    @classmethod
    def of_ids(cls, kernels: Any, ids: Tensor, num_rows: Sequence[int]) -> Call:
        """Return a call that reads nothing of the tables but their length."""
        call = cls.__new__(cls)
        tables = [torch.empty(rows, 0, device=ids.device) for rows in num_rows]
        call._start(kernels, ids, tables, [1], None)
        return call

    def _start(
        self,
        kernels: Any,
        ids: Tensor,
        tables: Sequence[Tensor],
        dims: Sequence[int],
        projection: Tensor | None,
    ) -> None:
        device = ids.device
        if not capturing(device):
            check_ids(device)
        self.kernels, self.device, self.stream = kernels, device, stream_of(device)
        self.events, self.fields = ids.shape
        self.sizes, self.total = len(dims), sum(dims)
        self.ids = ids
        self.projection = None if projection is None else projection.contiguous()
        self.width = 1 if projection is None else projection.shape[1]
        slots = [
            (
                table.data_ptr() + table.element_size() * columns.start,
                table.stride(0),
                len(table),
            )
            for table in tables
            for columns in size_slices(dims)
        ]
        many = len(slots) > kernels.LOCAL_SLOTS
        words = kernels.SLOT_BYTES * len(slots) // 8
        self.slots = self.integers(words) if many else None
        self.batch = kernels.Batch(
            slots=slots,
            memory=address(self.slots),
            ids=ids.data_ptr(),
            ids_strides=ids.stride(),
            events=self.events,
            fields=self.fields,
            dims=list(dims),
            width=self.width,
            projection=address(self.projection),
            error=error_memory(device).data_ptr(),
            stream=self.stream,
        )

    def floats(self, *shape: int) -> Tensor:
        """Return float32 memory of this shape."""
        return torch.empty(*shape, dtype=torch.float32, device=self.device)

    def integers(self, *shape: int) -> Tensor:
        """Return int64 memory of this shape."""
        return torch.empty(*shape, dtype=torch.int64, device=self.device)

    def statistic(self) -> Tensor:
        """Return memory for a number per field, size and column."""
        return self.floats(self.fields, self.sizes, self.width)

    def normaliser(
        self, mean: Tensor, bias: Tensor | None, variance: Tensor, shift: Tensor | None
    ) -> Any:
        """Return what makes y of z, as kernels see it."""
        addresses = map(address, (mean, bias, variance, shift))
        return self.kernels.Normaliser(*addresses, self.eps, self.factor)
