"""docs/freshness.md: labels of the same batch, at once and late."""

from __future__ import annotations

from autoemb.lab.report.tables import mean_cell
from bench.pages.names import row_name
from bench.pages.records import Study, above, online
from bench.pages.rendering import render
from bench.pages.tables import table

PARTS = ("freshness",)

#: What the names of methods end with whose labels come late, and what they are without it.
LATE, UNTOLD = "-late", "FSE-146-untold"


def at_once(study: Study) -> list[str]:
    """Return the methods whose labels come at once."""
    return [name for name in study.methods if not name.endswith(LATE)]


def late(study: Study) -> list[str]:
    """Return the methods whose labels come late."""
    return [name for name in study.methods if name.endswith(LATE)]


def losses(study: Study, methods: list[str]) -> str:
    """Return a table of online losses, the lowest of a stream in bold."""
    body = []
    for stream in study.streams:
        lowest = study.lowest(stream, methods)
        cells = {m: mean_cell(study.values(stream, m, online)) for m in methods}
        body.append(
            [row_name(stream), *(f"**{c}**" if m == lowest else str(c) for m, c in cells.items())]
        )
    return table(["stream", *(m.removesuffix(LATE) for m in methods)], body)


def beside(study: Study, ours: str, other: str) -> list[float]:
    """Return by how many percent one method's loss is above another's, on every stream."""
    return [above(study.mean(s, ours, online), study.mean(s, other, online)) for s in study.streams]


def page(study: Study, frozen: Study) -> str:
    """Return the page, beside a study whose batches are told what was known when they began."""
    (delay,) = {study.methods[name]["label_delay"] for name in late(study)}
    smaller = [name for name in at_once(study) if name.startswith(UNTOLD)]
    gains = [
        above(study.mean(stream, "AutoEmb", online), frozen.mean(stream, frozen.ours, online))
        for stream in study.streams
    ]
    return render(
        "freshness",
        hours=float(delay) / 3600,
        gains=gains,
        smaller={
            study.methods[name]["batch_size"]: beside(study, "AutoEmb", name) for name in smaller
        },
        fixed=beside(study, f"AutoEmb{LATE}", f"{UNTOLD}{LATE}"),
        told=beside(study, f"AutoEmb{LATE}", f"FSE-146{LATE}"),
        at_once=losses(study, at_once(study)),
        late=losses(study, late(study)),
        seeds=study.seeds,
        versions=study.record["versions"],
    )
