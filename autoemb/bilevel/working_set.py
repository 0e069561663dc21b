"""The part of model and controller that a few batches need.

Tables are replaced by the distinct rows in play and ids renumbered to match, so that whatever a
trainer differentiates, copies or updates has the size of a batch. What is renumbered is one field
at a time: a field without row parameters (:mod:`autoemb.rows`) keeps its ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoemb.ops import Plan, distinct
from autoemb.rows import gather, row_parameters

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
    """One batch as the working set numbers it.

    Attributes
    ----------
    plans : list of F Plan
        Distinct ids of the batch; ``rows`` are positions in the working set.
    ids : Tensor[B, F]
        Row numbers of the batch for the model.
    features : list of F Tensor[U_f, C]
        Controller input of each distinct id, or empty tensors where no controller reads it.
    target : Tensor[B]
    """

    plans: list[Plan]
    ids: Tensor
    features: list[Tensor]
    target: Tensor


class WorkingSet(NamedTuple):
    """Distinct rows [U_f] of each field over all batches, and a view of every batch."""

    rows: list[Tensor]
    views: list[View]


class Functional:
    """A module as a function of its parameters, its tables cut down to the rows in play.

    Parameters
    ----------
    module : torch.nn.Module

    Attributes
    ----------
    dense : dict of str to torch.nn.Parameter
        Parameters that are not tables.
    fields : dict of str to int
        Row parameters and the field that indexes each.

    Examples
    --------
    >>> from autoemb import SoftEmbedding
    >>> function = Functional(SoftEmbedding([1000, 500], (1, 2)))
    >>> sorted(function.dense), function.fields
    (['bias', 'projection'], {'table_0': 0, 'table_1': 1})
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.fields = row_parameters(module)
        self.dense = {n: p for n, p in module.named_parameters() if n not in self.fields}

    def gather(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the tables' rows in play, detached."""
        return gather(self.module, self.fields, rows)

    def parameters(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return all parameters, the tables cut down to ``rows``, detached."""
        return {n: p.detach() for n, p in self.dense.items()} | self.gather(rows)

    def __call__(self, parameters: Mapping[str, Tensor], *args: object, frozen: bool) -> Tensor:
        """Call the module with some parameters replaced.

        ``frozen`` also replaces every buffer by a copy, so that running statistics stay as they
        are whatever the module does to them.
        """
        replaced = dict(parameters)
        if frozen:
            replaced |= {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        result: Tensor = functional_call(self.module, replaced, args)
        return result


def working_set(
    batches: Sequence[Batch], renumbered: frozenset[int], features: Features | None
) -> WorkingSet:
    """Number the distinct ids of some batches and view each batch in these numbers.

    Parameters
    ----------
    batches : sequence of Batch
    renumbered : frozenset of int
        Fields whose ids the model finds in replaced tables; others keep their ids.
    features : callable, optional
        (field, rows [U]) -> controller input [U, C].

    Examples
    --------
    >>> batch = Batch(torch.tensor([[70, 5], [30, 5]]), torch.zeros(2))
    >>> used = working_set([batch], frozenset({0, 1}), None)
    >>> used.rows, used.views[0].ids.tolist()
    ([tensor([30, 70]), tensor([5])], [[1, 0], [0, 0]])
    """
    lengths = [len(batch.ids) for batch in batches]
    unions = [distinct(column) for column in torch.cat([b.ids for b in batches]).unbind(1)]
    positions = [torch.split(union.inverse, lengths) for union in unions]
    views = []
    for index, batch in enumerate(batches):
        plans = [
            Plan(torch.arange(len(union.rows), device=union.rows.device), *union[1:])
            if len(batches) == 1
            else distinct(positions[field][index])
            for field, union in enumerate(unions)
        ]
        ids = torch.stack(
            [
                positions[field][index] if field in renumbered else batch.ids[:, field]
                for field in range(len(unions))
            ],
            1,
        )
        inputs = [
            ids.new_empty(0) if features is None else features(field, union.rows[plan.rows])
            for field, (union, plan) in enumerate(zip(unions, plans, strict=True))
        ]
        views.append(View(plans, ids, inputs, batch.target))
    return WorkingSet([union.rows for union in unions], views)
