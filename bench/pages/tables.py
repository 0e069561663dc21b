"""Tables that several pages share."""

from __future__ import annotations

from collections.abc import Sequence

from autoemb.lab.report.tables import mean_cell, pipes
from bench.pages.names import row_name
from bench.pages.records import Study, Value


def table(headers: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table, or nothing where it would have no line.

    Examples
    --------
    >>> table(["a"], [])
    ''
    """
    return "\n".join(pipes(headers, body)) if body else ""


def losses(study: Study, value: Value, *, order: bool = False) -> str:
    """Return the mean loss of every method on every stream, the lowest in bold."""
    body = []
    for stream in study.streams:
        cells = {name: mean_cell(study.values(stream, name, value)) for name in study.methods}
        lowest = study.lowest(stream, [*study.methods], value)
        shown = [f"**{c}**" if name == lowest else str(c) for name, c in cells.items()]
        body.append([row_name(stream, order=order), *shown])
    return table(["stream", *study.methods], body)
