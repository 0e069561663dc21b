"""Whether a saved state can be one of a learner: said before anything is allocated for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from autoemb.batch import Batch
from autoemb.errors import UserError
from autoemb.streaming.encoding import Encoder
from autoemb.streaming.statistics import Statistics


def checked_rows(saved: Mapping[str, Any], tables: Sequence[str]) -> dict[str, int]:
    """Return the rows of each table, as many as its counts: nothing more is allocated."""
    rows = {table: saved["rows"][table] for table in tables}
    for table, number in rows.items():
        held = len(saved["history"][table]["count"])
        if type(number) is not int or number != held:
            raise UserError(f"table {table!r} has {number!r} rows; its history has {held}")
        ids = saved["encoder"]["ids"][table]
        used = len(ids["ids"]) if "ids" in ids else len(ids.get("offsets", (0,))) - 1
        if number <= used:
            raise UserError(f"table {table!r} has {number} rows for {used} ids; expected more")
    return rows


def checked_past(encoder: Encoder, statistics: Statistics | None, batch: Batch) -> Batch:
    """Return a batch of a saved past, if its ids are known and it was told what it needs."""
    known = batch.known
    batch = encoder.checked(batch, labelled=True)
    if statistics is not None:
        statistics.check_known(known, len(batch))
    for name, rows in encoder.numbers(batch, insert=False).items():
        if bool((rows < 0).any()):
            raise UserError(f"a past event holds an id of {name} that its table does not know")
    return replace(batch, known=known)
