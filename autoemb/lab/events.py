"""What a run sees of its data: the one place that knows how they are kept."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoemb.lab.config import RunConfig
from autoemb.streaming import Stream
from autoemb.tasks import TASKS

if TYPE_CHECKING:  # polars, which the rest of the package does without
    from autoemb.data import Interactions

FIELDS = ["user", "item"]


def ordered(interactions: Interactions, config: RunConfig) -> Interactions:
    """Return the events in the order and number the configuration asks for.

    Examples
    --------
    >>> from autoemb.data import synthetic
    >>> len(ordered(synthetic(1000), RunConfig(order="shuffled", limit=600)))
    600
    """
    if config.order == "shuffled":
        interactions = interactions.shuffled(config.seed)
    return interactions if config.limit is None else interactions.head(config.limit)


def stream_of(events: Interactions, config: RunConfig) -> Stream:
    """Return the batches of events with what the task makes of their ratings."""
    stars = torch.from_numpy(events.rating.to_numpy() * (5 / events.max_rating)).float()
    return Stream(
        [_Column(events.user), _Column(events.item)],
        TASKS[config.task].target(stars),
        events.timestamp.to_numpy(),
        config.batch_size,
    )


def describe(events: Interactions) -> dict[str, Any]:
    """Return what the data of a run are told by."""
    return {
        "name": events.name,
        "format": events.format,
        "interactions": len(events),
        "users": events.num_users,
        "items": events.num_items,
        "skipped_rows": events.skipped_rows,
        "digest": _digest(events),
    }


def _digest(events: Interactions) -> str:
    """Return a fingerprint of the events in their order."""
    hashed = hashlib.blake2b(digest_size=8)
    for column in (events.user, events.item, events.rating, events.timestamp):
        if not column.dtype.is_numeric():
            hashed.update("\0".join(column.to_list()).encode())
        else:
            hashed.update(np.ascontiguousarray(column.to_numpy()).data)
    return hashed.hexdigest()


class _Column:
    """A column of raw ids that slices to what an IdTable takes."""

    def __init__(self, series: Any) -> None:
        self._series = series

    def __len__(self) -> int:
        return len(self._series)

    def __getitem__(self, part: slice) -> Any:
        piece = self._series[part]
        return piece.to_numpy() if piece.dtype.is_integer() else piece.to_list()
