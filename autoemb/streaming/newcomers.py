"""Ids that a batch holds for the first time, in learning and in predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoemb.batch import Batch, Ids
from autoemb.bilevel.reader import Snapshot
from autoemb.bilevel.working_set import Functional, views_of
from autoemb.nn.draws import Keys, id_keys, salted
from autoemb.schema import Sparse
from autoemb.streaming.packed import tensors_of, with_tensors
from autoemb.streaming.statistics import told

if TYPE_CHECKING:
    from autoemb.streaming.learner import StreamLearner


def new_ids(
    reads: Mapping[str, Sparse],
    batch: Batch,
    numbers: Mapping[str, npt.NDArray[np.int64]],
    known: Mapping[str, int],
) -> dict[str, Ids]:
    """Return the ids whose rows are past those known, in the order of their rows, by table.

    Parameters
    ----------
    reads : mapping of str to Sparse
    batch : Batch
    numbers : mapping of str to array
        Row of each id, by feature.
    known : mapping of str to int
        Rows that tables had before.
    """
    found: dict[str, dict[int, Any]] = {}
    for name, feature in reads.items():
        ids = batch.bags[name].values if name in batch.bags else batch.sparse[name]
        rows = numbers[name]
        events = np.flatnonzero(rows >= known[feature.table])
        fresh, first = np.unique(rows[events], return_index=True)  # most ids come several times
        taken = events[first]
        new = ids[taken].tolist() if isinstance(ids, np.ndarray) else [ids[e] for e in taken]
        found.setdefault(feature.table, {}).update(zip(fresh.tolist(), new, strict=True))
    return {
        table: _as_ids([own[row] for row in sorted(own)]) for table, own in found.items() if own
    }


def _as_ids(ids: list[Any]) -> Ids:
    return ids if isinstance(ids[0], str) else np.array(ids, dtype=np.int64)


def view_of_strangers(learner: StreamLearner, batch: Batch) -> Snapshot:
    """Return what a prediction needs; ids never seen have rows in the snapshot alone.

    They are numbered on from the last row of their table, with the values that they would start
    with; nothing is known of them.
    """
    trainer, encoder = learner.trainer, learner.encoder
    numbers = encoder.numbers(batch, insert=False)
    known = learner.num_ids()
    keys: dict[str, Keys] = {}
    for table in trainer.tables:
        strangers: dict[Any, int] = {}
        for name, feature in trainer.reads.items():
            if feature.table == table:
                ids = batch.bags[name].values if name in batch.bags else batch.sparse[name]
                _number(ids, numbers[name], known[table], strangers)
        if strangers:
            keys[table] = id_keys(_as_ids(list(strangers)), learner.seed, table)
    example = encoder.example(batch, numbers)
    if learner.statistics is not None:
        example = told(example, learner.statistics.known(example, known))
    example = on_device(learner.device, example)
    rows = {table: known[table] + len(keys.get(table, ())) for table in trainer.tables}

    def history(wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if trainer.features is None:
            return {}
        return trainer.features({t: own.clamp_max(known[t]) for t, own in wanted.items()})

    (view,) = views_of([example], trainer.reads, rows, history)
    model = _gathered(trainer.model.function, view.play.rows, known, keys)
    controller = {}
    if trainer.controller is not None:
        controller = _gathered(trainer.controller.function, view.play.rows, known, keys)
    return trainer.reader.take(view, model, controller)


def _number(ids: Any, rows: npt.NDArray[np.int64], first: int, strangers: dict[Any, int]) -> None:
    """Replace -1 in ``rows`` by numbers from ``first`` on, one for each distinct id."""
    for event in np.flatnonzero(rows < 0).tolist():
        id = ids[event] if isinstance(ids, list) else int(ids[event])
        rows[event] = first + strangers.setdefault(id, len(strangers))


def _gathered(
    function: Functional,
    rows: Mapping[str, Tensor],
    known: Mapping[str, int],
    keys: Mapping[str, Keys],
) -> dict[str, Tensor]:
    """Return copies of the rows in play; those of strangers as they would start."""
    here = {table: own[own < known[table]] if table in keys else own for table, own in rows.items()}
    found = function.gather(here)
    for path, row in function.rows.items():
        if row.table in keys:
            new = row.owner.new_rows(row.name, salted(keys[row.table], path))
            found[path] = torch.cat([found[path], new])
    return found


def on_device(device: torch.device, value: Any) -> Any:
    """Return nested tensors on a device."""
    moved = [tensor.to(device) for tensor in tensors_of(value)]
    return with_tensors(value, iter(moved))
