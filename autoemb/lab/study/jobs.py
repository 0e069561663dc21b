"""Runs in parallel processes, each in a folder named by its options, so that none is made twice."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autoemb.errors import UserError
from autoemb.lab import RunConfig, run
from autoemb.lab.stopping import (
    Interrupted,
    early_requests,
    remember_requests,
    stop_requests,
)
from autoemb.lab.study.source import Source

#: Seconds after which a request to stop is seen at the latest.
POLL_SECONDS = 0.2

#: Whether this process of the pool makes no run, and whether the first process is gone.
idle, orphaned = threading.Event(), threading.Event()


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes
    ----------
    data : Source
    config : RunConfig
    folder : Path
        Named by the data's name and the options alone: a study that changes makes only the runs
        that are new.
    """

    data: Source
    config: RunConfig
    folder: Path


def job(data: Source, config: RunConfig, out: Path) -> Job:
    """Return the run of a configuration on a data set, in its folder below ``out``."""
    options = json.dumps(config.as_dict(), sort_keys=True)
    key = hashlib.blake2b((data.key + options).encode(), digest_size=6).hexdigest()
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", data.name)
    return Job(data, config, out / f"{name}-{config.recipe.method}-{key}")


def execute(job: Job) -> dict[str, Any]:
    """Make one run, or continue it, or return what it recorded when it is complete."""
    # A study may have hundreds of runs; what they trained is not kept.
    return run(job.config, job.data.dataset(), job.folder, resume=True, keep=False)


#: Makes runs and yields each with its summary when it is done.
Execute = Callable[[Iterable[Job]], Iterator[tuple[Job, dict[str, Any]]]]


@contextmanager
def pool(processes: int) -> Iterator[Execute]:
    """Yield a function that makes runs in parallel and yields each with its summary when done.

    Every process computes with one thread: as many runs as cores are faster than threads within
    one, and a run's numbers do not depend on how many there are. One process is this one. On SIGINT
    or SIGTERM every run keeps where it is; then the function raises Interrupted. Where a process is
    killed the others keep where they are, too, and it raises UserError.
    """
    if processes == 1:
        yield lambda jobs: ((one, execute(one)) for one in jobs)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with stop_requests() as stop, ExitStack() as ends:
        # Pools of one process each: of a larger one nobody learns which run lost its process.
        workers = [
            ends.enter_context(ProcessPoolExecutor(1, mp_context=context, initializer=_begin))
            for _ in range(processes)
        ]
        ends.callback(_interrupt_all)
        yield partial(_make, workers, stop)


def _make(
    workers: Iterable[ProcessPoolExecutor], stop: list[int], jobs: Iterable[Job]
) -> Iterator[tuple[Job, dict[str, Any]]]:
    free, waiting = [*workers], [*jobs][::-1]
    running: dict[Future[dict[str, Any]], tuple[Job, ProcessPoolExecutor]] = {}
    while (waiting or running) and not stop:
        with _interrupts_wait():
            while waiting and free:
                one, worker = waiting.pop(), free.pop()
                running[worker.submit(_execute, one)] = one, worker
        done, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
        for future in done:
            one, worker = running.pop(future)
            free.append(worker)
            try:
                summary = future.result()
            except BrokenExecutor:
                raise UserError(
                    f"{one.folder}: the process of this run was killed, perhaps for want of "
                    "memory; the same command continues the study"
                ) from None
            yield one, summary
    if stop:
        raise Interrupted(0, saved=True)


def _interrupt_all() -> None:
    """Tell every process to keep where it is."""
    for process in multiprocessing.active_children():
        with suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGINT)


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
    idle.set()
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # A terminal's ctrl-C then reaches the first process alone, which passes it on once: a second
    # one would stop a run before it has kept where it is.
    os.setpgrp()
    remember_requests()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _end_with_parent() -> None:
    """End this process when the first one has been killed: after its run has kept where it is."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        orphaned.set()
        if idle.is_set():
            os._exit(1)
        os.kill(os.getpid(), signal.SIGINT)


def _execute(one: Job) -> dict[str, Any]:
    if early_requests:
        raise Interrupted(0, saved=True)
    idle.clear()
    try:
        return execute(one)
    except Interrupted:
        early_requests.append(signal.SIGINT)  # so that this process begins no other run
        raise
    finally:
        idle.set()
        if orphaned.is_set():
            os._exit(1)  # nobody takes the result
