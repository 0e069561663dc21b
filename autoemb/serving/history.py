"""What labels say of a served model's ids: it goes on growing while the model serves."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from autoemb.batch import Batch
from autoemb.bilevel import Example
from autoemb.nn.draws import id_keys
from autoemb.streaming.encoding import Encoder
from autoemb.streaming.newcomers import new_ids
from autoemb.streaming.queue import Clock
from autoemb.streaming.statistics import Statistics, told


class ServedHistory:
    """Target statistics of a served model's ids, those that own a row and all others.

    Any number of threads may ask while one lets it learn.

    Parameters
    ----------
    statistics : Statistics
        With a row for each id of the model's tables.
    seed : int
        With table and raw id it decides what the factors of a new id start with.
    wide : torch.nn.Linear, optional
        Of :class:`autoemb.nn.models.Told`; frozen here. Without it the network is told how many
        events there were, and nothing else.
    """

    def __init__(self, statistics: Statistics, seed: int, wide: nn.Linear | None) -> None:
        self.statistics, self.seed, self.wide = statistics, seed, wide
        if wide is not None:
            wide.requires_grad_(False)
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the lock."""
        with self._lock:
            return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become the history whose state is given."""
        vars(self).update(state)
        self._lock = threading.RLock()

    def example(self, encoder: Encoder, batch: Batch) -> Example:
        """Return a checked batch with the numbers of its ids, told what is known of them.

        Ids that are not known get numbers from the last of their table on.
        """
        with self._lock:
            numbers = encoder.numbers(batch, insert=False)
            known = {table: len(ids) for table, ids in encoder.id_tables.items()}
            for name, rows in numbers.items():
                rows[rows < 0] = known[encoder.reads[name].table]
            example = encoder.example(batch, numbers)
            return told(example, self.statistics.known(example, known))

    def observe(self, encoder: Encoder, batch: Batch) -> None:
        """Take in the labels of a checked batch; new ids get the next numbers of their tables."""
        with self._lock:
            known = {table: len(ids) for table, ids in encoder.id_tables.items()}
            try:
                self._take_in(encoder, batch, known)
            except BaseException:
                for table, rows in known.items():
                    encoder.id_tables[table].truncate(rows)
                raise

    def _take_in(self, encoder: Encoder, batch: Batch, known: Mapping[str, int]) -> None:
        numbers = encoder.numbers(batch, insert=True)
        tables = self.statistics.tables
        short = {t: len(ids) for t, ids in encoder.id_tables.items() if len(ids) > len(tables[t])}
        self.statistics.grow({table: 2 * rows for table, rows in short.items()})
        for table, ids in new_ids(encoder.reads, batch, numbers, known).items():
            rows = slice(known[table], len(encoder.id_tables[table]))
            self.statistics.begin(table, rows, id_keys(ids, self.seed, table))
        advance = self.statistics.advance(encoder.example(batch, numbers), batch.timestamp)
        self.statistics.commit(advance)

    def bytes(self, num_ids: Mapping[str, int]) -> int:
        """Return the bytes that so many ids of each table have."""
        tables = self.statistics.tables
        return sum(rows * tables[table].row_bytes for table, rows in num_ids.items())

    def state(self, num_ids: Mapping[str, int]) -> dict[str, Any]:
        """Return everything, for a file."""
        statistics = self.statistics
        return {
            "tables": {t: own.packed[: num_ids[t]] for t, own in statistics.tables.items()},
            "totals": statistics.totals,
            "by_event": statistics.clock.by_event,
            "seed": self.seed,
            "wide": None if self.wide is None else [self.wide.weight, self.wide.bias],
        }


def reordered(statistics: Statistics, orders: Mapping[str, npt.NDArray[np.int64]]) -> Statistics:
    """Return a copy whose rows are those of the given numbers, by table; nothing waits in it."""
    found = Statistics(statistics.reads, statistics.task, Clock(statistics.clock.by_event))
    for table, own in statistics.tables.items():
        found.tables[table].packed = own.packed[orders[table]]
    found.totals = {name: value.copy() for name, value in statistics.totals.items()}
    return found
