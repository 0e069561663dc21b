"""Stopping between two batches instead of in the middle of one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: What has arrived since :func:`remember_requests` while nobody collected it.
early_requests: list[int] = []


class Interrupted(Exception):
    """A run was asked to stop.

    Attributes
    ----------
    events : int
        Events done.
    saved : bool
        Whether they are in a checkpoint to continue from.
    """

    def __init__(self, events: int, saved: bool) -> None:
        super().__init__(events, saved)  # what another process makes it again from
        self.events, self.saved = events, saved

    def __str__(self) -> str:
        then = "continue with --resume" if self.saved else "nothing was saved, for want of --out"
        return f"interrupted after {self.events:,} events; {then}"


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list; a second one raises KeyboardInterrupt at once.

    It begins with ``early_requests``. Outside the main thread, where Python lets nobody handle
    signals, nothing is added.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:
        pass
    received.extend(early_requests)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def remember_requests() -> None:
    """Note SIGINT from now on where nobody collects it, as a process does that is told to run."""
    signal.signal(signal.SIGINT, lambda number, frame: early_requests.append(number))
