"""Matrix products by the faster of the libraries that PyTorch brings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoemb.ops.differentiable import Differentiable, needs_function

#: Below so many multiplications oneDNN's fixed cost of 10 us outweighs what it saves.
_LEAST = 1 << 20

#: Whether the CPU is one where oneDNN is the faster, or no slower.
_ONEDNN = (
    hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and torch.backends.cpu.get_cpu_capability() != "AVX2"
)


def _values(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    # PyTorch multiplies float32 with MKL, which leaves AVX-512 unused on CPUs not of Intel's. On an
    # AMD EPYC core [500, 512] @ [512, 512] takes 2.34 ms with MKL and 1.04 ms with oneDNN, also in
    # float32; where MKL uses AVX-512 the two are alike. On an EPYC core without AVX-512 MKL is
    # faster: 92 GFLOP/s against oneDNN's 78 for [500, 256] @ [256, 512], 10 % of a run of ours.
    # Inductor calls the same operator.
    if (
        _ONEDNN
        and a.dtype == b.dtype == torch.float32
        and a.device.type == "cpu"
        and a.shape[0] * b.numel() >= _LEAST
        and not torch.compiler.is_compiling()
    ):
        left, right = _dense(a), _dense(b.t())
        result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
        return result
    return a @ b if bias is None else torch.addmm(bias, a, b)


def _dense(matrix: Tensor) -> Tensor:
    """Return the matrix in rows or in columns without gaps."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


class _Product(Differentiable):
    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return _values(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        needs_a, needs_b = ctx.needs_input_grad
        return (
            product(grads[0], b.t()) if needs_a else None,
            product(a.t(), grads[0]) if needs_b else None,
        )


class _Linear(Differentiable):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _values(x, weight.t(), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            product(grads[0], weight) if needs_x else None,
            product(grads[0].t(), x) if needs_weight else None,
            grads[0].sum(0) if needs_bias else None,
        )


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b, differentiable any number of times.

    Parameters
    ----------
    a : Tensor[m, k]
    b : Tensor[k, n]

    Returns
    -------
    Tensor[m, n]
        Float32 products are summed in float32, in an order that may differ from torch.mm's.

    Examples
    --------
    >>> import torch
    >>> product(torch.eye(2), torch.tensor([[1.0], [2.0]]))
    tensor([[1.],
            [2.]])
    """
    result: Tensor = _Product.apply(a, b) if needs_function(a, b) else _values(a, b)
    return result


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` for inputs [B, C], by :func:`product`.

    For batch sizes that seldom change: oneDNN makes code for each new shape, which takes 1 ms.

    Examples
    --------
    >>> import torch
    >>> Linear(3, 2)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ weight.T + bias."""
        if torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        if not needs_function(x, self.weight, self.bias):
            return _values(x, self.weight.t(), self.bias)
        result: Tensor = _Linear.apply(x, self.weight, self.bias)
        return result
