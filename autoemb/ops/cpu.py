"""The native CPU kernels (``csrc/cpu``): checks, pointers, and nothing of their arithmetic.

They are bound by plain pointers instead of through torch's C++ interface: building them takes
seconds and no torch, and one binary serves every version of it. A call costs some 10 us more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

try:
    from autoemb import _cpu
except ImportError as error:
    _cpu = None
    IMPORT_ERROR: str | None = str(error)
else:
    IMPORT_ERROR = None

COMPILED = _cpu is not None

#: Instruction set of the kernels: the best that this CPU has.
KERNELS: str = _cpu.kernels[0] if _cpu else ""


def unsupported(tables: Sequence[Tensor], weights: Tensor) -> str | None:
    """Say why the native kernels cannot take these tensors, or return None if they can."""
    if weights.device.type != "cpu":
        return f"there are no native kernels for {weights.device.type}"
    if _cpu is None:
        return f"the native CPU kernels are not built ({IMPORT_ERROR})"
    if weights.dtype != torch.float32 or any(t.dtype != torch.float32 for t in tables):
        return f"the native kernels compute in torch.float32, and this is {weights.dtype}"
    if any(table.stride(1) != 1 for table in tables):
        return "the native kernels need tables whose rows are contiguous"
    return None


class Call:
    """One call of the kernels; keeps alive the tensors whose memory they read.

    Parameters
    ----------
    tables, ids, weights, projection, bias, dims, eps, average
        As :func:`autoemb.ops.soft_embedding` takes them.
    mean, variance : Tensor[F, N, D]
        Written by :meth:`forward` in training mode, else read.
    training : bool
    """

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
        batch, fields = ids.shape
        width, total = projection.shape[1], sum(dims)
        _expect("ids", ids, torch.int64, (batch, len(tables)))
        for table in tables:
            _expect("table", table, torch.float32, (len(table), total))
        _expect("weights", weights, torch.float32, (batch, fields, len(dims)))
        _expect("projection", projection, torch.float32, (fields, width, total))
        for name, value in (("bias", bias), ("mean", mean), ("variance", variance)):
            _expect(name, value, torch.float32, (fields, len(dims), width))
        mean, variance = mean.contiguous(), variance.contiguous()
        projection, bias = projection.contiguous(), bias.contiguous()
        self._grad_shape = batch, fields, width
        self._tensors = tables, ids, weights, projection, bias, mean, variance
        columns = [0, *accumulate(dims)][:-1]
        sizes = [
            (table.data_ptr() + 4 * column, table.stride(0), 0)
            for table in tables
            for column in columns
        ]
        self._call = _cpu.Call(
            batch=batch,
            width=width,
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

    def forward(self, output: Tensor) -> tuple[int, int]:
        """Fill output [B, F, D] and the statistics; return field and id out of range, or -1."""
        result: tuple[int, int] = _cpu.forward(self._call, output.data_ptr())
        return result

    def backward(
        self,
        grad: Tensor,
        embeddings_grad: Tensor,
        weights_grad: Tensor,
        projection_grad: Tensor,
        bias_grad: Tensor,
        rows: Tensor,
    ) -> tuple[int, int]:
        """Fill the gradients (of the weights alone if ``rows`` is empty); returns as forward."""
        _expect("grad", grad, torch.float32, self._grad_shape)
        if grad.stride(2) != 1:
            grad = grad.contiguous()
        result: tuple[int, int] = _cpu.backward(
            self._call,
            (grad.data_ptr(), grad.stride(0), grad.stride(1)),
            weights_grad.data_ptr(),
            rows.data_ptr() if len(rows) else 0,
            embeddings_grad.data_ptr(),
            projection_grad.data_ptr(),
            bias_grad.data_ptr(),
        )
        return result


def update_sgd(table: Tensor, rows: Tensor, grad: Tensor, learning_rate: float) -> None:
    """Do what :class:`autoemb.optim.RowSGD` does to rows [U] of a table [V, C], in one pass."""
    rows, grad = rows.contiguous(), grad.contiguous()
    _cpu.update_sgd(*_row_arguments(table, rows, grad), learning_rate, KERNELS, _threads())


def update_adagrad(
    table: Tensor, rows: Tensor, grad: Tensor, total: Tensor, learning_rate: float, eps: float
) -> None:
    """Do what :class:`autoemb.optim.RowAdagrad` does; ``total`` [V, 1] is its sum."""
    rows, grad = rows.contiguous(), grad.contiguous()
    sums = _state_address("total", total, torch.float32, (len(table), 1))
    arguments = *_row_arguments(table, rows, grad), learning_rate, eps, sums
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
    state = (
        _state_address("average", average, torch.float32, table.shape),
        _state_address("square", square, torch.float32, table.shape),
        _state_address("steps", steps, torch.int32, (len(table), 1)),
    )
    arguments = *_row_arguments(table, rows, grad), learning_rate, beta_1, beta_2, eps, *state
    _cpu.update_adam(*arguments, KERNELS, _threads())


def _row_arguments(table: Tensor, rows: Tensor, grad: Tensor) -> tuple[int, ...]:
    _expect("table", table, torch.float32, table.shape)
    _expect("rows", rows, torch.int64, (len(rows),))
    _expect("grad", grad, torch.float32, (len(rows), table.shape[1]))
    return (
        table.data_ptr(),
        len(table),
        table.stride(0),
        rows.data_ptr(),
        len(rows),
        grad.data_ptr(),
        table.shape[1],
    )


def _state_address(name: str, state: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> int:
    _expect(name, state, dtype, shape)
    if not state.is_contiguous():
        raise ValueError(f"expected {name} to be contiguous")
    return state.data_ptr()


def _expect(name: str, tensor: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> None:
    """Raise an error that names the tensor: kernels would read any memory as what they expect."""
    if tensor.dtype != dtype:
        raise RuntimeError(f"expected {name} of dtype {dtype} but got {tensor.dtype}")
    if tensor.shape != shape:
        raise ValueError(f"expected {name} of shape {[*shape]} but got {[*tensor.shape]}")


def _threads() -> int:
    return torch.get_num_threads()
