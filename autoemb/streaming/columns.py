"""Events in columns that can be written and read in any order, ids as they came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from autoemb.batch import Bag, Batch, Ids

Array = npt.NDArray[Any]
#: Columns of a batch that are tensors, or None where it has no such column.
_TENSORS = ("dense", "label", "weight")


def _as_array(ids: Ids) -> Array:
    return ids if isinstance(ids, np.ndarray) else np.array(ids, dtype=object)


def _as_ids(values: Array) -> Ids:
    return values.tolist() if values.dtype == object else values


class Columns:
    """Room for events, column by column: ids in arrays, each event's part of a bag in one slot.

    Examples
    --------
    >>> import numpy as np, torch
    >>> columns = Columns()
    >>> columns.grow(4)
    >>> batch = Batch({"user_id": ["ann", "bob"]}, label=torch.tensor([1.0, 0.0]))
    >>> columns.put(np.array([3, 0]), batch, np.array([0, 1]))
    >>> columns.take(np.array([3])).sparse
    {'user_id': ['ann']}
    """

    def __init__(self) -> None:
        self._room = 0
        self._columns: dict[str, Array] = {}

    def __len__(self) -> int:
        return self._room

    def grow(self, room: int) -> None:
        """Make room for so many events."""
        for name, values in self._columns.items():
            more = np.zeros((room - len(values), *values.shape[1:]), values.dtype)
            self._columns[name] = np.concatenate([values, more])
        self._room = max(room, self._room)

    def put(self, slots: Array, batch: Batch, events: Array) -> None:
        """Write some events of a batch; of several for one slot the last stays."""
        for name, values in _arrays(batch).items():
            if name not in self._columns:
                self._columns[name] = np.zeros((self._room, *values.shape[1:]), values.dtype)
            # NumPy promises that the last of several events for one slot stays.
            self._columns[name][slots] = values[events]

    def take(self, slots: Array) -> Batch:
        """Return events as a batch."""
        return _batch({name: values[slots] for name, values in self._columns.items()})

    def state_dict(self, events: int) -> dict[str, Any]:
        """Return the first events as a checkpoint can hold them: a batch in plain arrays."""
        return batch_state(self.take(np.arange(events))) if self._columns else {}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the columns whose :meth:`state_dict` is given."""
        columns = cls()
        if state:
            batch = batch_from_state(state)
            columns.grow(len(batch))
            every = np.arange(len(batch))
            columns.put(every, batch, every)
        return columns


def _arrays(batch: Batch) -> dict[str, Array]:
    """Return the columns of a batch, events first, under names that tell their kind."""
    found = {f"sparse {name}": _as_array(ids) for name, ids in batch.sparse.items()}
    for name, bag in batch.bags.items():
        cuts = np.asarray(bag.offsets)[1:-1]
        found[f"bag {name}"] = _objects(np.split(_as_array(bag.values), cuts))
        if bag.weights is not None:
            found[f"weights {name}"] = _objects(np.split(np.asarray(bag.weights), cuts))
    for name in _TENSORS:
        value = getattr(batch, name)
        if value is not None:
            found[f"tensor {name}"] = value.numpy()
    return found


def _objects(parts: Sequence[Array]) -> Array:
    found = np.empty(len(parts), dtype=object)
    for number, part in enumerate(parts):  # at once, parts of one length would be a matrix
        found[number] = part
    return found


def _batch(columns: Mapping[str, Array]) -> Batch:
    sparse: dict[str, Ids] = {}
    bags: dict[str, Bag] = {}
    tensors: dict[str, Any] = {}
    for key, values in columns.items():
        kind, _, name = key.partition(" ")
        if kind == "sparse":
            sparse[name] = _as_ids(values)
        elif kind == "tensor":
            tensors[name] = torch.from_numpy(values)
        elif kind == "bag":
            weights = columns.get(f"weights {name}")
            bags[name] = _joined(values, weights)
    return Batch(sparse=sparse, bags=bags, **tensors)


def _joined(parts: Array, weights: Array | None) -> Bag:
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    values = np.concatenate(parts) if len(parts) else np.zeros(0, np.int64)
    own = None if weights is None else np.concatenate(weights) if len(weights) else np.zeros(0)
    return Bag(_as_ids(values), offsets, own)


def batch_state(batch: Batch) -> dict[str, Any]:
    """Return a batch as nested dicts of arrays, tensors and lists of text, for a checkpoint."""
    return {
        "sparse": dict(batch.sparse),
        "bags": {name: list(bag) for name, bag in batch.bags.items()},
        **{name: getattr(batch, name) for name in _TENSORS},
    }


def batch_from_state(state: Mapping[str, Any]) -> Batch:
    """Return the batch whose :func:`batch_state` is given."""
    bags = {name: Bag(*parts) for name, parts in state["bags"].items()}
    return Batch(dict(state["sparse"]), bags, **{name: state[name] for name in _TENSORS})
