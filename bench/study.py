"""docs/study.md from the recorded studies: ``python -m bench.study``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from autoemb.ranks import rank_correlation
from autoemb.report.tables import mean_cell, pipes

DOCS = Path(__file__).parents[1] / "docs"
STUDIES = DOCS / "studies"

HEAD = """\
# The study: fixed widths against the methods that choose

Made by `python -m bench.study` from the records in [studies](studies): do not edit. To make one of
them again (`widths` takes some 40 minutes on two cores, the others less):

```bash
autoemb study docs/studies/widths.toml --data FOLDER --out DIR
```

FOLDER holds the four data sets. `DIR/study.md` has every table and figure, `DIR/study.json` is the
record. CPU. In `widths` every method, the fixed widths included, chose among the same five row
rates, on the first 70 % of each stream with the first seed.
Losses of the first tenth and of the online stage (the last 30 %) are means of predictions made
before their events were learnt, with the standard deviation over seeds. The best fixed width is
that of the lowest online loss, in hindsight. Intervals are of 95 %: blocks of time and seeds drawn
again, paired.
"""

READING = """\
**What came out.** Trained well, widths hardly differ: tuned fixed widths of 64 and 146 are within
0.3 % of each other on seven of eight streams, and AutoEmb's online loss lies 0.3 % below to 0.3 %
above the best of them, on five streams within 0.2 % and on one below. Two differences are sure,
0.15 and 0.16 % above it (the classification of MovieTweetings and of MovieLens 1M). What is bought
is not having to know the width, or the rate: 2 or 16 cost up to 1.6 %, a width of 64 costs 1.4 %
on one stream, narrow widths want four to eight times the row rate of wide ones, and AutoEmb with
all its defaults, untuned, is within 0.2 % of the best tuned width on seven streams and 0.25 % above
it on the eighth (the table of budgets below, last column, two seeds). Nowhere is it surely below.
SAM and DARTS, which share embedding, norm and rates, do as well as AutoEmb, SAM surely better on
MovieTweetings, by 0.3 %. First-order AutoEmb that validates on new events before they are learnt
is SAM, to the last digit ([ablations](ablations.md)); so whether the controller learns from past or
new events is all that tells these two apart.

**Why earlier gains are gone.** An earlier default of this package trained by Adam; this study of it
(in the repository's history) had AutoEmb 0.1 to 1.5 % below every tuned fixed width on seven
streams. Under Adagrad every method is better than it was, AutoEmb by 0.5 to 2.3 % and a width of
146 by 0.8 to 4 %: Adagrad gives each row a rate that falls with its own gradients, which is much
of what a mix of sizes did for rare ids. The paper's own gains (below) are of that kind, too: they
are gains over a fixed width that is trained badly.

**Early in the stream.** In the first tenth AutoEmb is 0.2 % below to 0.5 % above FSE-146, and 1.5 %
above it in MovieTweetings' classification. The one per cent ahead that we were after is not there.

**The paper's recipe.** With it (learning rates, BatchNorm over the batch, rows from N(0, 1))
AutoEmb is below FSE on eleven of sixteen streams, nine of them surely, that is on all sets but
MovieLens 1M, where FSE is as good or better. The paper's order of all four comes out once; DARTS is
the lowest on ten. In time order every method's loss is 10 to 45 % above AutoEmb's with our
defaults.

**The defaults** that `widths` shares. (1) Adagrad, with a sum for every number of a row: a sum for
each row, which the sizes of an id share although their gradients differ in scale, is worse. (2)
`norm="running"`: sizes are normalised with the statistics of the batches before, as constants; a
batch in time order holds some ten users, whose own statistics erase who they are. (3) `norm_eps=1`:
what varies much less than 1 stays as small as it is, so that young tables are not blown up to the
size of old ones. (4) New rows have a standard deviation of 0.1: noise of full amplitude has to be
learnt away first. (5) Sizes are added up, without Eq. 7's 1 / N. [Ablations](ablations.md) take
them away one by one; `--preset paper` has none of them. Fixed widths have (1) and (4), too, and
nothing to normalise or to mix.

**Popularity.** The soft weight of the widest size rises with popularity in fifteen of sixteen
fields (it falls for MovieLens 100K's users, regression), but steeply: newcomers give it 0.5 to 0.9,
ids of some twenty events 0.9 and more. So the mix is one for newcomers and nearly the widest size
alone for the rest. Within a budget the width that ids own rises, too: what is granted follows
traffic.

**Bytes.** With `--budget` a run stays within a share of the floats while it streams. A quarter of
them costs up to 0.6 % against the best fixed width on seven streams and 1.2 % on MovieLens latest
small's regression, 3 % of them 0.2 to 1.3 %. Half the bytes of the smallest fixed width that comes
within 0.2 % suffice on one stream of eight; under Adagrad 16 numbers an id already come that close
on two. Losses do not fall evenly with bytes (6 % of the floats do better than 12.5 % on four
streams); a suspect is that a row granted late begins at zero with Adagrad's full first steps.
[Exported models](export.md), which are frozen, lose far less.

**How far to trust it.** The defaults were found by sweeps over the same sets with one or two seeds,
whole streams in sight, not recorded; fixed widths of 16, 64 and 146 were in them, each with as many
row rates. Only the choice among the five candidates is blind to the last 30 %, and it is noisy: it
is made with one seed, and the runner-up is often as good (on MovieLens 100K's regression AutoEmb
chose a rate that costs it 0.5 % against the default's).
"""

FIGURES = {
    "MovieTweetings, regression: online loss by earlier events of the item": (
        "movietweetings-regression-chronological-online-loss-by-popularity-of-the-item"
    ),
    "MovieTweetings, regression: online loss against the bytes of all embeddings": (
        "movietweetings-regression-chronological-online-loss-against-bytes"
    ),
    "MovieTweetings, classification: loss less that of width 146": (
        "movietweetings-classification-chronological-loss-over-the-stream-less-that-of-FSE-146"
    ),
    "MovieTweetings, regression: AutoEmb's weights by earlier events of the user": (
        "movietweetings-regression-chronological-AutoEmb-weights-by-popularity-of-the-user"
    ),
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
    against = ["SAM", "DARTS"]
    body = [
        [named(s), (best := study.best_width(s)), study.difference(s, best)]
        + [study.difference(s, name) for name in against]
        for s in study.streams
    ]
    headers = ["stream", "best width", "less it, %", *(f"less {name}, %" for name in against)]
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
    headers = ["stream", "less FSE-146, %", "less the best width then, %"]
    lines += ["", "## AutoEmb's first tenth", "", *pipes(headers, body)]
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


def popularity(study: Study) -> list[str]:
    """Return the tables by popularity."""
    body, hindsight = [], []
    for stream in study.streams:
        runs = study.results(stream, "AutoEmb")
        best = study.mean(stream, study.best_width(stream), online)
        gains = []
        for field in runs[0]["by_popularity"]:
            widths = octaves(runs, field, "width")
            known = torch.tensor([*widths]), torch.tensor([*widths.values()])
            cells = [f"{widths[low]:.0f}" if low in widths else "" for low in OCTAVES]
            body.append([named(stream), field, *cells, f"{rank_correlation(*known):+.2f}"])
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
        ours = [n for n in study.methods if study.mean(stream, n, online) <= within]
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
    studies = {name: Study(name) for name in ("widths", "budget", "paper")}
    lines = [HEAD, READING.rstrip(), *widths(studies["widths"])]
    lines += budgets(studies["budget"], studies["widths"])
    lines += [*preset(studies["paper"]), "", "## Figures", ""]
    for title, name in FIGURES.items():
        lines += [f"{title}:", "", f"![{title}](studies/figures/{name}.svg)", ""]
    said = studies["widths"].record["versions"]
    lines.append(f"torch {said['torch']}, Python {said['python']}, autoemb {said['autoemb']}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    (DOCS / "study.md").write_text(page())


if __name__ == "__main__":
    main()
