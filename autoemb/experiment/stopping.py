"""Stopping between two batches instead of in the middle of one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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

    Outside the main thread, where Python lets nobody handle signals, the list stays empty.
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
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
