"""What earlier labels say of each id: target statistics, kept event by event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoemb.batch import Bag, Known
from autoemb.bilevel import Example
from autoemb.errors import UserError
from autoemb.nn.draws import Keys, normal_rows, salted
from autoemb.runtime import advance_statistics, distinct
from autoemb.schema import Bag as BagFeature
from autoemb.schema import Sparse
from autoemb.streaming.compact import CompactRows
from autoemb.streaming.queue import Clock, Queue
from autoemb.tasks import RAREST, Task

Array = npt.NDArray[Any]

#: Events without a word that an id may be taken to have had; with the last, nothing is known of it.
STRENGTHS = (1.0, 2.0, 5.0, 10.0, 25.0, 100.0, float("inf"))

#: Those by which sums, and sums that forget, are shrunk as inputs of a network.
SUM_STRENGTHS, RECENT_STRENGTHS = (1.0, 5.0, 25.0), (1.0, 5.0)

#: Share of a forgetting sum that an event leaves: half of it is forgotten in 7 events.
DECAY = 0.9

#: Factors of an id, the standard deviation that they start with, and how they learn. A step for
#: every event, not for every batch: a batch holds dozens of events of one user. With 8 of them the
#: log loss is .1496 instead of .1502 on trivago, .4684 instead of .4678 on nycflights13, and equal
#: elsewhere (two seeds); the bytes are better spent on rows.
FACTORS, FACTOR_STD, FACTOR_RATE, FACTOR_PENALTY = 4, 0.1, 0.1, 0.02

#: What a label leaves counts at most so many times the usual: of rare clicks it is ten times that.
LARGEST = 3.0

#: Inputs are in units of a third of what labels leave, so that a network need not grow first.
SCALE = 3.0


class Advance(NamedTuple):
    """What a batch is told, and what its labels are to change.

    Attributes
    ----------
    known : Known
    tables : dict of str to tuple of array
        Rows [U] of each table and what they are to be [U, W].
    totals : dict of str to array
    waiting : Queue or None
        Events whose labels nobody knows yet.
    """

    known: Known
    tables: dict[str, tuple[Array, Array]]
    totals: dict[str, Array]
    waiting: Queue | None


class Statistics:
    """Target statistics of ids, from earlier labels only: what a model may know beside its rows.

    A label is split: what it leaves over the mean of all labels and over the shrunken offsets of
    the event's other features goes to the id of a feature, one feature after the other. How much a
    feature's offsets are shrunk is what would have lost least so far. Factors learn what all
    offsets leave, in a step an event. Labels count by their events' weights.

    Parameters
    ----------
    reads : mapping of str to Sparse
        Features that a model reads, by name.
    task : Task
    clock : Clock, optional
        When labels are known; by default once their batch is learnt.

    Attributes
    ----------
    tables : dict of str to CompactRows [V, 2 + 2 C + K]
        By table and id: events n and sums S of what their labels left; a number of events w and
        sums R that forget (:data:`DECAY`); factors, drawn from the id, of tables that a feature of
        one id an event reads. C is the width of the task's output and, of a rating, its grade.
    totals : dict of str to array
        ``total`` [C] of all labels and one event more that has the task's starting value,
        ``events`` [1], ``squares`` [C] of what was left of them, and ``losses`` [F, strengths].
    waiting : Queue or None
        Events whose labels are not known yet.

    Notes
    -----
    They live in main memory, whatever the device of the model: events come one after the other.
    Nothing changes before :meth:`commit`.
    """

    def __init__(self, reads: Mapping[str, Sparse], task: Task, clock: Clock | None = None) -> None:
        self.reads, self.task = dict(reads), task
        self.clock = Clock() if clock is None else clock
        channels, graded = _channels(task)
        # Products of factors tell a number, not one class of several.
        told = graded or channels == 1
        self.factored = [told and not isinstance(f, BagFeature) for f in reads.values()]
        owners = {f.table for f, own in zip(reads.values(), self.factored, strict=True) if own}
        self.tables = {
            f.table: CompactRows(channels, 1 + channels + FACTORS * (f.table in owners))
            for f in reads.values()
        }
        self.totals: dict[str, Array] = {
            "total": np.full(channels, task.start),
            "events": np.ones(1),
            "squares": np.ones(channels),
            "losses": np.zeros((len(reads), len(STRENGTHS))),
        }
        if graded:
            self.totals["total"][-1] = 0.5
        self.waiting: Queue | None = None

    @property
    def channels(self) -> int:
        """C, numbers that are kept of a label."""
        return len(self.totals["total"])

    def grow(self, num_rows: Mapping[str, int]) -> None:
        """Make room for so many ids of each table."""
        for table, own in self.tables.items():
            own.grow(num_rows.get(table, 0))

    def begin(self, table: str, rows: slice, keys: Keys) -> None:
        """Start rows of ids that are new: nothing is known, and factors are drawn."""
        own, first = self.tables[table], 2 + 2 * self.channels
        values = np.zeros((len(keys), own.width), np.float32)
        if own.width > first:
            like = torch.empty(0)
            drawn = normal_rows(salted(keys, "factors"), FACTORS, FACTOR_STD, like)
            values[:, first:] = drawn.numpy()
        own.write(rows, values)

    def known(self, example: Example, last: Mapping[str, int] | None = None) -> Known:
        """Return what is known of a batch's ids.

        Parameters
        ----------
        example : Example
            In main memory; its labels are not read.
        last : mapping of str to int, optional
            Rows from these on are of ids never seen: nothing is known of them.
        """
        events = len(example.label)
        return self._advance(self._queue(example, None, None), events, np.zeros(events), 0, last)[0]

    def advance(self, example: Example, time: Array | None = None) -> Advance:
        """Return what a batch is told, and what its labels change.

        Parameters
        ----------
        example : Example
            With labels, in main memory.
        time : array [B], int64, optional
            Seconds.

        Raises
        ------
        UserError
            Without time, where labels come late.
        """
        self.clock.check(time)
        new = self._queue(example, example.label, time)
        queue = new if self.waiting is None else self.waiting.then(new)
        until, last = self.clock.until(queue.time, len(new.label), len(queue.label))
        known, tables, totals = self._advance(queue, len(new.label), until, last, None)
        waiting = queue.after(last) if last < len(queue.label) else None
        return Advance(known, tables, totals, waiting)

    def commit(self, advance: Advance) -> None:
        """Let a batch's labels change what is known."""
        for table, (rows, values) in advance.tables.items():
            self.tables[table].write(rows, values)
        self.totals, self.waiting = advance.totals, advance.waiting

    def check_known(self, known: Known | None, events: int) -> None:
        """Check that so many events of a saved past were told as these statistics tell.

        Raises
        ------
        UserError
            Names what differs.
        """
        if known is None:
            raise UserError("a past batch was not told what is known of its ids")
        features, outputs = len(self.reads), self.task.outputs
        for name, shape in {
            "mean": (events, outputs),
            "events": (events, features),
            "sums": (events, features, outputs),
            "strength": (events, features),
            "told": (events, features, inputs_width(self.task)),
        }.items():
            _check(f"{name} of a past batch", getattr(known, name), torch.float32, shape)

    def _queue(self, example: Example, label: Tensor | None, time: Array | None) -> Queue:
        columns = [example.inputs.ids[name] for name in self.reads]
        events = len(example.label)
        if label is None:
            measured = torch.zeros(events, self.channels)
        else:
            measured = self.task.measured(label)
            if example.grade is not None:
                measured = torch.cat([measured, example.grade.unsqueeze(1)], 1)
        weight = torch.ones(events) if example.weight is None else example.weight
        return Queue(
            [(c.values if isinstance(c, Bag) else c).numpy() for c in columns],
            [c.offsets.numpy() if isinstance(c, Bag) else None for c in columns],
            measured.contiguous().numpy(),
            weight.contiguous().numpy(),
            np.zeros((events, len(columns) * (3 + 2 * self.channels)), np.float32),
            np.zeros((events, self.channels), np.float32),
            time,
        )

    def _advance(
        self,
        queue: Queue,
        events: int,
        until: Array,
        last: int,
        strangers_from: Mapping[str, int] | None,
    ) -> tuple[Known, dict[str, tuple[Array, Array]], dict[str, Array]]:
        """Run over copies of the rows that a queue holds; return what is told, and these."""
        places, tables = self._in_play(queue, strangers_from)
        totals = {name: value.copy() for name, value in self.totals.items()}
        strength = np.asarray(STRENGTHS)[totals["losses"].argmin(1)]
        unit = SCALE / np.sqrt(totals["squares"] / totals["events"])
        features = self.reads.values()
        advance_statistics(
            [tables[f.table][1] for f in features],
            places,
            queue.offsets,
            [f.counts for f in features],
            self.factored,
            strength.tolist(),
            queue.label,
            queue.weight,
            until.astype(np.int64, copy=False),
            last,
            totals,
            queue.told,
            queue.mean,
            strengths=list(STRENGTHS),
            odds=self.task.odds,
            rarest=RAREST,
            decay=DECAY,
            rate=FACTOR_RATE,
            penalty=FACTOR_PENALTY,
            largest=LARGEST,
        )
        told, mean = queue.told[-events:], queue.mean[-events:]
        return self._told(told, mean, strength, unit), tables, totals

    def _in_play(
        self, queue: Queue, strangers_from: Mapping[str, int] | None
    ) -> tuple[list[Array], dict[str, tuple[Array, Array]]]:
        """Return where each row is among the distinct ones, and these of each table, as copies."""
        members: dict[str, list[int]] = {}
        for number, feature in enumerate(self.reads.values()):
            members.setdefault(feature.table, []).append(number)
        places: list[Array] = [np.zeros(0, np.int64)] * len(self.reads)
        tables = {}
        for table, numbers in members.items():
            joined = np.concatenate([queue.rows[number] for number in numbers])
            rows, inverse, _ = distinct(np.ascontiguousarray(joined))
            own = self.tables[table]
            if strangers_from is None:
                tables[table] = rows, own.read(rows)
            else:  # numbered on from the last that is known
                seen = int(np.searchsorted(rows, strangers_from[table]))
                values = np.zeros((len(rows), own.width), np.float32)
                values[:seen] = own.read(rows[:seen])
                tables[table] = rows, values
            cuts = np.cumsum([len(queue.rows[number]) for number in numbers])[:-1]
            for number, place in zip(numbers, np.split(inverse, cuts), strict=True):
                places[number] = place
        return places, tables

    def _told(self, told: Array, mean: Array, strength: Array, unit: Array) -> Known:
        """Return what a network is told, of what the pass says."""
        channels, outputs = self.channels, self.task.outputs
        found = torch.from_numpy(told).view(len(told), len(self.reads), -1)
        cuts = [1, channels, 1, channels, 1]
        events, sums, weights, recent, match = torch.split(found, cuts, 2)
        units = torch.from_numpy(unit).to(torch.float32)
        parts = [sums * units / (events + k) for k in SUM_STRENGTHS]
        parts += [recent * units / (weights + k) for k in RECENT_STRENGTHS]
        return Known(
            torch.from_numpy(mean)[:, :outputs].contiguous(),
            events.squeeze(2).contiguous(),
            sums[:, :, :outputs].contiguous(),
            torch.from_numpy(strength).to(torch.float32).repeat(len(told), 1),
            torch.cat([*parts, SCALE * match], 2),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as nested dicts of tensors."""
        waiting = None if self.waiting is None else self.waiting._asdict()
        tables = {table: own.packed for table, own in self.tables.items()}
        found = {"tables": tables, "totals": self.totals, "waiting": waiting}
        return {name: _as_tensors(part) for name, part in found.items()}

    def load_state_dict(self, state: Mapping[str, Any], num_rows: Mapping[str, int]) -> None:
        """Restore :meth:`state_dict`.

        Raises
        ------
        UserError
            For statistics of another kind, or not of every id.
        """
        tables, totals = ({n: v.numpy() for n, v in state[k].items()} for k in ("tables", "totals"))
        for table, own in self.tables.items():
            wanted = num_rows[table], own.row_bytes
            _check(f"statistics of table {table!r}", tables[table], np.dtype(np.uint8), wanted)
        for name, value in self.totals.items():
            _check(f"{name} of labels", totals[name], value.dtype, value.shape)
        waiting = None
        if state["waiting"] is not None:
            waiting = Queue(**_as_arrays(state["waiting"]))
            self._check_waiting(waiting, num_rows)
        for table, own in self.tables.items():
            own.packed = tables[table].copy()
        self.totals = {name: totals[name].copy() for name in self.totals}
        self.waiting = waiting

    def _check_waiting(self, waiting: Queue, num_rows: Mapping[str, int]) -> None:
        events = len(waiting.weight)
        single, channels = np.dtype(np.float32), self.channels
        _check("weights that wait", waiting.weight, single, (events,))
        _check("labels that wait", waiting.label, single, (events, channels))
        _check("means that wait", waiting.mean, single, (events, channels))
        told = len(self.reads) * (3 + 2 * channels)
        _check("statistics that wait", waiting.told, single, (events, told))
        _check("times that wait", waiting.time, np.dtype(np.int64), (events,))
        for rows, feature in zip(waiting.rows, self.reads.values(), strict=True):
            if bool(((rows < 0) | (rows >= num_rows[feature.table])).any()):
                raise UserError(f"an event that waits holds no id of table {feature.table!r}")


def inputs_width(task: Task) -> int:
    """Return T, the number of inputs that a network gets of each feature.

    Examples
    --------
    >>> from autoemb.schema import Label
    >>> from autoemb.tasks import task_for
    >>> inputs_width(task_for("click", Label(column="click", kind="click")))
    6
    """
    return _channels(task)[0] * (len(SUM_STRENGTHS) + len(RECENT_STRENGTHS)) + 1


def _channels(task: Task) -> tuple[int, bool]:
    """Return C, and whether the last channel is a rating's grade."""
    graded = task.label.kind == "rating"
    return task.outputs + graded, graded


def told(example: Example, known: Known | None) -> Example:
    """Return a batch that is told what is known of its ids."""
    return example._replace(inputs=example.inputs._replace(known=known))


def _check(name: str, found: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    if found.dtype != dtype or tuple(found.shape) != shape:
        raise UserError(f"{name} are {found.dtype} {[*found.shape]}; expected {dtype} {[*shape]}")


def _as_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_tensors(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_as_tensors(part) for part in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _as_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_arrays(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_as_arrays(part) for part in value]
    return value.numpy().copy() if isinstance(value, Tensor) else value
