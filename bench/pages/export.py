"""docs/export.md: frozen models and their bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from itertools import product
from statistics import fmean
from typing import Any

from autoemb.lab.evaluate import OBSERVED
from autoemb.lab.report.figures import loss_by_bytes
from autoemb.lab.report.tables import mean_cell
from autoemb.lab.report.wording import loss_name
from bench.pages.names import Stream, plural, row_name
from bench.pages.records import Record, Study, above
from bench.pages.rendering import render
from bench.pages.tables import table
from bench.pages.words import signed

#: Percent above the best fixed width that counts as close to it.
CLOSE = 0.2


class Export:
    """The scores of exported models, of any methods, data sets and budgets.

    Attributes
    ----------
    ours : str
        The last method; ``fixed`` are those of one width, ``shrunk`` those made smaller.
    tables : list of str
        Whose ids own the rows.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.results: list[Record] = record["results"]
        self.methods: Record = record["methods"]
        self.ours = [*self.methods][-1]
        self.fixed = [name for name, o in self.methods.items() if o["method"] == "fse"]
        self.streams = list(dict.fromkeys(Stream(r["data"], r["task"]) for r in self.results))
        self.budgets = sorted({r["budget"] for r in self.results}, reverse=True)
        self.narrow = [budget for budget in self.budgets if budget < 1]
        self.tables = [*self.results[0]["rank_correlation"]]
        self.shrunk = [n for n in self.methods if self.rows(method=n, budget=self.narrow[0])]

    def rows(self, stream: Stream | None = None, **wanted: Any) -> list[Record]:
        """Return the results of a stream, a method, a budget."""
        if stream is not None:
            wanted |= {"data": stream.data, "task": stream.task}
        return [r for r in self.results if all(r[key] == value for key, value in wanted.items())]

    def losses(self, stream: Stream, method: str, budget: float = 1.0) -> list[float]:
        """Return each seed's loss."""
        return [r["loss"] for r in self.rows(stream, method=method, budget=budget)]

    def costs(self, stream: Stream, method: str, budget: float) -> list[float]:
        """Return each seed's loss in percent above that of the whole model."""
        whole = {r["seed"]: r["loss"] for r in self.rows(stream, method=method, budget=1.0)}
        rows = self.rows(stream, method=method, budget=budget)
        return [above(r["loss"], whole[r["seed"]]) for r in rows]

    def cost(self, method: str, budget: float) -> list[float]:
        """Return the mean cost of a budget on every stream, in percent."""
        return [fmean(self.costs(stream, method, budget)) for stream in self.streams]

    def floats(self, method: str, budget: float) -> float:
        """Return floats an id, the mean over streams."""
        return fmean(r["floats_per_id"] for r in self.rows(method=method, budget=budget))

    def best(self, stream: Stream) -> float:
        """Return the loss of the best fixed width at full size, in hindsight."""
        return min(fmean(self.losses(stream, name)) for name in self.fixed)

    def apart(self, stream: Stream, budget: float = 1.0) -> float:
        """Return our loss in percent above that of the best fixed width."""
        return above(fmean(self.losses(stream, self.ours, budget)), self.best(stream))

    def fewest(self, stream: Stream, methods: Iterable[str], budgets: Iterable[float]) -> float:
        """Return the fewest floats an id that come close to the best width; inf for none."""
        limit = self.best(stream) * (1 + CLOSE / 100)
        found = [math.inf]
        for method, budget in product(methods, budgets):
            rows = self.rows(stream, method=method, budget=budget)
            if rows and fmean(r["loss"] for r in rows) <= limit:
                found.append(fmean(r["floats_per_id"] for r in rows))
        return min(found)

    @cached_property
    def near(self) -> list[Stream]:
        """Return the streams where our smallest model is close to the best fixed width."""
        return [s for s in self.streams if self.apart(s, self.budgets[-1]) <= CLOSE]

    def keeps(self, method: str) -> bool:
        """Whether a method made narrowest is better than the narrowest that was trained."""
        trained = min(self.fixed, key=lambda name: self.floats(name, 1.0))
        return all(
            fmean(self.losses(s, method, self.budgets[-1])) < fmean(self.losses(s, trained))
            for s in self.streams
        )

    @property
    def correlations(self) -> list[float]:
        """Return every rank correlation of width and events that there is."""
        every = (r for row in self.results for r in row["rank_correlation"].values())
        return [value for value in every if not math.isnan(value)]


def shrinking(found: Export, method: str) -> str:
    """Return a table of what every budget costs a method on every stream."""
    body = []
    for stream in found.streams:
        cells = [mean_cell(found.costs(stream, method, b)) for b in found.narrow]
        spreads = ("" if math.isnan(c.spread) else f"±{c.spread:.2f}" for c in cells)
        shown = [f"{signed(c.mean)}{spread}" for c, spread in zip(cells, spreads, strict=True)]
        body.append([row_name(stream), *shown])
    return table(["stream", *(f"B = {b:g}" for b in found.narrow)], body)


def largest(found: Export) -> str:
    """Return a table of the largest cost of every budget."""
    body = [[m, *(signed(max(found.cost(m, b))) for b in found.narrow)] for m in found.shrunk]
    return table(["method", *(f"B = {b:g}" for b in found.narrow)], body)


def frozen(found: Export) -> str:
    """Return a table of the losses of all models but the largest of the narrow ones."""
    narrow = found.narrow[1:]
    body = [
        [
            row_name(s),
            *(str(mean_cell(found.losses(s, name))) for name in found.methods),
            *(str(mean_cell(found.losses(s, found.ours, b))) for b in narrow),
        ]
        for s in found.streams
    ]
    headers = ["stream", *found.methods, *(f"{found.ours}, B = {b:g}" for b in narrow)]
    return table(headers, body)


def smallest(found: Export) -> str:
    """Return a table of the fewest floats that come close to the best fixed width."""
    shrunk = found.shrunk[::-1]
    body = []
    for stream in found.streams:
        floats = [found.fewest(stream, found.fixed, [1.0])]
        floats += [found.fewest(stream, [name], found.budgets) for name in shrunk]
        body.append([row_name(stream), *(f"{n:.1f}" if n < math.inf else "-" for n in floats)])
    headers = ["stream", "a fixed width", *(f"{n}, exported" for n in shrunk)]
    return table(headers, body)


def correlations(found: Export) -> str:
    """Return a table of how the width of an id rises with its events, by table."""

    def cell(values: list[float]) -> str:
        mean = fmean(values)  # NaN where all ids own the same
        return "-" if math.isnan(mean) else f"{mean:.2f}"

    body = []
    for stream in found.streams:
        cells = []
        for b in found.narrow:
            runs = [r["rank_correlation"] for r in found.rows(stream, method=found.ours, budget=b)]
            cells.append(" / ".join(cell([run[name] for run in runs]) for name in found.tables))
        body.append([row_name(stream), *cells])
    return table(["stream", *(f"B = {b:g}" for b in found.narrow)], body)


def memory(found: Export) -> str:
    """Return a table of the bytes of models of synthetic rows, in MiB."""
    keys = ("model_bytes", "file_bytes", "resident_bytes")
    body = [
        [f"{m['widths']}, {m['ids']:,} ids", *(f"{m[key] / 2**20:,.0f}" for key in keys)]
        for m in found.record["memory"]
    ]
    return table(["model", "tensors and ids", "file", "resident memory"], body)


def observing(found: Export) -> str:
    """Return a table of losses frozen, observing labels, and of the run that went on learning."""
    least, ours = found.budgets[-1], found.ours
    body = []
    for stream in found.streams:
        cells = []
        for budget in (1.0, least):
            rows = found.rows(stream, method=ours, budget=budget)
            cells += [str(mean_cell([r[key] for r in rows])) for key in ("loss", "observing")]
        live = [r["live"] for r in found.rows(stream, method=ours, budget=1.0)]
        body.append([row_name(stream), *cells, str(mean_cell(live))])
    headers = [f"{how}, B = {b:g}" for b in (1.0, least) for how in ("frozen", "observing")]
    return table(["stream", *headers, "live"], body)


def beside_live(found: Export, key: str, budget: float) -> list[float]:
    """Return by how many percent a loss of ours is above the live run's, on every stream."""
    every = [found.rows(stream, method=found.ours, budget=budget) for stream in found.streams]
    return [above(fmean(r[key] for r in rows), fmean(r["live"] for r in rows)) for rows in every]


def page(record: Record, widths: Study, figures: str) -> str:
    """Return the page of a record; ``widths`` tells how the same methods do while they learn."""
    found = Export(record)
    least = found.budgets[-1]
    far = [stream for stream in found.streams if stream not in found.near]
    (wide,) = [name for name in found.shrunk if name != found.ours]
    learning = [widths.paired(s, widths.best_width(s)).mean for s in far if s in widths.streams]
    return render(
        "export",
        found=found,
        least=least,
        wide=wide,
        far=far,
        learning=learning,
        learning_better=bool(learning) and fmean(learning) < fmean(map(found.apart, far)),
        far_whole=[found.apart(stream) for stream in far],
        far_least=[found.apart(stream, least) for stream in far],
        rising=sum(value > 0 for value in found.correlations),
        correlations_found=len(found.correlations),
        tables=" / ".join(map(plural, found.tables)),
        close=CLOSE,
        trained=[found.fewest(s, found.fixed, [1.0]) for s in found.near],
        narrow_wide=[s for s in far if found.fewest(s, [wide], found.narrow) < math.inf],
        seeds=len({row["seed"] for row in found.results}),
        observing=observing(found),
        observed=OBSERVED,
        frozen_live=beside_live(found, "loss", 1.0),
        observing_live=beside_live(found, "observing", 1.0),
        least_live=beside_live(found, "observing", least),
        history=fmean(
            r["history_bytes"] / (r["row_bytes"] / 4 / r["floats_per_id"])
            for r in found.rows(method=found.ours, budget=least)
        ),
        largest=largest(found),
        shrinking={name: shrinking(found, name) for name in found.shrunk},
        frozen=frozen(found),
        smallest=smallest(found),
        correlations=correlations(found),
        memory=memory(found),
        figures=figures,
        online=widths.online_share,
        where=record["environment"],
        command=record["command"],
    )


def figure(stream: Stream, name: str, found: Export) -> str:
    """Draw the loss of fixed widths and of what was made narrow against their bytes."""

    def points(methods: Iterable[str], budgets: list[float]) -> list[tuple[float, float, float]]:
        sizes = []
        for method in methods:
            for budget in budgets:
                rows = found.rows(stream, method=method, budget=budget)
                loss = mean_cell([r["loss"] for r in rows])
                sizes.append((fmean(r["row_bytes"] for r in rows), loss.mean, loss.spread))
        return sizes

    lines = {"fse": points(found.fixed, [1.0])}
    lines |= {f"{n} narrow": points([n], found.narrow) for n in found.shrunk if n != found.ours}
    lines["autoemb"] = points([found.ours], found.budgets)
    return loss_by_bytes(name, lines, loss_name(stream.task))
