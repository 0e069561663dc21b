"""From raw events to what a trainer takes: checked first, then rows in the place of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoemb.batch import Bag, Batch, Ids
from autoemb.bilevel import Example
from autoemb.errors import UserError
from autoemb.nn.dense import DenseTransform
from autoemb.nn.inputs import Inputs
from autoemb.schema import Bag as BagFeature
from autoemb.schema import Dense, Sparse
from autoemb.streaming.id_table import IdTable, canonical
from autoemb.tasks import Task


class Encoder:
    """Row numbers for raw ids, and transforms of dense features.

    Parameters
    ----------
    reads : mapping of str to Sparse
        Features that a model reads, by name; others of a batch are passed over.
    dense : sequence of Dense
        In the order of a batch's columns.
    task : Task, optional
        What labels it takes; by default any that are finite.

    Attributes
    ----------
    id_tables : dict of str to IdTable
        By table.
    dense : DenseTransform or None
    """

    def __init__(
        self,
        reads: Mapping[str, Sparse],
        dense: Sequence[Dense] = (),
        task: Task | None = None,
    ) -> None:
        self.reads, self.task = dict(reads), task
        self.id_tables = {feature.table: IdTable() for feature in reads.values()}
        self.dense = DenseTransform(dense) if dense else None

    def checked(self, batch: Batch, *, labelled: bool) -> Batch:
        """Return a batch with the columns that are read, as arrays of the right kinds.

        Raises
        ------
        UserError
            For a feature that is missing or of another kind, columns of unequal lengths, an id that
            is no integer or text or is not of the kind of its table, numbers and labels that are
            not finite, weights below 0, and times that are no integers; names feature or event, and
            what was expected.
        """
        events = _events(batch, self.reads)
        if events == 0:
            raise UserError("the batch holds no events; expected one at least")
        kinds = {table: ids.kind for table, ids in self.id_tables.items()}
        sparse: dict[str, Ids] = {}
        bags: dict[str, Bag] = {}
        for name, feature in self.reads.items():
            if isinstance(feature, BagFeature):
                bag = _checked_bag(name, _given(batch.bags, name, "bag", batch.sparse), events)
                _check_kind(name, feature.table, bag.values, kinds)
                bags[name] = bag
            else:
                ids = _ids(name, _given(batch.sparse, name, "sparse feature", batch.bags))
                _check_length(name, len(ids), events)
                _check_kind(name, feature.table, ids, kinds)
                sparse[name] = ids
        return Batch(
            sparse=sparse,
            bags=bags,
            dense=self._checked_dense(batch.dense, events),
            label=self._checked_label(batch.label, events) if labelled else None,
            weight=None if batch.weight is None else _checked_weight(batch.weight, events),
            timestamp=None if batch.timestamp is None else _checked_time(batch.timestamp, events),
            event_id=batch.event_id,
        )

    def _checked_label(self, label: Tensor | None, events: int) -> Tensor:
        if label is None:
            raise UserError("the batch has no labels to learn from")
        _check_column("label", label, events)
        _check_finite("label", label)
        if self.task is not None:
            self.task.check(label)
        return label

    def _checked_dense(self, dense: Tensor | None, events: int) -> Tensor | None:
        if self.dense is None:
            return None
        columns = len(self.dense.features)
        if not isinstance(dense, Tensor) or dense.shape != (events, columns):
            raise UserError(
                f"dense features are {_shape(dense)}; expected a tensor [{events}, {columns}]"
            )
        dense = dense.to(torch.float32)
        infinite = torch.isinf(dense)
        if bool(infinite.any()):
            event, column = infinite.nonzero()[0].tolist()
            name = self.dense.features[column].column
            raise UserError(
                f"event {event}: {name} is infinite; expected a number, or NaN for none"
            )
        return dense

    def numbers(self, batch: Batch, *, insert: bool) -> dict[str, npt.NDArray[np.int64]]:
        """Return the row numbers of a checked batch's ids, by feature; -1 for one that has none.

        Parameters
        ----------
        batch : Batch
        insert : bool
            Whether an unknown id gets the next row of its table.
        """
        found = {}
        for name, feature in self.reads.items():
            ids = batch.bags[name].values if name in batch.bags else batch.sparse[name]
            found[name] = self.id_tables[feature.table].rows(ids, insert=insert)
        return found

    def example(self, batch: Batch, numbers: Mapping[str, npt.NDArray[np.int64]]) -> Example:
        """Return a checked batch with row numbers in the place of its ids, in main memory."""
        ids: dict[str, Tensor | Bag] = {}
        for name, rows in numbers.items():
            own = torch.from_numpy(rows)
            if name in batch.bags:
                _, offsets, weights = batch.bags[name]
                shares = None if weights is None else torch.from_numpy(weights)
                ids[name] = Bag(own, torch.from_numpy(offsets), shares)
            else:
                ids[name] = own
        dense = None
        if self.dense is not None and batch.dense is not None:
            dense = self.dense(batch.dense)
        inputs = Inputs(ids, dense)
        if batch.label is None:
            return Example(inputs, torch.zeros(len(batch)))
        if self.task is None:
            return Example(inputs, batch.label, batch.weight)
        target = self.task.target(batch.label)
        return Example(inputs, target, batch.weight, self.task.grade(batch.label))

    def state_dict(self) -> dict[str, Any]:
        """Return the ids of all tables and what is known of dense features."""
        dense = None if self.dense is None else self.dense.state_dict()
        return {
            "ids": {
                table: {name: torch.tensor(values) for name, values in ids.state().items()}
                for table, ids in self.id_tables.items()
            },
            "dense": None if dense is None else dict(dense),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        Raises
        ------
        UserError
            For ids that no table can hold.
        """
        id_tables = {}
        for table in self.id_tables:
            arrays = {name: np.asarray(values) for name, values in state["ids"][table].items()}
            id_tables[table] = IdTable.from_state(arrays)
        self.id_tables = id_tables
        if self.dense is not None:
            self.dense.load_state_dict(state["dense"])


def _shape(value: Any) -> str:
    return f"{list(value.shape)}" if isinstance(value, Tensor) else f"of {type(value).__name__}"


def _given(columns: Mapping[str, Any], name: str, kind: str, others: Mapping[str, Any]) -> Any:
    if name in columns:
        return columns[name]
    if name in others:
        raise UserError(f"feature {name!r} is not a {kind} in this batch; expected a {kind}")
    known = ", ".join((*columns, *others)) or "none"
    raise UserError(f"feature {name!r} is missing; the batch has {known}")


def _events(batch: Batch, reads: Mapping[str, Sparse]) -> int:
    """Return the number of events by the first feature that is read and given."""
    for name in reads:
        try:
            if name in batch.sparse:
                return len(batch.sparse[name])
            if name in batch.bags:
                return max(0, len(batch.bags[name].offsets) - 1)
        except (AttributeError, TypeError):
            raise UserError(f"feature {name!r}: expected a column of ids, or a Bag") from None
    return len(batch)


def _ids(name: str, ids: Any) -> Ids:
    try:
        found = canonical(ids)
        if isinstance(found, list):
            "".join(found).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"feature {name!r}: an id is no text: {error}") from None
    except UserError as error:
        raise UserError(f"feature {name!r}: {error}") from None
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"feature {name!r}: expected an array or list of ids") from None
    return found


def _check_length(name: str, length: int, events: int) -> None:
    if length != events:
        raise UserError(f"{name} has {length} values for {events} events")


def _check_kind(name: str, table: str, ids: Ids, kinds: dict[str, str | None]) -> None:
    """Check ids against the kind of their table; the first ones decide it."""
    if len(ids) == 0:
        return
    kind = "integers" if isinstance(ids, np.ndarray) else "strings"
    known = kinds[table]
    if known is None:
        kinds[table] = kind
    elif known != kind:
        raise UserError(f"feature {name!r}: ids are {kind}; those of table {table!r} are {known}")


def _checked_bag(name: str, bag: Any, events: int) -> Bag:
    if not isinstance(bag, Bag):
        raise UserError(f"bag {name!r} is a {type(bag).__name__}; expected a Bag")
    values, offsets, weights = _ids(name, bag.values), np.asarray(bag.offsets), bag.weights
    sound = (
        offsets.ndim == 1
        and offsets.dtype.kind in "iu"
        and len(offsets) == events + 1
        and offsets[0] == 0
        and offsets[-1] == len(values)
        and bool((np.diff(offsets.astype(np.int64)) >= 0).all())
    )
    if not sound:
        raise UserError(
            f"bag {name!r}: expected {events + 1} offsets that ascend from 0 to {len(values)}"
        )
    if weights is not None:
        weights = np.ascontiguousarray(weights, dtype=np.float32)
        if weights.shape != (len(values),):
            raise UserError(
                f"bag {name!r} has weights {list(weights.shape)} for {len(values)} ids; expected "
                "one an id"
            )
        bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if bad.size:
            event = int(np.searchsorted(offsets, bad[0], side="right")) - 1
            raise UserError(
                f"event {event}: a weight of {name} is {weights[bad[0]]}; expected 0 or more"
            )
    return Bag(values, np.ascontiguousarray(offsets, dtype=np.int64), weights)


def _checked_weight(weight: Tensor, events: int) -> Tensor:
    _check_column("weight", weight, events)
    weight = weight.to(torch.float32)
    _check_finite("weight", weight)
    if bool((weight < 0).any()):
        event = int((weight < 0).nonzero()[0])
        raise UserError(f"event {event}: weight is {weight[event]:g}; expected 0 or more")
    return weight


def _checked_time(time: Any, events: int) -> npt.NDArray[np.int64]:
    found = np.asarray(time)
    if found.dtype.kind not in "iu" or found.shape != (events,):
        raise UserError(
            f"timestamp is {found.dtype} {[*found.shape]}; expected integers [{events}], one an "
            "event"
        )
    return found.astype(np.int64, copy=False)


def _check_column(name: str, column: Tensor, events: int) -> None:
    if not isinstance(column, Tensor) or column.shape != (events,):
        raise UserError(f"{name} is {_shape(column)}; expected a tensor [{events}], one an event")


def _check_finite(name: str, values: Tensor) -> None:
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        event = int((~finite).nonzero()[0])
        raise UserError(f"event {event}: {name} is {values[event]:g}; expected a finite number")
