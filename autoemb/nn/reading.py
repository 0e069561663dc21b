"""Which features a module reads from which tables, and whether it is given them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autoemb.batch import Bag
from autoemb.ops import look_up
from autoemb.ops.pool import pool
from autoemb.schema import Bag as BagFeature
from autoemb.schema import Sparse


class Run(NamedTuple):
    """Consecutive features of one id each that alone read consecutive tables.

    Attributes
    ----------
    features, tables : slice
    """

    features: slice
    tables: slice


class Reading:
    """What a module reads, table by table.

    Parameters
    ----------
    features : sequence of Sparse
        Without any, each table has one column of ids, and is named by its number.
    num_tables : int

    Attributes
    ----------
    tables : tuple of str
        In the order in which features first name them.
    runs : list of Run
        Features that one call can look up together, event by event.
    shared : dict of int to list of int
        The others: number of a table to those of the features that read it.

    Raises
    ------
    ValueError
        If the features name another number of tables.

    Examples
    --------
    >>> features = [Sparse(column=name) for name in ("user_id", "item_id", "city")]
    >>> reading = Reading([*features, BagFeature(column="prev_items", table="item_id")], 3)
    >>> reading.tables, reading.shared
    (('user_id', 'item_id', 'city'), {1: [1, 3]})
    >>> [run.features for run in reading.runs]
    [slice(0, 1, None), slice(2, 3, None)]
    """

    def __init__(self, features: Sequence[Sparse], num_tables: int) -> None:
        self.tables = tuple(dict.fromkeys(feature.table for feature in features))
        if features and len(self.tables) != num_tables:
            raise ValueError(
                f"num_embeddings has {num_tables} tables; the features name {len(self.tables)}: "
                f"{', '.join(self.tables)}"
            )
        self.runs: list[Run] = []
        self.shared: dict[int, list[int]] = {}
        if not features:
            self.tables = tuple(map(str, range(num_tables)))
            self.runs = [Run(slice(0, num_tables), slice(0, num_tables))]
            return
        readers: dict[str, list[int]] = {table: [] for table in self.tables}
        for f, feature in enumerate(features):
            readers[feature.table].append(f)
        for t, table in enumerate(self.tables):
            first = readers[table][0]
            if len(readers[table]) > 1 or isinstance(features[first], BagFeature):
                self.shared[t] = readers[table]
            elif self.runs and self.runs[-1][0].stop == first and self.runs[-1][1].stop == t:
                start = self.runs[-1]
                self.runs[-1] = Run(
                    slice(start.features.start, first + 1), slice(start.tables.start, t + 1)
                )
            else:
                self.runs.append(Run(slice(first, first + 1), slice(t, t + 1)))


def check_id_columns(ids: Tensor, columns: int, features: Sequence[Sparse] = ()) -> None:
    """Raise the errors of torch.nn.Embedding for ids that are not int64 [B, F].

    Raises
    ------
    RuntimeError
        For another dtype.
    ValueError
        For another shape, or where features must be given by name.
    """
    if features and len(features) != columns:
        raise ValueError("features share a table here: give ids by the name of their feature")
    if any(isinstance(feature, BagFeature) for feature in features):
        raise ValueError("some features are bags: give ids by the name of their feature")
    if ids.dtype != torch.int64:
        raise RuntimeError(f"expected ids of dtype torch.int64 but got {ids.dtype}")
    if ids.dim() != 2 or ids.shape[1] != columns:
        raise ValueError(f"expected ids of shape [B, {columns}] (one column a table) but got "
                         f"{list(ids.shape)}")  # fmt: skip


def check_named(ids: Mapping[str, Any], features: Sequence[Sparse]) -> list[Any]:
    """Return the ids of each feature, in the order of the features.

    Raises
    ------
    ValueError
        For a feature that is missing, of another kind, or of another number of events.
    """
    if not features:
        raise ValueError("the module names no features: give ids as a tensor [B, F]")
    found, events = [], set()
    for feature in features:
        name = feature.column
        if name not in ids:
            raise ValueError(f"feature {name!r} is missing; there are {', '.join(ids) or 'none'}")
        value = ids[name]
        bag = isinstance(value, Bag)
        if bag != isinstance(feature, BagFeature):
            kinds = ("a bag", "one id an event") if bag else ("one id an event", "a bag")
            raise ValueError(f"feature {name!r} is {kinds[0]}; the module reads {kinds[1]}")
        values = value.values if bag else value
        if values.dtype != torch.int64 or values.dim() != 1:
            raise ValueError(
                f"feature {name!r}: expected int64 rows of one dimension but got {values.dtype} "
                f"{list(values.shape)}"
            )
        if bag:
            _check_bag(name, value)
        events.add(len(value.offsets) - 1 if bag else len(values))
        found.append(value)
    if len(events) > 1:
        raise ValueError(f"features have different numbers of events: {sorted(events)}")
    return found


def _check_bag(name: str, bag: Bag) -> None:
    values, offsets, weights = bag
    if not isinstance(offsets, Tensor) or offsets.dtype != torch.int64:
        raise ValueError(f"feature {name!r}: expected the offsets of a bag as an int64 tensor")
    lengths = len(offsets), len(values) if weights is None else len(weights)
    if lengths[0] == 0 or lengths[1] != len(values):
        raise ValueError(
            f"feature {name!r}: a bag of {len(values)} ids has {lengths[0]} offsets and "
            f"{lengths[1]} weights"
        )
    # On a GPU the host would wait for the device.
    if offsets.device.type == "cpu" and [int(offsets[0]), int(offsets[-1])] != [0, len(values)]:
        raise ValueError(
            f"feature {name!r}: offsets of a bag go from {int(offsets[0])} to {int(offsets[-1])}; "
            f"expected from 0 to {len(values)}, the number of its ids"
        )


def taken(feature: Sparse, part: Tensor | Bag, values: Tensor, rows: Tensor) -> Tensor:
    """Return what each event gets [B, D] of values [U, D]: its row, or the pool of its bag's rows.

    Parameters
    ----------
    feature : Sparse
        Says how a bag is pooled.
    part : Tensor[B] or Bag
        Ids of the feature.
    values : Tensor[U, D]
    rows : Tensor[B] or Tensor[L], int64
        Row of ``values`` of each id of the feature.
    """
    if not isinstance(part, Bag):
        return look_up(values, rows)
    pooling = feature.pooling if isinstance(feature, BagFeature) else "mean"
    return pool(values, rows, part.offsets, part.weights, pooling=pooling)
