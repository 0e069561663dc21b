"""Fixed widths against the methods that choose: values and tables of docs/study.md."""

from __future__ import annotations

from collections import Counter
from typing import Any

from autoemb.lab.report import wording
from bench.pages.names import Stream, plural, prose_name, row_name
from bench.pages.records import (
    Study,
    above,
    early,
    features,
    octaves,
    online,
    rising,
)  # fmt: skip
from bench.pages.tables import losses, table
from bench.pages.words import against, extent, listed, signed

#: Rank correlation from which a mean width is said to rise with popularity.
RISES = 0.5
#: Earlier events of an id that a column of the table is for: the least of its octave.
OCTAVES = (0, 1, 3, 15, 63, 255)
#: What is seen of an id by then, to be told in a sentence.
KNOWN = 15
#: Percent below the widest fixed width, early, from which its row rates are named.
FAR = 1.0


def values(study: Study) -> dict[str, Any]:
    """Return what the template names."""
    best = study.tally(study.best_width)
    return {
        "widths": study,
        "best": best,
        "against_others": against_others(study),
        "online_losses": losses(study, online),
        "differences": differences(study),
        "early_losses": losses(study, early),
        "lowest_online": lowest(study),
        "fixed_widths": fixed_widths(study),
        "chosen": chosen(study),
        "rate_ends": ends(study),
        **first_tenth(study),
        **by_popularity(study),
        **hindsight(study),
    }


def apart(study: Study, fixed: Study) -> list[float]:
    """Return on each stream by how many percent another study's last method is above the best."""
    return [
        above(study.mean(s, study.ours, online), fixed.mean(s, fixed.best_width(s), online))
        for s in study.streams
    ]


def against_others(study: Study) -> str:
    """Return a table of how often we are below and above the best width and each method."""
    tallies = {"the best width": study.tally(study.best_width)}
    tallies |= {name: study.against(name) for name in study.others}
    body = [[name, *tally.cells(), against(tally.means)] for name, tally in tallies.items()]
    headers = ["against", "surely below", "below", "above", "surely above", "online loss"]
    return table(headers, body)


def differences(study: Study) -> str:
    """Return a table of our online loss less that of the best width and of each method."""
    body = [
        [row_name(s), best, str(study.paired(s, best)), *(str(study.paired(s, n)) for n in
         study.others)]
        for s in study.streams
        for best in [study.best_width(s)]
    ]  # fmt: skip
    headers = ["stream", "best width", "less it, %", *(f"less {n}, %" for n in study.others)]
    return table(headers, body)


def lowest(study: Study) -> str:
    """Return in words which methods have the lowest online loss, and how often."""
    found = Counter(study.lowest(stream, [*study.methods]) for stream in study.streams)
    return listed(f"{name} on {number}" for name, number in found.most_common())


def fixed_widths(study: Study) -> str:
    """Return a table of what each fixed width costs against the best."""
    body = []
    for name in study.fixed:
        costs = [
            above(study.mean(s, name, online), study.mean(s, study.best_width(s), online))
            for s in study.streams
        ]
        rates = rates_of(study, name)
        told = " to ".join(dict.fromkeys(f"{pick(rates):g}" for pick in (min, max) if rates))
        body.append([name, extent(costs), told])
    return table(["width", "above the best width, %", "row rates chosen"], body)


def rates_of(study: Study, method: str) -> list[float]:
    """Return the row rates that a method chose, where it had a choice."""
    found = [study.runs(stream, method)[0]["chosen"] for stream in study.streams]
    return [said["row_rate"] for said in found if "row_rate" in said]


def candidates(study: Study, method: str) -> list[float]:
    """Return the row rates that a method chose among."""
    found = study.record["methods"][method]["candidates"]
    return [said["row_rate"] for said in found if "row_rate" in said]


def ends(study: Study) -> str:
    """Return in words which methods chose the largest row rate there was, and how often."""
    found = []
    for name in study.methods:
        at_end = [rate for rate in rates_of(study, name) if rate == max(candidates(study, name))]
        if at_end:
            found.append(f"{name} on {len(at_end)}")
    return listed(found)


def chosen(study: Study) -> str:
    """Return a table of the options chosen; the row rate alone needs no name."""

    def cell(options: dict[str, Any]) -> str:
        if [*options] == ["row_rate"]:
            return f"{options['row_rate']:g}"
        return ", ".join(f"{name} {value}" for name, value in options.items())

    body = [
        [row_name(s), *(cell(study.runs(s, name)[0]["chosen"]) for name in study.methods)]
        for s in study.streams
    ]
    return table(["stream", *study.methods], body)


def first_tenth(study: Study) -> dict[str, Any]:
    """Return how we do in the first tenth, against the best width then and the widest."""
    widest = max(study.fixed, key=lambda name: max(study.methods[name].get("dims", [0])))
    body, apart, then, far = [], [], [], []
    for stream in study.streams:
        ours = study.mean(stream, study.ours, early)
        lowest = study.mean(stream, study.lowest(stream, study.fixed, early), early)
        apart.append(above(ours, study.mean(stream, widest, early)))
        then.append(above(ours, lowest))
        rate = study.runs(stream, widest)[0]["chosen"].get("row_rate", "")
        body.append([row_name(stream), signed(then[-1]), signed(apart[-1]), f"{rate}"])
        if apart[-1] < -FAR:
            far.append(f"{rate}")
    headers = ["stream", "less the best width then, %", f"less {widest}, %", f"{widest}'s row rate"]
    near = [value for value in apart if value >= -FAR]
    return {
        "early_table": table(headers, body),
        "early_best": then,
        "early_widest": apart,
        "early_near": near,
        "far": FAR,
        "far_rates": far,
        "widest": widest,
    }


def by_popularity(study: Study) -> dict[str, Any]:
    """Return the mean widths that ids were given, by their earlier events."""
    body, rise, others = [], [], []
    steepest: tuple[float, str] = (0.0, "")
    for stream in study.streams:
        runs = study.runs(stream, study.ours)
        for feature in features(runs, "width"):
            widths = octaves(runs, feature, "width")
            cells = [f"{widths[low]:.0f}" if low in widths else "" for low in OCTAVES]
            correlation = rising(widths)
            body.append([row_name(stream), wording.feature(feature), *cells, signed(correlation)])
            rise.append(correlation >= RISES)
            what = f"{plural(feature)} of {prose_name(stream)}"
            if not rise[-1]:
                others.append(what)
            gain = max(widths.values()) - min(widths.values())
            steepest = max(steepest, (gain, f"{what}, {extent([*widths.values()], 0)}"))
    headers = ["stream", "feature", *(str(low) if low == 0 else f"{low} to {2 * low}"
               for low in OCTAVES), "rank correlation"]  # fmt: skip
    return {
        "mean_widths": table(headers, body),
        "rise": sum(rise),
        "mixes": len(rise),
        "rises_at": RISES,
        "not_rising": others,
        "steepest": steepest[1],
    }


def in_hindsight(study: Study, stream: Stream, feature: str) -> float:
    """Return the loss above the best width's if each octave of a feature had its best width."""
    losses = [octaves(study.runs(stream, name), feature, "loss") for name in study.fixed]
    events = octaves(study.runs(stream, study.ours), feature, "interactions")
    total = sum(events[low] * min(loss[low] for loss in losses) for low in events)
    best = study.mean(stream, study.best_width(stream), online)
    return above(total / sum(events.values()), best)


def hindsight(study: Study) -> dict[str, Any]:
    """Return what choosing among widths could gain, and what we gain where we gain most."""
    every = list(dict.fromkeys(
        f for s in study.streams for f in features(study.runs(s, study.ours), "loss")
    ))  # fmt: skip
    gains, ours = {}, {}
    for stream in study.streams:
        own = features(study.runs(stream, study.ours), "loss")
        gains[stream] = {f: in_hindsight(study, stream, f) for f in own}
        best = study.mean(stream, study.best_width(stream), online)
        ours[stream] = above(study.mean(stream, study.ours, online), best)
    body = [
        [row_name(s), *(signed(gains[s][f]) if f in gains[s] else "" for f in every),
         signed(ours[s])]
        for s in study.streams
    ]  # fmt: skip
    most = min(ours, key=lambda stream: ours[stream])
    runs = study.runs(most, study.ours)
    widths = {f: octaves(runs, f, "width") for f in features(runs, "width")}
    return {
        "hindsight_table": table(
            ["stream", *(f"by {wording.feature(f)}" for f in every), study.ours], body
        ),
        "hindsight": [value for said in gains.values() for value in said.values()],
        "most": most,
        "most_gain": ours[most],
        "most_hindsight": min(gains[most].values()),
        "newcomers": {plural(f): w[0] for f, w in widths.items() if {0, KNOWN} <= {*w}},
        "known": {plural(f): w[KNOWN] for f, w in widths.items() if {0, KNOWN} <= {*w}},
        "known_at": KNOWN,
    }
