"""docs/ablations.md, made of the record."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from autoemb.report.tables import pipes
from bench.ablations.record import RECORD
from bench.ablations.variants import DEFAULT, VARIANTS

PAGE = Path(__file__).parents[2] / "docs" / "ablations.md"

HEAD = """\
# Ablations: what each part of the default recipe is worth

Made by `python -m bench.ablations` from
[its record](../bench/results/ablations.json): do not edit.

Each line is AutoEmb with one change, and its loss in percent above that of the default recipe (a
positive number: the change harms), the mean over both tasks of {sets}. In brackets: on how many of
these streams the 95 % interval of the paired difference (blocks of time and seeds drawn again) lies
above / below zero. Two seeds in time order, one shuffled. The first tenth is of the streams in time
order. The last columns: the weight of the widest size at the end (users / items; mean over the
streams in time order), and how long a run takes (other work ran beside: a rough figure). CPU.

**What came out** on so few streams: the batch's own statistics, new rows of standard deviation 1
and Adam harm most (1.2 % and more), SGD does not learn at all. A small eps, rates three times
higher and a row-wise sum in Adagrad cost 0.2 to 0.6 %. Mixing several sizes is worth 0.2 % against
the widest alone, and no more than three equal ones; who mixes them is not worth anything that can
be seen: equal weights for ever, SAM and every way to teach the controller end at the same loss.
Validated on new events it is SAM, to the last digit. Exact hypergradients cost twice as much and
change nothing; a controller that learns at every 16th batch saves two thirds of the time and costs
nothing in time order. Eq. 7's 1 / N costs 0.4 % early.
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


def text() -> str:
    """Return the page of the record."""
    return "\n".join(lines_of(json.loads(RECORD.read_text()))) + "\n"


def write() -> None:
    """Write the page from the record."""
    PAGE.write_text(text())
