"""What every data source becomes: typed events in the order in which they are learned."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from autoemb.data.events import DatasetEvents
from autoemb.errors import UserError
from autoemb.schema import Schema

_IDS = (pl.Int64(), pl.String())
_NUMBER = (pl.Float32(),)


@dataclass(frozen=True, eq=False)
class Dataset:
    """E events and what their columns are.

    Parameters
    ----------
    name : str
        Name of the data set: the folder or file it came from, ``"synthetic"`` for the embedded one.
    format : str
        The recognised layout, for example ``"MovieLens 100K"``.
    schema : Schema
        Of the columns; the scale of a rating is resolved.
    frame : polars.DataFrame, E rows
        The columns that the schema names, in its order, none of them null. Ids are Int64 or String,
        of one kind for all columns of a table; bags List of these, their weights List(Float32);
        dense features Float32, NaN where missing; the label Float32, or Int64 numbers of classes;
        the timestamp Int64, seconds since 1970-01-01 UTC; the weight Float32.
    skipped_rows : int, default 0
        Rows of the file that were unusable and left out.
    unused : tuple of str
        Columns of the file that the schema does not name.
    notes : tuple of str
        What a person should know of the data, a line each: :func:`autoemb.data.load` tells of rows
        left out, columns not used, ids missing, a scale that was guessed, a label of one class.

    Raises
    ------
    UserError
        If the frame's columns are not the schema's, of the above types and without nulls.

    Examples
    --------
    >>> import polars as pl
    >>> from autoemb.schema import Label, Schema, Sparse
    >>> tiny = Dataset(
    ...     name="tiny",
    ...     format="by hand",
    ...     schema=Schema(label=Label(column="click", kind="click"),
    ...                   sparse=(Sparse(column="user"), Sparse(column="item")), timestamp=None),
    ...     frame=pl.DataFrame(
    ...         {"user": [7, 7, 9], "item": ["tea", "milk", "tea"], "click": [1.0, 0.0, 1.0]},
    ...         schema_overrides={"click": pl.Float32},
    ...     ),
    ... )
    >>> len(tiny), tiny.describe()["features"]
    (3, {'user': 2, 'item': 2})
    """

    name: str
    format: str
    schema: Schema
    frame: pl.DataFrame
    skipped_rows: int = 0
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = _types(self.schema)
        if self.schema.label.kind == "rating" and self.schema.label.scale is None:
            raise UserError(f"{self.name}: the rating has no scale; expected one in the schema")
        if self.frame.columns != list(self.schema.columns):
            raise UserError(
                f"{self.name}: the columns are {', '.join(self.frame.columns)}; expected the "
                f"schema's: {', '.join(self.schema.columns)}"
            )
        for name, types in expected.items():
            column = self.frame[name]
            if column.dtype not in types:
                wanted = " or ".join(map(str, types))
                raise UserError(f"{self.name}: {name} is of type {column.dtype}; expected {wanted}")
            if column.null_count():
                raise UserError(f"{self.name}: {name} holds nulls; expected none")
        for table in self.schema.tables:
            columns = [f.column for f in self.schema.features if f.table == table]
            kinds = {_inner(self.frame.schema[column]) for column in columns}
            if len(kinds) > 1:
                raise UserError(
                    f"{self.name}: {', '.join(columns)} share the table {table} and hold integers "
                    "and text; expected one kind of ids"
                )

    def __len__(self) -> int:
        """Return the number of events."""
        return self.frame.height

    def head(self, n: int) -> Dataset:
        """Return the first `n` events of the stream, or all of them where it is shorter."""
        if n < 0:
            raise UserError(f"cannot take the first {n} events; expected 0 or more")
        return replace(self, frame=self.frame.head(n))

    def shuffled(self, seed: int) -> Dataset:
        """Return the same events in a random order that `seed` alone decides."""
        order = np.random.default_rng(seed).permutation(len(self))
        return replace(self, frame=self.frame[order])

    def events(self) -> DatasetEvents:
        """Return the events, to be cut into batches.

        Examples
        --------
        >>> from autoemb.data import synthetic
        >>> data = synthetic(1000)
        >>> batch = data.events().batch(0, 500)
        >>> len(batch), sorted(batch.sparse), batch.label.dtype
        (500, ['item_id', 'user_id'], torch.float32)
        """
        return DatasetEvents(self.frame, self.schema)

    def describe(self) -> dict[str, Any]:
        """Return what the data of a run are told by.

        Returns
        -------
        dict
            ``name``, ``format``, ``interactions``, ``users`` and ``items`` (distinct ids of the
            features user_id and item_id, None where there are none), ``features`` (distinct ids of
            every feature), ``skipped_rows``, ``digest`` (a fingerprint of the events in their
            order).
        """
        features = self._features
        return {
            "name": self.name,
            "format": self.format,
            "interactions": len(self),
            "users": features.get("user_id"),
            "items": features.get("item_id"),
            "features": dict(features),
            "skipped_rows": self.skipped_rows,
            "digest": self._digest,
        }

    @cached_property
    def _features(self) -> dict[str, int]:
        distinct = {}
        for feature in self.schema.features:
            column = self.frame[feature.column]
            if isinstance(column.dtype, pl.List):
                column = column.explode(empty_as_null=False)
            distinct[feature.column] = column.n_unique()
        return distinct

    @cached_property
    def _digest(self) -> str:
        hashed = hashlib.blake2b(digest_size=8)
        for name in self.schema.columns:
            column = self.frame[name]
            if isinstance(column.dtype, pl.List):
                hashed.update(np.ascontiguousarray(column.list.len().to_numpy()).data)
                column = column.explode(empty_as_null=False)
            if column.dtype == pl.String:
                hashed.update("\0".join(column.to_list()).encode())
            else:
                hashed.update(np.ascontiguousarray(column.to_numpy()).data)
        return hashed.hexdigest()


def _types(schema: Schema) -> dict[str, tuple[pl.DataType, ...]]:
    """Return the types that each column may have."""
    types: dict[str, tuple[pl.DataType, ...]] = dict.fromkeys(schema.columns, _NUMBER)
    types |= {feature.column: _IDS for feature in schema.sparse}
    types |= {bag.column: tuple(pl.List(kind) for kind in _IDS) for bag in schema.bag}
    types |= {bag.weights: (pl.List(pl.Float32),) for bag in schema.bag if bag.weights}
    if schema.label.kind == "classes":
        types[schema.label.column] = (pl.Int64(),)
    if schema.timestamp is not None:
        types[schema.timestamp] = (pl.Int64(),)
    if schema.event_id is not None:
        types[schema.event_id] = _IDS
    return types


def _inner(kind: pl.DataType) -> pl.DataType:
    return kind.inner if isinstance(kind, pl.List) else kind  # type: ignore[return-value]
