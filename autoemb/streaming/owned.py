"""Bytes of everything that the ids of a learner own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from autoemb.nn.granted import Granted
from autoemb.optim import RowOptimizer

if TYPE_CHECKING:
    from autoemb.streaming.learner import StreamLearner


def bytes_of_row(row: Tensor, optimizer: RowOptimizer | None) -> tuple[int, int]:
    """Return the bytes of one row, and of what an optimiser keeps of it.

    Parameters
    ----------
    row : Tensor[1, ...]
    optimizer : RowOptimizer, optional
    """
    kept = {} if optimizer is None else optimizer.init_state(row, 1)
    return row.nbytes, sum(value.nbytes for value in kept.values())


def owned(learner: StreamLearner) -> dict[str, int]:
    """Return the bytes of everything that the ids own, part by part.

    Rows that no id owns yet, of tables that grow by doubling, are not counted.

    Returns
    -------
    dict
        ``rows``: of model and controller, and who owns which sizes. ``optimizer``: what it keeps
        of these. ``history``: what the controller is told. ``statistics``: what labels say of the
        ids. ``grants``: their traffic. ``ids``: raw ids, and what finds their rows.
    """
    num_ids, grants = learner.num_ids(), learner.grants
    found = dict.fromkeys(("rows", "optimizer"), 0)
    for table, own, kept in _rows_of_all(learner):
        found["rows"] += num_ids[table] * own
        found["optimizer"] += num_ids[table] * kept
    found["history"] = sum(
        num_ids[table] * own.row_bytes for table, own in learner.history.tables.items()
    )
    found["ids"] = sum(ids.nbytes() for ids in learner.encoder.id_tables.values())
    if learner.statistics is not None:
        tables = learner.statistics.tables
        found["statistics"] = sum(num_ids[t] * own.row_bytes for t, own in tables.items())
    if grants is not None:
        rows, kept = grants.bytes()
        known = sum(num_ids[table] for table in grants.embedding.reading.tables)
        found["rows"] += rows + known * grants.embedding.slot_bytes
        found["optimizer"] += kept
        found["grants"] = known * grants.traffic_bytes
    return found


def _rows_of_all(learner: StreamLearner) -> Iterator[tuple[str, int, int]]:
    """Yield the table and the bytes of an id's row in each parameter that nobody grants."""
    for part in filter(None, (learner.trainer.model, learner.trainer.controller)):
        for row in part.function.rows.values():
            if not isinstance(row.owner, Granted):
                one = row.owner.table(row.name).detach()[:1]
                yield row.table, *bytes_of_row(one, part.row_optimizer)
