"""How well a served model predicts the events after those it was trained on."""

from __future__ import annotations

import time
from typing import Any

import torch
from pydantic import ConfigDict

from autoemb.data import Dataset
from autoemb.declared import Declared
from autoemb.errors import UserError
from autoemb.lab import RunConfig
from autoemb.lab.events import ordered, stream_of
from autoemb.lab.saved import Count
from autoemb.serving.model import ServedModel

#: Events of one prediction.
BATCH = 4096


class _Part(Declared):
    model_config = ConfigDict(extra="ignore")


class _Order(_Part):
    """Options that the order of a run's events follows from."""

    order: str
    seed: int
    limit: int | None


class _Data(_Part):
    digest: str


class _About(_Part):
    """What a model's file tells of the events that it was trained on."""

    config: _Order
    data: _Data
    position: Count


def _about(model: ServedModel) -> _About:
    try:
        return _About.parse(model.about, "the model")
    except UserError as error:
        raise UserError(
            f"the model does not tell which events it was trained on ({error}); --all scores all "
            "events"
        ) from None


def evaluate(model: ServedModel, interactions: Dataset, *, every: bool = False) -> dict[str, Any]:
    """Score predictions of events that the model has not seen; nothing is learnt.

    Parameters
    ----------
    model : ServedModel
    interactions : Dataset
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
    about = None if every else _about(model)
    if about is not None:
        config = config.but(**dict(about.config))
    events = ordered(interactions, config)
    if about is not None and events.describe()["digest"] != about.data.digest:
        raise UserError(
            f"{events.name}: these are not the events that the model was trained on; "
            "--all scores all of them"
        )
    stream = stream_of(events, config)
    stream.position = 0 if about is None else about.position
    if stream.position >= len(stream):
        raise UserError(
            f"{events.name}: no events follow those that the model was trained on; --all scores "
            "all of them"
        )
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
