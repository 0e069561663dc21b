"""What a run tells of itself when it is complete."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Any

import torch

import autoemb
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
