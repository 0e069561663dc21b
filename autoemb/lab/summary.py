"""What a run tells of itself when it is complete."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

import autoemb
from autoemb.bilevel.part import Part
from autoemb.lab.ranks import rank_correlation
from autoemb.nn.granted import GrantedEmbedding
from autoemb.streaming import StreamLearner


def embeddings_of(learner: StreamLearner) -> dict[str, Any]:
    """Return what the ids own at the end, and who owns it."""
    num_ids = learner.num_ids()
    found = [m for m in learner.modules[0].modules() if isinstance(m, GrantedEmbedding)]
    if not found:
        rows = learner.trainer.model.function.rows.values()
        floats = sum(num_ids[row.table] * row.owner.table(row.name)[:1].numel() for row in rows)
        return {"bytes": 4 * floats}
    (embedding,) = found
    tables = embedding.reading.tables
    ids = [num_ids[table] for table in tables]
    widths = [
        ((embedding.slots(field)[:n] > 0) * torch.tensor(embedding.embedding_dims)).sum(1)
        for field, n in enumerate(ids)
    ]
    counts = [learner.history.tables[t].count[:n] for t, n in zip(tables, ids, strict=True)]
    slots = sum(ids) * len(embedding.embedding_dims)
    return {
        "bytes": 4 * (embedding.floats + slots),
        "capacity_bytes": 4 * (embedding.capacity + slots),
        "mean_width": {
            t: float(w.double().mean()) if len(w) else 0.0
            for t, w in zip(tables, widths, strict=True)
        },
        "rank_correlation": {
            # Undefined where all own the same.
            t: rank_correlation(count, width) if bool((width != width[:1]).any()) else None
            for t, count, width in zip(tables, counts, widths, strict=True)
        },
    }


def owned_by_ids(learner: StreamLearner) -> dict[str, int]:
    """Return the bytes of everything that the ids own at the end, part by part.

    Returns
    -------
    dict
        ``rows``: of model and controller, and who owns which sizes. ``optimizer``: what it keeps
        of these. ``history``: counts, losses and mixes. ``statistics``: what labels say of the ids.
        ``grants``: their traffic. ``ids``: raw ids, and what finds their rows.
    """
    num_ids, grants = learner.num_ids(), learner.grants
    rows, kept = 0, 0.0
    for part in filter(None, (learner.trainer.model, learner.trainer.controller)):
        own = sum(
            num_ids[row.table] * row.owner.table(row.name)[:1].nbytes
            for row in part.function.rows.values()
            if not isinstance(row.owner, GrantedEmbedding)
        )
        own += sum(4 * m.floats for m in part.function.module.modules()
                   if isinstance(m, GrantedEmbedding))  # fmt: skip
        rows, kept = rows + own, kept + own * _kept_by_byte(part)
    tables = learner.history.tables
    found = {
        "rows": rows,
        "optimizer": round(kept),
        "history": _bytes_of(num_ids, {t: [*vars(own).values()] for t, own in tables.items()}),
        "ids": sum(ids.nbytes() for ids in learner.encoder.id_tables.values()),
    }
    if learner.statistics is not None:
        own_tables = {t: [table] for t, table in learner.statistics.tables.items()}
        found["statistics"] = _bytes_of(num_ids, own_tables)
    if grants is not None:
        found["rows"] += 4 * sum(num_ids.values()) * len(grants.embedding.embedding_dims)
        found["grants"] = sum(own.nbytes for own in (*grants.traffic, *grants.last))
    return found


def _kept_by_byte(part: Part) -> float:
    """Return the bytes that a row optimiser keeps of a byte of a row."""
    if part.row_optimizer is None:
        return 0.0
    states = part.row_optimizer.state
    rows: int = sum(parameter[:1].nbytes for parameter in states)
    kept: int = sum(v[:1].nbytes for state in states.values() for v in state.values())
    return kept / max(1, rows)


def _bytes_of(num_ids: Mapping[str, int], tables: Mapping[str, Sequence[Any]]) -> int:
    """Return the bytes that so many ids have in some columns of each table."""
    return sum(
        num_ids[table] * column[:1].nbytes for table, own in tables.items() for column in own
    )


def versions() -> dict[str, str]:
    """Return what the numbers of a run depend on besides its options."""
    return {
        "autoemb": autoemb.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def versions_of(summaries: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return the versions that some runs were made with; runs that were kept may differ in them.

    Examples
    --------
    >>> versions_of([{"versions": {"torch": "2.12"}}, {"versions": {"torch": "2.11"}}])
    {'torch': '2.11, 2.12'}
    """
    values: dict[str, set[str]] = {}
    for summary in summaries:
        for name, version in summary["versions"].items():
            values.setdefault(name, set()).add(str(version))
    return {name: ", ".join(sorted(found)) for name, found in values.items()}
