"""What is timed: batches shaped like the real ones, and steps of ours over them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from autoemb.bilevel import Batch, Outcome
from autoemb.lab import RunConfig
from autoemb.lab.methods import build_trainer
from autoemb.streaming import InteractionState

ML_20M = (138_493, 27_278)  # users, items
DIMS = (2, 16, 128)
P = ParamSpec("P")
T = TypeVar("T")


def batches(rows: Sequence[int], order: str, size: int = 500, seed: int = 0) -> Iterator[Batch]:
    """Yield random batches without end.

    ``chronological``: ten users who rate items of Zipf-like popularity, as ten people do within an
    hour; ``shuffled``: the ids of every field by such a popularity; ``uniform``: all alike, so
    that no cache holds the rows that come next.
    """
    random = torch.Generator().manual_seed(seed)

    def popular(count: int, most: int) -> Tensor:
        if order == "uniform":
            return torch.randint(most, (count,), generator=random)
        return (most ** torch.rand(count, generator=random, dtype=torch.float64)).long() - 1

    while True:
        columns = [popular(10 if order == "chronological" else size, rows[0])]
        if order == "chronological":
            columns[0] = columns[0][torch.arange(size) * 10 // size]
        ids = torch.stack([*columns, *(popular(size, most) for most in rows[1:])], 1)
        yield Batch(ids, torch.randint(2, (size,), generator=random).float())


def algorithm_1(
    method: str,
    rows: Sequence[int],
    hypergradient: str = "first",
    dims: tuple[int, ...] = DIMS,
    device: str = "cpu",
) -> tuple[Callable[[Batch, Batch, Batch], Outcome], InteractionState]:
    """Return a step of Algorithm 1 (past, last, new) and the history that it reads."""
    config = RunConfig(  # with BatchNorm and Adam, as the rivals
        method=method, hypergradient=hypergradient, dims=dims, norm="batch", optimizer="adam",
        device=device,
    )  # fmt: skip
    trainer, _modules, state = build_trainer(config, rows)
    state.grow([*rows])

    def step(past: Batch, last: Batch, new: Batch) -> Outcome:
        if trainer.bilevel:
            trainer.controller_step(past, last)
        return trainer.step(new)

    return step, state


def our_step(
    method: str,
    rows: tuple[int, int],
    order: str,
    hypergradient: str = "first",
    size: int = 500,
    dims: tuple[int, ...] = DIMS,
    past_order: str = "shuffled",
    count: int = 24,
) -> Callable[[], None]:
    """Return a step of Algorithm 1: controller on past events, weights on new (``count`` each)."""
    step, _state = algorithm_1(method, rows, hypergradient, dims)
    new, past = (
        take(batches(rows, o, size, seed), count) for seed, o in enumerate((order, past_order))
    )
    last = next(new)

    def run() -> None:
        nonlocal last
        batch = next(new)
        step(next(past), last, batch)
        last = batch

    return run


def on_backend(name: str, function: Callable[P, T]) -> Callable[P, T]:
    """Return the function with AUTOEMB_BACKEND set while it runs."""

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        before = os.environ.get("AUTOEMB_BACKEND")
        os.environ["AUTOEMB_BACKEND"] = name
        try:
            return function(*args, **kwargs)
        finally:
            if before is None:
                del os.environ["AUTOEMB_BACKEND"]
            else:
                os.environ["AUTOEMB_BACKEND"] = before

    return run


def take(source: Iterator[T], count: int = 24) -> Iterator[T]:
    """Return a cycle of some batches, made beforehand."""
    return cycle([next(source) for _ in range(count)])


def distinct_ids(rows: tuple[int, int], order: str, size: int = 500, seed: int = 0) -> list[int]:
    """Return the mean number of distinct ids a field of the batches that a step takes."""
    counts = [
        [len(column.unique()) for column in batch.ids.unbind(1)]
        for batch in islice(batches(rows, order, size, seed), 24)
    ]
    return torch.tensor(counts, dtype=torch.float64).mean(0).round().int().tolist()
