"""Adam; of rows, lazily and with a step count for each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from autoemb.ops import updates
from autoemb.optim.base import OptimizerKind, Rates, RowOptimizer, one_per_row


class RowAdam(RowOptimizer):
    """Lazy Adam with a step count for every row.

    Each row is treated exactly as :class:`torch.optim.Adam` would treat it if it saw only that
    row's own gradients. :class:`torch.optim.SparseAdam` instead corrects the bias with one count
    for the whole table, which makes the first update of a newcomer 3.2 times the learning rate
    once the table is old.

    Parameters
    ----------
    params : iterable of torch.nn.Parameter
    lr : float, default 0.001
    betas : (float, float), default (0.9, 0.999)
    eps : float, default 1e-8
    weight_decay : float, default 0.0

    Examples
    --------
    >>> import torch
    >>> table = torch.nn.Parameter(torch.zeros(4, 2))
    >>> optimizer = RowAdam([table], lr=0.1)
    >>> optimizer.update(table, torch.tensor([2]), torch.full((1, 2), 3.0))
    >>> table[2]
    tensor([-0.1000, -0.1000], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def init_state(self, table: Tensor, rows: int) -> dict[str, Tensor]:
        """Return zero moments and step counts."""
        # "step" is the one name whose dtype torch.optim keeps when it loads a state_dict.
        moments = table.detach().new_zeros(rows, *table.shape[1:])
        steps = one_per_row(table, rows, torch.int32)
        return {"exp_avg": moments, "exp_avg_sq": torch.zeros_like(moments), "step": steps}

    def update_rows(
        self,
        table: Tensor,
        rows: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        group: dict[str, Any],
    ) -> None:
        """Do one Adam step of each row."""
        moments = state["exp_avg"], state["exp_avg_sq"], state["step"]
        hyperparameters = group["lr"], *group["betas"], group["eps"]
        updates.adam(table, rows, grad, *moments, *hyperparameters)


ADAM = OptimizerKind(
    name="adam",
    rows=RowAdam,
    # Fused: one pass over parameter, gradient and moments instead of one for each op.
    dense=lambda params, lr: torch.optim.Adam(params, lr=lr, fused=True, capturable=True),
    # Row-sparse Adam moves a row by at most the learning rate for a gradient. Adam over whole
    # tables, as models are commonly trained, goes on moving it by its momentum and divides by a
    # second moment that has decayed: 3.2 and 9.9 learning rates for a row seen in every 10th and
    # 100th batch, 1 / sqrt(1 - 0.999) = 31.6 at most. Hence a large multiple for rows.
    rates=Rates(0.0003, 0.0001, 300.0),  # the better of two in docs/ablations.md
    op="update_adam",
)
