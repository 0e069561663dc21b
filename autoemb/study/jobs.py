"""Runs in parallel processes, each in a folder named by its options, so that none is made twice."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from autoemb.data import Interactions, load
from autoemb.experiment import RunConfig, run


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes
    ----------
    data : Path
    config : RunConfig
    folder : Path
        Given by data and options alone: a study that changes makes only the runs that are new.
    """

    data: Path
    config: RunConfig
    folder: Path


def job(data: Path, config: RunConfig, out: Path) -> Job:
    """Return the run of a configuration on a data set, in its folder below ``out``."""
    options = json.dumps(config.as_dict(), sort_keys=True)
    key = hashlib.blake2b(options.encode(), digest_size=6).hexdigest()
    return Job(data, config, out / f"{data.name}-{config.method}-{key}")


@lru_cache(maxsize=2)  # jobs come data set by data set
def interactions(data: Path) -> Interactions:
    """Return a data set as loaded."""
    return load(data)


def execute(job: Job) -> dict[str, Any]:
    """Make one run, or continue it, or return what it recorded when it is complete."""
    return run(job.config, interactions(job.data), job.folder, resume=True)


#: Makes runs and yields each with its summary when it is done.
Execute = Callable[[Iterable[Job]], Iterator[tuple[Job, dict[str, Any]]]]


@contextmanager
def pool(processes: int) -> Iterator[Execute]:
    """Yield a function that makes runs in parallel and yields each with its summary when done.

    Every process computes with one thread: as many runs as cores are faster than threads within
    one, and a run's numbers do not depend on how many there are. One process is this one.
    """
    if processes == 1:
        yield lambda jobs: ((one, execute(one)) for one in jobs)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as executor:

        def made(jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
            futures = {executor.submit(execute, one): one for one in jobs}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                for future in futures:
                    future.cancel()

        yield made
