"""The op on the CPU: passes, batch sizes, ids, and what people write instead, in the same run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import NamedTuple

import pytest
import torch
from torch import nn

from bench import memory
from bench.harness import alternate, ratio, spread, write
from bench.passes import PASSES, draw, make_pass
from bench.rivals import PlainEmbedding, PlainSoftEmbedding
from bench.workloads import DIMS, ML_20M, on_backend, paper_embedding

# torch.compile warns of what torch itself does.
pytestmark = pytest.mark.filterwarnings("default")

SETS = 8  # of inputs: no call finds its own rows in the cache


class Group(NamedTuple):
    """Cases that are timed in turns."""

    passes: str
    order: str
    batch: int
    rows: tuple[int, ...] = ML_20M

    def __str__(self) -> str:
        return f"F = {len(self.rows)}, {self.order}, B = {self.batch}, {self.passes}"


GROUPS = [
    Group(passes, order, batch)
    for order in ("chronological", "shuffled", "uniform")
    for batch in (500, 4096)
    for passes in PASSES
] + [Group(passes, "shuffled", 4096, (10_000,) * 26) for passes in PASSES]

#: Times that ours is faster at least than eager code (torch.nn with sparse gradients) and than
#: torch.compile, by batch and pass, where ids repeat as often as in a shuffled stream.
BARS = {
    (500, "forward"): 2.5,
    (4096, "forward"): 3.5,
    (500, "forward+backward"): 2.5,
    (4096, "forward+backward"): 2.5,
}
#: Peak memory of forward + backward as a share of eager code's, at most.
MEMORY_BAR = 1 / 3
EAGER = "torch.nn, sparse"


def compiled(rows: tuple[int, ...]) -> nn.Module:
    """Return torch.nn's layers, compiled for one batch size.

    With dense gradients, since torch.compile does not take sparse ones, and in its default mode: on
    the CPU reduce-overhead, which is CUDA graphs, changes nothing, and max-autotune's own products
    are for weights that never change.
    """
    torch.compiler.reset()  # else another batch size makes it compile for any
    return torch.compile(PlainSoftEmbedding(rows, DIMS))


MODULES: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "autoemb": lambda rows: paper_embedding(rows, sparse=True),
    "autoemb, reference": lambda rows: paper_embedding(rows, sparse=True),
    EAGER: lambda rows: PlainSoftEmbedding(rows, DIMS, sparse=True),
    "torch.compile, dense": compiled,
    "fixed width": lambda rows: PlainEmbedding(rows, sum(DIMS)),
    "torch.nn, dense": lambda rows: PlainSoftEmbedding(rows, DIMS),
}
BACKENDS = {"autoemb": "native", "autoemb, reference": "reference"}


def names(group: Group) -> list[str]:
    """Return the cases of a group: whether gradients are dense shows in a backward pass only."""
    return [n for n in MODULES if n != "torch.nn, dense" or group.passes != "forward"]


def case(name: str, group: Group) -> Callable[[], object]:
    """Return a call on the next input set."""
    width = sum(DIMS) if name == "fixed width" else DIMS[-1]
    inputs = cycle(draw(group.rows, group.order, group.batch, SETS, width=width))
    call = make_pass(group.passes, MODULES[name](group.rows))
    return on_backend(BACKENDS.get(name, "auto"), lambda: call(next(inputs)))


@pytest.mark.parametrize("group", GROUPS, ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_op(benchmark, name: str, group: Group) -> None:
    if name not in names(group):
        pytest.skip("the same forward pass as with sparse gradients")
    benchmark.group = f"op, {group}"
    benchmark.pedantic(case(name, group), rounds=10, warmup_rounds=3)


@pytest.mark.parametrize(("batch", "passes"), BARS)
def test_bars(benchmark, batch: int, passes: str) -> None:
    """``BARS`` hold, in one process in turns."""
    group = Group(passes, "shuffled", batch)
    cases = {name: case(name, group) for name in ("autoemb", EAGER, "torch.compile, dense")}
    seconds: dict[str, list[float]] = {}
    benchmark.pedantic(lambda: seconds.update(alternate(cases, rounds=15)), rounds=1)
    for rival in (EAGER, "torch.compile, dense"):
        assert ratio(seconds, rival, "autoemb") > BARS[batch, passes], rival


def peaks() -> dict[str, int]:
    """Return the peak bytes of forward + backward at B = 4,096."""
    return {name: memory.measure(name, 4096) for name in memory.CASES}


def test_memory(benchmark) -> None:
    """Forward and backward take a third of eager code's memory at most."""
    found: dict[str, int] = {}
    benchmark.pedantic(lambda: found.update(peaks()), rounds=1)
    benchmark.extra_info["peak_bytes"] = found
    assert found["autoemb"] < MEMORY_BAR * found[EAGER]


def record() -> None:
    results = []
    for group in GROUPS:
        cases = {name: case(name, group) for name in names(group)}
        seconds = alternate(cases, rounds=15, warmup=2)
        results.append(
            {"fields": len(group.rows), "order": group.order}
            | {"batch": group.batch, "pass": group.passes}
            | {"cases": {name: spread(seconds[name]) for name in cases}}
            | {"times_autoemb": {n: ratio(seconds, n, "autoemb") for n in cases}}
        )
    threads = torch.get_num_threads()
    write(
        "op" if threads == 1 else f"op-{threads}-threads",
        {
            "command": f"OMP_NUM_THREADS={threads} python -m bench.test_op",
            "what": "SoftEmbedding on the CPU, sizes 2, 16, 128; F = 2: ML-20M's vocabulary, "
            "F = 26: 10,000 rows each; updates change the tables alone, by SGD or lazy Adam "
            "(dense gradients: Adam over whole tables); peak memory of forward + backward at "
            "B = 4,096, uniform ids, F = 2, 10,000 rows each",
            "bars": {"memory": round(MEMORY_BAR, 3)}
            | {f"B = {batch}, {passes}": bar for (batch, passes), bar in BARS.items()},
            "peak_bytes": peaks(),
            "results": results,
        },
    )


if __name__ == "__main__":
    record()
