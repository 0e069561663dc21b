"""A bounded uniform sample of everything that has passed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from autoemb.batch import Batch
from autoemb.errors import UserError
from autoemb.streaming.columns import Columns


class Reservoir:
    """Keep a uniform sample of past events in bounded memory (Vitter's algorithm R).

    Events are kept as they came, with raw ids, and with what was known of these then: they outlive
    whatever rows their ids own.

    Parameters
    ----------
    capacity : int, default 100_000
        Events kept.
    seed : int, default 0
        Of the reservoir's own random numbers.

    Examples
    --------
    >>> import numpy as np, torch
    >>> reservoir = Reservoir(capacity=10)
    >>> reservoir.add(Batch({"user_id": np.arange(50)}, label=torch.zeros(50)))
    >>> len(reservoir), reservoir.seen, len(reservoir.sample(4))
    (10, 50, 4)
    """

    def __init__(self, capacity: int = 100_000, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be positive; got {capacity}")
        self.capacity = capacity
        self.seen = 0
        self._random = np.random.default_rng(seed)
        self._kept = Columns()

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, batch: Batch) -> None:
        """Offer events, in order."""
        events = len(batch)
        number = np.arange(self.seen, self.seen + events)
        # Event i (from 0) takes slot i while there is room, then a random slot of i + 1.
        slot = np.where(number < self.capacity, number, self._random.integers(0, number + 1))
        kept = np.flatnonzero(slot < self.capacity)
        self.seen += events
        if len(self._kept) < len(self):  # room grows by doubling, up to the capacity
            self._kept.grow(min(self.capacity, max(2 * len(self._kept), len(self))))
        self._kept.put(slot[kept], batch, kept)

    def sample(self, size: int) -> Batch:
        """Return ``size`` distinct kept events at random, or all of them while there are fewer.

        Raises
        ------
        ValueError
            If nothing was added yet.
        """
        if self.seen == 0:
            raise ValueError("nothing was added to the reservoir yet")
        chosen: npt.NDArray[np.int64] = self._random.choice(
            len(self), min(size, len(self)), replace=False, shuffle=False
        )
        return self._kept.take(chosen)

    def all(self) -> Batch:
        """Return all kept events, in no particular order."""
        return self._kept.take(np.arange(len(self)))

    def random_state(self) -> Any:
        """Return the state of the random numbers, for :meth:`rewind`."""
        return self._random.bit_generator.state

    def rewind(self, state: Any) -> None:
        """Draw again what was drawn since :meth:`random_state`."""
        self._random.bit_generator.state = state

    def state_dict(self) -> dict[str, Any]:
        """Return everything, the random state included."""
        return {
            "seen": self.seen,
            "random": self.random_state(),
            "events": self._kept.state_dict(len(self)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        Raises
        ------
        UserError
            If so many events cannot be what is kept of those seen.
        """
        seen, kept = state["seen"], Columns.from_state(state["events"])
        if type(seen) is not int or seen < 0 or len(kept) != min(seen, self.capacity):
            raise UserError(
                f"a reservoir of {self.capacity} holds {len(kept)} of {seen!r} events; expected "
                "all of them while there is room"
            )
        self.seen, self._kept = seen, kept
        self.rewind(state["random"])
