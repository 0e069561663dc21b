"""A bounded uniform sample of everything that has passed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoemb.bilevel import Batch


class Reservoir:
    """Keep a uniform sample of past events in bounded memory (Vitter's algorithm R).

    Parameters
    ----------
    capacity : int, default 100_000
        Events kept.
    seed : int, default 0
        Of the reservoir's own random numbers.

    Examples
    --------
    >>> import torch
    >>> reservoir = Reservoir(capacity=10)
    >>> reservoir.add(Batch(torch.arange(100).reshape(50, 2), torch.zeros(50)))
    >>> len(reservoir), reservoir.seen, reservoir.sample(4).ids.shape
    (10, 50, torch.Size([4, 2]))
    """

    def __init__(self, capacity: int = 100_000, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be positive; got {capacity}")
        self.capacity = capacity
        self.seen = 0
        self._random = np.random.default_rng(seed)
        self._ids: Tensor | None = None
        self._target: Tensor | None = None

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, batch: Batch) -> None:
        """Offer events in main memory, in order."""
        events = len(batch.ids)
        if self._ids is None or self._target is None:
            self._ids = batch.ids.new_zeros(0, batch.ids.shape[1])
            self._target = batch.target.new_zeros(0)
        number = np.arange(self.seen, self.seen + events)
        # Event i (from 0) takes slot i while there is room, then a random slot of i + 1.
        slot = np.where(number < self.capacity, number, self._random.integers(0, number + 1))
        kept = np.flatnonzero(slot < self.capacity)
        self.seen += events
        if len(self._ids) < len(self):  # room grows by doubling, up to the capacity
            room = min(self.capacity, max(2 * len(self._ids), len(self)))
            missing = room - len(self._ids)
            self._ids = torch.cat([self._ids, self._ids.new_zeros(missing, self._ids.shape[1])])
            self._target = torch.cat([self._target, self._target.new_zeros(missing)])
        # NumPy promises that the last of several events for one slot stays; PyTorch does not.
        self._ids.numpy()[slot[kept]] = batch.ids.numpy()[kept]
        self._target.numpy()[slot[kept]] = batch.target.numpy()[kept]

    def sample(self, size: int) -> Batch:
        """Return ``size`` distinct kept events at random, or all of them while there are fewer.

        Raises
        ------
        ValueError
            If nothing was added yet.
        """
        if self._ids is None or self._target is None:
            raise ValueError("nothing was added to the reservoir yet")
        chosen = torch.from_numpy(
            self._random.choice(len(self), min(size, len(self)), replace=False, shuffle=False)
        )
        return Batch(self._ids[chosen], self._target[chosen])

    def state_dict(self) -> dict[str, Any]:
        """Return everything, the random state included."""
        return {
            "seen": self.seen,
            "random": self._random.bit_generator.state,
            "ids": self._ids,
            "target": self._target,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        kept = [None if state[name] is None else state[name].clone() for name in ("ids", "target")]
        self.seen, (self._ids, self._target) = state["seen"], kept
        self._random.bit_generator.state = state["random"]
