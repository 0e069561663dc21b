"""Runs in parallel processes, each in a folder named by its options, so that none is made twice."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from autoemb.data import Interactions, load
from autoemb.lab import RunConfig, run
from autoemb.lab.stopping import (
    Interrupted,
    early_requests,
    remember_requests,
    stop_requests,
)

#: Seconds after which a request to stop is seen at the latest.
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes
    ----------
    data : Path
    config : RunConfig
    folder : Path
        Named by the data's name and the options alone: a study that changes makes only the runs
        that are new.
    """

    data: Path
    config: RunConfig
    folder: Path


def job(data: Path, config: RunConfig, out: Path) -> Job:
    """Return the run of a configuration on a data set, in its folder below ``out``."""
    options = json.dumps(config.as_dict(), sort_keys=True)
    key = hashlib.blake2b((data.name + options).encode(), digest_size=6).hexdigest()
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", data.name)
    return Job(data, config, out / f"{name}-{config.recipe.method}-{key}")


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
    one, and a run's numbers do not depend on how many there are. One process is this one. On SIGINT
    or SIGTERM every run keeps where it is; then the function raises Interrupted.
    """
    if processes == 1:
        yield lambda jobs: ((one, execute(one)) for one in jobs)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with (
        stop_requests() as stop,
        ProcessPoolExecutor(processes, mp_context=context, initializer=_begin) as executor,
    ):

        def made(jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
            with _interrupts_wait():
                futures = {executor.submit(_execute, one): one for one in jobs}
            waiting = {*futures}
            try:
                while waiting and not stop:
                    done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
                    for future in done:
                        yield futures[future], future.result()
            finally:
                for future in futures:
                    future.cancel()
            if stop:
                for process in multiprocessing.active_children():
                    os.kill(process.pid or 0, signal.SIGINT)
                raise Interrupted(0, saved=True)

        yield made


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let processes begin that hear of no SIGINT before they can tell what it means."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """Prepare a process of the pool."""
    torch.set_num_threads(1)
    # A terminal's ctrl-C then reaches the first process alone, which passes it on once: a second
    # one would stop a run before it has kept where it is.
    os.setpgrp()
    remember_requests()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _execute(one: Job) -> dict[str, Any]:
    if early_requests:
        raise Interrupted(0, saved=True)
    try:
        return execute(one)
    except Interrupted:
        early_requests.append(signal.SIGINT)  # so that this process begins no other run
        raise
