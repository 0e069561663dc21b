"""What is timed: batches shaped like the real ones, and steps of ours over them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from autoemb import (
    MLP,
    BilevelTrainer,
    Controller,
    FixedEmbedding,
    History,
    PerIdLogits,
    SoftEmbedding,
    task_for,
)
from autoemb.bilevel import Example, Outcome
from autoemb.learners import METHODS
from autoemb.nn import Inputs
from autoemb.schema import STARS

ML_20M = (138_493, 27_278)  # users, items
DIMS = (2, 16, 128)
#: What the paper's embedding, which the rivals are, differs in from the default one.
PAPER: dict[str, Any] = {
    "norm": "batch", "eps": 1e-5, "average": True, "init_std": 1.0, "projection": "uniform"
}  # fmt: skip
P = ParamSpec("P")
T = TypeVar("T")


class Batch(NamedTuple):
    """Events with a column of row numbers for each table."""

    ids: Tensor
    label: Tensor


def names(fields: int) -> list[str]:
    """Return names for the columns of a batch."""
    return [f"id_{number}" for number in range(fields)]


def example_of(batch: Batch) -> Example:
    """Return a batch as a trainer takes it: ids by the name of their feature."""
    columns = batch.ids.unbind(1)
    return Example(Inputs(dict(zip(names(len(columns)), columns, strict=True))), batch.label)


def paper_embedding(
    rows: Sequence[int], dims: Sequence[int] = DIMS, **options: Any
) -> SoftEmbedding:
    """Return the embedding of the paper, which the layers of torch.nn compute, too."""
    return SoftEmbedding(rows, dims, **PAPER | options)


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
) -> tuple[Callable[[Example, Example, Example], Outcome], History]:
    """Return a step of Algorithm 1 (past, last, new) and the history that it reads.

    With the paper's network a table, its BatchNorm, and Adam, as the rivals.
    """
    tables, kind = names(len(rows)), METHODS[method]
    history = History(tables, len(dims), device)
    history.grow(dict(zip(tables, rows, strict=True)))
    embedding: nn.Module
    if kind.controller is None:
        embedding = FixedEmbedding(rows, sum(dims), features=tables)
    else:
        embedding = paper_embedding(rows, dims, features=tables)
    controller: nn.Module | None = None
    if kind.controller == "logits":
        controller = PerIdLogits(tables, rows, len(dims))
    elif kind.controller == "network":
        controller = Controller(
            tables, len(dims), history.num_features, hidden=(512, 512), shared=False
        )
    trainer = BilevelTrainer(
        MLP(embedding, hidden=(512, 512)).to(device),
        None if controller is None else controller.to(device),
        loss=task_for("regression", STARS).loss,
        features=history.features if kind.controller == "network" else None,
        joint=kind.joint,
        hypergradient=hypergradient,
        optimizer="adam",
    )

    def step(past: Example, last: Example, new: Example) -> Outcome:
        if trainer.bilevel:
            trainer.controller_step(past, last)
        return trainer.step(new)

    return step, history


def record(history: History, outcome: Outcome) -> None:
    """Note what a step knows now of its ids."""
    for table, plan in outcome.plans.items():
        history.record(table, plan, outcome.losses)
        if outcome.mix is not None:
            history.give(table, plan, outcome.mix[table])


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
    step, _history = algorithm_1(method, rows, hypergradient, dims)
    new, past = (
        take(map(example_of, batches(rows, o, size, seed)), count)
        for seed, o in enumerate((order, past_order))
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
