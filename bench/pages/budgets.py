"""Budgets kept while the stream runs: values and tables of docs/study.md."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean
from typing import Any

from autoemb.lab.report.figures import loss_by_bytes
from autoemb.lab.report.tables import mean_cell
from autoemb.lab.report.wording import loss_name
from bench.pages.names import Stream, row_name
from bench.pages.records import Study, above, online, table_bytes
from bench.pages.tables import mib, table
from bench.pages.words import against, signed

#: Percent above the best fixed width that counts as close to it.
CLOSE = 0.2


def by_default(study: Study) -> list[str]:
    """Return the methods that start ids as the default does."""
    return [name for name, options in study.methods.items() if "start" not in options]


def apart(study: Study, fixed: Study, method: str) -> list[float]:
    """Return on each stream the percent above the best fixed width of another study."""
    return [
        above(study.mean(s, method, online), fixed.mean(s, fixed.best_width(s), online))
        for s in study.streams
    ]


def values(study: Study, fixed: Study) -> dict[str, Any]:
    """Return what the template names."""
    smallest, shares = reached(study, fixed)
    return {
        "budgets": study,
        "untuned": apart(study, fixed, study.ours),
        "budget_summary": summary(study, fixed),
        "budget_table": every(study, fixed),
        "reached": smallest,
        "halves": sum(share <= 0.5 for share in shares),
        "close": CLOSE,
        "starts": starts(study),
        "uneven": uneven(study),
    }


def summary(study: Study, fixed: Study) -> str:
    """Return a table of what each budget costs, over all streams."""
    body = []
    for name in study.methods:
        if name == study.ours:
            continue
        # The record has ours less theirs: a budget that costs has a negative difference.
        pairs = study.against(name)
        without = [
            above(study.mean(s, name, online), study.mean(s, study.ours, online))
            for s in study.streams
        ]
        body.append([name, against(apart(study, fixed, name)), against(without),
                     str(len(pairs.below)), str(len(pairs.above))])  # fmt: skip
    headers = ["method", "the best width", f"{study.ours} without", "surely above it",
               "surely below it"]  # fmt: skip
    return table(headers, body)


def every(study: Study, fixed: Study) -> str:
    """Return a table of all streams: percent above the best fixed width, and MiB."""
    body = []
    for stream in study.streams:
        best = fixed.mean(stream, fixed.best_width(stream), online)
        cells = [
            f"{signed(above(study.mean(stream, name, online), best))} "
            f"({mib(study.mean(stream, name, table_bytes))})"
            for name in study.methods
        ]
        body.append([row_name(stream), *cells])
    return table(["stream", *study.methods], body)


def smallest(study: Study, stream: Stream, names: list[str], limit: float) -> tuple[str, float]:
    """Return the method of the fewest bytes whose online loss keeps within a limit, or none."""
    sizes = {
        name: study.mean(stream, name, table_bytes)
        for name in names
        if study.mean(stream, name, online) <= limit
    }
    name = min(sizes, key=lambda name: sizes[name], default="")
    return name, sizes.get(name, 0.0)


def reached(study: Study, fixed: Study) -> tuple[str, list[float]]:
    """Return a table of the smallest that come close to the best width, and their shares."""
    body, shares = [], []
    for stream in study.streams:
        limit = fixed.mean(stream, fixed.best_width(stream), online) * (1 + CLOSE / 100)
        width, theirs = smallest(fixed, stream, fixed.fixed, limit)
        ours, own = smallest(study, stream, by_default(study), limit)
        row = [row_name(stream), width, mib(theirs)]
        if ours:
            shares.append(own / theirs)
            row += [ours, mib(own), f"{shares[-1]:.2f}"]
        body.append(row + [""] * (6 - len(row)))
    headers = ["stream", "smallest fixed width", "MiB", "smallest of ours", "MiB", "share"]
    return table(headers, body), shares


def starts(study: Study) -> list[dict[str, Any]]:
    """Return what another start costs within a budget, where one was tried with and without."""
    found = []
    for name, options in study.methods.items():
        if "start" not in options:
            continue
        rest = {key: value for key, value in options.items() if key != "start"}
        for other in (n for n, o in study.methods.items() if o == rest):
            costs = [
                above(study.mean(s, name, online), study.mean(s, other, online))
                for s in study.streams
            ]
            rounded = [round(cost, 2) for cost in costs]
            found.append({
                "name": name, "other": other, "costs": costs,
                "higher": sum(r > 0 for r in rounded), "lower": sum(r < 0 for r in rounded),
                "mean": fmean(costs),
            })  # fmt: skip
    return found


def uneven(study: Study) -> list[Stream]:
    """Return the streams where a smaller budget had a lower loss than the next."""
    names = [n for n in by_default(study) if "budget" in study.methods[n]]
    names.sort(key=lambda name: study.methods[name]["budget"])
    return [
        stream
        for stream in study.streams
        if any(
            study.mean(stream, small, online) < study.mean(stream, large, online)
            for small, large in pairwise(names)
        )
    ]


def figure(stream: Stream, name: str, fixed: Study, study: Study) -> str:
    """Draw the loss of fixed widths and of ours within budgets against their bytes."""

    def points(of: Study, names: list[str]) -> list[tuple[float, float, float]]:
        found = []
        for method in names:
            loss = mean_cell(of.values(stream, method, online))
            found.append((of.mean(stream, method, table_bytes), loss.mean, loss.spread))
        return found

    lines = {"fse": points(fixed, fixed.fixed), "autoemb": points(study, by_default(study))}
    return loss_by_bytes(name, lines, loss_name(stream.task))
