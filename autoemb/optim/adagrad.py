"""Adagrad, with one sum of squares a number or one a row of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from autoemb.ops import updates
from autoemb.optim.base import OptimizerKind, Rates, RowOptimizer, one_per_row


class RowAdagrad(RowOptimizer):
    """Adagrad on the rows in play, which is what Adagrad over whole tables does.

    Parameters
    ----------
    params : iterable of torch.nn.Parameter
    lr : float, default 0.01
    eps : float, default 1e-10
    weight_decay : float, default 0.0

    Examples
    --------
    >>> import torch
    >>> table = torch.nn.Parameter(torch.zeros(4, 2))
    >>> grad = torch.tensor([[3.0, 0.1]])
    >>> RowAdagrad([table], lr=0.1).update(table, torch.tensor([2]), grad)
    >>> table[2]
    tensor([-0.1000, -0.1000], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.01,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay})

    def init_state(self, table: Tensor, rows: int) -> dict[str, Tensor]:
        """Return zero sums, one a number."""
        return {"sum": table.detach().new_zeros(rows, *table.shape[1:])}

    def update_rows(
        self,
        table: Tensor,
        rows: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        group: dict[str, Any],
    ) -> None:
        """Do values -= lr * grad / (sqrt(sum of squares) + eps)."""
        total, lr, eps = state["sum"], group["lr"], group["eps"]
        updates.adagrad(table, rows, grad, total, lr, eps)


class RowwiseAdagrad(RowAdagrad):
    """Row-wise Adagrad: one accumulated mean square a row instead of one a number.

    Its state is one number a row, which saves half the memory of a table that learns. In a
    :class:`autoemb.SoftEmbedding` the sizes of an id share it, although their gradients differ in
    scale; losses are higher for it (docs/ablations.md).

    Parameters
    ----------
    params : iterable of torch.nn.Parameter
    lr : float, default 0.01
    eps : float, default 1e-10
    weight_decay : float, default 0.0

    Examples
    --------
    >>> import torch
    >>> table = torch.nn.Parameter(torch.zeros(4, 2))
    >>> grad = torch.tensor([[3.0, 0.1]])
    >>> RowwiseAdagrad([table], lr=0.1).update(table, torch.tensor([2]), grad)
    >>> table[2]
    tensor([-0.1413, -0.0047], grad_fn=<SelectBackward0>)
    """

    def init_state(self, table: Tensor, rows: int) -> dict[str, Tensor]:
        """Return zero sums, one a row."""
        return {"sum": one_per_row(table, rows, table.dtype)}


class DeviceAdagrad(torch.optim.Adagrad):
    """Adagrad with its step counts on the device: PyTorch reads those on the host to decay ``lr``.

    The state is that of :class:`torch.optim.Adagrad`, so that a run may move between devices.
    """

    def __init__(self, params: Sequence[Tensor], lr: float) -> None:
        super().__init__(params, lr=lr)
        self._move()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state_dict, wherever its tensors lie."""
        super().load_state_dict(state_dict)
        self._move()

    def _move(self) -> None:
        for parameter, state in self.state.items():
            state.update({name: value.to(parameter.device) for name, value in state.items()})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; ``closure`` is not called."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in parameters]
            states = [self.state[p] for p in parameters]
            sums = [state["sum"] for state in states]
            torch._foreach_add_([state["step"] for state in states], 1)
            torch._foreach_addcmul_(sums, grads, grads)
            scales = torch._foreach_sqrt(sums)
            torch._foreach_add_(scales, group["eps"])
            torch._foreach_addcdiv_(parameters, grads, scales, value=-group["lr"])


def _dense(params: Sequence[Tensor], lr: float) -> torch.optim.Optimizer:
    if all(p.device.type == "cpu" for p in params):  # PyTorch has the fused one there only
        return torch.optim.Adagrad(params, lr=lr, fused=True)
    return DeviceAdagrad(params, lr=lr)


ADAGRAD = OptimizerKind(
    name="adagrad",
    rows=RowAdagrad,
    dense=_dense,
    rates=Rates(0.005, 0.01, 7.5),  # docs/history.md tells how they were chosen
    op="update_adagrad",
)

#: Row-wise in tables alone.
ROWWISE_ADAGRAD = replace(ADAGRAD, name="rowwise-adagrad", rows=RowwiseAdagrad)
