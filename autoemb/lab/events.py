"""What a run sees of its data: the one place that knows how they are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoemb.lab.config import RunConfig
from autoemb.streaming import Stream
from autoemb.tasks import Task, task_for

if TYPE_CHECKING:  # polars, which the rest of the package does without
    from autoemb.data import Dataset


def ordered(dataset: Dataset, config: RunConfig) -> Dataset:
    """Return the events in the order and number the configuration asks for.

    Examples
    --------
    >>> from autoemb.data import synthetic
    >>> len(ordered(synthetic(1000), RunConfig(order="shuffled", limit=600)))
    600
    """
    if config.order == "shuffled":
        dataset = dataset.shuffled(config.seed)
    return dataset if config.limit is None else dataset.head(config.limit)


def task_of(dataset: Dataset, config: RunConfig) -> Task:
    """Return the task that is asked for, or by default the one that suits the label."""
    return task_for(config.task, dataset.schema.label)


def stream_of(dataset: Dataset, config: RunConfig) -> Stream:
    """Return the batches of events."""
    least = 2 if config.recipe.norm == "batch" else 1  # for the batch's own statistics
    return Stream(dataset.events(), config.batch_size, least)
