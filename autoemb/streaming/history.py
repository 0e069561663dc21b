"""What the controller is told of each id: how often it was seen; how well it went, and its mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autoemb.batch import Bag
from autoemb.bilevel import BilevelTrainer, Example, Outcome
from autoemb.errors import UserError
from autoemb.ops import Plan, count_events, distinct, fill_padding, record
from autoemb.schema import Sparse

#: Octaves of popularity that the encoding tells apart; 2^31 events fill the last.
POPULARITY_WIDTH = 32

#: Share of the old value in the moving-average loss: half of it is forgotten in 7 events.
LOSS_DECAY = 0.9


def popularity_bucket(count: Tensor) -> Tensor:
    """Return the octave of popularity: 0 for no events, 1 for 1 and 2, 2 for 3 to 6, ...

    Examples
    --------
    >>> popularity_bucket(torch.tensor([0, 1, 2, 3, 6, 7]))
    tensor([0, 1, 1, 2, 2, 3])
    """
    bucket = torch.log2(1 + count.to(torch.float64)).long()
    return bucket.clamp_max(POPULARITY_WIDTH - 1)


def encode_popularity(count: Tensor) -> Tensor:
    """Return a 32-wide encoding of log2(1 + count), piecewise linear between octaves.

    Component k is max(0, 1 - abs(log2(1 + count) - k)): two neighbours share a sum of 1, so the
    encoding is continuous in popularity and knows no preset maximum below 2^31 events.

    Examples
    --------
    >>> encode_popularity(torch.tensor([0, 2]))[:, :3]
    tensor([[1.0000, 0.0000, 0.0000],
            [0.0000, 0.4150, 0.5850]])
    """
    octave = torch.log2(1 + count.to(torch.float64)).clamp_max(POPULARITY_WIDTH - 1)
    centres = torch.arange(POPULARITY_WIDTH, dtype=octave.dtype, device=octave.device)
    return (1 - (octave.unsqueeze(1) - centres).abs()).clamp_min(0).to(torch.float32)


#: Logit of the widest size that a prior gives an id never seen, what it adds for every octave of
#: popularity, and the most that it gives. With three sizes the widest then starts with 0.58 of the
#: mix and has 0.94 from 63 events on.
PRIOR_LOGIT, PRIOR_SLOPE, PRIOR_LARGEST = 1.0, 0.4, 3.4


class TableHistory:
    """The history of one table's ids, row by row.

    Attributes
    ----------
    count : Tensor[V], int32, or int64 beside losses
        Events of the id.
    last_loss, mean_loss : Tensor[V], float32
        Of its last event, and a moving average; with ``losses`` alone.
    mix : Tensor[V, N], float32
        Last given to it; with ``losses`` alone.
    """

    def __init__(self, sizes: int, device: torch.device, losses: bool) -> None:
        kind = torch.int64 if losses else torch.int32
        self.count = torch.zeros(0, dtype=kind, device=device)
        if losses:
            self.last_loss = torch.zeros(0, dtype=torch.float32, device=device)
            self.mean_loss = torch.zeros(0, dtype=torch.float32, device=device)
            self.mix = torch.zeros(0, sizes, dtype=torch.float32, device=device)

    @property
    def row_bytes(self) -> int:
        """Bytes of one id."""
        return sum(value[:1].nbytes for value in vars(self).values())

    def grow(self, rows: int) -> None:
        """Make room for so many ids."""
        missing = rows - len(self.count)
        if missing <= 0:
            return
        for name, value in vars(self).items():
            fill = 1 / value.shape[1] if name == "mix" else 0
            new = value.new_full((missing, *value.shape[1:]), fill)
            setattr(self, name, torch.cat([value, new]))


class History:
    """What is known of the ids of some tables, and the controller's input made from it.

    Parameters
    ----------
    tables : sequence of str
    sizes : int
        N, the number of embedding sizes.
    losses : bool, default True
        Keep losses and mixes, too, as the paper does: 24 bytes an id more with three sizes.
    device : torch.device or str, default "cpu"
        Where the history is kept. Only :meth:`grow` and :meth:`load_state_dict` put it elsewhere
        in memory, so that a CUDA graph can hold the rest.

    Attributes
    ----------
    tables : dict of str to TableHistory

    Examples
    --------
    >>> import torch
    >>> from autoemb.ops import distinct
    >>> history = History(["user_id"], sizes=2)
    >>> history.grow({"user_id": 4})
    >>> history.record("user_id", distinct(torch.tensor([3, 3])), torch.tensor([0.5, 0.1]))
    >>> history.count("user_id", torch.tensor([3, 0]))
    tensor([2, 0])
    >>> history.features({"user_id": torch.tensor([3])})["user_id"].shape, history.num_features
    (torch.Size([1, 37]), 37)
    """

    def __init__(
        self,
        tables: Sequence[str],
        sizes: int,
        device: torch.device | str = "cpu",
        *,
        losses: bool = True,
    ) -> None:
        where = torch.device(device)
        self.tables = {table: TableHistory(sizes, where, losses) for table in tables}
        self.sizes, self.losses = sizes, losses
        self.num_features = POPULARITY_WIDTH + (sizes + 3 if losses else 0)

    def grow(self, num_rows: Mapping[str, int]) -> None:
        """Make room for so many ids of each table."""
        for table, history in self.tables.items():
            history.grow(num_rows.get(table, 0))

    def check(self, trainer: BilevelTrainer) -> None:
        """Check that this is a history of a trainer's tables.

        Raises
        ------
        ValueError
            For a table that is missing, or a mix of other sizes than the controller gives.
        """
        missing = [table for table in trainer.tables if table not in self.tables]
        if missing:
            known = ", ".join(self.tables) or "none"
            raise ValueError(f"the history has no table {missing[0]!r}; it has {known}")
        if trainer.controller is None:
            return
        sizes = getattr(trainer.controller.function.module, "sizes", None)
        if sizes not in (None, self.sizes):
            raise ValueError(
                f"the history keeps a mix of {self.sizes} sizes; the controller gives {sizes}"
            )

    def count(self, table: str, rows: Tensor) -> Tensor:
        """Return the popularity [U] of rows: how many of their events were recorded."""
        return self.tables[table].count.index_select(0, rows).long()

    def features(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the controller's input [U, C] of rows [U] by table.

        Popularity encoding (32); with losses the mix last given (N), the last loss, log(1 + count)
        and the moving-average loss, too.
        """
        found = [
            [value.index_select(0, own) for value in vars(self.tables[table]).values()]
            for table, own in rows.items()
        ]
        # Encoded together: thirty tables cost little more than one.
        count, *others = (torch.cat(parts) for parts in zip(*found, strict=True))
        features = encode_popularity(count)
        if self.losses:
            last_loss, mean_loss, mix = others
            scalars = torch.stack([last_loss, torch.log1p(count.to(torch.float32)), mean_loss], 1)
            features = torch.cat([features, mix, scalars], 1)
        parts = features.split_with_sizes([len(own) for own in rows.values()])
        return dict(zip(rows, parts, strict=True))

    def popularity_prior(self) -> Tensor:
        """Return logits [C, N] by feature: the widest size's rises with popularity.

        What :class:`autoemb.Controller` takes as ``prior``. As the encoding of popularity is
        piecewise linear, so is the logit, in log2(1 + count).

        Examples
        --------
        >>> from autoemb.ops import distinct
        >>> history = History(["user_id"], sizes=2)
        >>> history.grow({"user_id": 2})
        >>> seen = distinct(torch.zeros(7, dtype=torch.int64))
        >>> history.record("user_id", seen, torch.zeros(7))
        >>> features = history.features({"user_id": torch.tensor([1, 0])})["user_id"]
        >>> features @ history.popularity_prior()
        tensor([[0.0000, 1.0000],
                [0.0000, 2.2000]])
        """
        octaves = torch.arange(POPULARITY_WIDTH)
        prior = torch.zeros(self.num_features, self.sizes)
        prior[:POPULARITY_WIDTH, -1] = (PRIOR_LOGIT + PRIOR_SLOPE * octaves).clamp_max(
            PRIOR_LARGEST
        )
        return prior

    def record(self, table: str, plan: Plan, losses: Tensor) -> None:
        """Take in the events of a batch, one by one.

        Parameters
        ----------
        table : str
        plan : Plan
            Ids of the table that the events hold.
        losses : Tensor[B]
            Of each event; not read where no losses are kept.

        Raises
        ------
        IndexError
            For an id never grown to, before anything is recorded; on a GPU a later call raises it.
        """
        own = self.tables[table]
        if not self.losses:
            count_events(plan, own.count)
            return
        losses = losses.to(torch.float32)
        record(plan, losses, LOSS_DECAY, own.count, own.last_loss, own.mean_loss)

    def give(self, table: str, plan: Plan, mix: Tensor) -> None:
        """Note the mix [U, N] that the ids of a plan were given."""
        given = fill_padding(plan.rows, mix.to(torch.float32))
        self.tables[table].mix.index_copy_(0, plan.rows, given)

    def popularity(self, reads: Mapping[str, Sparse], outcome: Outcome) -> dict[str, Tensor]:
        """Return how many events of each event's id were recorded [B], by sparse feature."""
        found = {}
        for name, places in outcome.places.items():
            table = reads[name].table
            counts = self.count(table, outcome.plans[table].rows)
            found[name] = counts.index_select(0, places)
        return found

    def take_in(self, reads: Mapping[str, Sparse], example: Example, outcome: Outcome) -> None:
        """Record a batch that was predicted.

        Each time that an event holds an id is an event of that id, in whichever features that
        count, in the order of the events; within one, in the order of the features.

        Parameters
        ----------
        reads : mapping of str to Sparse
            Features that the model reads, by name.
        example : Example
        outcome : Outcome
        """
        readers: dict[str, list[Sparse]] = {}
        for feature in reads.values():
            readers.setdefault(feature.table, []).append(feature)
        for table, features in readers.items():
            plan = outcome.plans[table]
            columns = [example.inputs.ids[f.column] for f in features if f.counts]
            if len(features) == len(columns) == 1 and not isinstance(columns[0], Bag):
                self.record(table, plan, outcome.losses)
            elif columns:
                ids, events = _by_event(columns)
                self.record(table, distinct(ids), outcome.losses.index_select(0, events))
            if self.losses and outcome.mix is not None and table in outcome.mix:
                self.give(table, plan, outcome.mix[table])

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as nested dicts of tensors."""
        return {table: dict(vars(history)) for table, history in self.tables.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        Raises
        ------
        UserError
            For values of another kind, or not one for each id.
        """
        for table, history in self.tables.items():
            rows = len(state[table]["count"])
            for name, own in vars(history).items():
                value = state[table][name]
                if value.dtype != own.dtype or value.shape != (rows, *own.shape[1:]):
                    raise UserError(
                        f"history of table {table!r}: {name} is {value.dtype} {[*value.shape]}; "
                        f"expected {own.dtype} {[rows, *own.shape[1:]]}"
                    )
        for table, history in self.tables.items():
            for name, own in vars(history).items():
                setattr(history, name, state[table][name].to(own.device, copy=True))


def _by_event(columns: Sequence[Tensor | Bag]) -> tuple[Tensor, Tensor]:
    """Return all ids of some features [L] and the events that hold them [L], event by event."""
    ids, events = [], []
    for column in columns:
        values = column.values if isinstance(column, Bag) else column
        if isinstance(column, Bag):
            number = torch.arange(len(column.offsets) - 1, device=values.device)
            lengths = column.offsets.diff()
            number = number.repeat_interleave(lengths, output_size=len(values))
        else:
            number = torch.arange(len(values), device=values.device)
        ids.append(values)
        events.append(number)
    if len(columns) == 1:
        return ids[0], events[0]
    order = torch.argsort(torch.cat(events), stable=True)
    return torch.cat(ids).index_select(0, order), torch.cat(events).index_select(0, order)
