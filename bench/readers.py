"""What predictions in another thread cost training, recorded.

``OMP_NUM_THREADS=1 python -m bench.readers`` trains on a made-up stream, in turns without and with
one thread that predicts 100 events at a time: 20 times a second, and as often as it can. It writes
``bench/results/readers.json``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from autoemb import Batch, Stream, StreamLearner, build_learner, task_for
from autoemb.data import synthetic
from bench.harness import write

EVENTS, STEPS, ROUNDS = 100, 25, 8
#: Predictions a second; None for as many as there can be.
RATES = (20.0, None)


@contextmanager
def reading(learner: StreamLearner, batch: Batch, rate: float | None) -> Iterator[list[int]]:
    """Predict in another thread while the block runs; yield a count of the predictions."""
    over, count = threading.Event(), [0]

    def predict() -> None:
        while not over.is_set():
            learner.predict(batch)
            count[0] += 1
            if rate is not None:
                over.wait(1 / rate)

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        yield count
    finally:
        over.set()
        thread.join()


def train(learner: StreamLearner, batches: Iterator[Batch]) -> float:
    """Return the seconds of some training steps."""
    begin = time.perf_counter()
    for _ in range(STEPS):
        learner.learn(next(batches))
    return time.perf_counter() - begin


def measure(rate: float | None) -> dict[str, Any]:
    """Return seconds of training without and with a reader, in turns."""
    data = synthetic(500 * STEPS * (2 * ROUNDS + 2))
    task = task_for("regression", data.schema.label)
    learner, stream = build_learner(data.schema, task), iter(Stream(data.events()))
    read = data.events().batch(0, EVENTS)
    for _ in range(STEPS):
        learner.learn(next(stream))
    learner.predict(read)
    alone, beside, predictions = [], [], 0
    for _ in range(ROUNDS):
        alone.append(train(learner, stream))
        with reading(learner, read, rate) as count:
            beside.append(train(learner, stream))
        predictions += count[0]
    return {
        "rate": rate,
        "predictions_per_second": predictions / sum(beside),
        "step_ms": 1000 * min(alone) / STEPS,
        "alone": alone,
        "beside": beside,
        "cost_least_percent": 100 * (min(beside) / min(alone) - 1),
        "cost_median_percent": 100 * (median(beside) / median(alone) - 1),
    }


def main() -> None:
    torch.set_num_threads(1)
    write(
        "readers",
        {
            "command": "OMP_NUM_THREADS=1 python -m bench.readers",
            "what": f"steps of 500 events beside a thread that predicts {EVENTS} at a time",
            "results": [measure(rate) for rate in RATES],
        },
    )


if __name__ == "__main__":
    main()
