"""Timing on a device: calls over rotating inputs as one CUDA graph, in turns with their rivals.

A turn is one call for each input set, so that the rows of a call are not in the cache that the call
before filled. On a GPU all calls of a turn are one graph where the case allows it, timed by events;
without a GPU (a dry run of the benchmark's own code) a turn is a loop, timed by the clock.
"""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch

T = TypeVar("T")

WARM_UP = 3
MAX_SETS = 128


class Turn(NamedTuple):
    """A case ready to be timed.

    Attributes
    ----------
    run : callable
    why_no_graph : str or None
        Why the host launches each kernel; None for a graph.
    """

    run: Callable[[], None]
    why_no_graph: str | None


def num_sets(bytes_of_rows: int, device: str) -> int:
    """Return how many input sets it takes for their rows to exceed the L2 cache; 8 at least."""
    if device == "cpu":
        return 2
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return min(max(8, -(-cache * 11 // 10 // bytes_of_rows)), MAX_SETS)


def prepare(
    call: Callable[[T], object], inputs: Sequence[T], device: str, why_no_graph: str | None = None
) -> Turn:
    """Warm a call up, capture a turn of it unless something speaks against a graph, and run one.

    Raises whatever the call raises.
    """

    def run() -> None:
        for each in inputs:
            call(each)

    if device == "cpu":
        run()
        return Turn(run, "not on a GPU")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # optimisers make their state, libraries their workspaces
        for number in range(WARM_UP):
            call(inputs[number % len(inputs)])
        if why_no_graph is None:
            why_no_graph = host_waits(lambda: call(inputs[0]))
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    turn = Turn(run, why_no_graph) if why_no_graph is not None else capture(run)
    turn.run()
    torch.cuda.synchronize()  # what the GPU has to say against it, it says now
    return turn


def capture(run: Callable[[], None]) -> Turn:
    """Return one run as a graph, or why there is none."""
    gc.collect()  # what dead cycles hold on the device would be freed during the capture
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError as error:
        torch.cuda.synchronize()
        return Turn(run, f"capture failed: {first_line(error)}")
    return Turn(graph.replay, None)


def host_waits(call: Callable[[], object]) -> str | None:
    """Return where a call makes the host wait for the GPU, which no graph can hold."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return f"the host waits: {first_line(error)}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def first_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the main thread once the time is over."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def alternate(
    turns: Mapping[str, Turn], calls: int, device: str, budget: float, most: int = 30
) -> dict[str, list[float]]:
    """Run the cases in turns and return the seconds of a call of each, round by round.

    As many rounds as fit the budget in seconds, ``most`` at most, 5 at least.
    """
    clock = _Clock(device)
    first = {name: clock(turn.run) for name, turn in turns.items()}
    rounds = int(min(max(budget / sum(first.values()), 5), most)) if device != "cpu" else 2
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            seconds[name].append(clock(turn.run) / calls)
    return seconds


class _Clock:
    """Seconds of a function, on the device."""

    def __init__(self, device: str) -> None:
        self.scratch = None
        if device != "cpu":
            cache = torch.cuda.get_device_properties(0).L2_cache_size
            self.scratch = torch.empty(2 * cache, dtype=torch.uint8, device=device)
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def __call__(self, run: Callable[[], object]) -> float:
        if self.scratch is None:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        # Empties the cache of the case before, and keeps the GPU busy while the host launches.
        self.scratch.zero_()
        self.events[0].record()
        run()
        self.events[1].record()
        torch.cuda.synchronize()
        return self.events[0].elapsed_time(self.events[1]) / 1e3


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the most that torch's allocator held beyond what it held before the call."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def ceilings() -> dict[str, float]:
    """Return what this GPU does at best: bytes copied a second, and products by their precision."""
    clock = _Clock("cuda")

    def best(run: Callable[[], object]) -> float:
        run()
        return sorted(clock(run) for _ in range(7))[3]

    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = best(lambda: target.copy_(source))
    found = {"copy_tb_per_s": 2 * source.nbytes / seconds / 1e12}
    a, b = (torch.randn(8192, 8192, device="cuda") for _ in range(2))
    before = torch.get_float32_matmul_precision()
    for name, precision, dtype in (
        ("fp32", "highest", torch.float32),
        ("tf32", "high", torch.float32),
        ("bf16", "highest", torch.bfloat16),
    ):
        torch.set_float32_matmul_precision(precision)
        x, y = a.to(dtype), b.to(dtype)
        found[f"{name}_tflops"] = 2 * 8192**3 / best(lambda x=x, y=y: x @ y) / 1e12
    torch.set_float32_matmul_precision(before)
    return {name: round(value, 2) for name, value in found.items()}
