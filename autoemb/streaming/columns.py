"""Events in columns that can be written and read in any order, ids as they came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from autoemb.batch import Bag, Batch, Ids, Known

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
            self._columns[name] = np.concatenate([values, _empty(room - len(values), values)])
        self._room = max(room, self._room)

    def put(self, slots: Array, batch: Batch, events: Array) -> None:
        """Write some events of a batch; of several for one slot the last stays.

        Weights that are given of some events alone are 1 of the others.
        """
        given = _arrays(batch)
        if self._columns and given.keys() != self._columns.keys():
            given = _arrays(_weighted(batch))
            self._columns = _arrays(_weighted(self.take(np.arange(self._room))))
        for name, values in given.items():
            if name not in self._columns:
                self._columns[name] = _empty(self._room, values)
            # NumPy promises that the last of several events for one slot stays.
            chosen = values[events]
            if _is_bag(values):  # parts of their own: a view would keep the whole batch's ids
                chosen = _objects([part.copy() for part in chosen])
            self._columns[name][slots] = chosen

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


def _empty(room: int, like: Array) -> Array:
    """Return room for so many events of a column; bags are empty."""
    found = np.zeros((room, *like.shape[1:]), like.dtype)
    if _is_bag(like):
        found.fill(like[0][:0].copy())
    return found


def _is_bag(values: Array) -> bool:
    return values.dtype == object and len(values) > 0 and isinstance(values[0], np.ndarray)


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
    for name, value in () if batch.known is None else batch.known._asdict().items():
        found[f"known {name}"] = value.numpy()
    return found


def _weighted(batch: Batch) -> Batch:
    """Return a batch with all weights, 1 where it has none."""
    bags = {}
    for name, bag in batch.bags.items():
        ones = np.ones(len(bag.values), np.float32)
        bags[name] = bag if bag.weights is not None else bag._replace(weights=ones)
    weight = torch.ones(len(batch)) if batch.weight is None else batch.weight
    return replace(batch, bags=bags, weight=weight)


def _objects(parts: Sequence[Array]) -> Array:
    found = np.empty(len(parts), dtype=object)
    for number, part in enumerate(parts):  # at once, parts of one length would be a matrix
        found[number] = part
    return found


def _batch(columns: Mapping[str, Array]) -> Batch:
    sparse: dict[str, Ids] = {}
    bags: dict[str, Bag] = {}
    tensors: dict[str, Any] = {}
    known: dict[str, Any] = {}
    for key, values in columns.items():
        kind, _, name = key.partition(" ")
        if kind == "sparse":
            sparse[name] = _as_ids(values)
        elif kind == "tensor":
            tensors[name] = torch.from_numpy(values)
        elif kind == "known":
            known[name] = torch.from_numpy(values)
        elif kind == "bag":
            weights = columns.get(f"weights {name}")
            bags[name] = _joined(values, weights)
    return Batch(sparse, bags, **tensors, known=Known(**known) if known else None)


def _joined(parts: Array, weights: Array | None) -> Bag:
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    values = np.concatenate(parts) if len(parts) else np.zeros(0, np.int64)
    if weights is None:
        return Bag(_as_ids(values), offsets)
    own = np.concatenate([np.zeros(0, np.float32), *weights]).astype(np.float32)
    return Bag(_as_ids(values), offsets, own)


def copy_of(batch: Batch) -> Batch:
    """Return a batch in memory of its own, without what nobody learns from."""
    sparse = {name: _copied(ids) for name, ids in batch.sparse.items()}
    bags = {name: Bag(*map(_copied, bag)) for name, bag in batch.bags.items()}
    tensors = {name: getattr(batch, name) for name in _TENSORS}
    own = {name: None if value is None else value.clone() for name, value in tensors.items()}
    return Batch(sparse, bags, **own, known=None if batch.known is None else batch.known.copy())


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    """Return the events of a batch from ``start`` up to ``stop``, without what nobody learns from.

    Examples
    --------
    >>> bag = Bag(np.array([7, 8, 9]), np.array([0, 2, 3]))
    >>> part_of(Batch(bags={"words": bag}), 1, 2).bags["words"].values
    array([9])
    """
    sparse = {name: ids[start:stop] for name, ids in batch.sparse.items()}
    bags = {}
    for name, (values, offsets, weights) in batch.bags.items():
        own = slice(offsets[start], offsets[stop])
        shares = None if weights is None else weights[own]
        bags[name] = Bag(values[own], offsets[start : stop + 1] - offsets[start], shares)
    tensors = {name: getattr(batch, name) for name in _TENSORS}
    parts = {name: None if value is None else value[start:stop] for name, value in tensors.items()}
    known = None if batch.known is None else batch.known.part(start, stop)
    return Batch(sparse, bags, **parts, known=known)


def _copied(values: Any) -> Any:
    return None if values is None else values.copy()


def batch_state(batch: Batch) -> dict[str, Any]:
    """Return a batch as nested dicts of tensors and lists of text, for a checkpoint."""
    return {
        "sparse": {name: _as_tensor(ids) for name, ids in batch.sparse.items()},
        "bags": {name: [*map(_as_tensor, bag)] for name, bag in batch.bags.items()},
        **{name: getattr(batch, name) for name in _TENSORS},
        "known": None if batch.known is None else batch.known._asdict(),
    }


def batch_from_state(state: Mapping[str, Any]) -> Batch:
    """Return the batch whose :func:`batch_state` is given."""
    sparse = {name: _from_tensor(ids) for name, ids in state["sparse"].items()}
    bags = {name: Bag(*map(_from_tensor, parts)) for name, parts in state["bags"].items()}
    known = None if state["known"] is None else Known(**state["known"])
    return Batch(sparse, bags, **{name: state[name] for name in _TENSORS}, known=known)


def _as_tensor(values: Any) -> Any:
    return torch.from_numpy(values) if isinstance(values, np.ndarray) else values


def _from_tensor(values: Any) -> Any:
    return values.numpy() if isinstance(values, torch.Tensor) else values
