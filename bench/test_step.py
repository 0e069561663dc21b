"""One step of Algorithm 1: each method and hypergradient, rivals, and the bare products."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest
import torch

from bench import products, rivals
from bench.harness import alternate, ratio, spread, write
from bench.workloads import (
    DIMS,
    ML_20M,
    batches,
    distinct_ids,
    on_backend,
    our_step,
    take,
)

# torch.compile warns of what torch itself does.
pytestmark = pytest.mark.filterwarnings("default")

BATCH = 500
ORDERS = ("chronological", "shuffled")
METHODS = {
    "fse": ("first",),
    "sam": ("first",),
    "darts": ("first", "finite-difference", "exact"),
    "autoemb": ("first", "finite-difference", "exact"),
}
#: Bars: times that ours is faster at least than the same step, and slower at most than products.
BARS = {"dense": 5.0, "sparse": 1.0, "bare products": 1.25}


def rival(
    order: str, *, sparse: bool, compiled: dict[str, Any] | None = None
) -> Callable[[], None]:
    """Return AutoEmb's step as in :mod:`bench.rivals`, on the batches that ours gets."""
    step = rivals.step(ML_20M, DIMS, sparse=sparse, compiled=compiled)
    new, past = (
        take(batches(ML_20M, o, BATCH, seed)) for seed, o in enumerate((order, "shuffled"))
    )
    features = cycle([torch.rand(BATCH, 2, 38)])
    return lambda: step(next(past), next(new), next(features))


def bare(method: str, order: str) -> Callable[[], None]:
    return products.bare(products_of(method, order))


def products_of(method: str, order: str) -> list[products.Product]:
    training = distinct_ids(ML_20M, order, BATCH, seed=0)
    validation = distinct_ids(ML_20M, "shuffled", BATCH, seed=1)
    return products.step(method, BATCH, training, validation, dims=DIMS)


def reference(order: str) -> Callable[[], None]:
    """Return AutoEmb's step without the native kernels."""
    return on_backend("reference", our_step("autoemb", ML_20M, order))


CASES: dict[str, Callable[[str], Callable[[], None]]] = {
    f"{method}, {kind}": lambda order, method=method, kind=kind: our_step(
        method, ML_20M, order, kind
    )
    for method, kinds in METHODS.items()
    for kind in kinds
}
RIVALS: dict[str, Callable[[str], Callable[[], None]]] = {
    "autoemb, first, reference": reference,
    "dense": lambda order: rival(order, sparse=False),
    "sparse": lambda order: rival(order, sparse=True),
    # torch.compile does not take sparse gradients; its update is the dense one.
    "compiled, dense": lambda order: rival(order, sparse=False, compiled={}),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", [*CASES, *RIVALS])
def test_step(benchmark, name: str, order: str) -> None:
    benchmark.group = f"step, {order}"
    benchmark.pedantic((CASES | RIVALS)[name](order), rounds=10, warmup_rounds=3)


@pytest.mark.parametrize("order", ORDERS)
def test_bars(benchmark, order: str) -> None:
    """``BARS`` hold, in one process in turns."""
    cases = {name: RIVALS[name](order) for name in ("dense", "sparse")}
    cases |= {
        "autoemb": our_step("autoemb", ML_20M, order),
        "bare products": bare("autoemb", order),
    }
    seconds: dict[str, list[float]] = {}
    benchmark.pedantic(lambda: seconds.update(alternate(cases, rounds=15)), rounds=1)
    assert ratio(seconds, "dense", "autoemb") > BARS["dense"]
    assert ratio(seconds, "sparse", "autoemb") > BARS["sparse"]
    assert ratio(seconds, "autoemb", "bare products") < BARS["bare products"]


def record() -> None:
    results = []
    for order in ORDERS:
        cases = {name: case(order) for name, case in (CASES | RIVALS).items()}
        for method in METHODS:
            cases[f"bare products, {method}"] = bare(method, order)
        onednn = "bare products by oneDNN, autoemb"
        cases[onednn] = products.bare_onednn(products_of("autoemb", order))
        seconds = alternate(cases, rounds=25)
        first = {method: f"{method}, first" for method in METHODS}
        results.append(
            {
                "order": order,
                "cases": {name: spread(times) for name, times in seconds.items()},
                "times_autoemb": {n: ratio(seconds, n, first["autoemb"]) for n in RIVALS},
                "times_bare_products": {
                    m: ratio(seconds, name, f"bare products, {m}") for m, name in first.items()
                },
                "times_bare_products_by_onednn": ratio(seconds, first["autoemb"], onednn),
                "gflop": {
                    m: round(products.flops(products_of(m, order)) / 1e9, 3) for m in METHODS
                },
            }
        )
    what = (
        "one step of Algorithm 1 on the CPU, batch 500, ML-20M's vocabulary, float32, Adam; "
        "bare products: torch.mm with results allocated beforehand, distinct ids once"
    )
    name = "step" if torch.get_num_threads() == 1 else f"step-{torch.get_num_threads()}-threads"
    write(
        name,
        {
            "command": f"OMP_NUM_THREADS={torch.get_num_threads()} python -m bench.test_step",
            "what": what,
            "bars": BARS,
            "results": results,
        },
    )


if __name__ == "__main__":
    record()
