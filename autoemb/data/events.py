"""Batches of a data set: slices of arrays that were made once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from autoemb.batch import Bag, Batch, Ids
from autoemb.schema import Schema


class DatasetEvents:
    """The events of a frame, cut into batches; an :class:`autoemb.batch.Events`.

    Parameters
    ----------
    frame : polars.DataFrame
        As of :class:`autoemb.data.Dataset`.
    schema : Schema
    """

    def __init__(self, frame: pl.DataFrame, schema: Schema) -> None:
        self._events = frame.height
        self._sparse = {f.column: _Column(frame[f.column]) for f in schema.sparse}
        self._bags = {
            bag.column: _Lists(
                frame[bag.column], None if bag.weights is None else frame[bag.weights]
            )
            for bag in schema.bag
        }
        self._dense = None
        if schema.dense:
            numbers = frame.select(number.column for number in schema.dense).to_numpy()
            self._dense = _tensor(np.ascontiguousarray(numbers))
        self._label = _tensor(frame[schema.label.column].to_numpy())
        self._weight = None if schema.weight is None else _tensor(frame[schema.weight].to_numpy())
        self._timestamp: npt.NDArray[np.int64] | None = None
        if schema.timestamp is not None:
            self._timestamp = frame[schema.timestamp].to_numpy()
        self._event_id = None if schema.event_id is None else _Column(frame[schema.event_id])

    def __len__(self) -> int:
        """Return the number of events."""
        return self._events

    def batch(self, start: int, stop: int) -> Batch:
        """Return the events from ``start`` up to ``stop``.

        Raises
        ------
        IndexError
            If there are no such events.
        """
        if not 0 <= start <= stop <= self._events:
            raise IndexError(f"events {start} to {stop} of {self._events}")
        part = slice(start, stop)
        return Batch(
            sparse={name: column[part] for name, column in self._sparse.items()},
            bags={name: lists[part] for name, lists in self._bags.items()},
            dense=None if self._dense is None else self._dense[part],
            label=self._label[part],
            weight=None if self._weight is None else self._weight[part],
            timestamp=None if self._timestamp is None else self._timestamp[part],
            event_id=None if self._event_id is None else self._event_id[part],
        )


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    """Return a tensor of its own: polars lends arrays that must not be written to."""
    return torch.from_numpy(values.copy())


class _Column:
    """A column of ids that slices to what a batch holds."""

    def __init__(self, column: pl.Series) -> None:
        # Lists of str are made batch by batch: as Python objects, all would take ten times the
        # bytes.
        self._values: Any = column if column.dtype == pl.String else column.to_numpy()

    def __getitem__(self, part: slice) -> Ids:
        values = self._values[part]
        return values.to_list() if isinstance(values, pl.Series) else values


class _Lists:
    """A column of bags that slices to a :class:`Bag`."""

    def __init__(self, lists: pl.Series, weights: pl.Series | None) -> None:
        self._offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum(lists.list.len().to_numpy(), out=self._offsets[1:])
        self._values = _Column(lists.explode(empty_as_null=False))
        self._weights = None
        if weights is not None:
            self._weights = weights.explode(empty_as_null=False).to_numpy().copy()

    def __getitem__(self, part: slice) -> Bag:
        offsets = self._offsets[part.start : part.stop + 1]
        inside = slice(int(offsets[0]), int(offsets[-1]))
        weights = None if self._weights is None else self._weights[inside]
        return Bag(self._values[inside], offsets - offsets[0], weights)
