"""docs/freshness.md: labels of the same batch, at once and late."""

from __future__ import annotations

from bench.pages.names import Stream, row_name
from bench.pages.records import Study, above, online
from bench.pages.rendering import render
from bench.pages.tables import table

#: The study, and those of smaller batches by their size.
PARTS, SMALLER = "freshness", {50: "freshness-50", 10: "freshness-10"}

#: What the names of methods end with whose labels come late, and what they are without it.
LATE, UNTOLD = "-late", "FSE-146-untold"


def at_once(study: Study) -> list[str]:
    """Return the methods whose labels come at once."""
    return [name for name in study.methods if not name.endswith(LATE)]


def late(study: Study) -> list[str]:
    """Return the methods whose labels come late."""
    return [name for name in study.methods if name.endswith(LATE)]


def losses(study: Study, methods: list[str], others: dict[str, dict[Stream, float]]) -> str:
    """Return a table of online losses, and of others by stream; the lowest in bold."""
    body = []
    for stream in study.streams:
        means = {m.removesuffix(LATE): study.mean(stream, m, online) for m in methods}
        means |= {name: found[stream] for name, found in others.items()}
        lowest = min(means.values())
        cells = (f"**{x:.4f}**" if x == lowest else f"{x:.4f}" for x in means.values())
        body.append([row_name(stream), *cells])
    return table(["stream", *(m.removesuffix(LATE) for m in methods), *others], body)


def beside(study: Study, ours: str, other: str) -> list[float]:
    """Return by how many percent one method's loss is above another's, on every stream."""
    return [above(study.mean(s, ours, online), study.mean(s, other, online)) for s in study.streams]


def page(study: Study, smaller: dict[int, Study], frozen: Study) -> str:
    """Return the page.

    Parameters
    ----------
    study : Study
    smaller : dict of int to Study
        A fixed width that learns in smaller batches, by their size.
    frozen : Study
        Of batches that are told what was known when they began.
    """
    (delay,) = {study.methods[name]["label_delay"] for name in late(study)}
    columns = {
        f"{UNTOLD}, batches of {size}": {s: other.mean(s, UNTOLD, online) for s in study.streams}
        for size, other in smaller.items()
    }
    return render(
        "freshness",
        hours=float(delay) / 3600,
        gains=[
            above(study.mean(s, "AutoEmb", online), frozen.mean(s, frozen.ours, online))
            for s in study.streams
        ],
        smaller={
            size: [above(study.mean(s, "AutoEmb", online), x) for s, x in found.items()]
            for size, found in zip(smaller, columns.values(), strict=True)
        },
        fixed=beside(study, f"AutoEmb{LATE}", f"{UNTOLD}{LATE}"),
        told=beside(study, f"AutoEmb{LATE}", f"FSE-146{LATE}"),
        at_once=losses(study, at_once(study), columns),
        late=losses(study, late(study), {}),
        seeds=study.seeds,
        versions=study.record["versions"],
    )
