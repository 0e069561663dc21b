"""docs/ablations.md: what each change to the default recipe does."""

from __future__ import annotations

from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple

from autoemb.lab.differences import CONFIDENCE
from bench.pages.names import Stream, plural, title
from bench.pages.records import Record
from bench.pages.rendering import render
from bench.pages.tables import table
from bench.pages.words import listed, signed

DEFAULT = "default"


class Effect(NamedTuple):
    """What a change does to the online loss of some streams, in percent."""

    percents: list[float]
    above: int
    below: int

    @property
    def mean(self) -> float:
        """Return the mean over streams."""
        return fmean(self.percents)

    def __str__(self) -> str:
        return f"{signed(self.mean)} ({self.above} / {self.below})"


class Change:
    """One variant on all streams."""

    def __init__(self, name: str, group: str, results: list[Record]) -> None:
        self.name, self.group, self.results = name, group, results
        self.timed = [r for r in results if r["order"] == "chronological"]
        self.mixed = [r for r in results if r["order"] != "chronological"]

    @property
    def online(self) -> Effect:
        """Return the effect on the streams in time order."""
        return _effect(self.timed)

    @property
    def shuffled(self) -> Effect:
        """Return the effect on the shuffled streams."""
        return _effect(self.mixed)

    @property
    def cost(self) -> float:
        """Return the mean effect on the online loss in time order, in percent."""
        return self.online.mean

    @property
    def first(self) -> float:
        """Return the mean effect on the first tenth, in percent."""
        return fmean(r["first_tenth_percent"] for r in self.timed)

    @property
    def seconds(self) -> float:
        """Return the mean time of a run in time order."""
        return fmean(r["seconds"] for r in self.timed)

    @property
    def same(self) -> bool:
        """Whether every loss is the default's, to the last digit."""
        return all(r["online_percent"] == r["first_tenth_percent"] == 0 for r in self.results)

    @property
    def widest(self) -> dict[str, float]:
        """Return the weight of the widest size at the end, of each feature."""
        return {
            feature: fmean(r["weights"][feature][-1] for r in self.timed)
            for feature in self.timed[0]["weights"]
        }

    def wider(self, other: Change) -> bool:
        """Whether the widest size ends with more weight than another's, for every feature."""
        return all(weight > other.widest[f] for f, weight in self.widest.items())

    def on(self, stream: Stream) -> float:
        """Return the effect on one stream, in percent."""
        (found,) = (r for r in self.results if Stream(r["data"], r["task"], r["order"]) == stream)
        return float(found["online_percent"])

    def sure_on(self) -> list[Stream]:
        """Return the streams in time order where the effect is sure, either way."""
        return [
            Stream(r["data"], r["task"], r["order"])
            for r in self.timed
            if r["online_interval"][0] > 0 or r["online_interval"][1] < 0
        ]


def _effect(results: list[Record]) -> Effect:
    return Effect(
        [r["online_percent"] for r in results],
        sum(r["online_interval"][0] > 0 for r in results),
        sum(r["online_interval"][1] < 0 for r in results),
    )


class Ablations:
    """All variants that a record holds, of any names and groups."""

    def __init__(self, record: Record) -> None:
        self.record = record
        found: dict[tuple[str, str], list[Record]] = {}
        for result in record["results"]:
            found.setdefault((result["variant"], result["group"]), []).append(result)
        every = {name: Change(name, group, results) for (name, group), results in found.items()}
        self.default = every.pop(DEFAULT)
        self.changes = {name: change for name, change in every.items() if change.timed}
        self.streams = [Stream(r["data"], r["task"], r["order"]) for r in self.default.timed]

    def __getitem__(self, name: str) -> Change:
        return self.changes[name]

    def has(self, *names: str) -> bool:
        """Whether the record holds all of these: a trial may hold any."""
        return {*names} <= {*self.changes}

    def costs(self, *names: str) -> list[float]:
        """Return the effects of some changes online, in time order, in percent."""
        return [self.changes[name].cost for name in names]

    def starting(self, *prefixes: str) -> list[str]:
        """Return the names of changes that start so."""
        return [name for name in self.changes if name.startswith(prefixes)]

    def sure(self, *names: str) -> list[Stream]:
        """Return the streams in time order where every one of some changes is sure."""
        return [s for s in self.streams if all(s in self[name].sure_on() for name in names)]

    def largest(self, group: str) -> Change:
        """Return the change of a group with the largest effect online."""
        own = [change for change in self.changes.values() if change.group == group]
        return max(own, key=lambda change: abs(change.cost))

    def table(self, group: str) -> str:
        """Return the table of a group."""
        body = [
            [
                change.name,
                str(change.online),
                signed(change.first),
                str(change.shuffled) if change.mixed else "",
                " / ".join(f"{weight:.2f}" for weight in change.widest.values()),
                f"{change.seconds / self.default.seconds:.2f}x",
            ]
            for change in self.changes.values()
            if change.group == group
        ]
        headers = ["change", "online", "first tenth", "online, shuffled", "widest", "time"]
        return table(headers, body)


def page(record: Record) -> str:
    """Return the page of a record."""
    found = Ablations(record)
    changes = [*found.changes.values()]
    half = len(found.streams) / 2
    harmful = [c for c in changes if c.online.above >= half and not c.online.below]
    helpful = [c for c in changes if c.online.below]
    groups = [name for name, _ in groupby(changes, key=lambda change: change.group)]
    return render(
        "ablations",
        found=found,
        sets=listed(dict.fromkeys(title(r["data"]) for r in record["results"])),
        features=" / ".join(map(plural, found.default.widest)),
        seeds=max(r["seeds"] for r in found.default.timed),
        changes=changes,
        harmful=harmful,
        helpful=[f"{c.name} ({c.group.partition(' (')[0]}, {c.online.below})" for c in helpful],
        groups=groups,
        confidence=100 * CONFIDENCE,
        where=record["environment"],
        command=record["command"],
    )


def on_stream(found: Ablations, stream: Stream) -> dict[str, Any]:
    """Return what docs/study.md tells of the ablations on one of its streams."""
    names = [
        "equal weights, no controller",
        "without popularity",
        "weights by popularity, no controller",
    ]
    body = [
        [name, signed(found[name].on(stream))]
        for name in names
        if stream in found.streams and found.has(name)
    ]
    return {
        "ablations": found,
        "ablated": table(["change", "online loss above the default's, %"], body),
    }
