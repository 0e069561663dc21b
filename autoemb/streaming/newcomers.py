"""Predictions for ids that were never seen, without giving them rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoemb.batch import Batch
from autoemb.bilevel.reader import Snapshot
from autoemb.bilevel.working_set import Functional, views_of
from autoemb.nn.draws import Keys, id_keys, salted
from autoemb.streaming.packed import tensors_of, with_tensors

if TYPE_CHECKING:
    from autoemb.streaming.learner import StreamLearner


def view_of_strangers(learner: StreamLearner, batch: Batch) -> Snapshot:
    """Return what a prediction needs; ids never seen have rows in the snapshot alone.

    They are numbered on from the last row of their table, with the values that they would start
    with, and what is known of the row after the last id: nothing.
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
            new: Any = list(strangers)
            integers = not isinstance(new[0], str)
            keys[table] = id_keys(np.array(new) if integers else new, learner.seed, table)
    example = encoder.example(batch, numbers)
    example = _on(learner.device, example)
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


def _number(
    ids: Any, rows: npt.NDArray[np.int64], first: int, strangers: dict[Any, int]
) -> None:
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


def _on(device: torch.device, value: Any) -> Any:
    """Return nested tensors on a device."""
    moved = [tensor.to(device) for tensor in tensors_of(value)]
    return with_tensors(value, iter(moved))
