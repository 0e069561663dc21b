"""Gradient-boosted trees over what a network is told, refitted as the stream goes on, recorded.

``pip install lightgbm``, then ``AUTOEMB_DATA=folder OMP_NUM_THREADS=1 python -m bench.boosting``
writes ``bench/results/boosting.json``. The streams are those of ``docs/studies/history.toml``,
``history-clicks.toml`` and ``history-globo.toml``. From the end of the offline stage on, each 3 %
of a stream, LightGBM is fitted to all events so far, and predicts those that follow. Its inputs are
a told model's: what was known of the ids when the event's batch came, and dense features. It boosts
what ``bias`` expects.
Trees cannot read ids themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoemb import Recipe, build_learner
from autoemb.batch import Batch
from autoemb.data import Dataset
from autoemb.lab.study.config import read_study
from autoemb.nn.inputs import Inputs
from autoemb.nn.models.trivial import Bias, octaves
from autoemb.schema import Sparse
from autoemb.tasks import Task, task_for
from bench.harness import write
from bench.pages.records import STUDIES

PARTS = ("history", "history-clicks", "history-globo")

#: Events of a batch, the share of the stream before the online stage, and events between two fits.
BATCH, OFFLINE, REFIT = 500, 0.7, 0.03

#: Five classes of 488,000 events take an hour.
LEFT_OUT = {("ml-1m-users-1-2999", "classification")}

#: Rounds, and leaves of a tree. 50 to 400 rounds of 7 to 31 leaves were compared by the last fifth
#: of the offline stage: these are the best on trivago (.1430; the others to .1458), and 0.1 % above
#: the best on MovieLens 100K (.2107; the others .2106 to .2130).
ROUNDS = 100
OPTIONS = {
    "learning_rate": 0.05, "num_leaves": 31, "min_data_in_leaf": 50, "seed": 0, "verbosity": -1,
    "num_threads": 1, "deterministic": True,
}  # fmt: skip

Array = npt.NDArray[Any]


class Noting(Bias):
    """Bias, which notes what a network would be told."""

    def __init__(self, features: Sequence[str | Sparse], task: Task) -> None:
        super().__init__(features, task.expecting)
        self.noted: list[Tensor] = []

    def forward(self, inputs: Inputs, mix: None = None) -> Tensor:
        known = self.known(inputs)
        parts = [known.events, octaves(known.events).flatten(1), known.told.flatten(1)]
        if inputs.dense is not None:
            parts.append(inputs.dense)
        self.noted.append(torch.cat(parts, 1))
        return super().forward(inputs, mix)


class Events(NamedTuple):
    """All events of a stream as trees take them.

    Attributes
    ----------
    inputs : array [N, I]
    logits : array [N, C]
        What ``bias`` expects.
    target : Tensor[N]
    weight : array [N], or None
    """

    inputs: Array
    logits: Array
    target: Tensor
    weight: Array | None


def events_of(dataset: Dataset, task: Task) -> Events:
    """Return what was known of every event when its batch came."""
    schema = dataset.schema
    model = Noting(schema.features, task)
    recipe = Recipe(method="fse")  # no controller
    learner, events = build_learner(schema, task, recipe, model=model), dataset.events()
    cuts = [*range(0, len(events), BATCH), len(events)]
    logits, batches = [], []
    for start, stop in pairwise(cuts):
        batches.append(events.batch(start, stop))
        logits.append(learner.learn(batches[-1]).outcome.logits)
    return Events(
        torch.cat(model.noted).numpy(),
        torch.cat(logits).numpy(),
        torch.cat([task.target(_label(batch)) for batch in batches]),
        _weights(batches),
    )


def _label(batch: Batch) -> Tensor:
    assert batch.label is not None
    return batch.label


def _weights(batches: Sequence[Batch]) -> Array | None:
    own = [batch.weight for batch in batches if batch.weight is not None]
    return torch.cat(own).numpy() if own else None


def predictions(events: Events, task: Task) -> Iterator[tuple[slice, Tensor]]:
    """Yield the logits of the online stage, part by part, each by trees of all events before it."""
    import lightgbm

    classes = events.logits.shape[1]
    objective: Mapping[str, Any] = {"objective": "binary"}
    if classes > 1:
        objective = {"objective": "multiclass", "num_class": classes}
    number = len(events.target)
    cuts = [int(number * OFFLINE), number]
    cuts[1:1] = range(cuts[0] + int(number * REFIT), number, int(number * REFIT))
    for start, stop in pairwise(cuts):
        past, part = slice(start), slice(start, stop)
        known = lightgbm.Dataset(
            events.inputs[past],
            events.target[past].numpy(),
            init_score=events.logits[past].squeeze(),
            weight=None if events.weight is None else events.weight[past],
        )
        trees = lightgbm.train({**OPTIONS, **objective}, known, ROUNDS)
        raw = np.asarray(trees.predict(events.inputs[part], raw_score=True))
        logits = raw.reshape(stop - start, classes) + events.logits[part]
        yield part, torch.from_numpy(logits).to(torch.float32)


def score(study: str, data: str, task_name: str) -> dict[str, Any]:
    """Return the online loss on one stream."""
    torch.set_num_threads(1)
    root = Path(os.environ["AUTOEMB_DATA"])
    sources = read_study(STUDIES / f"{study}.toml", root).data
    (source,) = (one for one in sources if one.name == data)
    dataset = source.dataset()
    task = task_for(task_name, dataset.schema.label)
    events = events_of(dataset, task)
    losses, weights = [], []
    for part, logits in predictions(events, task):
        losses.append(task.loss(logits, events.target[part]))
        weights.append(torch.ones(len(logits)) if events.weight is None
                       else torch.from_numpy(events.weight[part]))  # fmt: skip
    weight = torch.cat(weights)
    online = float((torch.cat(losses) * weight).sum() / weight.sum())
    print(study, data, task_name, online, flush=True)  # noqa: T201
    return {"data": data, "task": task_name, "online": online}


def record(processes: int = 2) -> None:
    jobs = []
    for name in PARTS:
        study = read_study(STUDIES / f"{name}.toml", Path(os.environ["AUTOEMB_DATA"]))
        every = [(name, source.name, task) for source in study.data for task in study.tasks]
        jobs += [job for job in every if job[1:] not in LEFT_OUT]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        results = [*pool.map(score, *zip(*jobs, strict=True))]
    import lightgbm

    write(
        "boosting",
        {
            "command": "OMP_NUM_THREADS=1 python -m bench.boosting",
            "what": "LightGBM over what a network is told, refitted as time goes on: online loss",
            "lightgbm": lightgbm.__version__,
            "options": OPTIONS | {"rounds": ROUNDS, "refit": REFIT},
            "results": results,
        },
    )


if __name__ == "__main__":
    record()
