"""A recorded study, and what is asked of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from autoemb.lab.ranks import rank_correlation
from autoemb.lab.records import Difference
from autoemb.lab.report.wording import verdict
from bench.pages.names import Stream
from bench.pages.words import signed

DOCS = Path(__file__).parents[2] / "docs"
STUDIES = DOCS / "studies"
FIGURES = STUDIES / "figures"

Record = dict[str, Any]
Value = Callable[[Record], float]


def online(run: Record) -> float:
    """Return the loss of the online stage."""
    return float(run["online"]["loss"])


def early(run: Record) -> float:
    """Return the loss of the first tenth."""
    return float(run["first_tenth"])


def above(loss: float, other: float) -> float:
    """Return by how many percent a loss lies above another.

    Examples
    --------
    >>> above(0.75, 0.5)
    50.0
    """
    return 100 * (loss / other - 1)


class Paired(NamedTuple):
    """A paired difference of losses in percent, with its interval."""

    mean: float
    low: float
    high: float
    verdict: str

    @property
    def below(self) -> bool:
        """Whether the loss is surely lower."""
        return self.verdict == "better"

    @property
    def above(self) -> bool:
        """Whether the loss is surely higher."""
        return self.verdict == "worse"

    def __str__(self) -> str:
        sure = "**" if self.below or self.above else ""
        return f"{sure}{signed(self.mean)}{sure} ({signed(self.low)} to {signed(self.high)})"


class Tally(NamedTuple):
    """Paired differences of several streams."""

    pairs: dict[Stream, Paired]

    @property
    def means(self) -> list[float]:
        """Return every stream's difference in percent."""
        return [pair.mean for pair in self.pairs.values()]

    @property
    def streams(self) -> list[Stream]:
        """Return all of them."""
        return [*self.pairs]

    @property
    def lower(self) -> list[Stream]:
        """Return those with a lower loss, surely or not."""
        return [stream for stream, pair in self.pairs.items() if pair.mean < 0]

    @property
    def below(self) -> list[Stream]:
        """Return those with a surely lower loss."""
        return [stream for stream, pair in self.pairs.items() if pair.below]

    @property
    def above(self) -> list[Stream]:
        """Return those with a surely higher loss."""
        return [stream for stream, pair in self.pairs.items() if pair.above]

    def cells(self) -> list[str]:
        """Return how many are surely below, below, above, surely above."""
        lower, sure = len(self.lower), (len(self.below), len(self.above))
        higher = len(self.pairs) - lower
        return [str(n) for n in (sure[0], lower - sure[0], higher - sure[1], sure[1])]


class Study:
    """One recorded study of any methods on any streams.

    Attributes
    ----------
    methods : dict
        The options of each method.
    ours : str
        The last of them, which the recorded differences compare with all others.
    fixed, others : list of str
        Methods of a fixed width, and those that are neither of these nor ours.
    streams : list of Stream
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.methods = {name: said["options"] for name, said in record["methods"].items()}
        self.ours = [*self.methods][-1]
        self.fixed = self.of_kind("fse")
        self.others = [n for n in self.methods if n not in self.fixed and n != self.ours]
        self._runs: dict[tuple[Stream, str], list[Record]] = {}
        for run in record["results"]:
            stream = Stream(run["data"], run["task"], run["order"])
            self._runs.setdefault((stream, run["method"]), []).append(run)
        self.streams = list(dict.fromkeys(stream for stream, _ in self._runs))
        self._pairs: dict[tuple[Stream, str], Difference] = {}
        for found in record["differences"]:
            if (found["stage"], found["metric"]) == ("online", "loss"):
                stream = Stream(found["data"], found["task"], found["order"])
                said = {name: found[name] for name in Difference.model_fields}
                self._pairs[stream, found["baseline"]] = Difference(**said)

    @classmethod
    def read(cls, name: str, folder: Path = STUDIES) -> Study:
        """Return a study by its name."""
        return cls(json.loads((folder / f"{name}.json").read_text()))

    def of_kind(self, *kinds: str) -> list[str]:
        """Return methods by what they are on the command line, in its order."""
        return [name for kind in kinds for name, o in self.methods.items() if o["method"] == kind]

    def runs(self, stream: Stream, method: str) -> list[Record]:
        """Return each seed's run."""
        return self._runs[stream, method]

    def values(self, stream: Stream, method: str, value: Value) -> list[float]:
        """Return a value of each seed's run."""
        return [value(run) for run in self.runs(stream, method)]

    def mean(self, stream: Stream, method: str, value: Value) -> float:
        """Return the mean over seeds."""
        return fmean(self.values(stream, method, value))

    def lowest(self, stream: Stream, methods: Sequence[str], value: Value = online) -> str:
        """Return the method of the lowest mean."""
        return min(methods, key=lambda name: self.mean(stream, name, value))

    def best_width(self, stream: Stream) -> str:
        """Return the fixed width of the lowest online loss, known in hindsight alone."""
        return self.lowest(stream, self.fixed)

    def paired(self, stream: Stream, baseline: str) -> Paired:
        """Return how our online loss differs from another's."""
        found = self._pairs[stream, baseline]
        scale = 100 / self.mean(stream, baseline, online)
        return Paired(found.mean * scale, found.low * scale, found.high * scale, verdict(found))

    def tally(self, baseline: Callable[[Stream], str]) -> Tally:
        """Return the differences of all streams from a method that may depend on the stream."""
        return Tally({stream: self.paired(stream, baseline(stream)) for stream in self.streams})

    def against(self, method: str) -> Tally:
        """Return the differences of all streams from one method."""
        return self.tally(lambda _: method)

    @property
    def seeds(self) -> int:
        """Return how many seeds a method ran with."""
        return len({run["seed"] for run in self.record["results"]})

    @property
    def online_share(self) -> float:
        """Return the online stage's share of the events, in percent."""
        stages = [
            sum(run[stage]["interactions"] for run in self.record["results"])
            for stage in ("offline", "online")
        ]
        return float(100 * stages[1] / sum(stages))

    @property
    def confidence(self) -> float:
        """Return that of the intervals, in percent."""
        return 100 * float(max(pair.confidence for pair in self._pairs.values()))


def octaves(runs: Sequence[Record], feature: str, name: str) -> dict[int, float]:
    """Return the mean over runs of a value of each octave of popularity, by its least events."""
    values: dict[int, list[float]] = {}
    for run in runs:
        for octave in run["by_popularity"][feature]:
            values.setdefault(octave["low"], []).append(octave[name])
    return {low: fmean(values[low]) for low in sorted(values)}


def features(runs: Sequence[Record], name: str) -> list[str]:
    """Return the features of whose octaves a value was recorded."""
    every = runs[0]["by_popularity"].items()
    return [feature for feature, said in every if all(name in octave for octave in said)]


def rising(widths: dict[int, float]) -> float:
    """Return the rank correlation of a mean width with the octave of popularity.

    Examples
    --------
    >>> rising({0: 2.0, 1: 9.0, 3: 90.0})
    1.0
    """
    return rank_correlation(torch.tensor([*widths]), torch.tensor([*widths.values()]))
