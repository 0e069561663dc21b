"""docs/opponents.md: what anybody computes in an afternoon, beside the methods."""

from __future__ import annotations

from autoemb.lab.report.tables import mean_cell
from autoemb.lab.report.wording import TRIVIAL
from autoemb.learners import FACTORS
from autoemb.recipe import OPPONENTS
from bench.pages.features import ALL
from bench.pages.names import Stream, row_name
from bench.pages.records import Study, above, online
from bench.pages.rendering import render
from bench.pages.tables import table
from bench.pages.words import signed

PARTS = ("opponents", "trust", "features")


def streams_of(study: Study) -> list[Stream]:
    """Return the streams that are shown: of a set that was read in two ways, by all features."""
    ways = [s for s in study.streams if s.data.endswith(ALL)]
    return ways or study.streams


def trivial(study: Study) -> list[str]:
    """Return the opponents among a study's methods."""
    return study.of_kind(*OPPONENTS)


def losses(studies: list[Study]) -> str:
    """Return a table of the online losses of all methods, the lowest of a stream in bold."""
    methods = [*studies[0].methods]
    body = []
    for study in studies:
        for stream in streams_of(study):
            lowest = study.lowest(stream, methods)
            cells = [mean_cell(study.values(stream, method, online)) for method in methods]
            told = [
                f"**{c}**" if m == lowest else str(c) for m, c in zip(methods, cells, strict=True)
            ]
            body.append([row_name(stream), *told])
    return table(["stream", *methods], body)


def skills(studies: list[Study]) -> str:
    """Return a table of the share of the trivial opponent's loss that each method saves."""
    methods = [m for m in studies[0].methods if m != TRIVIAL]
    body = []
    for study in studies:
        for stream in streams_of(study):
            base = study.mean(stream, TRIVIAL, online)
            saved = [-above(study.mean(stream, method, online), base) for method in methods]
            body.append([row_name(stream), *(signed(value, 1) for value in saved)])
    return table(["stream", *methods], body)


def page(studies: list[Study]) -> str:
    """Return the page."""
    first = studies[0]
    ours, every = first.ours, [(s, stream) for s in studies for stream in streams_of(s)]
    behind = {
        name: sum(
            study.mean(stream, name, online) < study.mean(stream, ours, online)
            for study, stream in every
        )
        for name in trivial(first)
    }
    beaten = sum(
        study.lowest(stream, trivial(study)) == study.lowest(stream, [*trivial(study), ours])
        for study, stream in every
    )
    return render(
        "opponents",
        ours=ours,
        opponents=len(OPPONENTS),
        factors=FACTORS,
        streams=len(every),
        beaten=beaten,
        behind=[f"{name} on {number}" for name, number in behind.items()],
        losses=losses(studies),
        skills=skills(studies),
        seeds=first.seeds,
        versions=first.record["versions"],
    )
