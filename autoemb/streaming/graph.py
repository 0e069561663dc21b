"""The same step again and again as one CUDA graph.

A graph replays kernels on fixed addresses: what a step reads and writes must stay where it was
when the step was captured. Inputs are therefore copied into one buffer, results out of theirs, and
whoever moves parameters or state (a table that grows) calls :meth:`StepGraph.forget`.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from autoemb.streaming.packed import Layout, tensors_of, with_tensors

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: Steps of one layout in a row that run as they are before one is captured: optimisers make their
#: state and libraries their workspaces in the first, outside the graph.
WARM_UP = 3


class Captured(Protocol[T_co]):
    """A function call that can be repeated on the memory that it was captured on."""

    @property
    def outputs(self) -> T_co:
        """The results of the last replay; the next one overwrites them."""

    def replay(self) -> None:
        """Repeat it."""


class CudaGraph(Generic[T]):
    """One call of a function as a CUDA graph. The capture itself computes nothing."""

    def __init__(self, function: Callable[[], T], device: torch.device) -> None:
        gc.collect()  # what dead cycles hold on the device would be freed during the capture
        self._graph = torch.cuda.CUDAGraph()
        # "thread_local": what other threads do, such as pinning memory, does not end the capture.
        with (
            torch.cuda.device(device),
            torch.cuda.graph(
                self._graph,
                stream=_capture_stream(device),
                capture_error_mode="thread_local",
            ),
        ):
            self.outputs = function()

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self._graph.replay()


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream for all captures: cuBLAS keeps a workspace for each it ever met."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class StepGraph(Generic[T]):
    """A function of tensors, captured once its inputs have had one layout for some time.

    Inputs of another layout, such as a last batch that is not full, run as they are. So does a
    function that cannot be captured: one that draws random numbers, since a graph cannot give two
    passes the same ones, or makes the host wait. A warning tells.

    Parameters
    ----------
    function : callable
        list of Tensor -> nested lists and named tuples of Tensor. Changes state in place only.
    device : torch.device
    capture : callable
        (function of no arguments, device) -> :class:`Captured`.
    """

    def __init__(
        self,
        function: Callable[[list[Tensor]], T],
        device: torch.device,
        capture: Callable[[Callable[[], T], torch.device], Captured[T]] = CudaGraph,
    ) -> None:
        self.function, self.device = function, device
        self._capture = capture
        self._obstacle: str | None = None
        self._graph: Captured[T] | None = None
        self._layout: Layout | None = None  # of the graph
        self._last: Layout | None = None
        self._in_a_row = 0

    def forget(self) -> None:
        """Drop the graph: something it uses lies elsewhere from now on."""
        if self.captured and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the last replay may still be running
        self._graph, self._last = None, None

    @property
    def captured(self) -> bool:
        """Whether there is a graph to replay."""
        return self._graph is not None

    def __call__(self, layout: Layout, packed: Tensor) -> T:
        """Return the function's results for inputs packed on the device."""
        self._in_a_row = self._in_a_row + 1 if layout == self._last else 1
        self._last = layout
        if self._graph is None or layout != self._layout:
            if self._obstacle is not None or self._in_a_row < WARM_UP:
                return self.function(layout.unpack(packed))
            if self._in_a_row == WARM_UP:
                return self._last_warm_up(layout.unpack(packed))
            self.forget()
            self._packed = packed.clone()
            inputs = layout.unpack(self._packed)
            try:
                self._graph = self._capture(lambda: self.function(inputs), self.device)
            except RuntimeError as error:
                self._give_up(f"the capture failed: {error}")
                return self.function(inputs)
            self._layout = layout
        self._packed.copy_(packed)
        self._graph.replay()
        return _copy(self._graph.outputs)

    def _last_warm_up(self, inputs: list[Tensor]) -> T:
        """Run the function and find out whether it can be captured."""
        before = _random_state(self.device)
        with _synchronizations(self.device) as found:
            result = self.function(inputs)
        if not torch.equal(before, _random_state(self.device)):
            self._give_up("it draws random numbers")
        elif found:
            self._give_up(f"it makes the host wait for the device ({found[0]})")
        return result

    def _give_up(self, obstacle: str) -> None:
        self._obstacle = obstacle
        warnings.warn(f"no CUDA graph of this step: {obstacle}", stacklevel=4)


def _copy(value: T) -> T:
    """Return a copy of all tensors in one buffer, made by one kernel."""
    tensors = tensors_of(value)
    layout = Layout(tensors)
    return with_tensors(value, iter(layout.unpack(layout.pack(tensors))))


def _random_state(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.random.get_rng_state()


@contextmanager
def _synchronizations(device: torch.device) -> Iterator[list[str]]:
    """Collect where the host waits for a CUDA device."""
    found: list[str] = []
    if device.type != "cuda" or torch.cuda.get_sync_debug_mode() != 0:
        yield found  # nothing to find, or somebody else is looking
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "called a synchronizing CUDA operation" in str(warning.message):
            found.append(f"{warning.filename}:{warning.lineno}")
        elif "Synchronization debug mode" not in str(warning.message):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
