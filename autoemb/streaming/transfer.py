"""Copies between host and device that neither of them waits for.

Each direction has a stream of its own and moves its tensors packed in one buffer, through pinned
memory: without that, a copy would stop the host until it is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from autoemb.streaming.packed import Layout, tensors_of, with_tensors

T = TypeVar("T")

#: Values on their way to the host before it waits for the oldest.
MOST_UNDER_WAY = 64


class Upload:
    """Copy host tensors to a GPU while it computes what was launched before.

    Parameters
    ----------
    device : torch.device
        A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, layout: Layout, tensors: Sequence[Tensor]) -> Tensor:
        """Return the packed tensors [layout.nbytes] on the device, for the current stream."""
        pinned = torch.empty(layout.nbytes, dtype=torch.uint8, device="cpu", pin_memory=True)
        layout.pack(tensors, out=pinned)
        with torch.cuda.stream(self._stream):
            # PyTorch keeps both buffers from being used again before their streams are done.
            packed = pinned.to(self._stream.device, non_blocking=True)
        current = torch.cuda.current_stream(self._stream.device)
        current.wait_stream(self._stream)
        packed.record_stream(current)
        return packed


class _UnderWay(NamedTuple, Generic[T]):
    value: T  # with its tensors on the device
    layout: Layout
    buffer: Tensor  # pinned
    done: torch.cuda.Event

    def is_here(self) -> bool:
        return bool(self.done.query())  # type: ignore[no-untyped-call]

    def arrived(self) -> T:
        self.done.synchronize()
        return with_tensors(self.value, iter(self.layout.unpack(self.buffer)))


class Download(Generic[T]):
    """Values of nested lists and named tuples of tensors on their way to the host, in order.

    Those on the CPU arrive at once, as they are.

    Examples
    --------
    >>> import torch
    >>> download = Download()
    >>> download.add([torch.tensor([1, 2]), None])
    >>> [*download.arrived()], [*download.arrived()]
    ([[tensor([1, 2]), None]], [])
    """

    def __init__(self) -> None:
        self._queue: deque[T | _UnderWay[T]] = deque()
        self._stream: torch.cuda.Stream | None = None

    def add(self, value: T) -> None:
        """Send a value; it may be changed on the device once this returns."""
        tensors = tensors_of(value)
        if not tensors or not tensors[0].is_cuda:
            self._queue.append(value)
            return
        layout = Layout(tensors)
        packed = layout.pack(tensors)
        if self._stream is None:
            self._stream = torch.cuda.Stream(packed.device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(packed.device))
        buffer = torch.empty(layout.nbytes, dtype=torch.uint8, device="cpu", pin_memory=True)
        with torch.cuda.stream(self._stream):
            buffer.copy_(packed, non_blocking=True)
            packed.record_stream(self._stream)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._stream)
        self._queue.append(_UnderWay(value, layout, buffer, done))

    def arrived(self, wait: bool = False) -> Iterator[T]:
        """Yield what has arrived since the last call; ``wait`` for all that was sent."""
        while self._queue:
            first = self._queue[0]
            if isinstance(first, _UnderWay):
                if not (wait or len(self._queue) > MOST_UNDER_WAY or first.is_here()):
                    return
                first = first.arrived()
            self._queue.popleft()
            yield first
