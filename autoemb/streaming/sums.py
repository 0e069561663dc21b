"""What labels say of each id: sums of what they left over all that was known before them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autoemb.batch import Bag
from autoemb.bilevel import Example
from autoemb.errors import UserError
from autoemb.nn.inputs import Known
from autoemb.ops import pool
from autoemb.schema import Sparse
from autoemb.streaming.history import History
from autoemb.tasks import Task

#: Events without a word that an id may be taken to have had; with the last, nothing is known of it.
STRENGTHS = (1.0, 2.0, 5.0, 10.0, 25.0, 100.0, float("inf"))

#: What is kept of no id.
_WHOLE = ("total", "events", "errors")


class Sums:
    """Sums of labels by id, and their mean: what a model may know beside its rows.

    A label is split: what it leaves over the mean of all labels and over the shrunken offsets of
    the event's other features goes to the id of a feature. How much a feature's offsets are shrunk
    is what would have lost least so far, each label before it was known. All events count alike,
    whatever their weights.

    Parameters
    ----------
    reads : mapping of str to Sparse
        Features that a model reads, by name.
    task : Task
    device : torch.device or str, default "cpu"

    Attributes
    ----------
    tables : dict of str to Tensor[V, C], float32
        By table; C is the width of the task's output.
    total : Tensor[C], float64
        Of all labels, and one event more that has the task's starting value.
    events : Tensor[], float64
        How many they are.
    errors : Tensor[F, K], float64
        Loss of all events so far with each feature's offsets shrunk by each strength.
    """

    def __init__(
        self, reads: Mapping[str, Sparse], task: Task, device: torch.device | str = "cpu"
    ) -> None:
        self.reads, self.task = dict(reads), task
        width = task.outputs
        self.tables = {
            feature.table: torch.zeros(0, width, device=device) for feature in reads.values()
        }
        self.total = torch.full((width,), task.start, dtype=torch.float64, device=device)
        self.events = torch.ones((), dtype=torch.float64, device=device)
        self.strengths = torch.tensor(STRENGTHS, device=device)
        shape = len(self.reads), len(STRENGTHS)
        self.errors = torch.zeros(shape, dtype=torch.float64, device=device)

    def grow(self, num_rows: Mapping[str, int]) -> None:
        """Make room for so many ids of each table."""
        for table, sums in self.tables.items():
            missing = num_rows.get(table, 0) - len(sums)
            if missing > 0:
                new = sums.new_zeros(missing, sums.shape[1])
                self.tables[table] = torch.cat([sums, new])

    def known(
        self, example: Example, history: History, last: Mapping[str, int] | None = None
    ) -> Example:
        """Return a batch that is told what is known of its ids.

        Parameters
        ----------
        example : Example
        history : History
            With the counts of the ids.
        last : mapping of str to int, optional
            Rows from these on are of ids never seen: nothing is known of them.
        """
        parts = [
            self._of(name, feature, example, history, last) for name, feature in self.reads.items()
        ]
        counts, sums = (torch.stack(part, 1) for part in zip(*parts, strict=True))
        mean = (self.total / self.events).to(torch.float32)
        strength = self.strengths[self.errors.argmin(1)]
        inputs = example.inputs._replace(known=Known(mean, counts.squeeze(2), sums, strength))
        return example._replace(inputs=inputs)

    def _of(
        self,
        name: str,
        feature: Sparse,
        example: Example,
        history: History,
        last: Mapping[str, int] | None,
    ) -> tuple[Tensor, Tensor]:
        """Return events [B, 1] and sums [B, C] of a feature's ids; of a bag, of all its ids."""
        column = example.inputs.ids[name]
        rows = column.values if isinstance(column, Bag) else column
        if last is not None:
            rows = rows.clamp_max(last[feature.table])
        count = history.count(feature.table, rows).to(torch.float32).unsqueeze(1)
        sums = self.tables[feature.table].index_select(0, rows)
        if not isinstance(column, Bag):
            return count, sums
        both = torch.cat([count, sums], 1)
        place = torch.arange(len(rows), device=rows.device)
        both = pool(both, place, column.offsets, pooling="sum")
        return both[:, :1], both[:, 1:]

    def take_in(self, example: Example, history: History) -> None:
        """Add the labels of a batch that was predicted with what :meth:`known` told of it.

        Feature by feature: what one has taken of a label is not left for the next, or thirty would
        each take all of it.

        Parameters
        ----------
        example : Example
        history : History
            With the batch in its counts.
        """
        known = example.inputs.known
        assert known is not None
        self.errors += self._losses(known, example.label)
        measured = self.task.measured(example.label)
        offsets = known.offsets()
        for number, (name, feature) in enumerate(self.reads.items()):
            if not feature.counts:
                continue
            offsets[:, number].zero_()
            left = measured - self.task.expected(known.mean, offsets)
            rows, events = _entries(example.inputs.ids[name])
            own = left if events is None else left.index_select(0, events)
            # Unlike index_add it sums in one order on a GPU, too.
            self.tables[feature.table].index_put_((rows,), own, accumulate=True)
            count, sums = self._of(name, feature, example, history, None)
            offsets[:, number] = sums / (count + known.strength[number])
        self.total += measured.sum(0)
        self.events += len(measured)

    def _losses(self, known: Known, label: Tensor) -> Tensor:
        """Return the loss of a batch [F, K] with each feature's offsets shrunk by each strength."""
        events, features, width = known.sums.shape
        tried = len(self.strengths)
        found = []
        for number in range(features):
            offsets = known.offsets().repeat(tried, 1, 1)  # [K B, F, C]
            shrunk = known.events[:, number] + self.strengths[:, None]  # [K, B]
            own = known.sums[:, number] / shrunk.unsqueeze(2)
            offsets[:, number] = own.view(tried * events, width)
            losses = self.task.loss(self.task.expecting(known.mean, offsets), label.repeat(tried))
            found.append(losses.view(tried, events).sum(1, dtype=torch.float64))
        return torch.stack(found)

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as nested dicts of tensors."""
        return {"tables": dict(self.tables)} | {name: getattr(self, name) for name in _WHOLE}

    def load_state_dict(self, state: Mapping[str, Any], num_rows: Mapping[str, int]) -> None:
        """Restore :meth:`state_dict`.

        Raises
        ------
        UserError
            For sums of another kind, or not of every id.
        """
        for table, own in self.tables.items():
            sums, wanted = state["tables"][table], (num_rows[table], own.shape[1])
            if sums.shape != wanted or sums.dtype != own.dtype:
                raise UserError(
                    f"sums of table {table!r} are {sums.dtype} {[*sums.shape]}; expected "
                    f"{own.dtype} {[*wanted]}"
                )
        for name in _WHOLE:
            own, value = getattr(self, name), state[name]
            if value.shape != own.shape or value.dtype != own.dtype:
                raise UserError(
                    f"{name} of labels is {value.dtype} {[*value.shape]}; expected {own.dtype} "
                    f"{[*own.shape]}"
                )
        device = self.total.device
        self.tables = {t: state["tables"][t].to(device, copy=True) for t in self.tables}
        for name in _WHOLE:
            setattr(self, name, state[name].to(device, copy=True))


def _entries(column: Tensor | Bag) -> tuple[Tensor, Tensor | None]:
    """Return the rows [L] that a feature holds, and the event of each where that is not its own."""
    if not isinstance(column, Bag):
        return column, None
    lengths = column.offsets.diff()
    number = torch.arange(len(lengths), device=lengths.device)
    return column.values, number.repeat_interleave(lengths, output_size=len(column.values))
