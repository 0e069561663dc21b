"""What an optimiser is: a rule for the rows that a batch used, one for dense parameters, rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autoemb.ops import updates
from autoemb.ops.checks import expect


class Rates(NamedTuple):
    """Learning rates that a recipe takes where it is given none.

    Attributes
    ----------
    learning_rate : float
        Of the weights.
    controller_learning_rate : float
    row_rate : float
        Of the rows of tables, as a multiple of these.
    """

    learning_rate: float
    controller_learning_rate: float
    row_rate: float


@dataclass(frozen=True)
class OptimizerKind:
    """All that is to be known of one optimiser.

    Attributes
    ----------
    name : str
        As in recipes and on the command line.
    rows : callable
        ``rows(params, lr=0.01, weight_decay=0.0)``: a class derived from :class:`RowOptimizer`.
    dense : callable
        ``dense(params, lr)`` -> torch.optim.Optimizer, of the same rule where there is one, whose
        steps may be replayed as a CUDA graph.
    rates : Rates
        Of the default recipe with this optimiser.
    op : str or None, default None
        The registered op of the row rule, ``torch.ops.autoemb.<op>``, behind which its kernels
        are; None for a rule in plain PyTorch.

    Examples
    --------
    >>> import torch
    >>> from autoemb.optim import OPTIMIZERS
    >>> kind = OPTIMIZERS["sgd"]
    >>> table, bias = (torch.nn.Parameter(torch.zeros(4, 2)) for _ in range(2))
    >>> kind.rows([table], lr=0.1, weight_decay=0.01).update(
    ...     table, torch.tensor([2]), torch.ones(1, 2)
    ... )
    >>> type(kind.dense([bias], 0.1)).__name__, kind.rates.row_rate, kind.op
    ('SGD', 300.0, 'update_sgd')
    """

    name: str
    rows: Callable[..., RowOptimizer]
    dense: Callable[[Sequence[Tensor], float], torch.optim.Optimizer]
    rates: Rates
    op: str | None = None


class RowOptimizer(torch.optim.Optimizer):
    """Base of the row-sparse optimisers.

    Use either :meth:`step` after ``backward`` with sparse gradients
    (``SoftEmbedding(sparse=True)``, ``torch.nn.Embedding(sparse=True)``), or :meth:`update` with
    rows gathered by hand. Cost and memory of an update depend on the rows in it, never on the
    table. Tables may grow between updates; the state follows.

    Parameters
    ----------
    params : iterable of torch.nn.Parameter, or of groups of them
    defaults : dict
        Hyperparameters of groups that name none of their own, ``lr`` and ``weight_decay`` among
        them. ``weight_decay`` times a row is added to its gradient at each of its own updates;
        rows out of play do not decay.

    Raises
    ------
    ValueError
        For a hyperparameter that is no number from 0.
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
        """Change rows [U] of the table [V, ...] and of its state in place.

        A CUDA graph replays it: no value may reach the host, no shape may depend on data.
        """
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with hyperparameters of their own."""
        _check_numbers(self.defaults | param_group, self.defaults)
        super().add_param_group(param_group)

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
            If the table is not one of the optimiser's parameters, or for gradients of other shape.
        RuntimeError
            For row numbers of another dtype.
        IndexError
            For a row that the table has not. Where CUDA kernels look, a later call raises it.
        """
        groups = [g for g in self.param_groups if any(p is table for p in g["params"])]
        if not groups:
            raise ValueError(f"table of shape {list(table.shape)} is none of the parameters")
        expect("rows", rows, table.device, torch.int64, (len(rows),))
        expect("grad", grad, table.device, grad.dtype, (len(rows), *table.shape[1:]))
        if decay := groups[0]["weight_decay"]:
            grad = updates.decayed(table, rows, grad, decay)
        self.update_rows(table, rows, grad, self._state_of(table), groups[0])

    @torch.no_grad()
    def reset(self, table: Tensor, rows: Tensor) -> None:
        """Forget what is kept of rows [U] of a parameter: they belong to other ids from now on.

        Examples
        --------
        >>> from autoemb.optim import RowAdam
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

    @torch.no_grad()
    def kept(self, table: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Return copies of what is kept of rows [U] of a parameter."""
        return {name: value[rows] for name, value in self._state_of(table).items()}

    @torch.no_grad()
    def carry(self, table: Tensor, rows: Tensor, kept: dict[str, Tensor]) -> None:
        """Keep of rows [U] what :meth:`kept` tells of rows of another width, as far as both reach.

        Examples
        --------
        >>> from autoemb.optim import RowAdagrad
        >>> narrow, wide = (torch.nn.Parameter(torch.zeros(4, width)) for width in (1, 2))
        >>> optimizer = RowAdagrad([narrow, wide])
        >>> optimizer.update(narrow, torch.tensor([2]), torch.tensor([[3.0]]))
        >>> kept = optimizer.kept(narrow, torch.tensor([2]))
        >>> optimizer.carry(wide, torch.tensor([0]), kept)
        >>> optimizer.state[wide]["sum"][0]
        tensor([9., 0.])
        """
        state = self._state_of(table)
        for name, value in kept.items():
            width = min(state[name].shape[1], value.shape[1])
            state[name][rows, :width] = value[:, :width]

    def before(self, table: Tensor, rows: Tensor) -> Callable[[], None]:
        """Return what puts back all that is kept of rows [U] of a parameter now.

        Examples
        --------
        >>> from autoemb.optim import RowAdam
        >>> table = torch.nn.Parameter(torch.zeros(4, 2))
        >>> optimizer = RowAdam([table])
        >>> put_back = optimizer.before(table, torch.tensor([2]))
        >>> optimizer.update(table, torch.tensor([2]), torch.ones(1, 2))
        >>> put_back()
        >>> optimizer.state_dict()["state"]
        {}
        """
        state = self.state.get(table, {})
        have = len(next(iter(state.values()))) if state else 0
        rows = rows[rows < have]
        values = {name: value[rows] for name, value in state.items()}

        def put_back() -> None:
            if have == 0:
                self.state.pop(table, None)
            for name, value in values.items():
                whole = self.state[table][name][:have]
                whole[rows] = value
                self.state[table][name] = whole

        return put_back

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state_dict, wherever its tensors lie; a table may have grown since.

        Raises
        ------
        ValueError
            For a state of other tables or of another optimiser; names what differs. Nothing has
            changed then.
        """
        self._check_state_dict(state_dict)
        super().load_state_dict(state_dict)
        for table, state in self.state.items():
            state.update({name: value.to(table.device) for name, value in state.items()})

    def _check_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups = state_dict["param_groups"]
        have, given = ([len(g["params"]) for g in gs] for gs in (self.param_groups, groups))
        if have != given:
            raise ValueError(f"state is of groups of {given} parameters; expected {have}")
        tables: dict[Any, Tensor] = {}
        for own, group in zip(self.param_groups, groups, strict=True):
            if missing := sorted(self.defaults.keys() - group):
                raise ValueError(f"state has no {missing[0]}; expected {type(self).__name__}'s")
            _check_numbers(group, self.defaults)
            tables |= zip(group["params"], own["params"], strict=True)
        for key, state in state_dict["state"].items():
            if key not in tables:
                raise ValueError(f"state is of parameter {key}; expected one of {[*tables]}")
            self._check_state(f"state of parameter {key}", tables[key], state)

    def _check_state(self, what: str, table: Tensor, state: dict[str, Tensor]) -> None:
        expected = self.init_state(table, 0)
        if state.keys() != expected.keys():
            raise ValueError(f"{what} holds {sorted(state)}; expected {sorted(expected)}")
        lengths = {len(value) if value.dim() else -1 for value in state.values()}
        rows = max(lengths, default=0)
        for name, value in state.items():
            kind = expected[name].is_floating_point()
            if value.shape[1:] != expected[name].shape[1:] or len(lengths) > 1 or rows < 0:
                shape = [len(table), *expected[name].shape[1:]]
                raise ValueError(f"{what}: {name} is of shape {[*value.shape]}; expected {shape}")
            if value.is_floating_point() != kind:
                raise ValueError(
                    f"{what}: {name} is of {value.dtype}; expected {expected[name].dtype}"
                )
        if rows > len(table):
            raise ValueError(f"{what} is of {rows} rows; expected at most {len(table)}")

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


def one_per_row(table: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """Return zeros [rows, 1, ...] that broadcast against rows of the table."""
    return torch.zeros(rows, *(1 for _ in table.shape[1:]), dtype=dtype, device=table.device)


def _check_numbers(group: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        given = group[name]
        numbers, end, expected = (given,), float("inf"), "a number from 0"
        if name == "betas":
            numbers, end, expected = given, 1, "numbers in [0, 1)"
        if not all(isinstance(number, int | float) and 0 <= number < end for number in numbers):
            raise ValueError(f"{name} is {given}; expected {expected}")
