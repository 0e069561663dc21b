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
positive number: the change harms), the mean over both tasks of {sets}.
In brackets: on how many of these streams the 95 % interval of the paired difference (blocks of time
and seeds drawn again) lies above / below zero. Two seeds in time order, one shuffled. The first
tenth is of the streams in time order. The last columns: the weight of the widest size at the end
(users / items; mean over the streams in time order), and how long a run takes, two at a time. CPU.

**What came out.** Who teaches the controller matters, and what it may say. Taught by past events,
or by the last batch, it costs 0.37 %, nearly as much as equal weights without any controller
(0.44 %): all ids end at the widest size. Of those 0.44 % the start by popularity alone is worth
0.25 %, and what the controller learns on top of it 0.19 %. From equal weights the controller learns
as much by the time the stream is online (0.01 %), but the first tenth costs 0.39 %. A start with
the widest size for everybody costs 0.09 % online. Without popularity among the inputs 0.23 % is
lost; losses and earlier weights among them are worth nothing. All this is sure on MovieTweetings
alone: on MovieLens 100K no other start and nothing else to learn from is surely better or worse.

Sizes normalised by running statistics, which take away every bias, cost 0.21 % and more, batch
statistics 1.2 % and more. A mix of sizes is worth 0.54 % against the widest alone, but three sizes
of 128 do as well as 2, 16 and 128: what pays is that the mix depends on popularity, not that sizes
differ. Gates instead of a softmax, a temperature of 3 and a size 0 change little (0.01 to 0.07 %);
a temperature of 0.3 costs 0.27 %, surely on one stream; an entropy bonus that holds weights
together costs almost as much as no controller. SAM is the default, to the last digit. Exact
hypergradients take four times as long and change nothing. New rows of standard deviation 1
(3.5 %), Adam (1.6 % and more), SGD, Adagrad with one sum a row (0.31 %), network rates three times
higher and a third of the tables' rates harm. Projections that all start at random cost 1.0 % in the
first tenth.
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
