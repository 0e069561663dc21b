"""Optimisers that touch only the rows a batch used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from autoemb.ops import updates


class RowOptimizer(torch.optim.Optimizer):
    """Base of the row-sparse optimisers.

    Use either :meth:`step` after ``backward`` with sparse gradients
    (``SoftEmbedding(sparse=True)``, ``torch.nn.Embedding(sparse=True)``), or :meth:`update` with
    rows gathered by hand. Cost and memory of an update depend on the rows in it, never on the
    table. Tables may grow between updates; the state follows.
    """

    def init_state(self, table: Tensor, rows: int) -> dict[str, Tensor]:
        """Return the state of ``rows`` rows that were never updated."""
        raise NotImplementedError

    def update_rows(
        self,
        table: Tensor,
        rows: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        group: dict[str, Any],
    ) -> None:
        """Change rows [U] of the table [V, ...] and of its state in place."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, table: Tensor, rows: Tensor, grad: Tensor) -> None:
        """Update distinct rows of one parameter.

        Parameters
        ----------
        table : Tensor[V, ...]
            One of the optimiser's parameters.
        rows : Tensor[U], int64
            Distinct row numbers; one that repeats the one before it is padding.
        grad : Tensor[U, ...]
            Gradient of each row, summed over the events that used it.

        Raises
        ------
        ValueError
            If the table is not one of the optimiser's parameters.
        """
        groups = [g for g in self.param_groups if any(p is table for p in g["params"])]
        if not groups:
            raise ValueError(f"table of shape {list(table.shape)} is none of the parameters")
        self.update_rows(table, rows, grad, self._state_of(table), groups[0])

    @torch.no_grad()
    def reset(self, table: Tensor, rows: Tensor) -> None:
        """Forget what is kept of rows [U] of a parameter: they belong to other ids from now on.

        Examples
        --------
        >>> table = torch.nn.Parameter(torch.zeros(4, 2))
        >>> optimizer = RowAdam([table])
        >>> optimizer.update(table, torch.tensor([2]), torch.ones(1, 2))
        >>> optimizer.reset(table, torch.tensor([2]))
        >>> int(optimizer.state[table]["step"].sum())
        0
        """
        state = self._state_of(table)
        for name, value in self.init_state(table, len(rows)).items():
            state[name][rows] = value

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state_dict, wherever its tensors lie."""
        super().load_state_dict(state_dict)
        for table, state in self.state.items():
            state.update({name: value.to(table.device) for name, value in state.items()})

    def _state_of(self, table: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[table]
        have = len(next(iter(state.values()))) if state else 0
        if have < len(table) and (new := self.init_state(table, len(table) - have)):
            state.update(
                {name: torch.cat([state[name], v]) if have else v for name, v in new.items()}
            )
        return state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a sparse gradient.

        Raises
        ------
        RuntimeError
            For a dense gradient: it would make the step as long as the table.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                if not table.grad.is_sparse:
                    raise RuntimeError(
                        f"{type(self).__name__} takes sparse gradients; this parameter of shape "
                        f"{list(table.shape)} has a dense one (use sparse=True in its module)"
                    )
                grad = table.grad.coalesce()
                self.update(table, grad.indices()[0], grad.values())
        return loss


def _one_per_row(table: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """Return zeros [rows, 1, ...] that broadcast against rows of the table."""
    return torch.zeros(rows, *(1 for _ in table.shape[1:]), dtype=dtype, device=table.device)


class RowSGD(RowOptimizer):
    """Plain gradient descent on the rows in play.

    Parameters
    ----------
    params : iterable of torch.nn.Parameter
    lr : float, default 0.001

    Examples
    --------
    >>> import torch
    >>> table = torch.nn.Parameter(torch.zeros(4, 2))
    >>> RowSGD([table], lr=0.1).update(table, torch.tensor([2]), torch.ones(1, 2))
    >>> table[2].tolist()
    [-0.10000000149011612, -0.10000000149011612]
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.001) -> None:
        super().__init__(params, {"lr": lr})

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


class RowAdagrad(RowOptimizer):
    """Adagrad on the rows in play, which is what Adagrad over whole tables does.

    Parameters
    ----------
    params : iterable of torch.nn.Parameter
    lr : float, default 0.01
    eps : float, default 1e-10

    Examples
    --------
    >>> import torch
    >>> table = torch.nn.Parameter(torch.zeros(4, 2))
    >>> grad = torch.tensor([[3.0, 0.1]])
    >>> RowAdagrad([table], lr=0.1).update(table, torch.tensor([2]), grad)
    >>> table[2]
    tensor([-0.1000, -0.1000], grad_fn=<SelectBackward0>)
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.01, eps: float = 1e-10) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

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
        return {"sum": _one_per_row(table, rows, table.dtype)}


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
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def init_state(self, table: Tensor, rows: int) -> dict[str, Tensor]:
        """Return zero moments and step counts."""
        # "step" is the one name whose dtype torch.optim keeps when it loads a state_dict.
        moments = table.detach().new_zeros(rows, *table.shape[1:])
        steps = _one_per_row(table, rows, torch.int32)
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


ROW_OPTIMIZERS = {
    "adam": RowAdam,
    "adagrad": RowAdagrad,
    "rowwise-adagrad": RowwiseAdagrad,
    "sgd": RowSGD,
}

#: Learning rate of rows as a multiple of the dense parameters', by optimiser. Row-sparse Adam moves
#: a row by at most the learning rate for a gradient. Adam over whole tables, as models are commonly
#: trained, goes on moving it by its momentum and divides by a second moment that has decayed: 3.2
#: and 9.9 learning rates for a row seen in every 10th and 100th batch, 1 / sqrt(1 - 0.999) = 31.6
#: at most. One factor suits rare rows and takes frequent ones farther than whole-table Adam would;
#: still every method is better with more than with 1 on MovieLens. Adagrad over whole tables moves
#: no row without a gradient. The command line has rates of its own (autoemb.lab.config).
ROW_RATES = {"adam": 30.0, "adagrad": 1.0, "rowwise-adagrad": 1.0, "sgd": 1.0}
