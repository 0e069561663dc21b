"""How far a run is, and how fast."""

import io
import time

import pytest
from rich.console import Console

from autoemb.lab import progress as module
from autoemb.lab import run
from autoemb.lab.progress import ProgressDisplay


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told otherwise."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_rate_is_of_the_time_since_the_first_report(clock):
    text = io.StringIO()
    with ProgressDisplay(Console(file=text)) as display:
        report = display.task("run")
        clock[0] = 100.0  # data are read, a model is made
        report(500, 1000)  # a resumed run
        clock[0] = 105.0
        report(1000, 1000)
    assert text.getvalue() == "run: 1,000 of 1,000 events; 100 events/s\n"


def test_the_rate_shown_is_that_recorded(make_config, make_stream):
    text = io.StringIO()
    with ProgressDisplay(Console(file=text, width=200)) as display:
        report = display.task("run")
        time.sleep(0.5)
        summary = run(make_config(), make_stream(4000), progress=report)
    shown = float(text.getvalue().split("; ")[1].split()[0].replace(",", ""))
    # The record's clock ends a little later, when the last window is closed.
    assert shown == pytest.approx(summary["interactions_per_second"], rel=0.1)


def test_a_bar_begins_where_a_resumed_run_does():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with ProgressDisplay(console) as display:
        report = display.task("run [1]")
        report(500, 1000)
        (bar,) = display._bars.tasks
        assert (bar.completed, bar.total, bar.speed) == (500, 1000, None)
        report(600, 1000)
        assert bar.completed == 600
