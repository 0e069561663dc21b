"""How far a command is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

#: Seconds between two plain lines.
PLAIN_SECONDS = 10.0


def told(rate: float) -> str:
    """Return a rate to three digits or in whole numbers.

    Examples
    --------
    >>> told(0.12345), told(21876.5)
    ('0.123', '21,876')
    """
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{told(speed)} {self.unit}/s")


class ProgressDisplay:
    """Show the progress of runs on standard error, as a context manager.

    A rate is of the time since the first report: loading data and making a model do not count, as
    they do not for what a run records.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to show it; standard error by default.
    unit : str, default "events"
        What is counted.

    Examples
    --------
    >>> import io
    >>> text = io.StringIO()
    >>> with ProgressDisplay(Console(file=text)) as display:
    ...     report = display.task("FSE, seed 0")
    ...     report(0, 1000), report(1000, 1000)
    (None, None)
    >>> text.getvalue().split(";")[0]
    'FSE, seed 0: 1,000 of 1,000 events'
    """

    def __init__(self, console: Console | None = None, *, unit: str = "events") -> None:
        self._unit = unit
        self._console = Console(file=sys.stderr) if console is None else console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            _Rate(unit),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def task(self, name: str, tasks: int = 1) -> Callable[[int, int], None]:
        """Begin the next of ``tasks`` runs; return what is told of events done and in all."""
        self._tasks += 1
        if tasks > 1:
            name = f"[{self._tasks}/{tasks}] {name}"
        if self._console.is_terminal:
            return self._bar(name)
        return self._lines(name)

    def _bar(self, name: str) -> Callable[[int, int], None]:
        bar: TaskID | None = None

        def report(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:  # whose clock begins here, where the run's own does
                # The name is ours, but brackets would be read as a style.
                shown = name.replace("[", r"\[")
                bar = self._bars.add_task(shown, total=total, completed=done)
            self._bars.update(bar, completed=done, total=total)

        return report

    def _lines(self, name: str) -> Callable[[int, int], None]:
        unit = self._unit
        began: tuple[float, int] | None = None
        last = 0.0

        def report(done: int, total: int) -> None:
            nonlocal last, began
            now = time.monotonic()
            if began is None:  # the run's own clock begins here; a resumed one not with event 0
                began, last = (now, done), now
                return
            if done < total and now - last < PLAIN_SECONDS:
                return
            last = now
            start, first = began
            rate = (done - first) / max(now - start, 1e-9)
            rest = f", {(total - done) / rate:.0f} s to go" if done < total and rate else ""
            line = f"{name}: {done:,} of {total:,} {unit}; {told(rate)} {unit}/s{rest}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

        return report
