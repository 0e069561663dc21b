"""When labels are known, and events that wait for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from autoemb.batch import Batch
from autoemb.errors import UserError
from autoemb.streaming.columns import batch_from_state, batch_state, copy_of, part_of

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Clock:
    """When the label of an event is known.

    Parameters
    ----------
    by_event : bool, default False
        Whether an event of a batch knows the labels of those before it: of earlier time or, where
        labels come at once and times stand still, before the first event of its own time. By
        default a batch knows what was known at its first event.
    delay : float, default 0
        Seconds by which labels come late: one is known at times above that of its event and these.

    Examples
    --------
    >>> time = np.array([0, 0, 1, 5])
    >>> Clock(by_event=True).until(time, 4, 4)[0].tolist()
    [0, 0, 2, 3]
    >>> Clock(by_event=True, delay=2).until(time, 4, 4)
    (array([0, 0, 0, 3]), 3)
    """

    by_event: bool = False
    delay: float = 0.0

    def check(self, time: Array | None) -> None:
        """Check that a batch has the times that are needed.

        Raises
        ------
        UserError
            If it has not.
        """
        if self.delay and time is None:
            raise UserError(
                f"labels come {self.delay:g} seconds late; the batch has no timestamps to tell when"
            )

    def until(self, time: Array | None, batch: int, events: int) -> tuple[Array, int]:
        """Return how many of a queue's labels each event of a batch knows [B], and at its end.

        Parameters
        ----------
        time : array [N], or None
            Of the events of the queue.
        batch : int
            B; the last events of the queue.
        events : int
            N.
        """
        if self.delay and time is not None:
            now = np.maximum.accumulate(time)
            # Labels are taken in order: one that comes later keeps those behind it waiting.
            known = np.searchsorted(now + self.delay, now[events - batch :])
            last = int(known[-1])
        else:
            known, last = np.arange(events - batch, events), events
            if time is not None:
                own = time[events - batch :]
                starts = np.flatnonzero(np.concatenate([[True], own[1:] != own[:-1]]))
                known = known[starts].repeat(np.diff(np.append(starts, batch)))
        return known if self.by_event else np.full_like(known, known[0]), last


class Queue(NamedTuple):
    """Labelled events in their order, as arrays.

    Attributes
    ----------
    rows : list of F array
        Of a feature's ids, one event after the other.
    offsets : list of F array [N + 1], or None for a feature of one id an event
    label : array [N, C], float32
    weight : array [N], float32
    told : array [N, F (3 + 2 C)], float32
        What each event was told, or room for it.
    mean : array [N, C], float32
        The same, of the mean of all labels.
    time : array [N], int64, or None
        Seconds.
    """

    rows: list[Array]
    offsets: list[Array | None]
    label: Array
    weight: Array
    told: Array
    mean: Array
    time: Array | None

    def then(self, other: Queue) -> Queue:
        """Return these events and then others."""
        offsets = [
            None if own is None or new is None else np.concatenate([own, own[-1] + new[1:]])
            for own, new in zip(self.offsets, other.offsets, strict=True)
        ]
        time = None
        if self.time is not None and other.time is not None:
            time = np.concatenate([self.time, other.time])
        rows = [np.concatenate(pair) for pair in zip(self.rows, other.rows, strict=True)]
        both = {n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in _BY_EVENT}
        return Queue(rows, offsets, **both, time=time)

    def after(self, first: int) -> Queue:
        """Return the events from a number on, in memory of their own."""
        starts = [first if own is None else own[first] for own in self.offsets]
        return Queue(
            [rows[start:].copy() for rows, start in zip(self.rows, starts, strict=True)],
            [None if own is None else own[first:] - own[first] for own in self.offsets],
            **{name: getattr(self, name)[first:].copy() for name in _BY_EVENT},
            time=None if self.time is None else self.time[first:].copy(),
        )


#: Columns of a queue that have a row an event.
_BY_EVENT = ("label", "weight", "told", "mean")


class Waiting:
    """Batches that were predicted, in chunks, until a network learns them.

    Parameters
    ----------
    clock : Clock
    chunk : int, optional
        Events that the network learns at a time; by default those of a batch.
    """

    def __init__(self, clock: Clock, chunk: int | None) -> None:
        self.clock, self.chunk = clock, chunk
        self._now = -np.inf
        self._chunks: list[tuple[Batch, float]] = []  # and when all labels are known

    def __len__(self) -> int:
        """Return the number of chunks that wait."""
        return len(self._chunks)

    def __iter__(self) -> Iterator[Batch]:
        """Return the chunks that wait, in their order."""
        return iter([batch for batch, _ in self._chunks])

    def add(self, batch: Batch) -> None:
        """Let a batch wait, in chunks of nearly equal length."""
        events, time = len(batch), batch.timestamp
        number = 1 if self.chunk is None else -(-events // self.chunk)
        cuts = [events * piece // number for piece in range(number + 1)]
        for start, stop in pairwise(cuts):
            if time is not None:
                self._now = max(self._now, float(time[start:stop].max()))
            chunk = copy_of(part_of(batch, start, stop))
            self._chunks.append((chunk, self._now + self.clock.delay))

    def due(self, now: float = np.inf) -> Iterator[Batch]:
        """Take out the chunks whose labels are known at a time, each once the next is asked for."""
        while self._chunks and self._chunks[0][1] < now:
            yield self._chunks[0][0]
            del self._chunks[0]

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as nested dicts of tensors."""
        return {
            "now": self._now,
            "chunks": [batch_state(chunk) for chunk, _ in self._chunks],
            "ready": [ready for _, ready in self._chunks],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        chunks = [batch_from_state(chunk) for chunk in state["chunks"]]
        self._chunks = [*zip(chunks, map(float, state["ready"]), strict=True)]
        self._now = float(state["now"])
