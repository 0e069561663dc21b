"""What a run tells of itself when it is complete."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Any

import torch

import autoemb
from autoemb.lab.ranks import rank_correlation
from autoemb.streaming import StreamLearner


def embeddings_of(learner: StreamLearner) -> dict[str, Any]:
    """Return what the ids own at the end, and who owns it."""
    num_ids = learner.num_ids()
    if learner.grants is None:
        rows = learner.trainer.model.function.rows.values()
        floats = sum(num_ids[row.table] * row.owner.table(row.name)[:1].numel() for row in rows)
        return {"bytes": 4 * floats}
    embedding = learner.grants.embedding
    tables = embedding.reading.tables
    ids = [num_ids[table] for table in tables]
    dims = torch.tensor(embedding.embedding_dims)
    owned = [embedding.owned(field, slice(n)) for field, n in enumerate(ids)]
    widths = [(own * dims).amax(1) if embedding.nested else (own * dims).sum(1) for own in owned]
    counts = [learner.history.tables[t].count[:n] for t, n in zip(tables, ids, strict=True)]
    slots = sum(ids) * embedding.slot_bytes
    return {
        "bytes": 4 * embedding.floats + slots,
        "capacity_bytes": 4 * embedding.capacity + slots,
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


def over_budget(summary: Mapping[str, Any]) -> str | None:
    """Return in a line that a run's ids own more than its budget, where they do.

    Examples
    --------
    >>> over_budget({"budget_bytes": 900, "owned": {"ids": 600, "history": 400}})
    'note: ids own 1,000 bytes, which the budget of 900 bytes does not hold; rows got none of it'
    >>> over_budget({"budget_bytes": 1000, "owned": {"ids": 600, "history": 400}})
    """
    most, own = summary["budget_bytes"], sum(summary["owned"].values())
    if most is None or own <= most:
        return None
    return (
        f"note: ids own {own:,} bytes, which the budget of {most:,} bytes does not hold; rows got "
        "none of it"
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
