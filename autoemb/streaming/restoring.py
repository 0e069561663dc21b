"""The state of a learner; and whether a saved one can be, said before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from autoemb.batch import Batch
from autoemb.errors import UserError
from autoemb.streaming.columns import batch_from_state, batch_state
from autoemb.streaming.encoding import Encoder
from autoemb.streaming.statistics import Statistics

if TYPE_CHECKING:
    from autoemb.streaming.learner import StreamLearner


def state_of(learner: StreamLearner) -> dict[str, Any]:
    """Return all that a learner needs to go on to the last bit."""
    parts = {
        name: getattr(learner, name) for name in ("statistics", "waiting", "reservoir", "grants")
    }
    cuda = learner.device.type == "cuda"
    return {
        "seed": learner.seed,
        "rows": learner._rows,
        "encoder": learner.encoder.state_dict(),
        "trainer": learner.trainer.state_dict(),
        "history": learner.history.state_dict(),
        **{name: None if part is None else part.state_dict() for name, part in parts.items()},
        "recent": [batch_state(batch) for batch in learner._recent],
        "random": torch.random.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state(learner.device) if cuda else None,
    }


def restore(learner: StreamLearner, saved: Mapping[str, Any]) -> None:
    """Give a learner a state; tables get as many rows as it has.

    Raises
    ------
    UserError, ValueError
        For a state whose parts do not fit together, or another learner's. The learner may then
        have some parts of it.
    """
    encoder, statistics = learner.encoder, learner.statistics
    rows = checked_rows(saved, learner.trainer.tables)
    learner.seed = int(saved["seed"])
    learner._resize(rows)
    encoder.load_state_dict(saved["encoder"])
    learner.trainer.load_state_dict(saved["trainer"])
    learner.history.load_state_dict(saved["history"])
    if statistics is not None:
        statistics.load_state_dict(saved["statistics"], rows)
    if learner.waiting is not None:
        learner.waiting.load_state_dict(saved["waiting"])
        for batch in learner.waiting:
            checked_past(encoder, statistics, batch)
    if learner.reservoir is not None and saved["reservoir"] is not None:
        if events := saved["reservoir"]["events"]:
            checked_past(encoder, statistics, batch_from_state(events))
        learner.reservoir.load_state_dict(saved["reservoir"])
    if learner.grants is not None:
        learner.grants.load_state_dict(saved["grants"])
    recent = map(batch_from_state, saved["recent"])
    learner._recent = [checked_past(encoder, statistics, batch) for batch in recent]
    torch.random.set_rng_state(saved["random"])
    if learner.device.type == "cuda" and saved["cuda_random"] is not None:
        torch.cuda.set_rng_state(saved["cuda_random"], learner.device)


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
