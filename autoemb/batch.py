"""A batch of events, ids as they came: what travels between sources, reservoir and learner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

#: Raw ids: an int64 array, or a list of str.
Ids = npt.NDArray[np.int64] | list[str]

#: The id of an event that has none, where the others are integers; else it is the empty text.
MISSING = -(2**63)


class Bag(NamedTuple):
    """Several ids an event.

    Attributes
    ----------
    values : ids [L], or Tensor[L] of rows
        The ids of all events, one event after the other.
    offsets : int64 [B + 1]
        ``values[offsets[b]:offsets[b + 1]]`` are those of event b.
    weights : float32 [L], optional
        Of each id; 1 by default.
    """

    values: Any
    offsets: Any
    weights: Any = None


class Known(NamedTuple):
    """What earlier labels say of the ids of a batch: constants, before the batch is learnt.

    Attributes
    ----------
    mean : Tensor[B, C]
        Of all labels that each event knows; C is the number of classes, or 1.
    events : Tensor[B, F]
        Of each feature's id, float32; of a bag, of all its ids.
    sums : Tensor[B, F, C]
        What their labels left over the mean and what was known of the other features.
    strength : Tensor[B, F]
        Events without a word that every id of a feature is taken to have had, as tells best.
    told : Tensor[B, F, T]
        What a network is told of each id, beside the number of events: sums, and sums that forget,
        shrunk by several strengths; the product of its factors with those of the event's others.
    """

    mean: Tensor
    events: Tensor
    sums: Tensor
    strength: Tensor
    told: Tensor

    def offsets(self, strength: float | None = None) -> Tensor:
        """Return the means [B, F, C] of what labels left, shrunk towards 0.

        Parameters
        ----------
        strength : float, optional
            By default each feature's own.

        Examples
        --------
        >>> import torch
        >>> events, sums = torch.tensor([[3.0]]), torch.tensor([[[1.0]]])
        >>> mean, told = torch.tensor([[0.5]]), torch.zeros(1, 1, 6)
        >>> Known(mean, events, sums, torch.tensor([[5.0]]), told).offsets()
        tensor([[[0.1250]]])
        """
        shrunk = self.events + (self.strength if strength is None else strength)
        return self.sums / shrunk.unsqueeze(2)

    def part(self, start: int, stop: int) -> Known:
        """Return what is known of the events from ``start`` up to ``stop``."""
        return Known(*(own[start:stop] for own in self))

    def copy(self) -> Known:
        """Return it in memory of its own."""
        return Known(*(own.clone() for own in self))


@dataclass(frozen=True)
class Batch:
    """Consecutive events of a stream.

    Attributes
    ----------
    sparse : mapping of str to ids [B]
        Raw ids by feature.
    bags : mapping of str to Bag
        Raw ids by feature, with offsets as NumPy arrays.
    dense : Tensor[B, C], float32, optional
        Numbers as they came, in the order of the schema; NaN where one is missing.
    label : Tensor[B], optional
        As it stands in the data: a task makes of it what is to be predicted. None to predict only.
    weight : Tensor[B], float32, optional
        Of each event in the loss; 1 by default.
    timestamp : array [B], int64, optional
        Seconds since the epoch.
    event_id : ids [B], optional
    known : Known, optional
        What was known of the ids when the batch came: a learner adds it to what it remembers.
    """

    sparse: Mapping[str, Ids] = field(default_factory=dict)
    bags: Mapping[str, Bag] = field(default_factory=dict)
    dense: Tensor | None = None
    label: Tensor | None = None
    weight: Tensor | None = None
    timestamp: npt.NDArray[np.int64] | None = None
    event_id: Ids | None = None
    known: Known | None = None

    def __len__(self) -> int:
        """B, the number of events."""
        for column in (self.label, self.dense, *self.sparse.values()):
            if column is not None:
                return len(column)
        return next((len(bag.offsets) - 1 for bag in self.bags.values()), 0)


class Events(Protocol):
    """What a stream is cut from: a number of labelled events in their order."""

    def __len__(self) -> int: ...

    def batch(self, start: int, stop: int) -> Batch:
        """Return the events from ``start`` up to ``stop``."""
