"""How well a served model predicts the events after those it was trained on."""

from __future__ import annotations

import time
from typing import Any

import torch

from autoemb.data import Interactions
from autoemb.errors import UserError
from autoemb.lab import RunConfig
from autoemb.lab.run import describe, ordered, stream_of
from autoemb.serving.model import ServedModel

#: Events of one prediction.
BATCH = 4096


def evaluate(
    model: ServedModel, interactions: Interactions, *, every: bool = False
) -> dict[str, Any]:
    """Score predictions of events that the model has not seen; nothing is learnt.

    Parameters
    ----------
    model : ServedModel
    interactions : Interactions
        As loaded; ordered here as the run was.
    every : bool, default False
        Score all events, of whatever data. By default they must be the run's, and those after
        its position are scored.

    Returns
    -------
    dict
        ``loss``, ``accuracy``, ``interactions``, ``seconds``, ``interactions_per_second``.

    Raises
    ------
    UserError
        If the events are not those of the run, or none are left, or the model tells of no run.
    """
    config = RunConfig(task=model.task.name, batch_size=BATCH, device="cpu")
    position, digest = 0, None
    if not every:
        try:
            options = {name: model.about["config"][name] for name in ("order", "seed", "limit")}
            position, digest = model.about["position"], model.about["data"]["digest"]
            config = config.but(**options)
            if position < 0:
                raise ValueError(position)
        except (LookupError, TypeError, ValueError):
            raise UserError(
                "the model does not tell which events it was trained on; --all scores all events"
            ) from None
    events = ordered(interactions, config)
    if not every and describe(events)["digest"] != digest:
        raise UserError(
            f"{events.name}: these are not the events that the model was trained on; "
            "--all scores all of them"
        )
    stream = stream_of(events, config)
    stream.position = position
    if stream.position >= len(stream):
        raise UserError(f"{events.name}: no events follow those that the model was trained on")
    losses, right, count = 0.0, 0, 0
    start = time.perf_counter()
    for batch in stream:
        logits = model.logits(batch.ids)
        losses += float(model.task.loss(logits, batch.label).sum(dtype=torch.float64))
        right += int(model.task.correct(logits, batch.label).sum())
        count += len(batch.label)
    seconds = time.perf_counter() - start
    return {
        "loss": losses / count,
        "accuracy": right / count,
        "interactions": count,
        "seconds": seconds,
        "interactions_per_second": count / seconds,
    }
