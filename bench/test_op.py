"""The op alone, forward and with its backward, against the layers of torch.nn."""

import pytest
import torch

from autoemb import SoftEmbedding
from bench.harness import alternate, ratio, spread, write
from bench.rivals import PlainSoftEmbedding
from bench.workloads import DIMS, ML_20M, batches

SIZES = (500, 4096)
ORDERS = ("chronological", "shuffled")
PASSES = ("forward", "forward+backward")


def op(module: torch.nn.Module, order: str, size: int, passes: str):
    """Return a call of the module on a batch; backward asks for what a training pass asks for."""
    ids = next(batches(ML_20M, order, size)).ids
    weights = torch.rand(size, 2, len(DIMS)).softmax(2).requires_grad_()
    grad = torch.randn(size, 2, DIMS[-1])
    leaves = [weights, *module.parameters()]

    def forward() -> None:
        with torch.no_grad():
            module(ids, weights)

    def both() -> None:
        torch.autograd.grad(module(ids, weights), leaves, grad)

    return forward if passes == "forward" else both


def modules() -> dict[str, torch.nn.Module]:
    return {
        "autoemb": SoftEmbedding(ML_20M, DIMS, sparse=True),
        "torch.nn, sparse": PlainSoftEmbedding(ML_20M, DIMS, sparse=True),
        "torch.nn, dense": PlainSoftEmbedding(ML_20M, DIMS),
        # torch.compile does not take sparse gradients.
        "torch.compile, dense": torch.compile(PlainSoftEmbedding(ML_20M, DIMS)),
    }


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", list(modules()))
def test_op(benchmark, name: str, order: str, size: int, passes: str) -> None:
    benchmark.group = f"op {passes}, {order}, B = {size}"
    benchmark(op(modules()[name], order, size, passes))


def record() -> None:
    results = []
    for order in ORDERS:
        for size in SIZES:
            for passes in PASSES:
                cases = {name: op(m, order, size, passes) for name, m in modules().items()}
                seconds = alternate(cases, rounds=30)
                results.append(
                    {"order": order, "batch": size, "pass": passes}
                    | {"cases": {name: spread(seconds[name]) for name in cases}}
                    | {"times_autoemb": {n: ratio(seconds, n, "autoemb") for n in cases}}
                )
    what = "SoftEmbedding on the CPU reference path, ML-20M's vocabulary, sizes 2, 16, 128"
    write("op", {"command": "python -m bench.test_op", "what": what, "results": results})


if __name__ == "__main__":
    record()
