"""What a served model is asked for: columns by name, made a batch of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoemb.batch import Bag, Batch
from autoemb.errors import UserError
from autoemb.schema import Dense, Schema


def as_batch(columns: Mapping[str, Any], schema: Schema, *, labelled: bool = False) -> Batch:
    """Return the columns that a schema names as a batch; others are passed over.

    Parameters
    ----------
    columns : mapping of str to column
        Of a sparse feature ids [B]; of a bag a list of ids for each event, or a
        :class:`autoemb.Bag`; of a dense feature numbers [B], None or NaN where one is missing.
    schema : Schema
    labelled : bool, default False
        Whether the columns of label, weight and time, too, which are numbers [B].

    Raises
    ------
    UserError
        For what is no column, and dense features that are missing, no numbers or of unequal
        lengths. Ids are checked where the batch is used.

    Examples
    --------
    >>> from autoemb.schema import Bag as BagFeature, Label
    >>> schema = Schema(label=Label(column="click", kind="click"),
    ...                 bag=[BagFeature(column="tags")], dense=[Dense(column="price")])
    >>> batch = as_batch({"tags": [["a", "b"], []], "price": [2.5, None]}, schema)
    >>> batch.bags["tags"].values, batch.dense
    (['a', 'b'], tensor([[2.5000],
            [   nan]]))
    """
    sparse = {
        f.column: _column(f.column, columns[f.column]) for f in schema.sparse if f.column in columns
    }
    bags = {b.column: _bag(b.column, columns[b.column]) for b in schema.bag if b.column in columns}
    batch = Batch(sparse, bags, _dense(columns, schema.dense))
    if not labelled:
        return batch
    label = _labels(columns, schema)
    weight = None if schema.weight is None else _numbers(schema.weight, columns)
    time = columns.get(schema.timestamp) if schema.timestamp is not None else None
    return replace(batch, label=label, weight=weight, timestamp=time)


def _labels(columns: Mapping[str, Any], schema: Schema) -> Tensor:
    """Return labels: numbers, or the numbers of the classes that are named."""
    label = schema.label
    if not label.classes:
        return _numbers(label.column, columns)
    if label.column not in columns:
        raise UserError(f"{label.column!r} is missing; there are {', '.join(columns)}")
    place = {name: number for number, name in enumerate(label.classes)}
    found = [place.get(str(name), -1) for name in _column(label.column, columns[label.column])]
    if -1 in found:
        raise UserError(
            f"event {found.index(-1)}: {label.column} is no class that the model knows: "
            f"{', '.join(label.classes)}"
        )
    return torch.tensor(found)


def _column(name: str, values: Any) -> Any:
    if not isinstance(values, Sized) or isinstance(values, str | bytes | Mapping):
        raise UserError(f"{name} is one {type(values).__name__}; expected one value an event")
    return values


def _bag(name: str, bag: Any) -> Bag:
    if isinstance(bag, Bag):
        return bag
    parts: list[Any] = [_column(f"a bag of {name}", part) for part in _column(name, bag)]
    return Bag([id for part in parts for id in part], np.cumsum([0, *map(len, parts)]))


def _dense(columns: Mapping[str, Any], features: Sequence[Dense]) -> Tensor | None:
    if not features:
        return None
    found = [_numbers(feature.column, columns, "dense feature ") for feature in features]
    for feature, values in zip(features, found, strict=True):
        if values.shape != found[0].shape:
            raise UserError(
                f"{feature.column} has {len(values)} values and {features[0].column} "
                f"{len(found[0])}; expected one an event"
            )
    return torch.stack(found, 1)


def _numbers(name: str, columns: Mapping[str, Any], kind: str = "") -> Tensor:
    if name not in columns:
        raise UserError(f"{kind}{name!r} is missing; there are {', '.join(columns)}")
    try:
        values = np.array(_column(name, columns[name]), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}; expected numbers, or None for none") from None
    if values.ndim != 1:
        raise UserError(f"{name} has shape {list(values.shape)}; expected one number an event")
    return torch.from_numpy(values)
