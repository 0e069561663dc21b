"""A stream of events with a position that can be saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoemb.errors import UserError


class Events(NamedTuple):
    """A batch of the stream, ids as they came.

    Attributes
    ----------
    ids : list of F arrays [B]
        Raw ids of each field: int64, or str.
    label : Tensor[B]
        What the task made of the rating.
    timestamp : array [B], int64
        Seconds since the epoch.
    """

    ids: list[Any]
    label: Tensor
    timestamp: npt.NDArray[np.int64]


class Stream:
    """Batches of consecutive events, once: iterating goes on from the position.

    A single event left at the end joins the batch before it: batch statistics need two.

    Parameters
    ----------
    ids : sequence of F columns
        Anything with ``len`` that slices to raw ids (arrays, polars Series).
    label : Tensor[E]
    timestamp : array [E], int64
    batch_size : int, default 500

    Raises
    ------
    UserError
        For a batch size below 2, fewer than two events, columns of unequal length, or a label that
        is not a finite number: it would spoil every weight for good.

    Examples
    --------
    >>> import numpy as np, torch
    >>> stream = Stream([np.arange(5), np.arange(5)], torch.zeros(5), np.arange(5), batch_size=2)
    >>> [len(events.label) for events in stream], stream.position
    ([2, 3], 5)
    """

    def __init__(
        self,
        ids: Sequence[Any],
        label: Tensor,
        timestamp: npt.NDArray[np.int64],
        batch_size: int = 500,
    ) -> None:
        if batch_size < 2:
            raise UserError(f"batch size is {batch_size}; batch statistics need at least 2 events")
        if len(label) < 2:
            raise UserError(f"the stream has {len(label)} events; at least 2 are needed")
        for number, column in enumerate((*ids, timestamp)):
            if len(column) != len(label):
                name = f"column {number} of the ids" if number < len(ids) else "timestamp"
                raise UserError(f"{name} has {len(column)} values and label has {len(label)}")
        finite = torch.isfinite(label)
        if not bool(finite.all()):
            event = int((~finite).nonzero()[0])
            raise UserError(f"label {event} is {label[event]}; expected a finite number")
        self._ids, self._label, self._timestamp = ids, label, timestamp
        self.batch_size = batch_size
        self.position = 0

    def __len__(self) -> int:
        return len(self._label)

    def __iter__(self) -> Iterator[Events]:
        while self.position < len(self):
            start, end = self.position, self.position + self.batch_size
            if end + 1 >= len(self):
                end = len(self)
            self.position = end
            yield Events(
                [column[start:end] for column in self._ids],
                self._label[start:end],
                self._timestamp[start:end],
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the position: events already yielded."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved position."""
        self.position = int(state["position"])
