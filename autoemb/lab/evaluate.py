"""How well a served model predicts the events after those it was trained on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from autoemb.errors import UserError
from autoemb.lab import RunConfig
from autoemb.lab.events import ordered, stream_of
from autoemb.lab.records import Record
from autoemb.lab.saved import Count
from autoemb.metrics import Metrics
from autoemb.serving import ServedModel
from autoemb.tasks import Task, task_for

if TYPE_CHECKING:  # polars, which the rest of the package does without
    from autoemb.data import Dataset

#: Events of one prediction, and where the model observes their labels before the next.
BATCH, OBSERVED = 4096, 500


class _Order(Record):
    """Options that the order of a run's events follows from."""

    order: str
    seed: int
    limit: int | None


class _Data(Record):
    digest: str


class _About(Record):
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


def evaluate(
    model: ServedModel, dataset: Dataset, *, every: bool = False, observe: bool = False
) -> dict[str, Any]:
    """Score predictions of events that the model has not seen; nothing is trained.

    Parameters
    ----------
    model : ServedModel
    dataset : Dataset
        As loaded; ordered here as the run was. Its label may have another scale than the model's.
    every : bool, default False
        Score all events, of whatever data. By default they must be the run's, and those after
        its position are scored.
    observe : bool, default False
        Let the model observe the labels of each batch of 500 once it is scored.

    Returns
    -------
    dict
        The task's metrics (:class:`autoemb.metrics.Metrics`), ``interactions``, ``seconds``,
        ``interactions_per_second``.

    Raises
    ------
    UserError
        If the data lack features of the model, if the events are not those of the run, or none are
        left, or the model tells of no run; where it is to observe, also for labels of another scale
        and a model without a history.
    """
    task = _task(model, dataset)
    if observe and dataset.schema.label != model.schema.label:
        raise UserError(f"{dataset.name}: the labels are not such as the model can observe")
    batch_size = OBSERVED if observe else BATCH
    config = RunConfig(task=task.name, batch_size=batch_size, device="cpu")
    about = None if every else _about(model)
    if about is not None:
        config = config.but(**dict(about.config))
    events = ordered(dataset, config)
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
    metrics, count = Metrics(task), len(stream) - stream.position
    start = time.perf_counter()
    for batch in stream:
        assert batch.label is not None  # of a data set
        metrics.add(model.logits(batch), task.target(batch.label), batch.weight)
        if observe:
            model.observe(batch)
    seconds = time.perf_counter() - start
    return {
        **metrics.compute(),
        "interactions": count,
        "seconds": seconds,
        "interactions_per_second": count / seconds,
    }


def _task(model: ServedModel, dataset: Dataset) -> Task:
    """Return the model's task over the labels of a data set that has the model's features.

    Raises
    ------
    UserError
        Names what differs.
    """
    own, other = model.schema, dataset.schema
    for kind, wanted in own.kinds.items():
        names, there = ([f.column for f in part] for part in (wanted, other.kinds[kind]))
        missing = [name for name in names if name not in there]
        # Numbers come side by side, without their names.
        if missing or (kind == "dense" and names and names != there):
            raise UserError(
                f"{dataset.name}: the {kind} features are {', '.join(there) or 'none'}; the model "
                f"reads {', '.join(names) or 'none'}"
            )
    if own.label.classes != other.label.classes:
        raise UserError(
            f"{dataset.name}: the classes are {', '.join(other.label.classes) or 'none'}; the "
            f"model knows {', '.join(own.label.classes) or 'none'}"
        )
    return task_for(model.task.name, other.label)
