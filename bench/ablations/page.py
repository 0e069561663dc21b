"""docs/ablations.md, made of the record."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from autoemb.lab.report.tables import pipes
from bench.ablations.record import RECORD
from bench.ablations.variants import DEFAULT, VARIANTS

PAGE = Path(__file__).parents[2] / "docs" / "ablations.md"

HEAD = """\
# Ablations: what each part of the default recipe is worth

Made by `python -m bench.ablations` from
[its record](../bench/results/ablations.json): do not edit.

Each line is AutoEmb with one change, and its loss in percent above that of the default recipe (a
positive number: the change harms), the mean over both tasks of {sets}.
In brackets: on how many of these streams the 95 % interval of the paired difference (blocks of time
and seeds drawn again) lies above / below zero. Two seeds in time order; one shuffled, where the
interval is of time alone. The first tenth is of the streams in time order. The last columns: the
weight of the widest size at the end (users / items; mean over the streams in time order), and the
time of a run over the default's, two runs at once. CPU.

**What came out.** It matters what the controller learns from and what it is told. Learning from
past events or from the last batch costs 0.37 and 0.38 %, nearly as much as equal weights that no
controller changes (0.44 %): almost the whole mix ends at the widest size. Events held out for the
controller, which the other weights never learn from, cost 0.82 %. Of the 0.44 % a start by
popularity saves 0.25 % with no controller to change it, and the controller the rest. From equal
weights the controller does as well by the time the stream is online (0.01 % worse), but not in the
first tenth (0.39 % worse). Without popularity among its inputs, and hence with equal weights at the
start, 0.23 % is lost; losses and earlier weights among them are worth nothing. What the controller
learns from, whether there is one and whether it knows popularity makes a sure difference to the
online loss on both tasks of MovieTweetings and, in time order, on neither of MovieLens 100K.

The widest size alone costs 0.54 %, the two narrow ones alone 0.58 %, and three sizes of 128 do as
well as 2, 16 and 128: what pays is that the mix depends on popularity and that some size is wide
enough, not that sizes differ. Gates instead of a softmax, a temperature of 3, an entropy bonus of
0.001 and a size 0 change little (0.01 to 0.07 %). A temperature of 0.3 costs 0.27 %, surely on one
stream; an entropy bonus of 0.03, which holds weights together, 0.36 %. SAM is the default, to the
last digit. Exact hypergradients take four times as long for nothing (0.01 and 0.02 % worse).

Sizes normalised by running statistics, which take away every bias, cost 0.21 % and more, batch
statistics 1.2 % and more. New rows of standard deviation 1 cost 3.5 %, of 0.3 0.6 %; those of 0.01
are better online (0.07 %, surely on one stream in time order and three shuffled) and worse in the
first tenth (0.36 %). Adam (1.6 % and more), SGD, Adagrad with one sum a row (0.31 %), three times
the network's rate (0.43 %) and 0.3 times the tables' (0.68 %) harm. Projections that all start at
random cost 1.0 % in the first tenth, Eq. 7's 1/N 0.4 %.
"""


def cell(values: list[dict[str, Any]]) -> str:
    """Return the mean effect online and on how many streams it is sure."""
    above = sum(v["online_interval"][0] > 0 for v in values)
    below = sum(v["online_interval"][1] < 0 for v in values)
    return f"{fmean(v['online_percent'] for v in values):+.2f} ({above} / {below})"


def lines_of(record: dict[str, Any]) -> list[str]:
    """Return a table for each group of variants."""
    sets = dict.fromkeys(result["data"] for result in record["results"])
    lines = [HEAD.format(sets=" and ".join(sets))]
    found: dict[str, list[dict[str, Any]]] = {}
    for result in record["results"]:
        found.setdefault(result["variant"], []).append(result)

    def seconds(values: list[dict[str, Any]]) -> float:
        return fmean(v["seconds"] for v in values if v["order"] == "chronological")

    own = seconds(found[DEFAULT.name])
    for group, variants in groupby(VARIANTS, key=lambda variant: variant.group):
        body = []
        for variant in variants:
            results = found.get(variant.name, [])
            timed = [r for r in results if r["order"] == "chronological"]
            mixed = [r for r in results if r["order"] == "shuffled"]
            if not timed:
                continue
            widest = [
                f"{fmean(r['weights'][field][-1] for r in timed):.2f}"
                for field in timed[0]["weights"]
            ]
            body.append(
                [
                    variant.name,
                    cell(timed),
                    f"{fmean(r['first_tenth_percent'] for r in timed):+.2f}",
                    cell(mixed) if mixed else "",
                    " / ".join(widest),
                    f"{seconds(results) / own:.2f}x",
                ]
            )
        if body and group != DEFAULT.group:
            headers = ["change", "online", "first tenth", "online, shuffled", "widest", "time"]
            lines += [f"## {group[0].upper()}{group[1:]}", "", *pipes(headers, body), ""]
    where = record["environment"]
    lines.append(
        f"CPU: {where['hardware']['cpu']}; torch {where['versions']['torch']}; commit "
        f"{where['commit']}; `{record['command']}`."
    )
    return lines


def text(record: Path = RECORD) -> str:
    """Return the page of a record."""
    return "\n".join(lines_of(json.loads(record.read_text()))) + "\n"


def write(record: Path = RECORD, page: Path = PAGE) -> None:
    """Write the page of a record."""
    page.write_text(text(record))
