"""docs/budget.md: what a budget of bytes costs, of which rows, and who gets them."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from autoemb.lab.report.figures import loss_by_bytes
from autoemb.lab.report.tables import mean_cell
from autoemb.lab.report.wording import loss_name
from autoemb.recipe import Recipe
from autoemb.streaming.compact import CompactRows
from autoemb.streaming.grants import FIXED_BYTES, FIXED_WIDTH, HALF_LIFE
from bench.pages.history import losses, trivial
from bench.pages.names import Stream, row_name
from bench.pages.records import Record, Study, above, online
from bench.pages.rendering import render
from bench.pages.tables import table
from bench.pages.words import against, count, listed

PARTS = ("budget", "budget-clicks")

WHOLE, FIXED = "AutoEmb-whole", "FSE-146"

#: The default but for one choice, and what that is.
CHANGES = {
    "AutoEmb-sizes": "a row for each size, as in the paper",
    "AutoEmb-by-controller": "bytes to whom the controller gives wide sizes",
    "AutoEmb-by-both": "bytes by traffic and controller",
    "AutoEmb-mlp": "no crosses, and another hidden layer",
    "AutoEmb-adagrad": "a sum of Adagrad for each number of a row",
    "AutoEmb-equal": "ids start with equal weights",
    "AutoEmb-no-controller": "weights of sizes by popularity, no controller",
    "AutoEmb-losses": "a controller that is told losses and its last mix",
    "AutoEmb-large": "network and controller of the paper's widths",
    "AutoEmb-chunks": "a batch learnt in several chunks",
}

#: What ids own, in the order of the table.
OWNED = {
    "ids": "raw ids, and what finds them",
    "statistics": "what labels say of them",
    "history": "how often they were seen",
    "grants": "their traffic",
    "rows": "rows, and where they are",
    "optimizer": "the optimiser's sums",
}


def of_id(run: Record) -> float:
    """Return the bytes that an id owns on average."""
    return float(sum(run["owned"].values()) / sum(run["ids"].values()))


def mean_owned(study: Study, stream: Stream, method: str, part: str) -> float:
    """Return the bytes of one part that an id owns."""
    return study.mean(
        stream, method, lambda run: run["owned"].get(part, 0) / sum(run["ids"].values())
    )


def owned_table(studies: list[Study]) -> str:
    """Return a table of what an id owns, part by part, within the default budget."""
    body = []
    for study in studies:
        for stream in study.streams:
            parts = [mean_owned(study, stream, study.ours, part) for part in OWNED]
            whole = [study.mean(stream, name, of_id) for name in (study.ours, WHOLE, FIXED)]
            body.append([row_name(stream), *(f"{value:.1f}" for value in (*parts, *whole))])
    return table(["stream", *OWNED, "all", WHOLE, FIXED], body)


def shares(study: Study) -> dict[str, float]:
    """Return the methods that differ from the default in the budget alone, narrowest first."""
    ours = study.methods[study.ours]
    found = {
        name: float(options.get("budget", Recipe().budget))
        for name, options in study.methods.items()
        if {k: v for k, v in options.items() if k != "budget"} == ours
    }
    return dict(sorted(found.items(), key=lambda one: one[1] or 2.0))  # 0 is the widest


def changes_table(studies: list[Study]) -> str:
    """Return a table of what other choices than the default's cost."""
    body = []
    for name, what in CHANGES.items():
        pairs = [study.against(name) for study in studies]
        costs = [-mean for pair in pairs for mean in pair.means]
        cells = [sum(len(getattr(pair, side)) for pair in pairs) for side in ("below", "above")]
        body.append([what, against(costs), *map(str, cells), str(len(costs))])
    headers = ["instead", "loss against the default's", "surely above it", "surely below it", "of"]
    return table(headers, body)


def beside(studies: list[Study], name: str, other: str) -> list[float]:
    """Return on each stream by how many percent a method's loss lies above another's."""
    return [
        above(s.mean(x, name, online), s.mean(x, other, online)) for s in studies for x in s.streams
    ]


def beside_best(studies: list[Study], name: str) -> list[float]:
    """Return on each stream by how many percent a method's loss lies above the best width's."""
    return [
        above(s.mean(x, name, online), s.mean(x, s.best_width(x), online))
        for s in studies
        for x in s.streams
    ]


def budgets_table(studies: list[Study]) -> str:
    """Return a table of what budgets cost, over all streams."""
    body = []
    for name, share in shares(studies[0]).items():
        own = [s.mean(x, name, of_id) for s in studies for x in s.streams]
        body.append(
            [
                f"{share:g}" if share else "none",
                f"{min(own):.0f} to {max(own):.0f}",
                against(beside(studies, name, WHOLE)),
                against(beside(studies, name, FIXED)),
                against(beside_best(studies, name)),
            ]
        )
    headers = ["budget", "bytes an id", "no budget", FIXED, "the best width"]
    return table(headers, body)


def readme_facts(studies: list[Study]) -> dict[str, Any]:
    """Return what README says of budgets."""
    every = [(study, stream) for study in studies for stream in study.streams]
    return {
        "owned_by_id": fmean(s.mean(x, s.ours, of_id) for s, x in every),
        "owned_by_fixed": fmean(s.mean(x, FIXED, of_id) for s, x in every),
        "within_beside_fixed": beside(studies, studies[0].ours, FIXED),
        "fixed_width": FIXED_WIDTH,
        "within_beside_whole": beside(studies, studies[0].ours, WHOLE),
    }  # fmt: skip


def opponents(studies: list[Study], told: list[Study]) -> str:
    """Return a table of the trivial opponents' loss, which another study has, and of ours."""
    names = trivial(told[0])
    body = [
        [row_name(x), *(f"{found:.4f}" for found in (*others, study.mean(x, study.ours, online)))]
        for study in studies
        for x in study.streams
        for one in told
        if x in one.streams
        for others in [[one.mean(x, name, online) for name in names]]
    ]
    return table(["stream", *names, studies[0].ours], body)


def page(studies: list[Study], told: list[Study], figures: str) -> str:
    """Return the page; ``told`` are the studies that have the opponents."""
    first = studies[0]
    return render(
        "budget",
        ours=first.ours,
        share=f"{Recipe().budget:g}",
        fixed_bytes=FIXED_WIDTH * FIXED_BYTES,
        most=Recipe().budget * FIXED_WIDTH * FIXED_BYTES,
        fixed_width=FIXED_WIDTH,
        dims=listed(Recipe().dims),
        owned=OWNED,
        owned_table=owned_table(studies),
        budgets_table=budgets_table(studies),
        changes_table=changes_table(studies),
        losses=losses(studies, online),
        opponents=opponents(studies, told),
        whole=beside(studies, first.ours, WHOLE),
        fixed=beside(studies, first.ours, FIXED),
        best=beside_best(studies, first.ours),
        half_life=f"{HALF_LIFE:,}",
        sum_bytes=count(CompactRows(1, 0).row_bytes - 4),
        other_bytes=count(CompactRows(0, 1).row_bytes - 4),
        widths=len(first.fixed),
        seeds=first.seeds,
        figures=figures,
        versions=first.record["versions"],
    )


def figure(stream: Stream, name: str, study: Study) -> str:
    """Draw the loss of fixed widths and of ours within budgets against all that ids own."""

    def points(names: list[str]) -> list[tuple[float, float, float]]:
        found = []
        for method in names:
            loss = mean_cell(study.values(stream, method, online))
            size = study.mean(stream, method, lambda run: sum(run["owned"].values()))
            found.append((size, loss.mean, loss.spread))
        return found

    lines = {"fse": points(study.fixed), "autoemb": points([*shares(study)])}
    return loss_by_bytes(name, lines, loss_name(stream.task))
