"""What labels say of each id, event by event: sums that forget, and factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autoemb.batch import Bag
from autoemb.bilevel import Example
from autoemb.errors import UserError
from autoemb.nn.draws import Keys, normal_rows, salted
from autoemb.ops import pool
from autoemb.runtime import forgetting_sums, learn_factors
from autoemb.schema import Bag as BagFeature
from autoemb.schema import Sparse

#: Share of a forgetting sum that an event leaves: half of it is forgotten in 7 events.
DECAY = 0.9

#: Events without a word by which sums, and sums that forget, are shrunk: an input each.
SUM_STRENGTHS, RECENT_STRENGTHS = (1.0, 5.0, 25.0), (1.0, 5.0)

#: Factors of an id, the standard deviation that they start with, and how they learn. A step for
#: every event, not for every batch: a batch holds dozens of events of one user.
FACTORS, FACTOR_STD, FACTOR_RATE, FACTOR_PENALTY = 8, 0.1, 0.1, 0.02

#: What a label leaves counts at most so many times the usual: of rare clicks it is ten times that.
LARGEST = 3.0

#: Inputs are in units of a third of what labels leave, so that a network need not grow first.
SCALE = 3.0


class Traces:
    """Recent labels of each id, and factors whose products say what the sums leave.

    Parameters
    ----------
    reads : mapping of str to Sparse
        Features that a model reads, by name.
    channels : int
        C, numbers that are kept of a label.
    factored : bool
        Whether the last channel is one that factors can tell: a number, not one class of several.

    Attributes
    ----------
    recent : dict of str to Tensor[V, 1 + C], float32
        By table: events, and what labels left, of which each event of the id keeps :data:`DECAY`.
    factors : dict of str to Tensor[V, K], float32
        By table; drawn from the id. Bags have none.
    squares : Tensor[C], float64
        Of what sums left of all labels, and one event more whose squares are 1.

    Notes
    -----
    They stay on the CPU: factors learn from one event after the other.
    """

    def __init__(self, reads: Mapping[str, Sparse], channels: int, factored: bool) -> None:
        self.reads = dict(reads)
        tables = {feature.table for feature in reads.values()}
        self.recent = {table: torch.zeros(0, 1 + channels) for table in tables}
        self.factored = [
            name
            for name, feature in reads.items()
            if factored and not isinstance(feature, BagFeature)
        ]
        tables = {self.reads[name].table for name in self.factored}
        self.factors = {table: torch.zeros(0, FACTORS) for table in tables}
        self.squares = torch.ones(channels, dtype=torch.float64)

    @property
    def width(self) -> int:
        """T, the number of inputs that a feature gets."""
        columns = len(self.squares) * (len(SUM_STRENGTHS) + len(RECENT_STRENGTHS))
        return columns + bool(self.factored)

    def grow(self, num_rows: Mapping[str, int]) -> None:
        """Make room for so many ids of each table."""
        for kept in (self.recent, self.factors):
            for table, own in kept.items():
                missing = num_rows.get(table, 0) - len(own)
                if missing > 0:
                    kept[table] = torch.cat([own, own.new_zeros(missing, own.shape[1])])

    def begin(self, table: str, rows: Tensor, keys: Keys) -> None:
        """Draw the factors of ids that are new."""
        if table in self.factors:
            own = self.factors[table]
            drawn = normal_rows(salted(keys, "factors"), FACTORS, FACTOR_STD, own)
            own.index_copy_(0, rows, drawn)

    def inputs(
        self,
        example: Example,
        counts: Tensor,
        sums: Tensor,
        events: Tensor,
        last: Mapping[str, int] | None,
    ) -> Tensor:
        """Return what a network is told of each event's ids [B, F, T].

        Parameters
        ----------
        example : Example
        counts : Tensor[B, F]
            Events of the ids.
        sums : Tensor[B, F, C]
            What their labels left.
        events : Tensor[]
            How many there were, and one more.
        last : mapping of str to int, optional
            Rows from these on are of ids never seen.
        """
        unit = (SCALE / (self.squares / events).sqrt()).to(torch.float32)
        recent, weights = self._recent(example, last)
        parts = [sums * unit / (counts + k).unsqueeze(2) for k in SUM_STRENGTHS]
        parts += [recent * unit / (weights + k).unsqueeze(2) for k in RECENT_STRENGTHS]
        if self.factored:
            parts.append(SCALE * self._matches(example, counts, last).unsqueeze(2))
        return torch.cat(parts, 2)

    def _recent(self, example: Example, last: Mapping[str, int] | None) -> tuple[Tensor, Tensor]:
        """Return sums [B, F, C] and counts [B, F], both of which forget; of a bag, of all ids."""
        found = []
        for name, feature in self.reads.items():
            column = example.inputs.ids[name]
            rows = _rows(column, feature.table, last)
            own = self.recent[feature.table].index_select(0, rows)
            if isinstance(column, Bag):
                place = torch.arange(len(rows))
                own = pool(own, place, column.offsets, pooling="sum")
            found.append(own)
        recent = torch.stack(found, 1)
        return recent[:, :, 1:], recent[:, :, 0]

    def _matches(self, example: Example, counts: Tensor, last: Mapping[str, int] | None) -> Tensor:
        """Return the product of each id's factors with those of the event's others [B, F].

        Those of an id without events say nothing.
        """
        own = counts.new_zeros(*counts.shape, FACTORS)
        for number, (name, feature) in enumerate(self.reads.items()):
            if name in self.factored:
                column = example.inputs.ids[name]
                assert isinstance(column, Tensor)
                rows = _rows(column, feature.table, last)
                found = self.factors[feature.table].index_select(0, rows)
                own[:, number] = found * (counts[:, number] > 0).unsqueeze(1)
        return (own * (own.sum(1, keepdim=True) - own)).sum(2)

    def add(self, table: str, rows: Tensor, left: Tensor) -> None:
        """Take in what labels left [L, C] of rows [L], entry by entry in their order."""
        counted = torch.cat([torch.ones(len(left), 1), left], 1)
        forgetting_sums(rows.numpy(), counted.numpy(), DECAY, self.recent[table].numpy())

    def learn(self, example: Example, left: Tensor, events: Tensor) -> None:
        """Let factors learn what all sums left of the labels [B, C] of a batch.

        Parameters
        ----------
        example : Example
        left : Tensor[B, C]
        events : Tensor[]
            How many there were before, and one more.
        """
        if self.factored:
            unit = math.sqrt(float(self.squares[-1] / events))
            columns = [example.inputs.ids[name] for name in self.factored]
            weight = left.new_ones(len(left)) if example.weight is None else example.weight
            learn_factors(
                [self.factors[self.reads[name].table].numpy() for name in self.factored],
                [rows.numpy() for rows in columns],  # type: ignore[union-attr]
                (left[:, -1] / unit).clamp(-LARGEST, LARGEST).numpy(),
                weight.numpy(),
                FACTOR_RATE / max(1, len(columns) - 1),  # each is moved by all the others
                FACTOR_PENALTY,
            )
        self.squares += left.to(torch.float64).square().sum(0)

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as nested dicts of tensors."""
        return {
            "recent": dict(self.recent),
            "factors": dict(self.factors),
            "squares": self.squares,
        }

    def load_state_dict(self, state: Mapping[str, Any], num_rows: Mapping[str, int]) -> None:
        """Restore :meth:`state_dict`.

        Raises
        ------
        UserError
            For values of another kind, or not of every id.
        """
        for kept, found in ((self.recent, state["recent"]), (self.factors, state["factors"])):
            for table, own in kept.items():
                value, wanted = found[table], (num_rows[table], own.shape[1])
                if value.shape != wanted or value.dtype != own.dtype:
                    raise UserError(
                        f"traces of table {table!r} are {value.dtype} {[*value.shape]}; expected "
                        f"{own.dtype} {[*wanted]}"
                    )
        if state["squares"].shape != self.squares.shape:
            raise UserError(
                f"traces have {[*state['squares'].shape]} squares; expected {[*self.squares.shape]}"
            )
        self.recent = {table: state["recent"][table].clone() for table in self.recent}
        self.factors = {table: state["factors"][table].clone() for table in self.factors}
        self.squares = state["squares"].to(torch.float64, copy=True)


def _rows(column: Tensor | Bag, table: str, last: Mapping[str, int] | None) -> Tensor:
    """Return a feature's rows; those of ids never seen as the row of which nothing is known."""
    rows = column.values if isinstance(column, Bag) else column
    found: Tensor = rows if last is None else rows.clamp_max(last[table])
    return found
