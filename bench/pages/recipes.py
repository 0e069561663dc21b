"""What ids start with, and the paper's recipe: values and tables of docs/study.md."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bench.pages.names import plural, row_name
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
from bench.pages.widths import RISES
from bench.pages.words import listed, signed

#: What the paper compares, from its highest loss to its lowest.
PAPER = ("fse", "sam", "darts", "autoemb")


def start(study: Study) -> dict[str, Any]:
    """Return what a start by popularity, the last method, is worth against equal weights."""
    other = [*study.methods][-2]
    body, first = [], []
    rises: dict[str, list[float]] = {name: [] for name in (other, study.ours)}
    for stream in study.streams:
        first.append(above(*(study.mean(stream, name, early) for name in (study.ours, other))))
        cells = []
        for name, every in rises.items():
            runs = study.runs(stream, name)
            found = [rising(octaves(runs, f, "width")) for f in features(runs, "width")]
            every += found
            cells.append(" / ".join(map(signed, found)))
        pair = str(study.paired(stream, other))
        body.append([row_name(stream), pair, signed(first[-1]), *cells])
    headers = ["stream", "online, %", "first tenth, %", f"correlation, {other}", study.ours]
    said = features(study.runs(study.streams[-1], study.ours), "width")
    return {
        "start": study,
        "start_table": table(headers, body),
        "start_first": first,
        "start_better": sum(round(value, 2) < 0 for value in first),
        "start_sure": study.against(other),
        "start_features": " / ".join(map(plural, said)),
        "start_rise": {n: sum(v >= RISES for v in every) for n, every in rises.items()},
        "start_mixes": len(rises[other]),
        "equal": other,
    }


def paper(study: Study, ours: Study) -> dict[str, Any]:
    """Return what the paper's recipe gives, and how far it is from ours."""
    named = study.of_kind(*PAPER)
    (baseline, *_) = study.fixed
    body, orders, found = [], [], Counter[str]()
    timed = []
    for stream in study.streams:
        means = {name: study.mean(stream, name, online) for name in study.methods}
        order = sorted(named, key=lambda name: -means[name])
        orders.append(order == named)
        found[study.lowest(stream, [*study.methods])] += 1
        pair = str(study.paired(stream, baseline))
        body.append([row_name(stream, order=True), pair, " > ".join(order)])
        if stream in ours.streams:
            best = ours.mean(stream, ours.ours, online)
            timed += [above(means[name], best) for name in named]
    return {
        "paper": study,
        "paper_losses": losses(study, online, order=True),
        "paper_table": table(["stream", f"{study.ours} less {baseline}", "order in loss"], body),
        "paper_baseline": baseline,
        "paper_tally": study.against(baseline),
        "paper_order": " > ".join(named),
        "paper_ordered": sum(orders),
        "paper_lowest": listed(f"{name} on {number}" for name, number in found.most_common()),
        "paper_timed": timed,
    }


def optimisers(study: Study, adam: Study) -> dict[str, Any]:
    """Return what the paper's recipe gives with Adam in the place of Adagrad."""
    (baseline, *_) = study.fixed
    body = []
    apart: dict[str, list[float]] = {}
    for stream in study.streams:
        if stream not in adam.streams:
            continue
        cells = []
        for one in (study, adam):
            means = [one.mean(stream, name, online) for name in (baseline, one.ours)]
            cells += [*(f"{mean:.4f}" for mean in means), signed(above(means[1], means[0]))]
        body.append([row_name(stream, order=True), *cells])
        ratio = above(adam.mean(stream, adam.ours, online), study.mean(stream, study.ours, online))
        apart.setdefault(stream.order, []).append(ratio)
    each = [f"{baseline}, {{}}", f"{study.ours}, {{}}", "less, %, {}"]
    headers = [head.format(name) for name in ("Adagrad", "Adam") for head in each]
    return {
        "optimisers_table": table(["stream", *headers], body),
        "adam_in_time": apart.get("chronological", [0.0]),
        "adam_shuffled": apart.get("shuffled", [0.0]),
    }
