"""What kernels are given: they would read any memory as what they expect."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def expect(
    name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype, shape: Sequence[int]
) -> None:
    """Check one tensor.

    Raises
    ------
    RuntimeError
        For another device or dtype; names the tensor.
    ValueError
        For another shape.

    Examples
    --------
    >>> expect("bias", torch.zeros(2), torch.device("cpu"), torch.float32, (2,))
    """
    if tensor.device != device:
        raise RuntimeError(f"expected {name} on {device} but got it on {tensor.device}")
    if tensor.dtype != dtype:
        raise RuntimeError(f"expected {name} of dtype {dtype} but got {tensor.dtype}")
    if tensor.shape != shape:
        raise ValueError(f"expected {name} of shape {[*shape]} but got {[*tensor.shape]}")


def expect_op(
    tables: Sequence[Tensor],
    ids: Tensor,
    weights: Tensor,
    projection: Tensor,
    bias: Tensor,
    statistics: Sequence[Tensor | None],
    dims: Sequence[int],
    grad: Tensor | None = None,
) -> None:
    """Check the arguments of the op, or with ``grad`` of its backward pass, as :func:`expect`."""
    device, real = weights.device, torch.float32
    batch, fields, width = len(ids), len(tables), projection.shape[1]
    expect("ids", ids, device, torch.int64, (batch, fields))
    for f, table in enumerate(tables):
        expect(f"table of field {f}", table, device, real, (len(table), sum(dims)))
        if table.stride(1) != 1:
            raise RuntimeError(f"expected table of field {f} to hold rows that are contiguous")
    expect("weights", weights, device, real, (batch, fields, len(dims)))
    expect("projection", projection, device, real, (fields, width, sum(dims)))
    for name, value in zip(("bias", "mean", "variance"), (bias, *statistics), strict=True):
        if value is not None:
            expect(name, value, device, real, (fields, len(dims), width))
    if grad is not None:
        expect("grad", grad, device, real, (batch, fields, width))


def expect_update(table: Tensor, rows: Tensor, grad: Tensor) -> None:
    """Check the arguments of a row update, as :func:`expect`."""
    if table.stride(0) < table.shape[1] and len(table) > 1:
        raise RuntimeError("expected table to hold each row in memory of its own")
    expect("rows", rows, table.device, torch.int64, (len(rows),))
    expect("grad", grad, table.device, torch.float32, (len(rows), table.shape[1]))


def expect_state(
    name: str, state: Tensor, device: torch.device, dtype: torch.dtype, shape: Sequence[int]
) -> None:
    """Check what an optimiser keeps, as :func:`expect`; it must be contiguous too."""
    expect(name, state, device, dtype, shape)
    if not state.is_contiguous():
        raise ValueError(f"expected {name} to be contiguous")


def expect_total(total: Tensor, table: Tensor) -> bool:
    """Check Adagrad's sums, as :func:`expect_state`; return whether there is one a row."""
    rowwise = total.shape != table.shape
    shape = (len(table), 1) if rowwise else table.shape
    expect_state("total", total, table.device, torch.float32, shape)
    return rowwise
