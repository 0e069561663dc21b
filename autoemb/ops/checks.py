"""What kernels are given: they would read any memory as what they expect."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoemb.ops.problem import Problem


def expect(
    name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype, shape: Sequence[int]
) -> None:
    """Check one tensor.

    Raises
    ------
    RuntimeError
        For another device or dtype, and for one that is not dense; names the tensor.
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
    if tensor.layout != torch.strided:
        raise RuntimeError(f"expected {name} to be dense but got {tensor.layout}")
    if tensor.shape != shape:
        raise ValueError(f"expected {name} of shape {[*shape]} but got {[*tensor.shape]}")


def expect_floating(name: str, tensor: Tensor) -> None:
    """Check what is cast to the dtype of the arithmetic.

    Raises
    ------
    RuntimeError
        For integers, complex numbers and truth values.

    Examples
    --------
    >>> expect_floating("mean", torch.zeros(2, dtype=torch.bfloat16))
    """
    if not tensor.is_floating_point():
        raise RuntimeError(f"expected {name} of a floating dtype but got {tensor.dtype}")


def expect_device(device: torch.device, kind: str) -> None:
    """Check that memory lies where kernels of this kind can read it.

    Raises
    ------
    RuntimeError
        For another device.

    Examples
    --------
    >>> expect_device(torch.device("cpu"), "cpu")
    """
    if device.type != kind:
        raise RuntimeError(f"expected tensors on {kind} but got them on {device}")


def _length(name: str, tensor: Tensor, dimensions: int) -> int:
    """Return the first dimension of one that has as many as it should."""
    if tensor.dim() != dimensions:
        raise ValueError(
            f"expected {name} of {dimensions} dimensions but got shape {[*tensor.shape]}"
        )
    return len(tensor)


def _expect_table(name: str, table: Tensor, device: torch.device, width: int) -> None:
    expect(name, table, device, torch.float32, (_length(name, table, 2), width))
    if table.stride(1) != 1 and width > 1:
        raise RuntimeError(f"expected {name} to hold rows that are contiguous")


def expect_problem(problem: Problem, kind: str, grad: Tensor | None = None) -> None:
    """Check the op's inputs, and with ``grad`` those of its backward pass, as :func:`expect`."""
    device, dims = problem.weights.device, problem.dims
    expect_device(device, kind)
    if not dims or min(dims) < 1:
        raise ValueError(f"expected dims to be positive sizes but got {[*dims]}")
    batch, fields = _length("ids", problem.ids, 2), len(problem.tables)
    _length("projection", problem.projection, 3)
    width = problem.projection.shape[1]
    expect("ids", problem.ids, device, torch.int64, (batch, fields))
    for f, table in enumerate(problem.tables):
        _expect_table(f"table of field {f}", table, device, sum(dims))
    real, statistics = torch.float32, (fields, len(dims), width)
    expect("weights", problem.weights, device, real, (batch, fields, len(dims)))
    expect("projection", problem.projection, device, real, (fields, width, sum(dims)))
    expect("bias", problem.bias, device, real, statistics)
    if problem.mean is None or problem.variance is None:
        if grad is not None or not problem.training:
            raise ValueError("expected mean and variance but got None")
    else:
        expect("mean", problem.mean, device, real, statistics)
        expect("variance", problem.variance, device, real, statistics)
    if grad is not None:
        expect("grad", grad, device, real, (batch, fields, width))


def expect_update(table: Tensor, rows: Tensor, grad: Tensor, kind: str) -> None:
    """Check the arguments of a row update, as :func:`expect`."""
    expect_device(table.device, kind)
    _length("table", table, 2)
    _expect_table("table", table, table.device, table.shape[1])
    if table.stride(0) < table.shape[1] and len(table) > 1:
        raise RuntimeError("expected table to hold each row in memory of its own")
    count = _length("rows", rows, 1)
    expect("rows", rows, table.device, torch.int64, (count,))
    expect("grad", grad, table.device, torch.float32, (count, table.shape[1]))


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


def expect_adam(average: Tensor, square: Tensor, steps: Tensor, table: Tensor) -> None:
    """Check Adam's moments and counts, as :func:`expect_state`."""
    expect_state("average", average, table.device, torch.float32, table.shape)
    expect_state("square", square, table.device, torch.float32, table.shape)
    expect_state("steps", steps, table.device, torch.int32, (len(table), 1))
