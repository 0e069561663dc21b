"""docs/history.md: what it is worth to tell a model what is known of ids, and the opponents."""

from __future__ import annotations

import math
from typing import Any

from autoemb.lab.report.tables import mean_cell
from autoemb.lab.report.wording import TRIVIAL
from autoemb.learners import FACTORS as FM_FACTORS
from autoemb.nn.models.told import START, WIDE
from autoemb.recipe import OPPONENTS
from autoemb.schema import STARS, Sparse
from autoemb.streaming.statistics import (
    DECAY,
    FACTORS,
    RECENT_STRENGTHS,
    SUM_STRENGTHS,
    Statistics,
)
from autoemb.tasks import task_for
from bench.pages.names import Stream, row_name
from bench.pages.records import Record, Study, Value, above, early, online
from bench.pages.rendering import render
from bench.pages.tables import table
from bench.pages.words import against, signed

PARTS = ("history", "history-clicks", "history-globo")

#: Methods of the studies that the page speaks of.
UNTOLD, WHOLE = "AutoEmb-untold", "AutoEmb-whole"
FIXED, FIXED_UNTOLD = "FSE-146", "FSE-146-untold"

#: What is recorded apart (bench/boosting.py).
TREES = "LightGBM"


def bytes_of_an_id() -> int:
    """Return what is kept of one id of a rating, predicted as positive or not."""
    task = task_for("regression", STARS)
    (own,) = Statistics({"id": Sparse(column="id")}, task).tables.values()
    return own.row_bytes


def trivial(study: Study) -> list[str]:
    """Return the opponents among a study's methods."""
    return study.of_kind(*OPPONENTS)


def losses(studies: list[Study], value: Value, trees: dict[Stream, float] | None = None) -> str:
    """Return a table of a loss of all methods, the lowest of a stream in bold."""
    methods = [*studies[0].methods]
    body = []
    for study in studies:
        for stream in study.streams:
            found = {m: mean_cell(study.values(stream, m, value)) for m in methods}
            means = {method: cell.mean for method, cell in found.items()}
            if trees is not None and stream in trees:
                means[TREES] = trees[stream]
            lowest = min(means, key=lambda method: means[method])
            shown = [
                f"**{mean:.4f}**" if method == lowest else f"{mean:.4f}"
                for method, mean in means.items()
            ]
            left_out = ["-"] if trees is not None and stream not in trees else []
            body.append([row_name(stream), *shown, *left_out])
    return table(["stream", *methods, *([] if trees is None else [TREES])], body)


def skills(studies: list[Study], methods: list[str]) -> str:
    """Return a table of the share of the trivial opponent's loss that methods save."""
    body = []
    for study in studies:
        for stream in study.streams:
            base = study.mean(stream, TRIVIAL, online)
            saved = [-above(study.mean(stream, method, online), base) for method in methods]
            body.append([row_name(stream), *(signed(value, 1) for value in saved)])
    return table(["stream", *methods], body)


def boosted(record: Record) -> dict[Stream, float]:
    """Return the online loss of gradient-boosted trees by stream."""
    return {Stream(r["data"], r["task"]): float(r["online"]) for r in record["results"]}


def readme_table(studies: list[Study], record: Record) -> str:
    """Return a table of where our loss lies beside others, and on how many streams it is lower."""
    trees, ours = boosted(record), studies[0].ours
    every = [(study, stream) for study in studies for stream in study.streams]
    found = {
        f"`{name}`" if name in OPPONENTS else name: [s.mean(x, name, online) for s, x in every]
        for name in studies[0].methods
        if name != ours
    }
    found[TREES] = [trees.get(x, math.nan) for _, x in every]
    own = [s.mean(x, ours, online) for s, x in every]
    body = []
    for name, losses_of in found.items():
        changes = [
            above(mine, x) for mine, x in zip(own, losses_of, strict=True) if not math.isnan(x)
        ]
        lower = sum(change < 0 for change in changes)
        body.append([name, against(changes, 1), str(lower), str(len(changes) - lower)])
    return table(["against", ours, "lower on", "not lower on"], body)


def page(studies: list[Study], record: Record) -> str:
    """Return the page."""
    first, trees = studies[0], boosted(record)
    ours = first.ours
    every = [(study, stream) for study in studies for stream in study.streams]

    def beside(other: str, value: Value = online) -> list[float]:
        return [above(s.mean(x, ours, value), s.mean(x, other, value)) for s, x in every]

    best = [(s, x, min(s.mean(x, m, early) for m in trivial(s))) for s, x in every]
    numbers: dict[str, Any] = {
        "behind": {
            name: sum(change > 0 for change in beside(name)) for name in trivial(first)
        }
        | {TREES: sum(x in trees and trees[x] < s.mean(x, ours, online) for s, x in every)},
        "untold": beside(UNTOLD),
        "fixed": beside(FIXED),
        "whole": beside(WHOLE),
        "fixed_untold": beside(FIXED_UNTOLD),
        "early": [above(s.mean(x, ours, early), low) for s, x, low in best],
    }  # fmt: skip
    return render(
        "history",
        ours=ours,
        factors=FACTORS,
        fm_factors=FM_FACTORS,
        kept=f"{DECAY:g}",
        wide=f"{WIDE:g}",
        start=f"{START:g}",
        bytes=bytes_of_an_id(),
        strengths=[f"{k:g}" for k in SUM_STRENGTHS],
        recent=[f"{k:g}" for k in RECENT_STRENGTHS],
        streams=len(every),
        numbers=numbers,
        losses=losses(studies, online, trees),
        early=losses(studies, early),
        skills=skills(studies, [m for m in first.methods if m not in (TRIVIAL, "mean")]),
        seeds=first.seeds,
        versions=first.record["versions"],
        trees=record,
    )
