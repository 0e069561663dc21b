"""docs/study.md from the recorded studies: ``python -m bench.study``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from autoemb.files import write_text
from autoemb.lab.ranks import rank_correlation
from autoemb.lab.report.figures import loss_by_bytes
from autoemb.lab.report.tables import mean_cell, pipes
from autoemb.lab.report.wording import loss_name
from bench.study_text import HEAD, READING

DOCS = Path(__file__).parents[1] / "docs"
STUDIES = DOCS / "studies"
FIGURE_FOLDER = STUDIES / "figures"

FIGURES = {
    "MovieTweetings, regression: online loss by earlier events of the item": (
        "movietweetings-regression-chronological-online-loss-by-popularity-of-the-item"
    ),
    "MovieTweetings, classification: loss less that of width 146": (
        "movietweetings-classification-chronological-loss-over-the-stream-less-that-of-FSE-146"
    ),
    "MovieTweetings, regression: AutoEmb's weights by earlier events of the user": (
        "movietweetings-regression-chronological-AutoEmb-weights-by-popularity-of-the-user"
    ),
}

#: Drawn here, of two records: where AutoEmb is furthest below the best width, and where it is
#: surely above.
BYTES = {
    ("movietweetings", "regression", "chronological"): "MovieTweetings, regression",
    ("ml-1m-users-1-2999", "classification", "chronological"): "MovieLens 1M, classification",
}

Record = dict[str, Any]
Stream = tuple[str, str, str]


def online(result: Record) -> float:
    """Return the loss of the last 30 %."""
    return float(result["online"]["loss"])


def early(result: Record) -> float:
    """Return the loss of the first tenth."""
    return float(result["first_tenth"])


class Study:
    """One recorded study."""

    def __init__(self, name: str) -> None:
        self.record: Record = json.loads((STUDIES / f"{name}.json").read_text())
        self.methods = list(self.record["methods"])
        self.streams: list[Stream] = list(
            dict.fromkeys((r["data"], r["task"], r["order"]) for r in self.record["results"])
        )

    def results(self, stream: Stream, method: str) -> list[Record]:
        """Return each seed's run."""
        return [
            r
            for r in self.record["results"]
            if (r["data"], r["task"], r["order"], r["method"]) == (*stream, method)
        ]

    def values(self, stream: Stream, method: str, value: Callable[[Record], float]) -> list[float]:
        """Return a value of each seed's run."""
        return [value(r) for r in self.results(stream, method)]

    def mean(self, stream: Stream, method: str, value: Callable[[Record], float]) -> float:
        """Return the mean over seeds."""
        return fmean(self.values(stream, method, value))

    def best_width(self, stream: Stream) -> str:
        """Return the fixed width of the lowest online loss."""
        fixed = [name for name in self.methods if name.startswith("FSE")]
        return min(fixed, key=lambda name: self.mean(stream, name, online))

    def difference(self, stream: Stream, baseline: str) -> str:
        """Return how the last method's online loss differs, in percent, with its interval."""
        (found,) = (
            d
            for d in self.record["differences"]
            if (d["data"], d["task"], d["order"], d["baseline"]) == (*stream, baseline)
            and (d["stage"], d["metric"]) == ("online", "loss")
        )
        scale = 100 / self.mean(stream, baseline, online)
        mean, low, high = (scale * found[key] for key in ("mean", "low", "high"))
        sure = "**" if low > 0 or high < 0 else ""
        return f"{sure}{mean:+.2f}{sure} ({low:+.2f} to {high:+.2f})"


def named(stream: Stream, *, order: bool = False) -> str:
    """Return a stream's name in a table."""
    data, task, of = stream
    return f"{data}, {task}" + (
        f", {'time order' if of == 'chronological' else of}" if order else ""
    )


def losses(
    study: Study, title: str, value: Callable[[Record], float], order: bool = False
) -> list[str]:
    """Return a table of all methods."""
    body = []
    for stream in study.streams:
        cells = {name: mean_cell(study.values(stream, name, value)) for name in study.methods}
        lowest = min(cells, key=lambda name: cells[name].mean)
        shown = [f"**{c}**" if name == lowest else str(c) for name, c in cells.items()]
        body.append([named(stream, order=order), *shown])
    return ["", f"## {title}", "", *pipes(["stream", *study.methods], body)]


def widths(study: Study) -> list[str]:
    """Return the tables of the study of widths."""
    body = [
        [named(s), best, study.difference(s, best), study.difference(s, "DARTS")]
        for s in study.streams
        for best in [study.best_width(s)]
    ]
    headers = ["stream", "best width", "less it, %", "less DARTS, %"]
    lines = losses(study, "Online loss", online)
    lines += ["", "## AutoEmb's online loss less that of others", "", *pipes(headers, body)]
    lines += losses(study, "Loss of the first tenth", early)
    body = []
    for stream in study.streams:
        ours = study.mean(stream, "AutoEmb", early)
        others = [study.mean(stream, n, early) for n in study.methods if n.startswith("FSE")]
        wide = study.mean(stream, "FSE-146", early)
        shares = (100 * (ours / other - 1) for other in (wide, min(others)))
        body.append([named(stream), *(f"{share:+.2f}" for share in shares)])
    rates = [
        [named(s), *(str(study.results(s, n)[0]["chosen"]["row_rate"]) for n in study.methods)]
        for s in study.streams
    ]
    headers = ["stream", "less FSE-146, %", "less the best width then, %"]
    lines += ["", "## AutoEmb's first tenth", "", *pipes(headers, body)]
    lines += ["", "## Row rates chosen", "", *pipes(["stream", *study.methods], rates)]
    return lines + popularity(study)


#: Earlier events of an id that a column of the table is for: the least of its octave.
OCTAVES = (0, 1, 3, 15, 63, 255)


def octaves(runs: list[Record], field: str, name: str) -> dict[int, float]:
    """Return the mean over runs of a value of each octave of popularity."""
    values: dict[int, list[float]] = {}
    for run in runs:
        for octave in run["by_popularity"][field]:
            values.setdefault(octave["low"], []).append(octave[name])
    return {low: fmean(values[low]) for low in sorted(values)}


def rising(widths: dict[int, float]) -> float:
    """Return the rank correlation of the mean width with the octave of popularity."""
    return rank_correlation(torch.tensor([*widths]), torch.tensor([*widths.values()]))


def correlations(study: Study) -> list[float]:
    """Return it for AutoEmb and every field of every stream."""
    every = [study.results(stream, "AutoEmb") for stream in study.streams]
    return [rising(octaves(runs, f, "width")) for runs in every for f in runs[0]["by_popularity"]]


def popularity(study: Study) -> list[str]:
    """Return the tables by popularity."""
    body, hindsight = [], []
    for stream in study.streams:
        runs = study.results(stream, "AutoEmb")
        best = study.mean(stream, study.best_width(stream), online)
        gains = []
        for field in runs[0]["by_popularity"]:
            widths = octaves(runs, field, "width")
            cells = [f"{widths[low]:.0f}" if low in widths else "" for low in OCTAVES]
            body.append([named(stream), field, *cells, f"{rising(widths):+.2f}"])
            losses = [
                octaves(study.results(stream, name), field, "loss")
                for name in study.methods
                if name.startswith("FSE")
            ]
            events = octaves(runs, field, "interactions")
            total = sum(events[low] * min(loss[low] for loss in losses) for low in events)
            gains.append(f"{100 * (total / sum(events.values()) / best - 1):+.2f}")
        ours = 100 * (study.mean(stream, "AutoEmb", online) / best - 1)
        hindsight.append([named(stream), *gains, f"{ours:+.2f}"])
    headers = ["stream", "field", *(f"{low}" if low == 0 else f"{low} to {2 * low}"
               for low in OCTAVES), "rank correlation"]  # fmt: skip
    return [
        "", "## AutoEmb's mean width by an id's earlier events", "",
        "Sizes weighted by the mix that ids were given, online, mean over events and seeds; the "
        "rank correlation is over all octaves of earlier events, each counted once.", "",
        *pipes(headers, body),
        "", "## What choosing among widths could gain", "",
        "Online loss in percent above that of the best fixed width, if each octave of a user's "
        "(an item's) earlier events had the width of the four that did best there, in hindsight; "
        "and AutoEmb's.", "",
        *pipes(["stream", "by user", "by item", "AutoEmb"], hindsight),
    ]  # fmt: skip


def by_default(study: Study) -> list[str]:
    """Return the methods that start ids as the default does."""
    return [n for n, said in study.record["methods"].items() if "start" not in said["options"]]


def budgets(study: Study, fixed: Study) -> list[str]:
    """Return the tables of the study of budgets against the best fixed width of another."""
    body, reached = [], []
    for stream in study.streams:
        best = fixed.mean(stream, fixed.best_width(stream), online)
        within = best * 1.002

        def size(of: Study, name: str, at: Stream = stream) -> float:
            return of.mean(at, name, lambda r: r["embedding_bytes"])

        cells = []
        for name in study.methods:
            loss = study.mean(stream, name, online)
            cells.append(f"{100 * (loss / best - 1):+.2f} ({size(study, name) / 2**20:.2f})")
        body.append([named(stream), *cells])
        ours = [n for n in by_default(study) if study.mean(stream, n, online) <= within]
        theirs = [
            n
            for n in fixed.methods
            if n.startswith("FSE") and fixed.mean(stream, n, online) <= within
        ]
        width = min(theirs, key=lambda n: size(fixed, n))
        row = [named(stream), width, f"{size(fixed, width) / 2**20:.2f}"]
        if ours:
            small = min(ours, key=lambda n: size(study, n))
            share = size(study, small) / size(fixed, width)
            row += [small, f"{size(study, small) / 2**20:.2f}", f"{share:.2f}"]
        reached.append(row + [""] * (6 - len(row)))
    headers = ["smallest fixed width", "MiB", "smallest of ours", "MiB", "share"]
    return [
        "", "## Within a budget while the stream runs", "",
        "`autoemb run --budget B`: online loss in percent above that of the best fixed width "
        "(which was tuned; ours is not, here), and in brackets MiB of rows and slots.", "",
        *pipes(["stream", *study.methods], body),
        "", "The smallest of each within 0.2 % of the best fixed width's online loss:", "",
        *pipes(["stream", *headers], reached),
    ]  # fmt: skip


def bytes_name(stream: Stream) -> str:
    """Return the name of a figure that is drawn here."""
    return f"{'-'.join(stream)}-online-loss-against-bytes"


def against_bytes(stream: Stream, fixed: Study, study: Study) -> str:
    """Return the figure of fixed widths and of ours within budgets."""

    def points(of: Study, names: list[str]) -> list[tuple[float, float, float]]:
        found = []
        for name in names:
            loss = mean_cell(of.values(stream, name, online))
            size = of.mean(stream, name, lambda r: r["embedding_bytes"])
            found.append((size, loss.mean, loss.spread))
        return found

    widths = [name for name in fixed.methods if name.startswith("FSE")]
    lines = {"fse": points(fixed, widths), "autoemb": points(study, by_default(study))}
    return loss_by_bytes(bytes_name(stream), lines, loss_name(stream[1]))


def start(study: Study) -> list[str]:
    """Return the table of the study of what ids start with."""
    body = []
    for stream in study.streams:
        first = [study.mean(stream, name, early) for name in ("popularity", "equal")]
        rises = []
        for name in ("equal", "popularity"):
            runs = study.results(stream, name)
            fields = [rising(octaves(runs, f, "width")) for f in runs[0]["by_popularity"]]
            rises.append(" / ".join(f"{value:+.2f}" for value in fields))
        less = study.difference(stream, "equal")
        body.append([named(stream), less, f"{100 * (first[0] / first[1] - 1):+.2f}", *rises])
    headers = ["stream", "online, %", "first tenth, %", "rank correlation, equal", "popularity"]
    return [
        "", "## A start by popularity", "",
        "The default's start by popularity less `--start equal`, three seeds, nothing tuned; and "
        "the rank correlation of the mean width with earlier events (users / items).", "",
        *pipes(headers, body),
    ]  # fmt: skip


def preset(study: Study) -> list[str]:
    """Return the tables of the paper's recipe."""
    body = []
    for stream in study.streams:
        means = {name: study.mean(stream, name, online) for name in study.methods}
        order = " > ".join(sorted(means, key=lambda name: -means[name]))
        body.append([named(stream, order=True), study.difference(stream, "FSE"), order])
    return [
        *losses(study, "The paper's recipe (`--preset paper`): online loss", online, order=True),
        "", "AutoEmb less FSE in percent, and the order of all (the paper's is FSE > SAM > DARTS > "
        "AutoEmb):", "",
        *pipes(["stream", "AutoEmb less FSE", "order in loss"], body),
    ]  # fmt: skip


def page() -> str:
    """Return the page."""
    studies = {name: Study(name) for name in ("widths", "budget", "start", "paper")}
    rising = [value >= 0.5 for value in correlations(studies["widths"])]
    reading = READING.rstrip().format(rising=sum(rising), fields=len(rising))
    lines = [HEAD, reading, *widths(studies["widths"])]
    lines += budgets(studies["budget"], studies["widths"])
    lines += start(studies["start"])
    lines += [*preset(studies["paper"]), "", "## Figures", ""]
    for title, name in FIGURES.items():
        lines += [f"{title}:", "", f"![{title}](studies/figures/{name}.svg)", ""]
    for stream, title in BYTES.items():
        lines += [
            f"{title}: online loss against the bytes of all embeddings, of fixed widths (2, 16, "
            "64, 146; tuned, five seeds) and of AutoEmb within budgets (the largest without one; "
            "untuned, two seeds):", "",
            f"![{title}](studies/figures/{bytes_name(stream)}.svg)", "",
        ]  # fmt: skip
    said = studies["widths"].record["versions"]
    lines.append(f"torch {said['torch']}, Python {said['python']}, autoemb {said['autoemb']}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    fixed, budget = Study("widths"), Study("budget")
    for stream in BYTES:
        write_text(
            FIGURE_FOLDER / f"{bytes_name(stream)}.svg", against_bytes(stream, fixed, budget)
        )
    (DOCS / "study.md").write_text(page())


if __name__ == "__main__":
    main()
