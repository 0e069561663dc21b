"""What every id's embedding is to a trained learner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autoemb.batch import Bag
from autoemb.bilevel.passes import evaluating
from autoemb.bilevel.working_set import Functional
from autoemb.nn.controller import select_hard
from autoemb.nn.inputs import Inputs
from autoemb.nn.places import InPlay
from autoemb.schema import Bag as BagFeature
from autoemb.schema import Sparse
from autoemb.streaming import StreamLearner

#: Embeddings of one call, over all features.
CHUNK = 2**13


@torch.no_grad()
def mixed_embeddings(learner: StreamLearner, embedding: Any) -> dict[str, Tensor]:
    """Return the embeddings [V + 1, D] of all ids of each table, a newcomer's last.

    Sizes are normalised with the running statistics and mixed by the controller as it knows each
    id now; with hard selection the largest size is taken alone. A newcomer has rows of zeros, the
    mean of what new rows are drawn from, and the history of an id never seen. The learner stays as
    it is.

    Parameters
    ----------
    learner : StreamLearner
        Over a model with one embedding of all its features.
    embedding : SoftEmbedding or FixedEmbedding
        That one.
    """
    function, num_ids = Functional(embedding), learner.num_ids()
    readers: dict[str, int] = {}  # the first feature that reads a table; others get the same
    for number, feature in enumerate(embedding.features):
        readers.setdefault(feature.table, number)
    parts: dict[str, list[Tensor]] = {table: [] for table in readers}
    rows = max(num_ids.values()) + 1
    step = max(1, CHUNK // len(embedding.features))
    with evaluating(learner.modules):
        for start in range(0, rows, step):
            every = torch.arange(start, min(start + step, rows), device=learner.device)
            # A table that is through repeats its newcomer; those rows are cut off below.
            columns = {table: every.clamp_max(num_ids[table]) for table in readers}
            play = InPlay({t: torch.unique_consecutive(ids) for t, ids in columns.items()})
            inputs = Inputs({f.column: _column(f, columns[f.table]) for f in embedding.features})
            mix = _mix(learner, play, num_ids)
            output, _ = function(_rows(function, play, num_ids), play, inputs, mix)
            for table, number in readers.items():
                parts[table].append(output[: max(0, num_ids[table] + 1 - start), number].cpu())
    return {table: torch.cat(found) for table, found in parts.items()}


def _column(feature: Sparse, ids: Tensor) -> Tensor | Bag:
    """Return ids as a feature holds them: one an event."""
    if isinstance(feature, BagFeature):
        return Bag(ids, torch.arange(len(ids) + 1, device=ids.device))
    return ids


def _mix(
    learner: StreamLearner, play: InPlay, num_ids: Mapping[str, int]
) -> dict[str, Tensor] | None:
    """Return the mix [U, N] of the rows in play, by table."""
    trainer = learner.trainer
    if trainer.controller is None:
        return None
    function = trainer.controller.function
    features = {} if trainer.features is None else trainer.features(play.rows)
    mix, _ = function(_rows(function, play, num_ids), play, play.rows, features)
    if trainer.hard:
        return {table: select_hard(weights) for table, weights in mix.items()}
    return dict(mix)


def _rows(function: Functional, play: InPlay, num_ids: Mapping[str, int]) -> dict[str, Tensor]:
    """Return copies of the rows in play; those of newcomers, after the last id, are zeros."""
    found = function.gather(play.rows)
    for name, row in function.rows.items():
        found[name][play.rows[row.table] == num_ids[row.table]] = 0
    return found
