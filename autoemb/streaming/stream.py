"""A stream of events with a position that can be saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autoemb.batch import Batch, Events
from autoemb.errors import UserError


class Stream:
    """Batches of consecutive events, once: iterating goes on from the position.

    Parameters
    ----------
    events : Events
        A number of events in their order, such as ``Dataset.events`` gives
        (:class:`autoemb.batch.Events`).
    batch_size : int, default 500
    least : int, default 1
        Fewer events left at the end join the batch before them: batch statistics need two.

    Raises
    ------
    UserError
        For a batch size below ``least`` or 1, or fewer than ``least`` events.

    Examples
    --------
    >>> import numpy as np
    >>> from autoemb import Batch
    >>> class Five:
    ...     def __len__(self):
    ...         return 5
    ...
    ...     def batch(self, start, stop):
    ...         return Batch({"user_id": np.arange(start, stop)})
    >>> stream = Stream(Five(), batch_size=2, least=2)
    >>> [len(batch) for batch in stream], stream.position
    ([2, 3], 5)
    """

    def __init__(self, events: Events, batch_size: int = 500, least: int = 1) -> None:
        if batch_size < max(least, 1):
            raise UserError(f"batch size is {batch_size}; expected at least {max(least, 1)} events")
        if len(events) < max(least, 1):
            raise UserError(
                f"the stream has {len(events)} events; at least {max(least, 1)} are needed"
            )
        self._events = events
        self.batch_size, self.least = batch_size, least
        self.position = 0

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Batch]:
        while self.position < len(self):
            start, end = self.position, self.position + self.batch_size
            if len(self) - end < self.least:
                end = len(self)
            self.position = end
            yield self._events.batch(start, end)

    def state_dict(self) -> dict[str, Any]:
        """Return the position: events already yielded."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved position.

        Raises
        ------
        UserError
            If the stream has no such position.
        """
        position = state["position"]
        if type(position) is not int or not 0 <= position <= len(self):
            raise UserError(f"the position is {position!r}; expected 0 to {len(self)}")
        self.position = position
