"""What labels say of each id: sums of what they left over all that was known before them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autoemb.batch import Bag
from autoemb.bilevel import Example
from autoemb.errors import UserError
from autoemb.nn.draws import Keys
from autoemb.nn.inputs import Known
from autoemb.ops import pool
from autoemb.schema import Sparse
from autoemb.streaming.history import History
from autoemb.streaming.traces import Traces
from autoemb.tasks import Task

#: Events without a word that an id may be taken to have had; with the last, nothing is known of it.
STRENGTHS = (1.0, 2.0, 5.0, 10.0, 25.0, 100.0, float("inf"))

#: What is kept of no id.
_WHOLE = ("total", "events", "losses")


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
    traced : bool, default False
        Whether to keep :class:`Traces`, too; on the CPU.

    Attributes
    ----------
    tables : dict of str to Tensor[V, C], float32
        By table; C is the width of the task's output and, of a rating that is traced, its grade.
    total : Tensor[C], float64
        Of all labels, and one event more that has the task's starting value.
    events : Tensor[], float64
        How many they are.
    losses : Tensor[F, K], float64
        Loss of all events so far with each feature's offsets shrunk by each strength.
    traces : Traces or None
    """

    def __init__(
        self,
        reads: Mapping[str, Sparse],
        task: Task,
        device: torch.device | str = "cpu",
        *,
        traced: bool = False,
    ) -> None:
        self.reads, self.task = dict(reads), task
        graded = traced and task.label.kind == "rating"
        width = task.outputs + graded
        self.traces = Traces(reads, width, graded or width == 1) if traced else None
        self.tables = {
            feature.table: torch.zeros(0, width, device=device) for feature in reads.values()
        }
        self.total = torch.full((width,), task.start, dtype=torch.float64, device=device)
        if graded:
            self.total[-1] = 0.5
        self.events = torch.ones((), dtype=torch.float64, device=device)
        self.strengths = torch.tensor(STRENGTHS, device=device)
        shape = len(self.reads), len(STRENGTHS)
        self.losses = torch.zeros(shape, dtype=torch.float64, device=device)

    def grow(self, num_rows: Mapping[str, int]) -> None:
        """Make room for so many ids of each table."""
        for table, sums in self.tables.items():
            missing = num_rows.get(table, 0) - len(sums)
            if missing > 0:
                new = sums.new_zeros(missing, sums.shape[1])
                self.tables[table] = torch.cat([sums, new])
        if self.traces is not None:
            self.traces.grow(num_rows)

    def begin(self, table: str, rows: Tensor, keys: Keys) -> None:
        """Start rows [U] of ids that are new."""
        if self.traces is not None:
            self.traces.begin(table, rows, keys)

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
        counts = counts.squeeze(2)
        traces = None
        if self.traces is not None:
            traces = self.traces.inputs(example, counts, sums, self.events, last)
        mean, outputs = (self.total / self.events).to(torch.float32), self.task.outputs
        strength = self.strengths[self.losses.argmin(1)]
        known = Known(mean[:outputs], counts, sums[:, :, :outputs], strength, traces)
        return example._replace(inputs=example.inputs._replace(known=known))

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
        self.losses += self._losses(known, example.label)
        measured = self._measured(example)
        mean = (self.total / self.events).to(torch.float32)
        offsets = self._offsets(example, history, known)
        if self.traces is not None:
            self.traces.learn(example, measured - self._expected(mean, offsets), self.events)
        for number, (name, feature) in enumerate(self.reads.items()):
            if not feature.counts:
                continue
            offsets[:, number].zero_()
            left = measured - self._expected(mean, offsets)
            rows, events = _entries(example.inputs.ids[name])
            own = left if events is None else left.index_select(0, events)
            # Unlike index_add it sums in one order on a GPU, too.
            self.tables[feature.table].index_put_((rows,), own, accumulate=True)
            if self.traces is not None:
                self.traces.add(feature.table, rows, own)
            count, sums = self._of(name, feature, example, history, None)
            offsets[:, number] = sums / (count + known.strength[number])
        self.total += measured.sum(0)
        self.events += len(measured)

    def _offsets(self, example: Example, history: History, known: Known) -> Tensor:
        """Return what was known of each id before the batch [B, F, C], shrunk; its grades, too."""
        if len(self.total) == self.task.outputs:
            return known.offsets()
        parts = [self._of(name, f, example, history, None)[1] for name, f in self.reads.items()]
        return torch.stack(parts, 1) / (known.events + known.strength).unsqueeze(2)

    def _measured(self, example: Example) -> Tensor:
        """Return what sums are kept of [B, C]."""
        measured = self.task.measured(example.label)
        if len(self.total) == self.task.outputs or example.grade is None:
            return measured
        return torch.cat([measured, example.grade.unsqueeze(1)], 1)

    def _expected(self, mean: Tensor, offsets: Tensor) -> Tensor:
        """Return what that is expected to be [B, C]; a grade is the mean and all offsets."""
        outputs = self.task.outputs
        expected = self.task.expected(mean[:outputs], offsets[:, :, :outputs])
        if len(mean) == outputs:
            return expected
        return torch.cat([expected, mean[outputs:] + offsets[:, :, outputs:].sum(1)], 1)

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
        traces = None if self.traces is None else self.traces.state_dict()
        whole = {name: getattr(self, name) for name in _WHOLE}
        return {"tables": dict(self.tables), "traces": traces} | whole

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
        if self.traces is not None:
            self.traces.load_state_dict(state["traces"], num_rows)
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
