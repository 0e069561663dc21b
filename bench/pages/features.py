"""docs/features.md: what more columns than user and item are worth."""

from __future__ import annotations

from statistics import fmean
from typing import NamedTuple

from autoemb.lab.report.tables import mean_cell
from bench.pages.names import Stream
from bench.pages.records import Record, Study, above, online
from bench.pages.rendering import render
from bench.pages.tables import table
from bench.pages.words import listed, percent, signed

#: What the names of a set's streams end with: by the columns that are read.
FEW, ALL = ", user and item", ", all features"
PARTS = ("features",)


class Columns(NamedTuple):
    """A data set read by two schemas.

    Attributes
    ----------
    name : str
    few, all : Stream
        User and item alone, and all features.
    """

    name: str
    few: Stream
    all: Stream

    def change(self, study: Study, method: str) -> float:
        """Return by how many percent all features raise the online loss; below 0: they lower it."""
        few, every = (study.mean(stream, method, online) for stream in (self.few, self.all))
        return above(every, few)


def auc(run: Record) -> float:
    """Return the AUC of the online stage."""
    return float(run["online"]["auc"])


def entropy(run: Record) -> float:
    """Return the log loss over that of always predicting the share of clicks."""
    return float(run["online"]["normalised_entropy"])


def sets_of(study: Study) -> list[Columns]:
    """Return the data sets that were read both ways."""
    by_name = {stream.data: stream for stream in study.streams}
    return [
        Columns(data.removesuffix(FEW), stream, by_name[data.removesuffix(FEW) + ALL])
        for data, stream in by_name.items()
        if data.endswith(FEW) and data.removesuffix(FEW) + ALL in by_name
    ]


def comparison(study: Study) -> str:
    """Return a table of losses and AUCs by both schemas."""
    body = []
    for columns in sets_of(study):
        for method in study.methods:
            losses, areas = (
                [mean_cell(study.values(s, method, value)) for s in (columns.few, columns.all)]
                for value in (online, auc)
            )
            cells = [*map(str, losses), signed(columns.change(study, method)), *map(str, areas)]
            cells.append(str(mean_cell(study.values(columns.all, method, entropy))))
            body.append([columns.name, method, *cells])
    headers = ["data", "method", "log loss, user and item", "all features", "change, %"]
    return table([*headers, "AUC, user and item", "all features", "normalised entropy"], body)


def page(study: Study) -> str:
    """Return the page."""
    changes = {c.name: c.change(study, study.ours) for c in sets_of(study)}
    lower = [f"{name} {percent(value, 1)}" for name, value in changes.items() if value < 0]
    higher = [f"{name} {percent(value, 1)}" for name, value in changes.items() if value >= 0]
    events = fmean(
        sum(run[stage]["interactions"] for stage in ("offline", "online"))
        for run in study.record["results"]
    )
    return render(
        "features",
        ours=study.ours,
        seeds=study.seeds,
        events=events,
        lower=listed(lower),
        higher=listed(higher) if higher else "",
        comparison=comparison(study),
        versions=study.record["versions"],
    )
