"""Plain gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from autoemb.ops import updates
from autoemb.optim.base import OptimizerKind, Rates, RowOptimizer


class RowSGD(RowOptimizer):
    """Plain gradient descent on the rows in play.

    Parameters
    ----------
    params : iterable of torch.nn.Parameter
    lr : float, default 0.001
    weight_decay : float, default 0.0

    Examples
    --------
    >>> import torch
    >>> table = torch.nn.Parameter(torch.zeros(4, 2))
    >>> RowSGD([table], lr=0.1).update(table, torch.tensor([2]), torch.ones(1, 2))
    >>> table[2].tolist()
    [-0.10000000149011612, -0.10000000149011612]
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 0.001, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def init_state(self, table: Tensor, rows: int) -> dict[str, Tensor]:
        """Return nothing: no state."""
        return {}

    def update_rows(
        self,
        table: Tensor,
        rows: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        group: dict[str, Any],
    ) -> None:
        """Do values -= lr * grad."""
        updates.sgd(table, rows, grad, group["lr"])


SGD = OptimizerKind(
    name="sgd",
    rows=RowSGD,
    dense=lambda params, lr: torch.optim.SGD(params, lr=lr, fused=True),
    rates=Rates(0.1, 0.1, 300.0),  # cautious: a third of those in docs/ablations.md
    op="update_sgd",
)
