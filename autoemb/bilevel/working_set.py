"""The part of model and controller that a few batches need.

Tables are replaced by the distinct rows in play, so that whatever a trainer differentiates, copies
or updates has the size of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoemb.nn.rows import gather, in_play, row_tables
from autoemb.ops import Plan, distinct, distinct_columns, rows_of

#: (field, rows [U]) -> controller input [U, C]
Features = Callable[[int, Tensor], Tensor]


class Batch(NamedTuple):
    """Events whose ids are already row numbers.

    Attributes
    ----------
    ids : Tensor[B, F], int64
    target : Tensor[B]
    """

    ids: Tensor
    target: Tensor


class View(NamedTuple):
    """What a pass over one batch needs.

    Attributes
    ----------
    rows : list of F Tensor[U_f]
        Rows in play: the distinct ids of this batch and of those viewed with it, ascending.
    plans : list of F Plan
        Distinct ids of this batch.
    ids : Tensor[B, F]
    features : list of F Tensor[U_f, C]
        Controller input of each distinct id, or empty tensors where no controller reads it.
    target : Tensor[B]
    """

    rows: list[Tensor]
    plans: list[Plan]
    ids: Tensor
    features: list[Tensor]
    target: Tensor


class Functional:
    """A module as a function of its parameters, its tables cut down to the rows in play.

    Parameters
    ----------
    module : torch.nn.Module

    Raises
    ------
    ValueError
        For a frozen table.

    Attributes
    ----------
    tables : dict of str to Table
        By the name that a parameter of the module has.
    fields : dict of str to int
        The same names, and the field that indexes each table.

    Examples
    --------
    >>> from autoemb import SoftEmbedding
    >>> function = Functional(SoftEmbedding([1000, 500], (1, 2)))
    >>> sorted(function.dense), function.fields
    (['bias', 'projection'], {'table_0': 0, 'table_1': 1})
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.tables = row_tables(module)
        self.fields = {name: table.field for name, table in self.tables.items()}
        for name, table in self.tables.items():
            if not all(stored.requires_grad for stored in table.owner.stored(table.name)):
                raise ValueError(f"table {name} is frozen; a RowModule's tables are trained")
        kept = {id(p) for p in self.stored} | {id(module.get_parameter(n)) for n in self.tables}
        self._dense = {n: p for n, p in module.named_parameters() if id(p) not in kept}

    @property
    def stored(self) -> list[nn.Parameter]:
        """The parameters that hold the rows of all tables."""
        return [p for table in self.tables.values() for p in table.owner.stored(table.name)]

    @property
    def dense(self) -> dict[str, nn.Parameter]:
        """Parameters that are neither tables nor frozen."""
        return {name: p for name, p in self._dense.items() if p.requires_grad}

    def gather(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the tables' rows in play, detached."""
        return gather(self.tables, rows)

    def parameters(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return all parameters, the tables cut down to ``rows``, detached."""
        return {n: p.detach() for n, p in self.dense.items()} | self.gather(rows)

    def __call__(
        self,
        parameters: Mapping[str, Tensor],
        rows: Sequence[Tensor],
        *args: object,
        frozen: bool,
    ) -> Tensor:
        """Call the module with some parameters replaced, the tables by ``rows`` of them.

        ``frozen`` also replaces every buffer by a copy, so that running statistics stay as they
        are whatever the module does to them.
        """
        replaced = dict(parameters)
        if frozen:
            replaced |= {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        with in_play(self.module, rows):
            result: Tensor = functional_call(self.module, replaced, args)
        return result


def views_of(
    batches: Sequence[Batch], features: Features | None, num_rows: Sequence[int] | None = None
) -> list[View]:
    """View some batches over the rows that they need together.

    Parameters
    ----------
    batches : sequence of Batch
    features : callable, optional
        (field, rows [U]) -> controller input [U, C].
    num_rows : sequence of int, optional
        Of each field's tables. On a GPU an id beyond them is told by a later call; until then its
        event has no row of that field.

    Raises
    ------
    IndexError
        For an id beyond the tables; names the field.

    Examples
    --------
    >>> batches = [Batch(torch.tensor([[i, 5], [30, 5]]), torch.zeros(2)) for i in (70, 10)]
    >>> views = views_of(batches, None)
    >>> views[0].rows, views[0].plans[0].rows
    ([tensor([10, 30, 70]), tensor([5])], tensor([30, 70]))
    """
    if num_rows is not None:
        batches = [batch._replace(ids=rows_of(batch.ids, num_rows)) for batch in batches]
    plans = [distinct_columns(batch.ids) for batch in batches]
    rows = [plan.rows for plan in plans[0]]
    for others in plans[1:]:
        pairs = zip(rows, others, strict=True)
        rows = [distinct(torch.cat([mine, plan.rows])).rows for mine, plan in pairs]
    views = []
    for batch, own in zip(batches, plans, strict=True):
        inputs = [
            batch.ids.new_empty(0) if features is None else features(field, plan.rows)
            for field, plan in enumerate(own)
        ]
        views.append(View(rows, own, batch.ids, inputs, batch.target))
    return views
