"""One level of the bilevel problem: a module and the optimisers of its parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoemb.bilevel.lock import Lock
from autoemb.bilevel.working_set import Functional
from autoemb.optim import OPTIMIZERS, RowOptimizer

#: Parameters -> an optimiser of them.
MakeOptimizer = Callable[[Sequence[Tensor]], torch.optim.Optimizer]

#: An optimiser -> a schedule of its learning rate.
MakeSchedule = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


@dataclass(frozen=True)
class Updating:
    """How the parameters of one level are updated.

    Attributes
    ----------
    optimizer : str
        Of rows, and of dense parameters where ``dense`` is not given.
    learning_rate : float
    row_rate : float
        Learning rate of rows, as a multiple.
    row_weight_decay : float, default 0.0
        L2 penalty of the rows in play.
    dense : callable, optional
        Dense parameters -> torch.optim.Optimizer of your own.
    schedule : callable, optional
        Optimiser of the dense parameters -> learning rate schedule; stepped after every update.
    max_grad_norm : float, optional
        The dense gradients are scaled down to this norm together.
    """

    optimizer: str
    learning_rate: float
    row_rate: float
    row_weight_decay: float = 0.0
    dense: MakeOptimizer | None = None
    schedule: MakeSchedule | None = None
    max_grad_norm: float | None = None


class Change(NamedTuple):
    """What one level is to change, computed and not yet applied.

    Attributes
    ----------
    grads : mapping of str to Tensor
        Of dense parameters and of the rows in play.
    rows : mapping of str to Tensor
        Rows in play by table.
    """

    grads: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]


class Part:
    """A module with the optimisers of its dense and row parameters."""

    def __init__(self, module: nn.Module, updating: Updating, lock: Lock) -> None:
        self.function = Functional(module, lock)
        self.max_grad_norm = updating.max_grad_norm
        self.dense_optimizer: torch.optim.Optimizer | None = None
        self.row_optimizer: RowOptimizer | None = None
        self.schedule: torch.optim.lr_scheduler.LRScheduler | None = None
        kind, rate = OPTIMIZERS[updating.optimizer], updating.learning_rate
        if self.function.dense:
            parameters: list[Tensor] = [*self.function.dense.values()]
            if updating.dense is None:
                self.dense_optimizer = kind.dense(parameters, rate)
            else:
                self.dense_optimizer = updating.dense(parameters)
            if updating.schedule is not None:
                self.schedule = updating.schedule(self.dense_optimizer)
        if stored := self.function.stored:
            self.row_optimizer = kind.rows(
                stored, lr=rate * updating.row_rate, weight_decay=updating.row_weight_decay
            )

    @torch.no_grad()
    def keep(self, buffers: Mapping[str, Tensor]) -> None:
        """Take over buffers as a pass left them."""
        for name, buffer in self.function.buffers.items() if buffers else ():
            buffer.copy_(buffers[name])

    def apply(self, change: Change) -> None:
        """Step with gradients of dense parameters and of the rows in play."""
        if self.dense_optimizer is not None:
            dense = self.function.dense
            for name, parameter in dense.items():
                parameter.grad = change.grads[name]
            if self.max_grad_norm is not None:
                nn.utils.clip_grad_norm_([*dense.values()], self.max_grad_norm)
            self.dense_optimizer.step()
            for parameter in dense.values():
                parameter.grad = None
            if self.schedule is not None:
                self.schedule.step()
        if self.row_optimizer is not None:
            for name, row in self.function.rows.items():
                update = self.row_optimizer.update
                row.owner.update_rows(row.name, change.rows[row.table], change.grads[name], update)

    def before(self, rows: Mapping[str, Tensor]) -> Callable[[], None]:
        """Return what takes back all that :meth:`apply` will change, for these rows in play."""
        dense = {name: p.detach().clone() for name, p in self.function.dense.items()}
        states = {
            name: copy.deepcopy(part.state_dict())
            for name, part in self._states().items()
            if name != "rows"
        }
        puts: list[Callable[[], object]] = []

        def note(parameter: nn.Parameter, own: Tensor, values: Tensor) -> None:
            puts.append(partial(parameter.detach().index_copy_, 0, own, values))
            if self.row_optimizer is not None:
                puts.append(self.row_optimizer.before(parameter, own))

        gathered = self.function.gather(rows)
        for name, row in self.function.rows.items():
            row.owner.update_rows(row.name, rows[row.table], gathered[name], note)

        def put_back() -> None:
            with torch.no_grad():
                for name, value in dense.items():
                    self.function.dense[name].copy_(value)
            for name, state in states.items():
                self._states()[name].load_state_dict(state)
            for put in puts:
                put()

        return put_back

    def _states(self) -> dict[str, Any]:
        parts = {
            "dense": self.dense_optimizer,
            "rows": self.row_optimizer,
            "schedule": self.schedule,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, buffers and optimiser state."""
        states = {name: part.state_dict() for name, part in self._states().items()}
        return {"module": self.function.module.state_dict()} | states

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.function.module.load_state_dict(state["module"])
        for name, part in self._states().items():
            part.load_state_dict(state[name])
